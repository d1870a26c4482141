//! The daemon dies at any moment of pulls and starts, its sockets go, containerd restarts: nothing that the policy
//! refuses is unpacked or started, nothing that runs is harmed, and what is admitted works again.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    cri::State,
    image::Layer,
    pod::{PODS, Pod},
    product::{SERVICE, SOCKETS},
    registry::Published,
    signing::Layout,
};

const KILLS: usize = 100;
/// Between a start of the daemon and its end: from before it is ready to after it decided a few times.
const LONGEST_LIFE: Duration = Duration::from_millis(300);
const SAID: &str = "it runs";

/// Images that come and go, and two containers that must live through it all.
struct Scene {
    node: Node,
    good: Vec<Published>,
    evil: Vec<Published>,
    /// The layers of the first good image under another configuration, signed by nobody.
    swapped: Published,
}

pub fn a_hundred_times(suite: Suite) -> Result<()> {
    let seed = Random::seed();
    println!("{}: PULLGATE_SEED={seed}", suite.name());
    killed(suite, Random(seed)).map_err(|error| format!("PULLGATE_SEED={seed}: {error}").into())
}

fn killed(suite: Suite, mut random: Random) -> Result<()> {
    let scene = Scene::set(suite)?;
    let node = &scene.node;
    let pod = scene.inhabited()?;
    let lives = Lives::of(&scene, &pod)?;
    let over = AtomicBool::new(false);
    let cursor = node.cursor()?;
    let counts: Vec<Result<Count>> = thread::scope(|scope| {
        let workers = [
            scope.spawn(|| scene.pulls(&over)),
            scope.spawn(|| scene.imports(&over)),
            scope.spawn(|| scene.starts(&over)),
        ];
        let killed = kill_again_and_again(node, &mut random);
        over.store(true, Ordering::Relaxed);
        let counts = workers.into_iter().map(|it| it.join().unwrap_or_else(|_| Err("a client panicked".into())));
        let counts = counts.collect();
        killed.map(|()| counts)
    })?;
    for count in counts {
        let Count { arrived, kept_out } = count?;
        expect::holds(arrived > 0 && kept_out > 0, || format!("{arrived} arrived, {kept_out} were kept out"))?;
    }
    lives.are_the_same(&scene, &pod)?;
    for entry in node.audit_since(&cursor)? {
        let refused = scene.evil.iter().chain([&scene.swapped]).any(|image| image.digest() == entry.digest);
        expect::holds(entry.verdict != "allow" || !refused, || format!("allowed: {entry:?}"))?;
    }
    pod.remove()?;
    scene.all_works_again()
}

/// Each time it was alive, and each time at another point of its life.
fn kill_again_and_again(node: &Node, random: &mut Random) -> Result<()> {
    let mut last = String::new();
    for _ in 0..KILLS {
        node.wait_until("another daemon runs", || {
            let now = node.property(SERVICE, "MainPID")?;
            let another = now != "0" && now != last;
            if another {
                last = now;
            }
            Ok(another)
        })?;
        thread::sleep(LONGEST_LIFE.mul_f64(random.fraction()));
        node.run(&["kill", "-KILL", &last])?;
    }
    let restarts: usize = node.property(SERVICE, "NRestarts")?.parse()?;
    expect::holds(restarts + 1 >= KILLS, || format!("systemd counts {restarts} restarts"))
}

pub fn stopped_or_removed_sockets(suite: Suite) -> Result<()> {
    let scene = Scene::set(suite)?;
    let node = &scene.node;
    let pod = scene.inhabited()?;
    let lives = Lives::of(&scene, &pod)?;

    node.systemctl(&["stop", SOCKETS, SERVICE])?;
    scene.all_is_closed("stopped sockets")?;
    lives.are_the_same(&scene, &pod)?;
    scene.status_complains("stopped sockets")?;
    node.systemctl(&["start", SOCKETS])?;
    scene.all_works_again()?;

    // containerd keeps the connections that it has; whoever makes one for each question finds nobody.
    node.sh("rm /run/pullgate/*.sock")?.ok()?;
    scene.nothing_passes("removed sockets")?;
    scene.nothing_starts("removed sockets")?;
    lives.are_the_same(&scene, &pod)?;
    scene.status_complains("removed sockets")?;
    node.systemctl(&["restart", SOCKETS, SERVICE])?;
    scene.all_works_again()?;

    // systemd starts what nobody stopped.
    node.systemctl(&["stop", SERVICE])?;
    scene.all_works_again()?;
    lives.are_the_same(&scene, &pod)
}

