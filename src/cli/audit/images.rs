//! `pullgate audit images`: what is on this node now, judged.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    activation::{Activation, Outcome},
    admission::Admission,
    cli::{
        Output, complain, exit_code,
        page::{self, Page},
        paths,
    },
    clock::Clock,
    containerd::Containerd,
    decisions::Asking,
    evidence::{
        content::{ContentStore, Trouble},
        kept::Kept,
        sources::Sources,
    },
    gate::{ContainerStanding, Judged, Origin, Standing, Walk},
    limits,
    policy::decision::{Decision, Verdict},
    snapshot::Snapshot,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Ask registries, too; without it only what is kept on this node is looked at.
    #[arg(long)]
    ask: bool,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// Where the daemon keeps what outlives a restart.
    #[arg(long, value_name = "DIR", default_value = crate::cli::STATE, hide = true)]
    state: PathBuf,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let asking = if arguments.ask { Asking::Usual } else { Asking::Offline };
    let (snapshot, judged) = match look(config, &arguments.state, asking) {
        Ok((snapshot, Ok(judged))) => (snapshot, judged),
        Ok((_, Err(trouble))) => {
            warn!("pullgate: what is on this node could not be judged: {trouble}");
            return exit_code(Verdict::Inconclusive);
        }
        Err(why) => return complain(why),
    };
    let text = match arguments.output {
        Output::Json => page::json(&in_json(&snapshot, &judged)),
        Output::Text => in_text(&snapshot, &judged, arguments.ask),
    };
    page::print(&text, exit_code(worst(&judged)))
}

/// Judges what is on the node by the files of this node, with progress on a terminal.
///
/// # Errors
/// What is wrong with the files. That containerd does not answer is within.
pub(in crate::cli) fn look(
    config: &Path,
    state: &Path,
    asking: Asking,
) -> Result<(Arc<Snapshot>, Result<Judged, Trouble>), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let activation = Activation::new(paths(config, None), |_, _| ());
        let (snapshot, outcome) = activation.load().await;
        if let Outcome::Rejected(trouble) = outcome {
            return Err(format!("{} {}", trouble.code, trouble.message));
        }
        let containerd = Arc::new(Containerd::new(&snapshot.config.containerd));
        let kept = Kept::of_daemon(state);
        let content = Arc::new(ContentStore::new(containerd.clone(), kept.clone()));
        let sources = Sources::new(kept).with_content(content.clone());
        let admission = Arc::new(Admission::with_sources(Arc::new(Clock::open(state)), sources));
        let judged = Walk::new(containerd, content, admission).judge(&snapshot, asking, &[], &progress).await;
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        Ok((snapshot, judged))
    })
}

/// One line that is overwritten by the next, on a terminal only.
fn progress(done: usize, of: usize) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K{done} of {of} images judged").and_then(|()| io::stderr().flush());
    }
}

fn worst(judged: &Judged) -> Verdict {
    let images = judged.images.iter().map(|image| image.decision.verdict);
    let all: Vec<Verdict> = images.chain(judged.containers.iter().map(|it| it.decision().verdict)).collect();
    match (all.contains(&Verdict::Deny), all.contains(&Verdict::Inconclusive)) {
        (true, _) => Verdict::Deny,
        (false, true) => Verdict::Inconclusive,
        (false, false) => Verdict::Allow,
    }
}

/// How many containers run from the image.
fn running(judged: &Judged, image: &Standing) -> usize {
    let from = |it: &&ContainerStanding| it.namespace == image.namespace && it.has(&image.target);
    judged.containers.iter().filter(from).count()
}

/// Containers that say more than their images: refused ones, and those whose image has no record any more.
fn apart(judged: &Judged) -> impl Iterator<Item = &ContainerStanding> {
    let recorded = |it: &ContainerStanding| {
        let is = |image: &Standing| it.namespace == image.namespace && it.has(&image.target);
        judged.images.iter().any(is)
    };
    judged.containers.iter().filter(move |it| it.decision().verdict != Verdict::Allow || !recorded(it))
}

