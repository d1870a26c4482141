//! One run: images are made, containerd is asked for them as its clients ask, and each gate is judged by what came of it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::{
    CLIENT, Gate, KUBELET, LABEL, Listed, NAME, OneTime, POD_TIME, Process, Proof, Report, State, client,
    image::{self, Image},
    judge::{Attempt, Control, judge},
    leftovers,
    node::{Handler, Node},
    readback,
    registry::Registry,
};
use crate::{
    config::NodeMode,
    containerd::Containerd,
    cri::{Cri, Pod},
    node::{sandbox, version::Version},
};

/// Time for a pull of an image of a kilobyte.
const PULL_TIME: Duration = Duration::from_secs(30);
/// Time for a program to end that does nothing.
const END_TIME: Duration = Duration::from_secs(10);
/// Pause before it is looked at again.
const END_PAUSE: Duration = Duration::from_millis(50);
/// Pods that are tried for one handler: a kubelet that finds a pod which is none of its own stops it.
const PODS: usize = 2;

/// What a run needs.
pub(super) struct Run<'a> {
    pub(super) containerd: &'a Containerd,
    pub(super) one_time: &'a OneTime,
    pub(super) mode: NodeMode,
    pub(super) process: Process,
    /// Where `enable` keeps its record.
    pub(super) state: &'a Path,
}

/// An image of the run, for as long as the gates know it.
struct Known<'a> {
    image: Image,
    listed: Listed<'a>,
}

