//! The node's configuration, `/etc/pullgate/config.toml`. Pure.

#![deny(clippy::disallowed_methods)]

mod acknowledged;
mod elsewhere;
mod registries;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use self::{
    acknowledged::DoctorTable,
    elsewhere::EvidenceTable,
    registries::{CredentialsTable, HostsTable, RegistryTable},
};
pub use self::{
    acknowledged::{Acknowledged, PodName},
    elsewhere::EvidenceSource,
};

use crate::{
    document::{Places, Problem, Problems, read},
    evidence::{Elsewhere, RegistryOptions},
    image::Repository,
    limits,
    policy::scope::{LABEL, is_label},
    verify::token::{Issuer, KeySet},
};

/// Whether this node refuses. It is the ceiling: a rule's own `audit` counts only under [`NodeMode::Enforce`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeMode {
    /// What the policy refuses is refused.
    #[default]
    Enforce,
    /// What the policy refuses is recorded and admitted.
    Audit,
}

impl std::fmt::Display for NodeMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        })
    }
}

/// The configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether this node refuses.
    pub mode: NodeMode,
    /// The policy document.
    pub policy: PathBuf,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The labels that node selectors of rules are matched with.
    pub labels: BTreeMap<String, String>,
    /// How registries are spoken to.
    pub registries: RegistryOptions,
    /// Where evidence is looked for beside the image's own repository, and before it.
    pub evidence: Vec<EvidenceSource>,
    /// Whether the layer's own bytes go unhashed; the manifest and configuration are always hashed.
    pub insecure_skip_layer_rehash: bool,
    /// Whether an allow goes out though its audit entry could not be written.
    pub insecure_continue_without_audit: bool,
    /// What is looked at on the node beside requests.
    pub watch: Watch,
    /// Whether image records that the policy refuses are removed; none removes nothing.
    pub quarantine: Option<Quarantine>,
    /// Whose Kubernetes service account tokens count; none: nobody's.
    pub service_accounts: Option<ServiceAccounts>,
    /// Who may admit for some time what the policy does not.
    pub break_glass: BreakGlass,
    /// Containers that may reach what is the node's.
    pub acknowledged: Vec<Acknowledged>,
}

/// Who may admit for some time what the policy does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    /// For how long root may at most; zero forbids it.
    pub longest: Duration,
    /// The Kubernetes namespaces in which a pod's own label does.
    pub pods_of: Vec<String>,
}

/// Whose Kubernetes service account tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccounts {
    /// The file with the issuer's keys, a JWK set.
    pub keys: PathBuf,
    /// The issuer. It has no keys before the file is read, and no token counts.
    pub issuer: Issuer,
    /// The kubelet's folder (`--root-dir`).
    pub kubelet: PathBuf,
}

/// What is looked at on the node beside requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Time between two walks over the node.
    pub every: Duration,
    /// containerd's namespaces that are not watched. The gates know no such exception.
    pub exempt: Vec<String>,
}

/// How image records that the policy refuses are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Of a hundred images on the node, how many at most within an hour; always at least one image.
    pub percent_an_hour: u32,
    /// Time after a policy came into force, or the daemon started, in which nothing is removed.
    pub after_activation: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self { every: Duration::from_secs(60 * u64::from(WALK_MINUTES)), exempt: Vec::new() }
    }
}