fn in_text(snapshot: &Snapshot, judged: &Judged, asked: bool) -> String {
    let mut page = Page::default();
    let mut images: Vec<&Standing> = judged.images.iter().collect();
    images.sort_by_key(|image| order(image.decision.verdict));
    let mut rows = vec![["VERDICT", "CODE", "NAMESPACE", "RUNS", "IMAGE", "WHY"].map(str::to_owned)];
    for image in images {
        let runs = match running(judged, image) {
            0 => "-".to_owned(),
            count => count.to_string(),
        };
        rows.push(row(&image.decision, &image.namespace, runs, image.name()));
    }
    let mut containers: Vec<&ContainerStanding> = apart(judged).collect();
    containers.sort_by_key(|container| order(container.decision().verdict));
    for container in containers {
        let id: String = container.id.chars().take(12).collect();
        let image = container.decisive().map_or(&container.image, |piece| &piece.image);
        let name = format!("container {id} of {image}");
        rows.push(row(&container.decision(), &container.namespace, "yes".to_owned(), name));
    }
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count().min(WIDEST));
        }
    }
    for [verdict, code, namespace, runs, image, why] in &rows {
        let [a, b, c, d, e] = widths;
        page.line(format!("{verdict:a$}  {code:b$}  {namespace:c$}  {runs:d$}  {image:e$}  {why}").trim_end());
    }
    let count = |verdict| judged.images.iter().filter(|image| image.decision.verdict == verdict).count();
    page.gap();
    page.line(format!(
        "{} images under policy {}: {} admitted, {} refused, {} not known; {} containers run",
        judged.images.len(),
        snapshot.revision(),
        count(Verdict::Allow),
        count(Verdict::Deny),
        count(Verdict::Inconclusive),
        judged.containers.len()
    ));
    if !asked && count(Verdict::Inconclusive) > 0 {
        page.line("What is not known can be asked of registries: pullgate audit images --ask");
    }
    page.text()
}

/// Characters of a column up to which others are set apart by it.
const WIDEST: usize = 80;

fn order(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Deny => 0,
        Verdict::Inconclusive => 1,
        Verdict::Allow => 2,
    }
}

fn row(decision: &Decision, namespace: &str, runs: String, image: String) -> [String; 6] {
    let code = decision.code().map_or_else(|| "-".to_owned(), |code| code.to_string());
    [decision.verdict.word().to_owned(), code, namespace.to_owned(), runs, image, why(decision)]
}

/// Why not, or who vouched.
fn why(decision: &Decision) -> String {
    let audits = if decision.audit_only { " (its rule only audits)" } else { "" };
    match decision.violations.first() {
        Some(violation) => crate::image::sanitize(&violation.found, limits::MESSAGE_CHARS) + audits,
        None if decision.attestors.is_empty() => {
            decision.rule.as_ref().map(|rule| format!("rule \"{rule}\"")).unwrap_or_default()
        }
        None => format!("by {}", decision.attestors.join(", ")),
    }
}

