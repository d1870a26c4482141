//! What an image on this node may be called, as the policy is asked about it.

use crate::{
    evidence::content::{Name, NamedDocument},
    image::{Digest, Host, Reference, Repository},
    policy::evaluate::{Namespace, Origin, Subject, Tag},
    snapshot::Snapshot,
};

/// What an image was asked for by. A text that is no name proves none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Called {
    pub(super) repository: Option<Repository>,
    pub(super) tag: Tag,
}

impl Called {
    pub(super) fn by(text: &str) -> Self {
        let reference = text.parse::<Reference>().ok();
        let tag = reference.as_ref().map(Tag::from).unwrap_or_default();
        Self { repository: reference.map(|reference| reference.repository), tag }
    }
}

/// Every document of an image under each of its own names; without a name, by its digest alone.
pub(super) fn subjects(snapshot: &Snapshot, documents: &[NamedDocument]) -> Vec<Subject> {
    let named = |document: &NamedDocument| {
        let digest = document.digest;
        let mut subjects: Vec<Subject> = Vec::new();
        for name in &document.names {
            match name {
                Name::Claimed(repository) => {
                    subjects.push(Subject::new(digest, Some(repository.clone()), Origin::Claimed));
                }
                Name::Fetched(host, path) => subjects.extend(fetched(snapshot, host, path, digest)),
            }
        }
        if subjects.is_empty() {
            subjects.push(Subject::new(digest, None, Origin::Claimed));
        }
        subjects.into_iter().map(|subject| subject.tagged(Tag::NotKept))
    };
    documents.iter().flat_map(named).collect()
}

/// As [`under`], of every image that can be meant.
pub(super) fn all_under(
    snapshot: &Snapshot,
    manifests: &[Vec<NamedDocument>],
    called: &Called,
    namespace: &Namespace,
) -> Vec<Subject> {
    manifests.iter().flat_map(|documents| under(snapshot, documents, called, namespace)).collect()
}

/// Every document of an image under the name `called`, or without one, for `namespace`. The name says where it comes from
/// only where containerd noted that of the document, or of an index that lists it.
fn under<'a>(
    snapshot: &'a Snapshot,
    documents: &'a [NamedDocument],
    called: &'a Called,
    namespace: &'a Namespace,
) -> impl Iterator<Item = Subject> + 'a {
    let name = called.repository.as_ref();
    let origin = move |document: &NamedDocument| {
        let noted = document.names.iter().filter_map(|noted| match noted {
            Name::Fetched(host, path) => Some(fetched(snapshot, host, path, document.digest)),
            Name::Claimed(_) => None,
        });
        let of_name = noted.flatten().filter(|noted| noted.name.as_ref() == name);
        let mut origins = of_name.map(|noted| noted.origin);
        let first = origins.next().filter(|_| name.is_some()).unwrap_or(Origin::Claimed);
        origins.find(|origin| origin.proves_name()).unwrap_or(first)
    };
    documents.iter().map(move |document| {
        let origin = origin(document);
        Subject::new(document.digest, name.cloned(), origin).tagged(called.tag.clone()).in_namespace(namespace.clone())
    })
}

/// `digest` under every name that content can have which containerd fetched as `path` from the host `name`.
pub fn fetched(snapshot: &Snapshot, name: &str, path: &str, digest: Digest) -> impl Iterator<Item = Subject> {
    hosts(snapshot, name)
        .into_iter()
        .filter_map(move |(host, origin)| Some(Subject::new(digest, Some(Repository::new(host, path).ok()?), origin)))
}

/// The registries that content fetched from the host `name` can have come from: containerd notes no port, and no brackets
/// around an IPv6 address, so the policy and the configuration say which ports there are. Only where they say several it
/// is not known which of them it was.
fn hosts(snapshot: &Snapshot, name: &str) -> Vec<(Host, Origin)> {
    let Ok(host) = name.parse::<Host>().or_else(|_| format!("[{name}]").parse()) else { return Vec::new() };
    let in_policy = snapshot.policy.iter().flat_map(|policy| policy.hosts());
    let mut known: Vec<&Host> = Vec::new();
    for other in in_policy.chain(&snapshot.config.registries.configured) {
        if other.name() == host.name() && !known.contains(&other) {
            known.push(other);
        }
    }
    let proven = |known: &Host, others: usize| {
        if others == 0 || *known == host { Origin::Fetched } else { Origin::FetchedFromHost }
    };
    match known.as_slice() {
        [] => vec![(host, Origin::Fetched)],
        known => known.iter().map(|&one| (one.clone(), proven(one, known.len() - 1))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(policy: &str) -> Snapshot {
        let config = crate::config::Config::parse(std::path::Path::new("/config.toml"), "mode = \"enforce\"").unwrap();
        let text = format!("schema = 1\n{policy}\n[default]\nrequire = \"deny\"");
        let policy = crate::policy::Policy::parse("policy.toml", &text, &|_| Err("no file".into())).unwrap();
        Snapshot::new(config, Some(policy))
    }

    fn rule(images: &str) -> String {
        format!("[[rule]]\nname = \"r{}\"\nimages = [\"{images}\"]\nrequire = \"deny\"\n", images.len())
    }

    fn from(host: &str, path: &str) -> Name {
        Name::Fetched(host.into(), path.into())
    }

    #[test]
    fn the_name_of_a_manifest_says_nothing_about_an_index_that_somebody_made_of_it() {
        let [manifest, index] = [Digest::of(b"manifest"), Digest::of(b"index")];
        let image = [
            NamedDocument { digest: index, names: vec![from("evil.example", "x")] },
            NamedDocument { digest: manifest, names: vec![from("reg.io", "open/x"), from("evil.example", "x")] },
        ];
        let about_index: Vec<String> = subjects(&snapshot(""), &image)
            .iter()
            .filter(|subject| subject.digest == index)
            .filter_map(|subject| Some(subject.name.as_ref()?.to_string()))
            .collect();
        assert_eq!(about_index, ["evil.example/x"]);
    }

    #[test]
    fn a_document_without_a_name_is_judged_by_its_digest() {
        let image = [NamedDocument { digest: Digest::of(b"m"), names: vec![from("not a host", "x")] }];
        let nameless = Subject::new(Digest::of(b"m"), None, Origin::Claimed).tagged(Tag::NotKept);
        assert_eq!(subjects(&snapshot(""), &image), [nameless]);
    }

    #[test]
    fn a_host_that_lost_its_port_is_the_one_that_is_known() {
        let found = |policy: &str, name: &str| -> Vec<(String, Origin)> {
            hosts(&snapshot(policy), name).into_iter().map(|(host, origin)| (host.to_string(), origin)).collect()
        };
        let one = |host: &str, origin| vec![(host.to_owned(), origin)];
        assert_eq!(found("", "reg.io"), one("reg.io", Origin::Fetched));
        assert_eq!(found(&rule("reg.io/x"), "reg.io"), one("reg.io", Origin::Fetched));
        assert_eq!(found(&rule("reg.io:5000/x"), "REG.io."), one("reg.io:5000", Origin::Fetched));
        let both = rule("reg.io:5000/x") + &rule("reg.io/x");
        let expected =
            vec![("reg.io:5000".to_owned(), Origin::FetchedFromHost), ("reg.io".to_owned(), Origin::Fetched)];
        assert_eq!(found(&both, "reg.io"), expected);
        assert_eq!(found(&rule("[::1]:5000/x"), "::1"), one("[::1]:5000", Origin::Fetched));
        assert_eq!(found("", "::1"), one("[::1]", Origin::Fetched));
    }
}