pub fn containerd_restarted_and_configured_anew(suite: Suite) -> Result<()> {
    let scene = Scene::set(suite)?;
    let node = &scene.node;
    let pod = scene.inhabited()?;
    let lives = Lives::of(&scene, &pod)?;
    for _ in 0..3 {
        node.restart_containerd()?;
        scene.nothing_passes("a restarted containerd")?;
        scene.all_works_again()?;
        lives.are_the_same(&scene, &pod)?;
    }
    // Whoever may write containerd's configuration is root: the gates are gone, and it is said.
    node.configure_containerd("")?;
    scene.status_complains("containerd configured without the gates")?;
    node.connect_pods()?;
    scene.nothing_passes("gates connected again")?;
    scene.all_works_again()?;
    lives.are_the_same(&scene, &pod)
}

impl Scene {
    fn set(suite: Suite) -> Result<Self> {
        let node = Node::gated_with_pods(suite)?;
        let busybox = Layer::with_file("bin/busybox", 0o755, &node.read("/usr/bin/busybox")?)?;
        let says = |layers: Vec<Layer>, name: &str| Image::running(layers, name, &["/bin/busybox", "echo", SAID]);
        let push = |name: &str| -> Result<Published> {
            let own = Layer::with_file(name, 0o644, name.as_bytes())?;
            node.push(&format!("demo/{name}:v1"), &says(vec![busybox.clone(), own], name))
        };
        let good = ["good-0", "good-1", "good-2"].into_iter().map(push).collect::<Result<Vec<_>>>()?;
        let evil = ["evil-0", "evil-1", "evil-2"].into_iter().map(push).collect::<Result<Vec<_>>>()?;
        let layers = good.first().map(|image| image.image.layers.clone()).unwrap_or_default();
        let swapped = node.push("demo/swapped:v1", &says(layers, "swapped"))?;
        node.sign_all(&good, "demo", Layout::usual(suite))?;
        Ok(Self { node, good, evil, swapped })
    }

