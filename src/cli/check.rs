//! `pullgate check`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Output, complain, exit_code,
    page::{self, Page},
    paths,
    story::{self, Files},
};
use crate::{
    activation::{Activation, Outcome},
    admission::Admission,
    clock::Clock,
    config::NodeMode,
    decisions::Asking,
    evidence::{Place, kept::Kept},
    gate::{self, InRegistry},
    image::{Digest, Reference, Repository, sanitize},
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        evaluate::gap_violation,
    },
    snapshot::Snapshot,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image: a name with a tag, a digest or both.
    reference: String,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// Also say which requests it took: of whom, for what, what was answered and after how many milliseconds.
    #[arg(short, long)]
    verbose: bool,
    /// Where the daemon keeps what outlives a restart.
    #[arg(long, value_name = "DIR", default_value = super::STATE)]
    state: PathBuf,
}

/// What was decided about an image, and about the children that had to be asked.
struct Checked {
    digest: Option<Digest>,
    decision: Decision,
    children: Vec<(Digest, Decision)>,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let reference: Reference = match arguments.reference.parse() {
        Ok(reference) => reference,
        Err(error) => return complain(format!("{}: {error}", sanitize(&arguments.reference, 200))),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error),
    };
    let started = Instant::now();
    runtime.block_on(async {
        let activation = Activation::new(paths(config, None), |_, _| ());
        let (snapshot, outcome) = activation.load().await;
        if let Outcome::Rejected(trouble) = outcome {
            return complain(format!("{} {}", trouble.code, trouble.message));
        }
        let checked = check(&snapshot, &reference, &arguments.state).await;
        let verdict = checked.decision.verdict;
        let text = match arguments.output {
            Output::Json => page::json(&in_json(&reference, &snapshot, &checked)),
            Output::Text => in_text(config, &reference, &snapshot, &checked),
        };
        let code = page::print(&text, exit_code(verdict));
        if arguments.verbose {
            let requests = snapshot.registry.requests();
            warn!("{requests} requests, {} ms", started.elapsed().max(Duration::from_millis(1)).as_millis());
            snapshot.registry.told().iter().for_each(|told| warn!("  {told}"));
        }
        code
    })
}

async fn check(snapshot: &Arc<Snapshot>, reference: &Reference, state: &Path) -> Checked {
    let place = Place { repository: reference.repository.clone(), proven: true };
    let unknown = |decision| Checked { digest: None, decision, children: Vec::new() };
    let (digest, media_type) = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => (*digest, None),
        (None, tag) => match snapshot.registry.resolve(&place, tag.as_deref().unwrap_or("latest")).await {
            Ok(Some(resolved)) => (resolved.digest, Some(resolved.media_type)),
            Ok(None) => return unknown(Decision::refused(not_there(reference))),
            Err(gap) => return unknown(Decision::refused(gap_violation(&gap))),
        },
    };
    let admission = Arc::new(Admission::new(Arc::new(Clock::open(state)), Kept::of_daemon(state)));
    let Repository { host, path } = &reference.repository;
    let named = |digest| gate::fetched(snapshot, host.name(), path, digest);
    let subjects = |digest| named(digest).map(|subject| subject.tagged(reference.into())).collect::<Vec<_>>();
    if !subjects(digest).iter().any(|subject| subject.name.as_ref() == Some(&reference.repository)) {
        warn!("pullgate: containerd keeps no port with a name: name {host} in a rule or in config.toml");
    }
    let InRegistry { decision, children } =
        gate::decide(&admission, snapshot, &place, digest, media_type.as_deref(), Asking::Usual, subjects).await;
    Checked { digest: Some(digest), decision, children }
}

fn not_there(reference: &Reference) -> Violation {
    Violation {
        code: Code::NoSuchImage,
        found: format!("{reference} is not in the registry"),
        fix: "push it".to_owned(),
    }
}

fn in_text(config: &Path, reference: &Reference, snapshot: &Snapshot, checked: &Checked) -> String {
    let decision = &checked.decision;
    let mut page = Page::default();
    match decision.verdict {
        Verdict::Allow => page.line(format!("ALLOW {reference}")),
        _ => page.line(story::headline(decision)),
    }
    page.gap();
    page.row("image", reference.to_string());
    if let Some(digest) = checked.digest {
        page.row("digest", digest.to_string());
    }
    story::tell(&mut page, decision);
    for (digest, child) in &checked.children {
        let why = child.violations.first().map(|violation| format!("{} {}", violation.code, violation.code.name()));
        let why = why.unwrap_or_else(|| child.attestors.join(", "));
        page.row("child", format!("{digest} {} {why}", child.verdict.word()));
    }
    if decision.verdict != Verdict::Allow && (decision.audit_only || snapshot.config.mode == NodeMode::Audit) {
        page.row("mode", "audit: it would be admitted, and recorded");
    }
    let boot = paths(config, None).boot;
    let files = Files { policy: &snapshot.config.policy, boot: &boot };
    story::mend(&mut page, decision, &files, snapshot.policy.as_deref());
    page.text()
}

fn in_json(reference: &Reference, snapshot: &Snapshot, checked: &Checked) -> serde_json::Value {
    let children: Vec<_> =
        checked.children.iter().map(|(digest, decision)| json!({ "digest": digest, "decision": decision })).collect();
    json!({
        "image": reference.to_string(),
        "digest": checked.digest,
        "mode": snapshot.config.mode.to_string(),
        "decision": checked.decision,
        "children": children,
    })
}
