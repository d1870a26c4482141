//! The daemon as systemd runs it, asked over its socket: how long it takes and how much memory.

use std::{
    fs,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use containerd_client::{
    services::v1::{ApplyRequest, DiffRequest, diff_client::DiffClient},
    types::Descriptor,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::JoinSet};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    child,
    containerd::{self, LAYER_TYPE, Store},
    evidence::Signer,
    flood,
    hostile::HostileRegistry,
    node::{Result, containerd::DIFF_SOCKET, product::SERVICE, store::within},
    policy::{Policy, daemon_pid, status, systemctl},
    report::{Row, Section, mebibytes, tail, time},
    statistics::{median, quantile},
    verifier,
};

const SOCKET: &str = "/run/bench/containerd.sock";
const MORE: &str = "[containerd]\naddress = \"/run/bench/containerd.sock\"\n";
const LAYER: usize = 1 << 20;
/// Images that are decided about, and as many stay remembered.
const IMAGES: usize = 10_000;
/// Of these, those that are asked about one after the other and timed.
const TIMED: usize = 1000;
/// Those that have records when what is on the node is judged. Evidence of all of them is kept.
const RECORDED: Range<usize> = 5000..6000;
const WALKS: usize = 10;
const CALLS: usize = 5000;
const AT_ONCE: usize = 8;

pub fn measure() -> Result<Vec<Section>> {
    fs::create_dir_all("/run/bench")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let registry = HostileRegistry::start().await;
        let signer = Signer::new("/etc/pullgate/keys/bench.pub")?;
        // The last one is flooded.
        let store = Arc::new(Store::new(IMAGES + 1, LAYER)?);
        sign(&registry, &signer, &store)?;
        containerd::serve(store.clone(), SOCKET)?;
        Policy { host: &registry.host(), key: &signer.public, formats: &[] }.write_for_daemon(MORE)?;
        tokio::task::spawn_blocking(|| systemctl(&["restart", SERVICE])).await??;
        let gate = Gate::connect(store).await?;
        let idle = Memory::now()?;
        let speed = speed(&gate).await?;
        let name = format!("{}/bench/app", registry.host());
        let digest = gate.store.images().next().ok_or("no images")?.digest.to_string();
        let verifier = tokio::task::spawn_blocking(move || verifier::measure(&name, &digest)).await??;
        let memory = memory(&gate, &registry, idle).await?;
        gate.store.record(RECORDED)?;
        let walk = tokio::task::spawn_blocking(walk).await??;
        Ok(vec![speed, verifier, memory, walk])
    })
}

/// Signatures under the `.sig` tag for all images but the last, which has bundles.
fn sign(registry: &HostileRegistry, signer: &Signer, store: &Store) -> Result<()> {
    let mut content = registry.content();
    content.referrers_api = true;
    for image in store.images().take(IMAGES) {
        let (payload, signature) = signer.simple(&image.digest)?;
        content.signatures("bench/app", image.digest, &[(payload.as_bytes(), &signature)]);
    }
    let flooded = store.images().last().ok_or("no images")?.digest;
    flood::bogus_around_good(&mut content, flooded, signer)
}

async fn speed(gate: &Gate) -> Result<Section> {
    let (mut fresh, mut stored, mut covered) = (Series::default(), Series::default(), Series::default());
    for number in 0..TIMED {
        gate.timed(0, &format!("fresh-{number}"), &mut fresh).await?;
    }
    let before = status()?.audit_written;
    for call in 0..CALLS {
        // Another namespace: no layer of it was covered yet, and the decision about the image is at hand.
        let namespace = format!("stored-{}-{call}", call % TIMED);
        gate.timed(0, &namespace, &mut stored).await?;
        gate.timed(1, &namespace, &mut covered).await?;
    }
    let entries = status()?.audit_written - before;
    if entries != CALLS as u64 {
        return Err(format!("{entries} audit entries in place of {CALLS}").into());
    }
    let title = "The daemon over diff.sock, a containerd of the bench's own behind it (one call after the other)";
    let mut section = Section::new(title);
    let p99 = quantile(&stored.seconds, 0.99);
    section.rows.push(stored.row("a stored decision, with its audit entry").target("p99 300 µs", p99 <= 300e-6));
    section.rows.push(covered.row("the next layer, covered by that entry"));
    section.rows.push(fresh.row("a fresh decision, evidence fetched (.sig), with its audit entry"));
    let floor = gate.floor().await?;
    section.rows.push(Row::new("a call that is answered at once", tail(&floor)));
    section
        .note("Counted are the daemon's own calls to containerd, one after the other, answered from memory here; each");
    section.note("takes at least as long as one that is answered at once.");
    Ok(section)
}

async fn memory(gate: &Gate, registry: &HostileRegistry, idle: Memory) -> Result<Section> {
    gate.store.unpack(0);
    gate.at_once((TIMED..IMAGES).map(|number| format!("fresh-{number}"))).await?;
    let remembered = status()?.decisions;
    let full = Memory::now()?;
    Memory::forget_peak()?;
    registry.forget();
    let begun = Instant::now();
    gate.ask(&format!("flooded-{IMAGES}")).await?;
    let flood = begun.elapsed().as_secs_f64();
    let flooded = Memory::now()?;
    let mut section = Section::new("Memory of the daemon");
    let row = |what: String, memory: &Memory, target: &str, bound: f64| {
        let text =
            format!("{} (PSS {}, peak {})", mebibytes(memory.rss), mebibytes(memory.pss), mebibytes(memory.peak));
        Row::new(what, text).target(format!("RSS {target}"), memory.rss <= bound * 1024.0)
    };
    section.rows.push(row("idle".to_owned(), &idle, "16 MiB", 16.0));
    section.rows.push(row(format!("with {remembered} decisions remembered"), &full, "64 MiB", 64.0));
    let bogus = flood::BOGUS;
    section.rows.push(
        Row::new(format!("peak while a registry serves {bogus} bogus bundles"), mebibytes(flooded.peak))
            .target("64 MiB", flooded.peak <= 64.0 * 1024.0),
    );
    section.rows.push(
        Row::new("… and the decision", format!("{}, {} requests", time(flood), registry.asked().len()))
            .target("0.5 s", flood < 0.5),
    );
    Ok(section)
}