    /// The first good image is there, the swapped one beside it, and a pod to start containers in.
    fn inhabited(&self) -> Result<Pod<'_>> {
        let [first, ..] = self.good.as_slice() else { return Err("no images".into()) };
        expect::admitted(&self.node, Path::CriPull, first)?;
        expect::admitted(&self.node, Path::CtrPullLocal, first)?;
        self.node.import_for_pods(&self.swapped)?;
        self.node.pod("default", "inhabited")
    }

    /// Pulls of pods, good and evil in turn. The good ones fail as they may while there is no daemon.
    fn pulls(&self, over: &AtomicBool) -> Result<Count> {
        let mut count = Count::default();
        for (good, evil) in self.good.iter().zip(&self.evil).skip(1).cycle() {
            let arrived = self.node.bring(Path::CriPull, good)?.is_admitted();
            count.arrived += usize::from(arrived);
            if arrived {
                self.node.remove_pod_image(&good.name)?;
            }
            expect::kept_out(&self.node, Path::CriPull, evil)?;
            count.kept_out += 1;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(count)
    }

    fn imports(&self, over: &AtomicBool) -> Result<Count> {
        let mut count = Count::default();
        for (good, evil) in self.good.iter().zip(&self.evil).skip(1).cycle() {
            count.arrived += usize::from(self.node.bring(Path::CtrImportLocal, good)?.is_admitted());
            self.node.run(&["ctr", "images", "rm", "--sync", &good.name])?;
            expect::kept_out(&self.node, Path::CtrImportLocal, evil)?;
            self.node.run(&["ctr", "images", "rm", "--sync", &evil.name])?;
            count.kept_out += 1;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(count)
    }

    fn starts(&self, over: &AtomicBool) -> Result<Count> {
        let mut count = Count::default();
        let pod = self.node.pod("default", "starts")?;
        for number in 0_usize.. {
            let image = if number % 2 == 0 { self.good.first() } else { Some(&self.swapped) };
            let ran = run(&pod, &format!("c{number}"), image.ok_or("no image")?)?;
            if number % 2 == 0 {
                count.arrived += usize::from(ran);
            } else {
                expect::holds(!ran, || "the swapped image ran".to_owned())?;
                count.kept_out += 1;
            }
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        pod.remove()?;
        Ok(count)
    }

    /// Neither what is admitted nor anything else gets anywhere.
    fn all_is_closed(&self, why: &str) -> Result<()> {
        self.nothing_passes(why)?;
        for path in [Path::CriPull, Path::CtrImportLocal] {
            for good in self.good.get(1..2).unwrap_or_default() {
                expect::kept_out(&self.node, path, good)?;
            }
        }
        self.nothing_starts(why)
    }

    fn nothing_starts(&self, why: &str) -> Result<()> {
        let pod = self.node.pod("default", "closed")?;
        let ran = run(&pod, "closed", self.good.first().ok_or("no image")?)?;
        pod.remove()?;
        expect::holds(!ran, || format!("{why}: an admitted image was started"))
    }

    fn nothing_passes(&self, why: &str) -> Result<()> {
        for path in [Path::CriPull, Path::CtrImportLocal, Path::CtrPullLocal] {
            for evil in self.evil.get(..1).unwrap_or_default() {
                expect::kept_out(&self.node, path, evil)?;
            }
        }
        let pod = self.node.pod("default", "passes")?;
        let ran = run(&pod, "swapped", &self.swapped)?;
        pod.remove()?;
        expect::holds(!ran, || format!("{why}: the swapped image was started"))
    }

    fn all_works_again(&self) -> Result<()> {
        let node = &self.node;
        for good in self.good.get(1..).unwrap_or_default() {
            expect::recovers(node, Path::CriPull, good)?;
            expect::recovers(node, Path::CtrImportLocal, good)?;
            node.remove_pod_image(&good.name)?;
            node.run(&["ctr", "images", "rm", "--sync", &good.name])?.ok()?;
        }
        let pod = node.pod("default", "works")?;
        let mut number = 0;
        node.wait_until("an admitted image is started", || {
            number += 1;
            run(&pod, &format!("again-{number}"), self.good.first().ok_or("no image")?)
        })?;
        pod.remove()
    }

    fn status_complains(&self, why: &str) -> Result<()> {
        let status = self.node.run(&["pullgate", "status"])?;
        expect::holds(!status.success(), || format!("{why}: status has no complaint: {}", status.text()))
    }
}

/// Starts a container and says whether it ran.
fn run(pod: &Pod<'_>, name: &str, image: &Published) -> Result<bool> {
    let Ok(id) = pod.create(crate::node::pod::container_config(name, &image.name, &[]))? else { return Ok(false) };
    let started = pod.start(&id)?;
    if started.is_ok() {
        pod.wait(&id)?;
    }
    let said = pod.log(name).unwrap_or_default().contains(SAID);
    expect::holds(started.is_ok() || !said, || format!("{name} was refused, and ran"))?;
    pod.remove_container(&id)?;
    Ok(said)
}

#[derive(Default)]
struct Count {
    arrived: usize,
    kept_out: usize,
}

/// The containers that must live on: one of a pod, one of `ctr run`.
struct Lives {
    of_pod: String,
    pids: BTreeSet<String>,
}

impl Lives {
    fn of(scene: &Scene, pod: &Pod<'_>) -> Result<Self> {
        let [first, ..] = scene.good.as_slice() else { return Err("no images".into()) };
        let sleeps = ["/bin/busybox", "sleep", "1000000"];
        let of_pod = pod.run("lives", &first.name, &sleeps)??;
        let run = ["ctr", "run", "--detach", "--net-host", &first.name, "lives"];
        scene.node.run(&[&run[..], &sleeps].concat())?.ok()?;
        let pids = Self::pids(scene)?;
        Ok(Self { of_pod, pids })
    }

    fn are_the_same(&self, scene: &Scene, pod: &Pod<'_>) -> Result<()> {
        let state = pod.status(&self.of_pod)?.state();
        expect::holds(state == State::Running, || format!("the pod's container is {state:?}"))?;
        let now = Self::pids(scene)?;
        expect::holds(now.is_superset(&self.pids), || format!("of {:?} there are {now:?} left", self.pids))
    }

    /// Of every task that runs: those of other pods and of the self-test come and go meanwhile.
    fn pids(scene: &Scene) -> Result<BTreeSet<String>> {
        let mut pids = BTreeSet::new();
        for (namespace, wanted) in [("default", "lives"), (PODS, "")] {
            let tasks = scene.node.run(&["ctr", "-n", namespace, "tasks", "ls"])?.ok()?;
            for task in tasks.lines().skip(1).filter(|task| task.ends_with("RUNNING") && task.starts_with(wanted)) {
                pids.extend(task.split_whitespace().nth(1).map(str::to_owned));
            }
        }
        Ok(pids)
    }
}

/// A small generator of numbers that can be had again (splitmix64).
struct Random(u64);

impl Random {
    /// `PULLGATE_SEED`, or one of its own.
    fn seed() -> u64 {
        let given = std::env::var("PULLGATE_SEED").ok().and_then(|seed| seed.parse().ok());
        let now =
            || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos().into());
        given.unwrap_or_else(now)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
