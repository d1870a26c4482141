//! Trust roots: the authorities that vouch for signers and for times, as sigstore's `trusted_root.json` lists them
//! (protobuf-specs, `sigstore_trustroot.proto`). Everything is in the file; nobody is asked.

use std::fmt;

use jiff::Timestamp;
use sigstore_crypto::{Keyring, SigningScheme, parse_certificate_info};
use sigstore_trust_root::{
    TrustedRoot,
    trusted_root::{CertificateAuthority, TimestampAuthority, TransparencyLog},
};
use sigstore_types::{DerCertificate, TimeRange};
use sigstore_verify::Verifier;

use super::certificate::{is_authority, validity};
use crate::{image::Digest, limits};

/// The forms of the file that are read.
const MEDIA_TYPES: [&str; 3] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.1+json",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];

/// How much the authorities of a root have to say about a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demands {
    /// So many transparency logs must have the signature.
    pub logs: usize,
    /// So many timestamp authorities must have seen it (RFC 3161).
    pub timestamps: usize,
    /// Whether a certificate counts though no certificate transparency log has seen it.
    pub insecure_ignore_sct: bool,
}

impl Default for Demands {
    fn default() -> Self {
        Self { logs: 1, timestamps: 0, insecure_ignore_sct: false }
    }
}

/// Authorities that vouch for signers and times, and what they have to say before a signature counts.
pub struct TrustRoot {
    /// Its name in the policy.
    pub name: String,
    /// The file, as the policy names it.
    pub file: String,
    /// SHA-256 of the file and the demands: its identity.
    pub id: Digest,
    /// What is asked of its authorities.
    pub demands: Demands,
    /// Verifies under all authorities.
    pub(crate) verifier: Verifier,
    read: TrustedRoot,
    /// Each with one transparency log only, where several are asked for.
    pub(crate) by_log: Vec<Verifier>,
    /// Each with one timestamp authority only, where several are asked for.
    pub(crate) by_timestamp: Vec<Verifier>,
    ended: Option<Timestamp>,
}

/// Why a file is no trust root that could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRoot(String);

impl TrustRoot {
    /// Reads `json`, the content of `file`, a `trusted_root.json`.
    ///
    /// A certificate authority vouches no longer than each certificate of its chain is valid, whatever `validFor` says.
    ///
    /// # Errors
    /// When it cannot be read, has authorities that cannot be used, or fewer distinct ones than `demands` asks for: then no
    /// signature could ever count.
    pub fn parse(name: &str, file: &str, json: &str, demands: Demands) -> Result<Self, BadRoot> {
        let mut root = TrustedRoot::from_json(json).map_err(|why| BadRoot(format!("not a trusted root: {why}")))?;
        if !MEDIA_TYPES.contains(&root.media_type.as_str()) {
            return Err(BadRoot(format!("its mediaType is none of {}", MEDIA_TYPES.join(", "))));
        }
        let authorities =
            [root.tlogs.len(), root.certificate_authorities.len(), root.ctlogs.len(), root.timestamp_authorities.len()];
        if authorities.iter().any(|count| *count > limits::TRUST_ROOT_AUTHORITIES) {
            return Err(BadRoot(format!("more than {} authorities of one kind", limits::TRUST_ROOT_AUTHORITIES)));
        }
        root.certificate_authorities.iter_mut().try_for_each(narrow)?;
        let by_log = partitions(
            &root,
            &root.tlogs,
            |log| vec![log.public_key.raw_bytes.as_bytes().to_vec()],
            |root, logs| {
                root.tlogs = logs;
            },
        );
        let by_timestamp = partitions(&root, &root.timestamp_authorities, keys_of, |root, authorities| {
            root.timestamp_authorities = authorities;
        });
        for (what, found, asked) in
            [("transparency logs", &by_log, demands.logs), ("timestamp authorities", &by_timestamp, demands.timestamps)]
        {
            if found.len() < asked {
                let found = found.len();
                return Err(BadRoot(format!("of {what} {asked} are asked for, and it has {found}")));
            }
        }
        if demands.logs == 0 && demands.timestamps == 0 {
            let why = "nobody is asked when something was signed: `logs` or `timestamps` has to be 1 or more";
            return Err(BadRoot(why.to_owned()));
        }
        let verifier =
            |root: &TrustedRoot| Verifier::new(root).map_err(|why| BadRoot(format!("cannot be used: {why}")));
        let several = |asked: usize, roots: Vec<TrustedRoot>| match asked {
            0 | 1 => Ok(Vec::new()),
            _ => roots.iter().map(verifier).collect::<Result<_, _>>(),
        };
        Ok(Self {
            name: name.to_owned(),
            file: file.to_owned(),
            id: Digest::of(format!("{demands:?}\n{json}").as_bytes()),
            demands,
            verifier: verifier(&root)?,
            by_log: several(demands.logs, by_log)?,
            by_timestamp: several(demands.timestamps, by_timestamp)?,
            ended: ended(&root, demands),
            read: root,
        })
    }

