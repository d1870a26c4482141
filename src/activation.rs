//! From the files on disk to the snapshot in force.
//!
//! What cannot be read never takes force: the last good state stays, in memory or from the state directory, and where
//! there is none the boot list alone is admitted. Once the file is mended the next request finds that out by itself.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch};

use crate::{
    boot::{self, BootList},
    config::{BreakGlass, Config, NodeMode, Watch},
    document::Problems,
    evidence::{RegistryOptions, registry::Registry},
    files, limits,
    policy::{Policy, decision::Code},
    snapshot::{Snapshot, Trouble},
    verify::token::KeySet,
};

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The configuration.
    pub config: PathBuf,
    /// The directory of the boot list.
    pub boot: PathBuf,
    /// The directory for what outlives a restart; none keeps nothing.
    pub state: Option<PathBuf>,
}

/// What happened when the files were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are in force.
    Activated,
    /// They cannot be used.
    Rejected(Trouble),
}

/// Holds the snapshot in force.
pub struct Activation {
    paths: Paths,
    current: watch::Sender<Option<Arc<Snapshot>>>,
    loading: AsyncMutex<()>,
    seen: Mutex<Seen>,
    prepare: Box<Prepare>,
    tell: Box<Tell>,
}

type Tell = dyn Fn(&Snapshot, &Outcome) + Send + Sync;
type Prepare = dyn Fn(Arc<Snapshot>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// The files that were read, and how they looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen(BTreeMap<PathBuf, Option<files::Fingerprint>>);

/// The texts that were last in force, as the state directory keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastGood {
    schema: u32,
    config: Option<String>,
    policy_file: Option<PathBuf>,
    policy: Option<String>,
    keys: BTreeMap<String, String>,
}

const LAST_GOOD_SCHEMA: u32 = 1;
const LAST_GOOD: &str = "last-good.json";

impl Activation {
    /// An activation of what lies at `paths`; `tell` hears of every change. Nothing is read before [`Self::load`].
    pub fn new(paths: Paths, tell: impl Fn(&Snapshot, &Outcome) + Send + Sync + 'static) -> Self {
        let (current, seen) = (watch::Sender::new(None), Mutex::new(Seen::default()));
        let prepare: Box<Prepare> = Box::new(|_| Box::pin(async {}));
        Self { paths, current, loading: AsyncMutex::new(()), seen, prepare, tell: Box::new(tell) }
    }

    /// Before another policy takes force, `prepare` is run with it; the policy before it decides until that has ended.
    #[must_use]
    pub fn preparing<F>(self, prepare: impl Fn(Arc<Snapshot>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { prepare: Box::new(move |snapshot| Box::pin(prepare(snapshot))), ..self }
    }

    /// The snapshot in force. Waits until there is one; in trouble it first looks whether the files were mended.
    pub async fn current(&self) -> Arc<Snapshot> {
        let mut receiver = self.current.subscribe();
        let snapshot = match receiver.wait_for(Option::is_some).await.map(|snapshot| snapshot.clone()) {
            Ok(Some(snapshot)) => snapshot,
            _ => return self.load().await.0,
        };
        if snapshot.trouble.is_none() || !self.changed() {
            return snapshot;
        }
        let one_at_a_time = self.loading.lock().await;
        // Who waited for another's turn finds what that one read.
        match self.peek() {
            Some(newer) if newer.generation != snapshot.generation => newer,
            _ => self.load_within(&one_at_a_time).await.0,
        }
    }

    /// The snapshot in force, if the files were read already.
    pub fn peek(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
    }

    /// Every snapshot that comes into force, from the present one on.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.current.subscribe()
    }

    /// Reads the files, and puts into force what can be used.
    pub async fn load(&self) -> (Arc<Snapshot>, Outcome) {
        self.load_within(&self.loading.lock().await).await
    }

