//! A registry that accepts connections and never answers.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite, image::Layer, path::Outcome, pod::container_config, registry::Published,
    signing::Layout,
};

/// As many as wait for the registry at a time.
const WAITING: usize = 8;
const STARTS: usize = 3;
/// Nothing but waiting for the registry takes so long.
const HANGS: Duration = Duration::from_secs(30);
const SAID: &str = "it runs";

/// While many wait for it in vain, what is admitted already starts, and what is not does not.
pub fn starts_go_on(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    let busybox = Layer::with_file("bin/busybox", 0o755, &node.read("/usr/bin/busybox")?)?;
    let says = |layers: Vec<Layer>, name: &str| Image::running(layers, name, &["/bin/busybox", "echo", SAID]);
    let own = |name: &str| Layer::with_file(name, 0o644, name.as_bytes());
    let good = node.push("demo/good:v1", &says(vec![busybox.clone(), own("good")?], "good"))?;
    // Admissible, and never seen here: only the registry knows that they are signed.
    let late = node.push("demo/late:v1", &says(vec![busybox.clone(), own("late")?], "late"))?;
    let late_swapped = node.push("demo/late-swapped:v1", &says(good.image.layers.clone(), "late-swapped"))?;
    let evil = node.push("demo/evil:v1", &says(good.image.layers.clone(), "evil"))?;
    node.sign_all(&[good.clone(), late.clone(), late_swapped.clone()], "demo", Layout::usual(suite))?;
    let waiting: Vec<Published> = (0..WAITING)
        .map(|number| node.plant("demo/waiting", &Image::of_small_layers(&format!("waiting {number}"), 1)?))
        .collect::<Result<_>>()?;
    expect::admitted(&node, Path::CriPull, &good)?;
    let lives = node.pod("default", "lives")?;
    let living = lives.run("lives", &good.name, &["/bin/busybox", "sleep", "1000000"])??;

    node.systemctl(&["kill", "--signal=SIGSTOP", "registry"])?;
    let outcome = thread::scope(|scope| -> Result<()> {
        // Not before: what comes onto the node is verified in the background.
        for image in [&late, &late_swapped, &evil] {
            node.import_for_pods(image)?;
        }
        let imports: Vec<_> = waiting.iter().map(|image| scope.spawn(|| import(&node, image))).collect();
        node.wait_until("the daemon waits for the registry", || {
            let asked = node.run(&["ss", "-Htnp", "state", "established", "dport", "=", ":5000"])?;
            Ok(asked.stdout.lines().filter(|line| line.contains("pullgate")).count() > 1)
        })?;
        for number in 0..STARTS {
            for (image, expected) in [(&good, true), (&late, false), (&late_swapped, false), (&evil, false)] {
                let begun = Instant::now();
                let ran = starts(&node, &format!("pod-{number}"), image)?;
                let took = begun.elapsed();
                expect::holds(ran == expected, || format!("{} ran: {ran}", image.name))?;
                expect::holds(!expected || took < HANGS, || format!("{} took {took:?}", image.name))?;
            }
        }
        for import in imports {
            match import.join().map_err(|_| "an import panicked")?? {
                Outcome::Refused { word, .. } if word == "RETRY" => {}
                Outcome::Failed(_) => {}
                other => return Err(format!("an import while the registry is silent: {other}").into()),
            }
        }
        expect::holds(lives.is_running(&living)?, || "what ran ended".to_owned())
    });
    node.systemctl(&["kill", "--signal=SIGCONT", "registry"])?;
    outcome?;
    for image in [&late, &late_swapped] {
        node.wait_until("what is signed starts", || starts(&node, "after", image))?;
    }
    expect::holds(!starts(&node, "after", &evil)?, || "what nobody signed starts".to_owned())?;
    expect::holds(lives.is_running(&living)?, || "what ran ended".to_owned())
}

/// Whether a pod of the image ran.
fn starts(node: &Node, name: &str, image: &Published) -> Result<bool> {
    let pod = node.pod("default", name)?;
    let mut ran = false;
    if let Ok(id) = pod.run_of(container_config("app", &image.name, &[]))? {
        pod.wait(&id)?;
        ran = pod.log("app")?.contains(SAID);
    }
    pod.remove()?;
    Ok(ran)
}

fn import(node: &Node, image: &Published) -> Result<Outcome> {
    let archive = format!("/var/tmp/{}.tar", image.digest().replace(':', "-"));
    node.write(&archive, image.archive()?)?;
    let import = node.run(&["ctr", "images", "import", "--local", &archive])?;
    let unpacked = node.unpacked("default", &image.image.chain())?;
    Ok(crate::node::path::judge(if import.success() { Ok(()) } else { Err(import.text()) }, unpacked))
}