/// Minutes between two walks, and their bounds.
const WALK_MINUTES: u32 = 60;
const WALK_MINUTES_BOUNDS: RangeInclusive<u32> = 5..=24 * 60;
/// What quarantine may remove, and after how many minutes, and their bounds.
const PERCENT: u32 = 10;
const PERCENT_BOUNDS: RangeInclusive<u32> = 1..=100;
const AFTER_MINUTES: u32 = 60;
const AFTER_MINUTES_BOUNDS: RangeInclusive<u32> = 1..=7 * 24 * 60;
/// Minutes that a pass may last, and their bounds.
const LONGEST_MINUTES: u32 = 4 * 60;
const LONGEST_MINUTES_BOUNDS: RangeInclusive<u32> = 0..=7 * 24 * 60;
/// Kubernetes namespaces whose pods may break the glass, and the characters of one (RFC 1123).
const PODS_OF: usize = 64;
const LABEL_CHARS: usize = 63;
/// Namespaces that can be exempt, and the characters of one (containerd, pkg/identifiers).
const EXEMPT: usize = 64;
const NAMESPACE_CHARS: usize = 76;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    mode: NodeMode,
    #[serde(default)]
    policy: Option<PathBuf>,
    #[serde(default)]
    node: NodeTable,
    #[serde(default)]
    containerd: ContainerdTable,
    #[serde(default)]
    registry: BTreeMap<Spanned<String>, RegistryTable>,
    #[serde(default)]
    registry_hosts: HostsTable,
    #[serde(default)]
    credentials: CredentialsTable,
    #[serde(default)]
    evidence: Vec<EvidenceTable>,
    #[serde(default)]
    unpack: UnpackTable,
    #[serde(default)]
    audit: AuditTable,
    #[serde(default)]
    watch: WatchTable,
    #[serde(default)]
    quarantine: QuarantineTable,
    #[serde(default)]
    break_glass: BreakGlassTable,
    #[serde(default)]
    doctor: DoctorTable,
    service_accounts: Option<ServiceAccountsTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct NodeTable {
    labels: BTreeMap<Spanned<String>, String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ContainerdTable {
    address: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct UnpackTable {
    insecure_skip_layer_rehash: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct AuditTable {
    insecure_continue_without_audit: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct WatchTable {
    walk_every_minutes: Option<Spanned<u32>>,
    exempt_namespaces: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ServiceAccountsTable {
    keys: PathBuf,
    issuer: Spanned<String>,
    #[serde(default)]
    audiences: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    kubelet: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct QuarantineTable {
    images: bool,
    percent_an_hour: Option<Spanned<u32>>,
    minutes_after_activation: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct BreakGlassTable {
    longest_minutes: Option<Spanned<u32>>,
    pods_of: Vec<Spanned<String>>,
}

impl Config {
    /// Reads and checks `text`, the content of `file`. A relative `policy` is looked for beside it.
    ///
    /// # Errors
    /// Everything that is wrong with it; a syntax error or an unknown key hides what comes after it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        let name = file.display().to_string();
        if text.len() as u64 > limits::DOCUMENT_BYTES {
            return Err(Problems::whole(&name, format!("larger than {} bytes", limits::DOCUMENT_BYTES)));
        }
        let document: Document = read(&name, text)?;
        let places = Places::new(&name, text);
        let mut problems: Vec<Problem> = Vec::new();
        let registries =
            registries::read(document.registry, document.registry_hosts, document.credentials, &places, &mut problems);
        let evidence: Vec<EvidenceSource> =
            document.evidence.iter().filter_map(|table| table.read(&places, &mut problems)).collect();
        let watch = document.watch.read(&places, &mut problems);
        let quarantine = document.quarantine.read(&places, &mut problems);
        let break_glass = document.break_glass.read(&places, &mut problems);
        let acknowledged = document.doctor.read(&places, &mut problems);
        let beside = file.parent().unwrap_or(Path::new("/"));
        let service_accounts = document.service_accounts.map(|table| table.read(beside, &places, &mut problems));
        let address = document.containerd.address;
        if let Some(address) = address.as_ref().filter(|address| !address.get_ref().is_absolute()) {
            problems
                .push(places.problem(address.span(), "the address of containerd is the absolute path of its socket"));
        }
        let labels = document.node.labels;
        for (label, _) in labels.iter().filter(|(label, value)| !is_label(label.get_ref(), value)) {
            problems.push(places.problem(label.span(), LABEL));
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        Ok(Self {
            mode: document.mode,
            policy: beside.join(document.policy.unwrap_or_else(|| "policy.toml".into())),
            containerd: address.map_or_else(|| "/run/containerd/containerd.sock".into(), Spanned::into_inner),
            labels: labels.into_iter().map(|(label, value)| (label.into_inner(), value)).collect(),
            registries,
            evidence,
            insecure_skip_layer_rehash: document.unpack.insecure_skip_layer_rehash,
            insecure_continue_without_audit: document.audit.insecure_continue_without_audit,
            watch,
            quarantine,
            break_glass,
            acknowledged,
            service_accounts,
        })
    }
}

impl Config {
    /// Where evidence for the images of `repository`, or for one without a name, is looked for beside itself.
    pub fn evidence_for(&self, repository: Option<&Repository>) -> Elsewhere {
        let mut elsewhere = Elsewhere::default();
        self.evidence.iter().for_each(|source| source.add_to(&mut elsewhere, repository));
        elsewhere
    }
}

impl ServiceAccountsTable {
    fn read(self, beside: &Path, places: &Places, problems: &mut Vec<Problem>) -> ServiceAccounts {
        if self.issuer.get_ref().is_empty() {
            problems.push(
                places.problem(self.issuer.span(), "the issuer calls itself something, as in its tokens (`iss`)"),
            );
        }
        if let Some(audiences) = self.audiences.as_ref().filter(|audiences| audiences.get_ref().is_empty()) {
            problems.push(places.problem(audiences.span(), "no token is for nobody: leave `audiences` out for any"));
        }
        if let Some(kubelet) = self.kubelet.as_ref().filter(|kubelet| !kubelet.get_ref().is_absolute()) {
            problems.push(places.problem(kubelet.span(), "the kubelet's folder is an absolute path"));
        }
        ServiceAccounts {
            keys: beside.join(self.keys),
            issuer: Issuer {
                name: self.issuer.into_inner(),
                audiences: self.audiences.map(Spanned::into_inner).unwrap_or_default(),
                keys: KeySet::default(),
            },
            kubelet: self.kubelet.map_or_else(|| "/var/lib/kubelet".into(), Spanned::into_inner),
        }
    }
}

impl WatchTable {
    fn read(&self, places: &Places, problems: &mut Vec<Problem>) -> Watch {
        let every = self.walk_every_minutes.as_ref();
        let every = number(every, WALK_MINUTES, &WALK_MINUTES_BOUNDS, places, problems);
        for name in self.exempt_namespaces.iter().filter(|name| !is_namespace(name.get_ref())) {
            problems.push(places.problem(name.span(), "not the name of a namespace of containerd"));
        }
        if let Some(beyond) = self.exempt_namespaces.get(EXEMPT) {
            problems.push(places.problem(beyond.span(), format!("more than {EXEMPT} namespaces")));
        }
        let exempt = self.exempt_namespaces.iter().map(|name| name.get_ref().clone()).collect();
        Watch { every: minutes(every), exempt }
    }
}

impl QuarantineTable {
    fn read(&self, places: &Places, problems: &mut Vec<Problem>) -> Option<Quarantine> {
        let percent = self.percent_an_hour.as_ref();
        let percent_an_hour = number(percent, PERCENT, &PERCENT_BOUNDS, places, problems);
        let after = self.minutes_after_activation.as_ref();
        let after = number(after, AFTER_MINUTES, &AFTER_MINUTES_BOUNDS, places, problems);
        self.images.then(|| Quarantine { percent_an_hour, after_activation: minutes(after) })
    }
}

impl Default for BreakGlass {
    fn default() -> Self {
        Self { longest: minutes(LONGEST_MINUTES), pods_of: Vec::new() }
    }
}

impl BreakGlassTable {
    fn read(&self, places: &Places, problems: &mut Vec<Problem>) -> BreakGlass {
        let longest = self.longest_minutes.as_ref();
        let longest = number(longest, LONGEST_MINUTES, &LONGEST_MINUTES_BOUNDS, places, problems);
        for name in self.pods_of.iter().filter(|name| !is_kubernetes_namespace(name.get_ref())) {
            problems.push(places.problem(name.span(), "not the name of a Kubernetes namespace"));
        }
        if let Some(beyond) = self.pods_of.get(PODS_OF) {
            problems.push(places.problem(beyond.span(), format!("more than {PODS_OF} namespaces")));
        }
        let pods_of = self.pods_of.iter().map(|name| name.get_ref().clone()).collect();
        BreakGlass { longest: minutes(longest), pods_of }
    }
}

fn minutes(count: u32) -> Duration {
    Duration::from_secs(60 * u64::from(count))
}

fn number(
    given: Option<&Spanned<u32>>,
    usual: u32,
    bounds: &RangeInclusive<u32>,
    places: &Places,
    problems: &mut Vec<Problem>,
) -> u32 {
    match given {
        Some(given) if !bounds.contains(given.get_ref()) => {
            let why = format!("from {} to {}", bounds.start(), bounds.end());
            problems.push(places.problem(given.span(), why));
            usual
        }
        given => given.map_or(usual, |given| *given.get_ref()),
    }
}

fn is_namespace(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=NAMESPACE_CHARS).contains(&name.len()) && name.chars().all(known)
}

fn is_kubernetes_namespace(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let at_ends = [name.chars().next(), name.chars().last()].iter().flatten().any(|c| *c == '-');
    (1..=LABEL_CHARS).contains(&name.len()) && name.chars().all(known) && !at_ends
}

#[cfg(test)]
mod tests;