    async fn load_within(&self, _one_at_a_time: &AsyncMutexGuard<'_, ()>) -> (Arc<Snapshot>, Outcome) {
        let previous = self.current.borrow().clone();
        let (snapshot, outcome, seen) = self.read(previous.as_deref());
        let news = previous
            .as_ref()
            .is_none_or(|previous| previous.trouble != snapshot.trouble || outcome == Outcome::Activated);
        let snapshot = Arc::new(snapshot);
        if previous.is_some_and(|previous| previous.judges_otherwise(&snapshot)) {
            (self.prepare)(snapshot.clone()).await;
        }
        // Who waits for a snapshot finds all that follows from it done.
        if news {
            (self.tell)(&snapshot, &outcome);
        }
        self.current.send_replace(Some(snapshot.clone()));
        // Not before: who finds the files unchanged takes what is in force.
        *self.lock_seen() = seen;
        (snapshot, outcome)
    }

    fn changed(&self) -> bool {
        let seen = self.lock_seen();
        seen.0.iter().any(|(path, fingerprint)| files::fingerprint(path) != *fingerprint)
    }

    fn read(&self, previous: Option<&Snapshot>) -> (Snapshot, Outcome, Seen) {
        let seen = RefCell::new(Seen::default());
        let kept = match previous {
            None => self.last_good(),
            Some(_) => None,
        };
        let mut fresh = LastGood { schema: LAST_GOOD_SCHEMA, ..LastGood::default() };
        let (mut trouble, mut closed) = (None, false);
        let text = seen.borrow_mut().read(&self.paths.config);
        let config = text.and_then(|text| {
            let config = Config::parse(&self.paths.config, &text)
                .and_then(|config| with_issuer_keys(config, |path| seen.borrow_mut().read_key(path)));
            fresh.config = Some(text);
            config
        });
        let config = config.map(Arc::new).unwrap_or_else(|problems| {
            trouble = Some(Trouble { code: Code::ConfigInvalid, message: problems.first() });
            let kept = kept.as_ref().and_then(|kept| Config::parse(&self.paths.config, kept.config.as_ref()?).ok());
            // Without keys no token counts.
            let kept = kept.map(|kept| {
                with_issuer_keys(kept.clone(), |path| files::read_trusted(path, limits::KEY_FILE_BYTES)).unwrap_or(kept)
            });
            previous.map(|previous| previous.config.clone()).or(kept.map(Arc::new)).unwrap_or_else(|| {
                closed = true;
                closed_config(&self.paths.config).into()
            })
        });
        let keys = RefCell::new(BTreeMap::new());
        let text = seen.borrow_mut().read(&config.policy);
        let policy = text.and_then(|text| {
            let read_key = |name: &str| {
                let path = beside(&config.policy, name);
                seen.borrow_mut().note(&path);
                let pem = files::read_trusted(&path, limits::KEY_FILE_BYTES)?;
                keys.borrow_mut().insert(name.to_owned(), pem.clone());
                Ok(pem)
            };
            let policy = Policy::parse(&config.policy.display().to_string(), &text, &read_key);
            fresh.policy = Some(text);
            policy
        });
        let policy = match policy {
            // A policy next to a configuration that cannot be used waits for the mend, too.
            Ok(policy) if trouble.is_none() => Some(Arc::new(policy)),
            unusable => {
                let message = unusable.err().map(|problems| problems.first()).unwrap_or_default();
                trouble.get_or_insert(Trouble { code: Code::PolicyInvalid, message });
                match previous {
                    Some(previous) => previous.policy.clone(),
                    None => kept.as_ref().and_then(LastGood::parse_policy).map(Arc::new),
                }
            }
        };
        // Without the node's labels a rule for other nodes could count here.
        let policy = policy.filter(|_| !closed);
        seen.borrow_mut().note(&self.paths.boot);
        boot::files_of(&self.paths.boot).iter().for_each(|file| seen.borrow_mut().note(file));
        let boot = BootList::read(&self.paths.boot);
        for problem in &boot.problems {
            tracing::warn!("boot list: {problem}");
        }
        if config.service_accounts.is_none() && policy.as_ref().is_some_and(|policy| policy.asks_for_accounts()) {
            tracing::warn!(
                "the policy has rules for service accounts, and the configuration no [service-accounts]: none is proven, \
                 and what is said for any of them must be met"
            );
        }
        let outcome = match &trouble {
            None => Outcome::Activated,
            Some(trouble) => Outcome::Rejected(trouble.clone()),
        };
        if trouble.is_none() {
            fresh.keys = keys.into_inner();
            fresh.policy_file = Some(config.policy.clone());
            self.keep(&fresh);
        }
        let registry = match previous {
            Some(previous) if previous.config.registries == config.registries => previous.registry.clone(),
            _ => Registry::new(config.registries.clone()),
        };
        // In trouble, too: a configuration in force can be new though the policy is not, and the other way round.
        let generation = previous.map_or(0, |previous| previous.generation) + 1;
        let snapshot = Snapshot { generation, config, policy, boot: Arc::new(boot), registry, trouble };
        (snapshot, outcome, seen.into_inner())
    }