impl Run<'_> {
    /// Tests every gate that this containerd has.
    pub(super) async fn run(self) -> Report {
        let begun = Instant::now();
        let (run, gates) = match self.name_and_node().await {
            Ok((run, node)) => {
                let gates = self.gates(&run, &node).await;
                (run, gates)
            }
            Err(why) => (
                String::new(),
                vec![plain(Gate::Resolve, None, State::Unknown, &why), plain(Gate::Unpack, None, State::Unknown, &why)],
            ),
        };
        Report {
            run,
            at: Some(Timestamp::now()),
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            mode: self.mode.to_string(),
            containerd: Some(self.process),
            gates,
        }
    }

    async fn name_and_node(&self) -> Result<(String, Node), String> {
        let run = image::run_name().map_err(|error| error.to_string())?;
        Ok((run, Node::look(self.containerd, self.state).await?))
    }

    async fn gates(&self, run: &str, node: &Node) -> Vec<Proof> {
        if let Err(why) = leftovers::remove(self.containerd, &node.namespace).await {
            tracing::warn!("not removed: {why}");
        }
        if !node.connected {
            let why = "not connected; run: pullgate enable";
            return [Gate::Resolve, Gate::Unpack, Gate::Start].map(|gate| plain(gate, None, State::Absent, why)).into();
        }
        self.connected(run, node).await.unwrap_or_else(|why| {
            [Gate::Resolve, Gate::Unpack, Gate::Start].map(|gate| plain(gate, None, State::Unknown, &why)).into()
        })
    }

    async fn connected(&self, run: &str, node: &Node) -> Result<Vec<Proof>, String> {
        let made = |refused_at| {
            let image = Image::new(run).map_err(|error| error.to_string())?;
            let listed = self.one_time.list(image.digests(), refused_at);
            Ok::<_, String>(Known { image, listed })
        };
        let [admitted, at_resolve, at_unpack, at_start] =
            [made(None)?, made(Some(Gate::Resolve))?, made(Some(Gate::Unpack))?, made(Some(Gate::Start))?];
        let [client_admitted, client_refused] = [made(None)?, made(Some(Gate::Unpack))?];
        let all = [&admitted, &at_resolve, &at_unpack, &at_start, &client_admitted, &client_refused];
        let registry = Registry::serve(all[..4].iter().map(|known| &known.image));
        let registry = registry.await.map_err(|error| format!("no registry on loopback: {error}"))?;
        let pulls = Pulls { cri: Cri::of(self.containerd), host: registry.host(), run };
        let mut proofs = Vec::new();
        let mut tried: Vec<(Attempt, Control)> = Vec::new();
        let attempt = |gate, way: Option<&str>, known: &Known<'_>, answer: Result<(), String>| Attempt {
            gate,
            way: way.map(str::to_owned),
            digests: known.image.digests(),
            asked: known.listed.was_asked(gate),
            answer,
        };
        match &node.handlers {
            Some(_) => {
                let control =
                    Control { digests: admitted.image.digests(), answer: pulls.pull(&admitted.image).await.map(drop) };
                match node.version >= Version::VERIFIERS {
                    true => {
                        let answer = pulls.pull(&at_resolve.image).await.map(drop);
                        tried.push((attempt(Gate::Resolve, None, &at_resolve, answer), control.clone()));
                    }
                    false => {
                        let why = format!("containerd {} has no image verifiers", node.version);
                        proofs.push(plain(Gate::Resolve, None, State::Absent, &why));
                    }
                }
                let answer = pulls.pull(&at_unpack.image).await.map(drop);
                tried.push((attempt(Gate::Unpack, Some(KUBELET), &at_unpack, answer), control));
            }
            None => {
                let why = "containerd serves no pods";
                proofs.push(plain(Gate::Resolve, None, State::Unknown, why));
                proofs.push(plain(Gate::Unpack, Some(KUBELET), State::Absent, why));
                proofs.push(plain(Gate::Start, None, State::Absent, why));
            }
        }
        let told = |outcome: Result<(), Status>| outcome.map_err(|status| status.message().to_owned());
        let unpack =
            async |known: &Known<'_>| told(client::unpack(self.containerd, &node.namespace, run, &known.image).await);
        let control = Control { digests: client_admitted.image.digests(), answer: unpack(&client_admitted).await };
        let answer = unpack(&client_refused).await;
        tried.push((attempt(Gate::Unpack, Some(CLIENT), &client_refused, answer), control));
        match &node.handlers {
            Some(handlers) if node.starts_gated => {
                let images = (&at_start, &admitted);
                let (started, not_started) = self.starts(&pulls, handlers, images).await;
                tried.extend(started);
                proofs.extend(not_started);
            }
            Some(handlers) => proofs.extend(handlers.keys().map(|handler| {
                plain(Gate::Start, Some(handler), State::Absent, "not connected; run: pullgate enable --start")
            })),
            None => {}
        }
        proofs.extend(self.judged(&tried).await);
        // While they are still listed, so that nobody judges what is about to go.
        if let Err(why) = leftovers::remove(self.containerd, &node.namespace).await {
            tracing::warn!("not removed, hence tried again at the next self-test: {why}");
        }
        proofs.sort_by(|a, b| (a.gate, b.way.is_none(), &a.way).cmp(&(b.gate, a.way.is_none(), &b.way)));
        Ok(proofs)
    }

    /// What each of `tried` proves, by the entries in the journal.
    async fn judged(&self, tried: &[(Attempt, Control)]) -> Vec<Proof> {
        let digests: Vec<_> =
            tried.iter().flat_map(|(tried, control)| [tried.digests, control.digests]).flatten().collect();
        let audits = self.mode == NodeMode::Audit;
        let enough = |entries: &[readback::Entry]| {
            let entries = Ok(entries.to_vec());
            let incomplete = |(attempt, control): &(Attempt, Control)| {
                let refused = attempt.asked && attempt.answer.is_err();
                refused && control.answer.is_ok() && judge(attempt, control, &entries, audits).state == State::Unknown
            };
            !tried.iter().any(incomplete)
        };
        let entries = readback::entries(&digests, enough).await;
        tried.iter().map(|(attempt, control)| judge(attempt, control, &entries, audits)).collect()
    }

    /// What containerd answered when each handler was to start `refused` and `admitted`; or why it was not tried.
    async fn starts(
        &self,
        pulls: &Pulls<'_>,
        handlers: &BTreeMap<String, Handler>,
        (refused, admitted): (&Known<'_>, &Known<'_>),
    ) -> (Vec<(Attempt, Control)>, Vec<Proof>) {
        let none = |why: &str| {
            let proof = |handler: &String| plain(Gate::Start, Some(handler), State::Unknown, why);
            (Vec::new(), handlers.keys().map(proof).collect())
        };
        if !image::can_start() {
            return none("there is no program for this machine");
        }
        if let Some(why) = sandbox::missing(self.containerd).await {
            return none(&why);
        }
        let ids = async { Ok::<_, String>((pulls.pull(&refused.image).await?, pulls.pull(&admitted.image).await?)) };
        let (refused_id, admitted_id) = match ids.await {
            Ok(ids) => ids,
            Err(why) => return none(&format!("the images for it were not pulled: {why}")),
        };
        let mut started = Vec::new();
        for (name, handler) in handlers {
            let mut seen = (Err("not tried".to_owned()), Err("not tried".to_owned()));
            refused.listed.forget_asked();
            for number in 0..PODS {
                let pod = format!("{NAME}-{}-{}-{number}", pulls.run, started.len());
                let pod = Pod::bare(NAME, &pod, (LABEL, pulls.run), handler.cgroup_parent());
                seen = start(&pulls.cri, &pod, name, &refused_id, &admitted_id).await;
                let expected =
                    |answer: &Result<(), String>| answer.as_ref().err().is_none_or(|text| text.contains("PG411"));
                if expected(&seen.0) && seen.1.is_ok() {
                    break;
                }
            }
            let attempt = Attempt {
                gate: Gate::Start,
                way: Some(name.clone()),
                digests: refused.image.digests(),
                answer: seen.0,
                asked: refused.listed.was_asked(Gate::Start),
            };
            started.push((attempt, Control { digests: admitted.image.digests(), answer: seen.1 }));
        }
        (started, Vec::new())
    }
}

