//! `pullgate policy suggest`: the narrowest policy that admits what is on this node.

mod survey;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    super::{boot_list, exit_code, page, paths},
    complain, many,
};
use crate::{
    activation::{Activation, Outcome},
    evidence::{Formats, kept::Kept},
    files,
    image::sanitize,
    limits,
    policy::{Policy, decision::Verdict, draft::Draft},
    snapshot::Snapshot,
    trust::{Algorithm, Attestor, PublicKey, Purpose, TrustedKey},
};
use survey::{Known, Survey};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A public key, in PEM, of somebody who vouches for images; beside the attestors of this node's policy.
    #[arg(long = "key", value_name = "FILE", num_args = 1..)]
    keys: Vec<PathBuf>,
    /// Print a boot list instead: what this node cannot do without.
    #[arg(long, conflicts_with = "keys")]
    boot: bool,
    /// Where the daemon keeps what outlives a restart.
    #[arg(long, value_name = "DIR", default_value = crate::cli::STATE, hide = true)]
    state: PathBuf,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    if arguments.boot {
        return boot_list::suggest(config);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error),
    };
    runtime.block_on(async {
        let snapshot = match load(config, arguments).await {
            Ok(snapshot) => snapshot,
            Err(why) => return complain(why),
        };
        let given = match given(&arguments.keys, snapshot.policy.as_deref()) {
            Ok(given) => given,
            Err(why) => return complain(why),
        };
        let known = Arc::new(Known { policy: snapshot.policy.clone(), given });
        let survey = Survey::of_node(&snapshot, known.clone(), Kept::of_daemon(&arguments.state)).await;
        match Draft::of(&known.all(), &survey.observed, Timestamp::now()) {
            Ok(draft) => {
                tell(&snapshot, &known, &survey, &draft);
                let whole = survey.troubles.is_empty() && survey.gaps() == 0 && draft.refused.is_empty();
                let verdict = if whole { Verdict::Allow } else { Verdict::Inconclusive };
                page::print(&(survey.preface() + &draft.text), exit_code(verdict))
            }
            Err(problems) => complain(problems),
        }
    })
}

/// What this node decides by. Whoever sends the output to the policy's own file has emptied that: then it is what the daemon
/// put into force last.
async fn load(config: &Path, arguments: &Arguments) -> Result<Arc<Snapshot>, String> {
    let (snapshot, outcome) = Activation::new(paths(config, None), |_, _| ()).load().await;
    let Outcome::Rejected(trouble) = outcome else { return Ok(snapshot) };
    let policy = &snapshot.config.policy;
    if !fs::metadata(policy).is_ok_and(|meta| meta.is_file() && meta.len() == 0) {
        return Err(format!("{} {}", trouble.code, trouble.message));
    }
    let (snapshot, _) = Activation::new(paths(config, Some(arguments.state.clone())), |_, _| ()).load().await;
    let said = match &snapshot.policy {
        Some(_) => "the attestors are those of the policy that was last in force",
        None if arguments.keys.is_empty() => {
            return Err(format!("{} is empty: name the keys with --key", policy.display()));
        }
        None => "there are no attestors but the keys",
    };
    warn!("pullgate: {} is empty: {said}", policy.display());
    Ok(snapshot)
}

/// An attestor for each key in `files` that no attestor of `policy` has, once for each algorithm by which it could sign.
fn given(files: &[PathBuf], policy: Option<&Policy>) -> Result<Vec<Attestor>, String> {
    let mut given: Vec<Attestor> = Vec::new();
    for file in files {
        let text = files::read(file, limits::KEY_FILE_BYTES).map_err(|why| format!("{}: {why}", file.display()))?;
        let keys = PublicKey::by_any_algorithm(&text).map_err(|why| format!("{}: {why}", file.display()))?;
        for key in keys {
            let all: Vec<&Attestor> = policy.iter().flat_map(|policy| &policy.attestors).chain(&given).collect();
            let is_same = |other: &PublicKey| other.id == key.id && other.algorithm == key.algorithm;
            if let Some(attestor) = all.iter().find(|attestor| attestor.keys.iter().any(|known| is_same(&known.key))) {
                warn!("pullgate: {} is a key of \"{}\" already", file.display(), attestor.name);
                continue;
            }
            let name = name(file, key.algorithm, &|name| all.iter().any(|attestor| attestor.name == name));
            given.push(Attestor {
                name,
                may_sign: vec![Purpose::Signature],
                keys: vec![TrustedKey::always(key)],
                identities: Vec::new(),
                authorities: Vec::new(),
                formats: Formats::ALL,
                annotations: Default::default(),
                repositories: Vec::new(),
            });
        }
    }
    Ok(given)
}

/// What an attestor is called whose key is in `file`: as the file, with the algorithm where that is taken.
fn name(file: &Path, algorithm: Algorithm, is_taken: &dyn Fn(&str) -> bool) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let stem: String = stem.chars().take(32).map(plain).collect();
    if !stem.is_empty() && !is_taken(&stem) {
        return stem;
    }
    let named = |number: usize| {
        format!("{stem}-{}{}", algorithm.name(), if number == 1 { String::new() } else { format!("-{number}") })
    };
    (1..).map(named).find(|name| !is_taken(name)).unwrap_or(stem)
}

/// Says on standard error what the document cannot say.
fn tell(snapshot: &Snapshot, known: &Known, survey: &Survey, draft: &Draft) {
    let images: std::collections::BTreeSet<_> = survey.observed.iter().map(|image| image.target).collect();
    warn!(
        "pullgate: {}, {} by digest, {}",
        many(images.len(), "image"),
        draft.pinned,
        many(draft.attestors.len(), "attestor")
    );
    let unused = known.all().into_iter().filter(|attestor| !draft.attestors.contains(&attestor.name));
    let unused: Vec<&str> = unused.map(|attestor| attestor.name.as_str()).collect();
    if !unused.is_empty() {
        warn!("pullgate: nothing is admitted by the word of {}", unused.join(", "));
    }
    if let Some(policy) = &snapshot.policy
        && !(policy.floors.is_empty() && policy.exempt.is_empty())
    {
        warn!("pullgate: the floors and exemptions of {} are not in it", policy.file);
    }
    let refused = draft.refused.iter().map(|called| format!("it does not admit {called}"));
    let gaps = Some(survey.gaps()).filter(|count| *count > 0);
    let gaps = gaps.map(|count| format!("{} could not be asked about in full", many(count, "image")));
    for trouble in survey.troubles.iter().cloned().chain(refused).chain(gaps) {
        warn!("pullgate: {}", sanitize(&trouble, limits::SHOWN_CHARS));
    }
}
