//! What a request is judged by: configuration, policy and boot list, taken once and together.

use std::sync::Arc;

use crate::{
    boot::BootList,
    config::Config,
    evidence::registry::Registry,
    policy::{
        Policy,
        decision::{Code, Violation},
    },
};

/// One consistent state of everything that decides.
#[derive(Clone)]
pub struct Snapshot {
    /// Grows each time that the files are read.
    pub generation: u64,
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The policy in force; without one only the boot list is admitted.
    pub policy: Option<Arc<Policy>>,
    /// Digests that are admitted whatever else is broken.
    pub boot: Arc<BootList>,
    /// The registries, spoken to as the configuration says.
    pub registry: Registry,
    /// What is wrong with the files on disk, if anything is.
    pub trouble: Option<Trouble>,
}

/// Why the files on disk are not what is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// [`Code::ConfigInvalid`] or [`Code::PolicyInvalid`].
    pub code: Code,
    /// The first problem: file, line, and the mend.
    pub message: String,
}

impl Snapshot {
    /// What `config` and `policy` say, without a boot list and without trouble: the first generation.
    pub fn new(config: Config, policy: Option<Policy>) -> Self {
        Self {
            generation: 1,
            registry: Registry::new(config.registries.clone()),
            config: Arc::new(config),
            policy: policy.map(Arc::new),
            boot: Arc::default(),
            trouble: None,
        }
    }

    /// The revision of the policy in force.
    pub fn revision(&self) -> &str {
        self.policy.as_ref().map_or("none", |policy| &policy.revision)
    }

    /// Whether `other` may decide otherwise about the same image.
    pub fn judges_otherwise(&self, other: &Self) -> bool {
        self.revision() != other.revision() || self.config.labels != other.config.labels || self.boot != other.boot
    }

    /// Why there is no policy to judge by.
    pub fn no_policy(&self) -> Violation {
        let (code, found) = match &self.trouble {
            Some(trouble) => (trouble.code, trouble.message.clone()),
            None => (Code::PolicyInvalid, "there is no policy".to_owned()),
        };
        Violation { code, found, fix: "mend the file; the next pull works".to_owned() }
    }
}