    /// Why no certificate could count under it, if that is so.
    pub fn without_certificates(&self) -> Option<&'static str> {
        if self.read.certificate_authorities.is_empty() {
            return Some("it has no certificate authority");
        }
        (self.read.ctlogs.is_empty() && !self.demands.insecure_ignore_sct).then_some(
            "it has no certificate transparency log, so no certificate would count: add one, or write \
             `insecure-ignore-sct = true`",
        )
    }

    /// Verifies under those logs only that were valid at all of `times`; none where all of them were. An entry that tells no
    /// time of its own is not held against its log's otherwise.
    pub(crate) fn with_logs_at(&self, times: &[Timestamp]) -> Option<Result<Verifier, String>> {
        let is_valid = |log: &TransparencyLog| {
            log.public_key.valid_for.is_none_or(|window| times.iter().all(|time| window.contains(*time)))
        };
        if self.read.tlogs.iter().all(is_valid) {
            return None;
        }
        let mut root = self.read.clone();
        root.tlogs.retain(is_valid);
        Some(Verifier::new(&root).map_err(|why| why.to_string()))
    }

    /// The certificates of the authorities that may vouch for a certificate at `time`.
    pub(crate) fn authorities_at(&self, time: Timestamp) -> impl Iterator<Item = &DerCertificate> {
        let authorities = self.read.certificate_authorities.iter();
        authorities
            .filter(move |authority| authority.valid_for.is_none_or(|window| window.contains(time)))
            .flat_map(|authority| authority.cert_chain.certificates.iter().map(|entry| &entry.raw_bytes))
    }

    /// The keys of its transparency logs.
    pub(crate) fn log_keys(&self) -> Option<Keyring> {
        self.read.rekor_keys().ok()
    }

    /// The keys of its certificate transparency logs that sign by `scheme`.
    pub(crate) fn certificate_log_keys(&self, scheme: SigningScheme) -> Option<Keyring> {
        self.read.ctfe_keys(scheme).ok()
    }

    /// Since when nothing that is signed could count any more, if that is known: an authority of each kind has to vouch.
    pub fn ended(&self) -> Option<Timestamp> {
        self.ended
    }
}

/// Two roots are told apart by all that is in them.
impl fmt::Debug for TrustRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.id)
    }
}