/// Removes what a run made that did not end.
pub(super) async fn remove_leftovers(containerd: &Containerd) -> Result<(), String> {
    let node = Node::look(containerd, Path::new("/nonexistent")).await?;
    leftovers::remove(containerd, &node.namespace).await
}

/// Pulls as the kubelet does.
struct Pulls<'a> {
    cri: Cri,
    host: String,
    run: &'a str,
}

impl Pulls<'_> {
    /// The image's id.
    async fn pull(&self, image: &Image) -> Result<String, String> {
        let name = format!("{}/{NAME}/{}@{}", self.host, self.run, image.digests()[0]);
        self.cri.pull(&name, PULL_TIME).await.map_err(|status| status.message().to_owned())
    }
}

/// Starts both images in one pod, which is gone afterwards: what containerd answered to each.
async fn start(
    cri: &Cri,
    pod: &Pod,
    handler: &str,
    refused: &str,
    admitted: &str,
) -> (Result<(), String>, Result<(), String>) {
    let told = |status: Status| status.message().to_owned();
    let id = match cri.run_pod(pod, handler, POD_TIME).await.map_err(told) {
        Ok(id) => id,
        Err(why) => return (Err(format!("no pod: {why}")), Err(format!("no pod: {why}"))),
    };
    let begin = async |name: &str, image: &str| {
        let container = cri.create(&id, pod, name, image, POD_TIME).await?;
        cri.start(&container, POD_TIME).await?;
        Ok::<_, Status>(container)
    };
    let refused = begin("refused", refused).await.map(drop).map_err(told);
    let admitted = async {
        let container = begin("admitted", admitted).await?;
        end(cri, &container).await
    };
    let admitted = admitted.await.map_err(told);
    if let Err(status) = cri.remove_pod(&id, POD_TIME).await {
        tracing::warn!("pod {id} of the self-test was not removed: {}", status.message());
    }
    (refused, admitted)
}

/// Waits for the program of `container` to end as it must.
async fn end(cri: &Cri, container: &str) -> Result<(), Status> {
    let begun = Instant::now();
    loop {
        match cri.exit_code(container).await? {
            Some(0) => return Ok(()),
            Some(code) => return Err(Status::new(Code::Aborted, format!("its program ended with {code}"))),
            None if begun.elapsed() >= END_TIME => return Err(Status::new(Code::Aborted, "its program does not end")),
            None => sleep(END_PAUSE).await,
        }
    }
}

fn plain(gate: Gate, way: Option<&str>, state: State, why: &str) -> Proof {
    Proof { gate, way: way.map(str::to_owned), state, why: why.to_owned(), entries: Vec::new() }
}