/// What it takes to judge all images on a node from the evidence that is kept there: a process of its own each time, which
/// remembers nothing.
fn walk() -> Result<Section> {
    let walked = || child::measure_ending(0, &["pullgate", "audit", "images"]);
    let walks: Vec<_> = (0..WALKS).map(|_| walked()).collect::<Result<_>>()?;
    let of = |what: fn(&child::Took) -> f64| median(&walks.iter().map(what).collect::<Vec<_>>());
    let (cpu, wall, peak) = (of(|took| took.cpu), of(|took| took.wall), of(|took| took.peak));
    let mut section = Section::new("A walk over the images on the node, from kept evidence");
    let what = format!("{} images judged anew, processor time", RECORDED.len());
    section.rows.push(Row::new(what, time(cpu)).target("2 s", cpu < 2.0));
    section.rows.push(Row::new("… from its start to its end", format!("{}, {}", time(wall), mebibytes(peak))));
    Ok(section)
}

/// The daemon's diff socket, and the containerd behind the daemon.
#[derive(Clone)]
struct Gate {
    client: DiffClient<Channel>,
    store: Arc<Store>,
}

/// Calls of one kind.
#[derive(Default)]
struct Series {
    seconds: Vec<f64>,
    /// Calls to containerd for all of them.
    calls: u64,
}

impl Series {
    fn row(&self, what: &str) -> Row {
        let calls = self.calls as f64 / self.seconds.len() as f64;
        Row::new(what, format!("{}, {calls:.1} calls", tail(&self.seconds)))
    }
}

impl Gate {
    async fn connect(store: Arc<Store>) -> Result<Self> {
        Ok(Self { client: DiffClient::new(connect(DIFF_SOCKET).await?), store })
    }

    /// Asks whether the layer may be applied in `namespace`, which has to be allowed.
    async fn ask(&self, namespace: &str) -> Result<()> {
        let diff = Descriptor {
            media_type: LAYER_TYPE.to_owned(),
            digest: self.store.layer().to_string(),
            size: self.store.layer_size,
            ..Descriptor::default()
        };
        let apply = ApplyRequest { diff: Some(diff), mounts: Store::mounts(namespace), ..ApplyRequest::default() };
        // The diff service goes on to the differ that does the work on this, and on this only.
        match self.client.clone().apply(within(namespace, apply)?).await {
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(format!("{namespace}: {status}").into()),
            Ok(_) => Err("the diff socket applied a layer".into()),
        }
    }

    /// Asks about layer `number`, and adds what it took.
    async fn timed(&self, number: usize, namespace: &str, series: &mut Series) -> Result<()> {
        self.store.unpack(number);
        let calls = self.store.calls.load(Ordering::Relaxed);
        let begun = Instant::now();
        self.ask(namespace).await?;
        series.seconds.push(begun.elapsed().as_secs_f64());
        series.calls += self.store.calls.load(Ordering::Relaxed) - calls;
        Ok(())
    }

    /// Calls that the daemon answers at once: what any call between two processes costs at least here.
    async fn floor(&self) -> Result<Vec<f64>> {
        let mut seconds = Vec::new();
        for _ in 0..CALLS {
            let begun = Instant::now();
            match self.client.clone().diff(DiffRequest::default()).await {
                Err(status) if status.code() == Code::Unimplemented => seconds.push(begun.elapsed().as_secs_f64()),
                answer => return Err(format!("the diff socket made a diff: {answer:?}").into()),
            }
        }
        Ok(seconds)
    }

    /// Asks several at a time.
    async fn at_once(&self, namespaces: impl Iterator<Item = String>) -> Result<()> {
        let mut asking: JoinSet<Result<()>> = JoinSet::new();
        for namespace in namespaces {
            if asking.len() >= AT_ONCE
                && let Some(asked) = asking.join_next().await
            {
                asked??;
            }
            let gate = self.clone();
            asking.spawn(async move { gate.ask(&namespace).await });
        }
        while let Some(asked) = asking.join_next().await {
            asked??;
        }
        Ok(())
    }
}

async fn connect(socket: &'static str) -> Result<Channel> {
    let connector = tower::service_fn(move |_| async move { UnixStream::connect(socket).await.map(TokioIo::new) });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

/// The daemon's memory in KiB (proc_pid_status(5), proc_pid_smaps(5)).
struct Memory {
    rss: f64,
    pss: f64,
    peak: f64,
}

impl Memory {
    fn now() -> Result<Self> {
        let pid = daemon_pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self { rss: field(&status, "VmRSS:")?, pss: field(&maps, "Pss:")?, peak: field(&status, "VmHWM:")? })
    }

    /// From now on the peak is a new one.
    fn forget_peak() -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", daemon_pid()?), "5")?)
    }
}

fn field(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("no {name}"))?.parse()?)
}