    /// What was last in force before this process, if the state directory has it.
    fn last_good(&self) -> Option<LastGood> {
        let path = self.paths.state.as_ref()?.join(LAST_GOOD);
        let text = files::read_trusted(&path, 4 * limits::DOCUMENT_BYTES).ok()?;
        let why = match serde_json::from_str::<LastGood>(&text) {
            Ok(kept) if kept.schema == LAST_GOOD_SCHEMA => return Some(kept),
            Ok(kept) => format!("it has schema {}, not {LAST_GOOD_SCHEMA}", kept.schema),
            Err(error) => error.to_string(),
        };
        // A newer version may come back for it.
        match files::set_aside(&path) {
            Ok(aside) => tracing::warn!("{} is not used ({why}) and now {}", path.display(), aside.display()),
            Err(error) => tracing::warn!("{} is not used ({why}) and stays: {error}", path.display()),
        }
        None
    }

    fn keep(&self, fresh: &LastGood) {
        let Some(directory) = &self.paths.state else { return };
        let path = directory.join(LAST_GOOD);
        let bytes = match serde_json::to_vec(fresh) {
            Ok(bytes) => bytes,
            Err(error) => return tracing::error!("the last good policy cannot be written: {error}"),
        };
        if let Err(error) = files::replace(&path, &bytes) {
            tracing::error!("{} cannot be written: {error}", path.display());
        }
    }

    fn lock_seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `config` with the keys of the issuer of service account tokens, where it names one.
fn with_issuer_keys(
    mut config: Config,
    mut read: impl FnMut(&Path) -> Result<String, String>,
) -> Result<Config, Problems> {
    if let Some(accounts) = &mut config.service_accounts {
        let keys = read(&accounts.keys).and_then(|text| KeySet::parse(&text));
        accounts.issuer.keys = keys.map_err(|why| Problems::whole(&accounts.keys.display().to_string(), why))?;
    }
    Ok(config)
}

impl Seen {
    fn read_key(&mut self, path: &Path) -> Result<String, String> {
        self.note(path);
        files::read_trusted(path, limits::KEY_FILE_BYTES)
    }

    fn note(&mut self, path: &Path) {
        self.0.insert(path.to_owned(), files::fingerprint(path));
    }

    fn read(&mut self, path: &Path) -> Result<String, Problems> {
        self.note(path);
        files::read_trusted(path, limits::DOCUMENT_BYTES)
            .map_err(|why| Problems::whole(&path.display().to_string(), why))
    }
}

impl LastGood {
    fn parse_policy(&self) -> Option<Policy> {
        let file = self.policy_file.as_ref()?.display().to_string();
        let read_key = |name: &str| self.keys.get(name).cloned().ok_or_else(|| "not kept".to_owned());
        Policy::parse(&file, self.policy.as_ref()?, &read_key).ok()
    }
}

/// `name` as the document `file` means it.
fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join(name)
}

/// What holds when there never was a configuration that could be read: nothing is loosened.
fn closed_config(file: &Path) -> Config {
    Config {
        mode: NodeMode::Enforce,
        policy: beside(file, "policy.toml"),
        containerd: "/run/containerd/containerd.sock".into(),
        labels: BTreeMap::new(),
        registries: RegistryOptions::default(),
        evidence: Vec::new(),
        insecure_skip_layer_rehash: false,
        insecure_continue_without_audit: false,
        watch: Watch::default(),
        quarantine: None,
        // Root breaks the glass where all else is broken, pods do not.
        break_glass: BreakGlass::default(),
        acknowledged: Vec::new(),
        service_accounts: None,
    }
}

#[cfg(test)]
mod tests;