fn in_json(snapshot: &Snapshot, judged: &Judged) -> Value {
    let decided = |decision: &Decision| {
        json!({
            "verdict": decision.verdict, "code": decision.code(), "why": why(decision), "rule": decision.rule,
            "attestors": decision.attestors, "audit-only": decision.audit_only,
        })
    };
    let merged = |mut value: Value, decision: &Decision| {
        if let (Some(object), Value::Object(more)) = (value.as_object_mut(), decided(decision)) {
            object.extend(more);
        }
        value
    };
    let image = |image: &Standing| {
        let names: Vec<&str> = image.records.iter().map(|record| record.name.as_str()).collect();
        let about = json!({
            "namespace": image.namespace, "names": names, "digest": image.target, "containers": running(judged, image),
        });
        merged(about, &image.decision)
    };
    let container = |container: &ContainerStanding| {
        let by = match container.origin {
            Origin::Pod => "pod",
            Origin::Sandbox => "sandbox",
            Origin::Client => "client",
        };
        let image = container.decisive().map_or(&container.image, |piece| &piece.image);
        let about = json!({
            "namespace": container.namespace, "id": container.id, "image": image, "made-by": by,
            "start-gate": container.hooked,
        });
        merged(about, &container.decision())
    };
    json!({
        "policy": snapshot.revision(),
        "images": judged.images.iter().map(image).collect::<Vec<_>>(),
        "containers": judged.containers.iter().map(container).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        evidence::content::Record,
        gate::PieceStanding,
        image::Digest,
        policy::decision::{Code, Violation},
    };

    fn decision(code: Option<Code>) -> Decision {
        let found = "found\x1b[31m\n".to_owned();
        match code {
            Some(code) => Decision::refused(Violation { code, found, fix: String::new() }),
            None => Decision { verdict: Verdict::Allow, attestors: vec!["release".to_owned()], ..Decision::default() },
        }
    }

    fn image(name: &str, code: Option<Code>) -> Standing {
        let target = Digest::of(name.as_bytes());
        Standing {
            namespace: "k8s.io".to_owned(),
            records: vec![Record { name: format!("reg.io/{name}"), pinned: false }],
            target,
            documents: BTreeSet::from([target]),
            complete: true,
            decision: decision(code),
        }
    }

    fn container(id: &str, image: &str, code: Option<Code>) -> ContainerStanding {
        ContainerStanding {
            namespace: "k8s.io".to_owned(),
            id: id.to_owned(),
            image: format!("reg.io/{image}"),
            origin: Origin::Pod,
            hooked: true,
            self_test: false,
            created: None,
            runtime: String::new(),
            pieces: vec![PieceStanding::new(
                &format!("reg.io/{image}"),
                BTreeSet::from([Digest::of(image.as_bytes())]),
                decision(code),
            )],
        }
    }

    fn snapshot() -> Snapshot {
        let config = crate::config::Config::parse(Path::new("/config.toml"), "mode = \"audit\"").unwrap();
        Snapshot::new(config, None)
    }

    #[test]
    fn the_worst_is_the_exit_code() {
        let judged = |codes: &[Option<Code>]| Judged {
            images: codes.iter().map(|code| image("x", *code)).collect(),
            containers: Vec::new(),
        };
        let (deny, retry) = (Some(Code::Unsigned), Some(Code::RegistryUnreachable));
        for (codes, verdict) in [
            (vec![], Verdict::Allow),
            (vec![None], Verdict::Allow),
            (vec![None, retry], Verdict::Inconclusive),
            (vec![retry, deny, None], Verdict::Deny),
        ] {
            assert_eq!(worst(&judged(&codes)), verdict);
        }
        let containers = vec![container("c", "gone", deny)];
        assert_eq!(worst(&Judged { images: Vec::new(), containers }), Verdict::Deny);
    }

    #[test]
    fn what_is_refused_comes_first_and_nothing_reaches_a_terminal_as_it_came() {
        let judged = Judged {
            images: vec![
                image("good", None),
                image("evil", Some(Code::Unsigned)),
                image("far", Some(Code::RegistryUnreachable)),
            ],
            containers: vec![
                container("0123456789abcdef", "evil", Some(Code::Unsigned)),
                container("good", "good", None),
                container("orphan", "gone", None),
            ],
        };
        let text = in_text(&snapshot(), &judged, false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("DENY     PG101  k8s.io     1     reg.io/evil"), "{text}");
        assert!(lines[2].starts_with("RETRY    PG302  k8s.io     -     reg.io/far"), "{text}");
        assert!(lines[3].starts_with("ALLOW    -      k8s.io     1     reg.io/good"), "{text}");
        assert!(lines[4].contains("yes   container 0123456789ab of reg.io/evil"), "{text}");
        assert!(lines[5].contains("container orphan of reg.io/gone"), "{text}");
        assert!(
            !text.contains('\x1b') && text.contains("1 admitted, 1 refused, 1 not known; 3 containers run"),
            "{text}"
        );
        assert!(text.contains("--ask") && !in_text(&snapshot(), &judged, true).contains("--ask"));
        let value = in_json(&snapshot(), &judged);
        assert_eq!((&value["images"][1]["verdict"], &value["images"][1]["containers"]), (&json!("deny"), &json!(1)));
        assert_eq!(value["containers"][0]["made-by"], "pod");
    }
}