/// `root` with the authorities of one kind that are one and the same, for each that there is: who shares a key is.
fn partitions<T: Clone>(
    root: &TrustedRoot,
    authorities: &[T],
    keys: impl Fn(&T) -> Vec<Vec<u8>>,
    set: impl Fn(&mut TrustedRoot, Vec<T>),
) -> Vec<TrustedRoot> {
    let mut groups: Vec<(Vec<Vec<u8>>, Vec<T>)> = Vec::new();
    for authority in authorities {
        let mut group = (keys(authority), vec![authority.clone()]);
        let shares = |(known, _): &(Vec<Vec<u8>>, Vec<T>)| known.iter().any(|key| group.0.contains(key));
        let (same, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(shares);
        groups = others;
        for (keys, authorities) in same {
            group.0.extend(keys);
            group.1.extend(authorities);
        }
        groups.push(group);
    }
    let with = |group| {
        let mut part = root.clone();
        set(&mut part, group);
        part
    };
    groups.into_iter().map(|(_, group)| with(group)).collect()
}

/// What makes two timestamp authorities one: a key in both of their chains. Where one cannot be read, that it is the same.
fn keys_of(authority: &TimestampAuthority) -> Vec<Vec<u8>> {
    let key = |certificate: &DerCertificate| match parse_certificate_info(certificate) {
        Ok(read) => read.public_key.as_bytes().to_vec(),
        Err(_) => certificate.as_bytes().to_vec(),
    };
    authority.cert_chain.certificates.iter().map(|certificate| key(&certificate.raw_bytes)).collect()
}

/// Ends the time of `authority` where one of its certificates does. Each of them may end a chain, and the end of a chain
/// is not asked whether it is valid.
fn narrow(authority: &mut CertificateAuthority) -> Result<(), BadRoot> {
    for certificate in &authority.cert_chain.certificates {
        let of = |why: String| BadRoot(format!("a certificate of {}: {why}", authority.uri));
        let (from, until) = validity(&certificate.raw_bytes).map_err(of)?;
        if !is_authority(&certificate.raw_bytes).map_err(of)? {
            return Err(of("it may not issue others".to_owned()));
        }
        let window = authority.valid_for.unwrap_or(TimeRange::new(from, None));
        let end = window.end.map_or(until, |end| end.min(until));
        authority.valid_for = Some(TimeRange::new(window.start.max(from), Some(end)));
    }
    match authority.valid_for {
        Some(TimeRange { start, end: Some(end), .. }) if end < start => {
            Err(BadRoot(format!("the certificates of {} are never valid together", authority.uri)))
        }
        _ => Ok(()),
    }
}

/// When the last authority ends of a kind that is needed.
fn ended(root: &TrustedRoot, demands: Demands) -> Option<Timestamp> {
    fn last<'a>(windows: impl Iterator<Item = &'a Option<TimeRange>>) -> Option<Timestamp> {
        // One that does not end, or says nothing, outlives all others.
        windows
            .map(|window| window.and_then(|window| window.end))
            .try_fold(None, |last, end| end.map(|end| last.max(Some(end))))?
    }
    let certificates = last(root.certificate_authorities.iter().map(|authority| &authority.valid_for));
    let logs = last(root.tlogs.iter().map(|log| &log.public_key.valid_for)).filter(|_| demands.logs > 0);
    let timestamps = last(root.timestamp_authorities.iter().map(|authority| &authority.valid_for));
    let timestamps = timestamps.filter(|_| demands.timestamps > 0);
    [certificates, logs, timestamps].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::trust::testing::log_root;

    fn refused(root: &Value, demands: Demands) -> String {
        TrustRoot::parse("root", "root.json", &root.to_string(), demands).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_root_under_which_nothing_could_count_is_none() {
        let good: Value = serde_json::from_str(&log_root()).unwrap();
        assert!(TrustRoot::parse("root", "root.json", &good.to_string(), Demands::default()).is_ok());
        let with = |key: &str, value: Value| {
            let mut root = good.clone();
            root[key] = value;
            root
        };
        let twice = json!([good["tlogs"][0], good["tlogs"][0]]);
        let mut other_id = twice.clone();
        other_id[1]["logId"]["keyId"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let two = Demands { logs: 2, ..Demands::default() };
        let stamped = Demands { timestamps: 1, ..Demands::default() };
        let nobody = Demands { logs: 0, ..Demands::default() };
        for (root, demands, expected) in [
            (json!({}), Demands::default(), "not a trusted root"),
            (with("mediaType", json!("text/plain")), Demands::default(), "mediaType"),
            (with("tlogs", json!([])), Demands::default(), "of transparency logs 1 are asked for, and it has 0"),
            (with("tlogs", twice), Demands::default(), "duplicate"),
            // One key under two names is one log.
            (with("tlogs", other_id), two, "of transparency logs 2 are asked for, and it has 1"),
            (good.clone(), two, "of transparency logs 2 are asked for, and it has 1"),
            (good.clone(), stamped, "of timestamp authorities 1 are asked for, and it has 0"),
            (good.clone(), nobody, "nobody is asked"),
            (with("tlogs", json!("x")), Demands::default(), "not a trusted root"),
        ] {
            let told = refused(&root, demands);
            assert!(told.contains(expected), "{told}: expected {expected}");
        }
        for text in ["", "[]", "null", "{", "{}}"] {
            assert!(TrustRoot::parse("root", "root.json", text, Demands::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_authorities_of_one_kind_are_bounded() {
        let good: Value = serde_json::from_str(&log_root()).unwrap();
        let with = |count: usize| {
            let log = |number: usize| {
                let mut log: Value = serde_json::from_str(&log_root()).unwrap();
                log["tlogs"][0]["baseUrl"] = json!(number.to_string());
                log["tlogs"][0].clone()
            };
            let mut root = good.clone();
            root["tlogs"] = json!((0..count).map(log).collect::<Vec<_>>());
            TrustRoot::parse("root", "root.json", &root.to_string(), Demands::default())
        };
        assert!(with(limits::TRUST_ROOT_AUTHORITIES).is_ok());
        assert!(with(limits::TRUST_ROOT_AUTHORITIES + 1).is_err());
    }

    #[test]
    fn the_time_of_a_root_ends_with_the_last_of_what_is_needed() {
        let mut root: Value = serde_json::from_str(&log_root()).unwrap();
        let ended = |root: &Value, demands| {
            TrustRoot::parse("root", "root.json", &root.to_string(), demands).unwrap().ended().map(|at| at.to_string())
        };
        assert_eq!(ended(&root, Demands::default()).as_deref(), Some("2029-12-31T23:59:59Z"));
        root["tlogs"][0]["publicKey"]["validFor"] = json!({ "start": "2020-01-01T00:00:00Z" });
        assert_eq!(ended(&root, Demands::default()), None);
    }

    #[test]
    fn two_roots_differ_by_all_that_is_in_them() {
        let (json, demands) = (log_root(), Demands::default());
        let id = |json: &str, demands| TrustRoot::parse("root", "root.json", json, demands).unwrap().id;
        assert_eq!(id(&json, demands), id(&json, demands));
        assert_ne!(id(&json, demands), id(&log_root(), demands));
        assert_ne!(id(&json, demands), id(&json, Demands { insecure_ignore_sct: true, ..demands }));
    }
}
