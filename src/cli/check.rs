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
    evidence::{Place, kept::Kept, layout::OciLayout, sources::Sources},
    gate::{self, Home, InRegistry},
    image::{BadDigest, Digest, Reference, Repository, sanitize},
    limits,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        evaluate::{Origin, Subject, Tag, gap_violation},
    },
    snapshot::Snapshot,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image: a name with a tag, a digest or both; or oci:PATH@DIGEST, oci:PATH:TAG, in an OCI layout on disk.
    reference: String,
    /// Which image one in a layout is to be: a layout chooses its own names. Without it the default rule governs.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
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

/// An image that is asked about.
struct Image {
    /// As the person wrote it.
    shown: String,
    home: Home,
    /// The name that selects the rule.
    name: Option<Reference>,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Image {
    fn read(arguments: &Arguments) -> Result<Self, String> {
        let bad = |text: &str, why: &dyn std::fmt::Display| format!("{}: {why}", sanitize(text, 200));
        let parse = |text: &String| text.parse::<Reference>().map_err(|why| bad(text, &why));
        let name = arguments.name.as_ref().map(parse).transpose()?;
        let Some(rest) = arguments.reference.strip_prefix("oci:") else {
            if let Some(text) = &arguments.name {
                return Err(bad(text, &"--as is for an image in a layout (oci:PATH…): any other has its own name"));
            }
            let name = parse(&arguments.reference)?;
            let home = Home::Registry(Place { repository: name.repository.clone(), proven: true });
            let (tag, digest) = (name.tag.clone().or(Some("latest".to_owned())), name.digest);
            return Ok(Self { shown: name.to_string(), home, name: Some(name), tag, digest });
        };
        let of = |path: &str| Home::Layout(OciLayout::new(Path::new(path)));
        let (path, tag, digest) = match (rest.rsplit_once('@'), rest.rsplit_once(':')) {
            (Some((path, digest)), _) => {
                (path, None, Some(digest.parse().map_err(|why: BadDigest| bad(&arguments.reference, &why))?))
            }
            (None, Some((path, tag))) if !tag.contains('/') => (path, Some(tag.to_owned()), None),
            _ => return Err(bad(&arguments.reference, &"which image? write oci:PATH@sha256:… or oci:PATH:TAG")),
        };
        if let Some(digest) = name.as_ref().and_then(|name| name.digest).filter(|named| Some(*named) != digest) {
            return Err(bad(&arguments.reference, &format!("--as names {digest}, which is another image")));
        }
        Ok(Self { shown: sanitize(&arguments.reference, limits::REFERENCE_CHARS), home: of(path), name, tag, digest })
    }

    /// What the gates would ask about `digest`.
    fn subjects(&self, snapshot: &Snapshot, digest: Digest) -> Vec<Subject> {
        let tag = self.name.as_ref().map_or(Tag::NotKept, Tag::from);
        let repository = self.name.as_ref().map(|name| name.repository.clone());
        match (&self.home, repository) {
            (Home::Registry(_), Some(Repository { host, path })) => {
                gate::fetched(snapshot, host.name(), &path, digest).map(|subject| subject.tagged(tag.clone())).collect()
            }
            // As when it is imported: whoever made it chose the name.
            (_, name) => vec![Subject::new(digest, name, Origin::Claimed).tagged(tag)],
        }
    }
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let image = match Image::read(arguments) {
        Ok(image) => image,
        Err(error) => return complain(error),
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
        let checked = check(&snapshot, &image, &arguments.state).await;
        let verdict = checked.decision.verdict;
        let text = match arguments.output {
            Output::Json => page::json(&in_json(&image.shown, &snapshot, &checked)),
            Output::Text => in_text(config, &image.shown, &snapshot, &checked),
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

async fn check(snapshot: &Arc<Snapshot>, image: &Image, state: &Path) -> Checked {
    let unknown = |violation| Checked { digest: None, decision: Decision::refused(violation), children: Vec::new() };
    let (digest, media_type) = match found(snapshot, image).await {
        Ok(found) => found,
        Err(violation) => return unknown(violation),
    };
    let sources = Sources::new(Kept::of_daemon(state));
    let sources = match &image.home {
        Home::Registry(_) => sources,
        Home::Layout(layout) => sources.with_layout(layout.clone()),
    };
    let admission = Arc::new(Admission::with_sources(Arc::new(Clock::open(state)), sources));
    let subjects = |digest| image.subjects(snapshot, digest);
    match (&image.home, &image.name) {
        (Home::Registry(place), _) => {
            if !subjects(digest).iter().any(|subject| subject.name.as_ref() == Some(&place.repository)) {
                let host = &place.repository.host;
                warn!("pullgate: containerd keeps no port with a name: name {host} in a rule or in config.toml");
            }
        }
        (Home::Layout(_), None) => {
            warn!("pullgate: without a name the default rule governs; --as NAME says which image it is to be");
        }
        (Home::Layout(_), Some(_)) => {}
    }
    let InRegistry { decision, children } =
        gate::decide(&admission, snapshot, &image.home, digest, media_type.as_deref(), Asking::Usual, subjects).await;
    Checked { digest: Some(digest), decision, children }
}

/// The manifest or index that is meant, and what its registry says that it is.
async fn found(snapshot: &Snapshot, image: &Image) -> Result<(Digest, Option<String>), Violation> {
    let gap = |gap| gap_violation(&gap);
    match (&image.home, image.digest, image.tag.as_deref().unwrap_or_default()) {
        (Home::Registry(_), Some(digest), _) => Ok((digest, None)),
        (Home::Registry(place), None, tag) => match snapshot.registry.resolve(place, tag).await.map_err(gap)? {
            Some(resolved) => Ok((resolved.digest, Some(resolved.media_type))),
            None => Err(not_there(format!("{} is not in the registry", image.shown), "push it")),
        },
        (Home::Layout(layout), digest, tag) => {
            let digest = match digest {
                Some(digest) => Some(digest),
                None => layout.resolve(tag).await.map_err(gap)?,
            };
            let digest =
                digest.ok_or_else(|| not_there(format!("{} is not in the layout", image.shown), "name one that is"))?;
            // Evidence alone is no image.
            image.home.document(snapshot, &digest, None, None).await?;
            Ok((digest, None))
        }
    }
}

fn not_there(found: String, fix: &str) -> Violation {
    Violation { code: Code::NoSuchImage, found, fix: fix.to_owned() }
}

fn in_text(config: &Path, reference: &str, snapshot: &Snapshot, checked: &Checked) -> String {
    let decision = &checked.decision;
    let mut page = Page::default();
    match decision.verdict {
        Verdict::Allow => page.line(format!("ALLOW {reference}")),
        _ => page.line(story::headline(decision)),
    }
    page.gap();
    page.row("image", reference);
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

fn in_json(reference: &str, snapshot: &Snapshot, checked: &Checked) -> serde_json::Value {
    let children: Vec<_> =
        checked.children.iter().map(|(digest, decision)| json!({ "digest": digest, "decision": decision })).collect();
    json!({
        "image": reference,
        "digest": checked.digest,
        "mode": snapshot.config.mode.to_string(),
        "decision": checked.decision,
        "children": children,
    })
}
