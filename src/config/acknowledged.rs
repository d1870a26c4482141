//! Containers that may reach what is the node's: somebody has looked at them and says so. `doctor` goes on telling them.

use serde::Deserialize;
use toml::Spanned;

use crate::{
    document::{Places, Problem},
    image::Repository,
};

/// Containers that can be named, and the characters of a name (Kubernetes: a DNS subdomain).
const ACKNOWLEDGED: usize = 64;
const NAME_CHARS: usize = 253;

/// Containers of these pods, made from this repository's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The pod's name, or how it begins.
    pub pod: PodName,
    /// What the container is made from, as its pod calls it.
    pub image: Repository,
}

/// Which pods of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodName {
    /// The one of this name.
    Is(String),
    /// Those whose names begin so.
    Begins(String),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct DoctorTable {
    acknowledged: Vec<AcknowledgedTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AcknowledgedTable {
    namespace: Spanned<String>,
    pod: Spanned<String>,
    image: Spanned<String>,
}

impl Acknowledged {
    /// Whether it is about a container of the pod `pod` in `namespace` that was made from an image of `image`.
    pub fn covers(&self, namespace: &str, pod: &str, image: &Repository) -> bool {
        let named = match &self.pod {
            PodName::Is(name) => pod == name,
            PodName::Begins(prefix) => pod.starts_with(prefix.as_str()),
        };
        named && self.namespace == namespace && self.image == *image
    }
}

impl DoctorTable {
    pub(super) fn read(&self, places: &Places, problems: &mut Vec<Problem>) -> Vec<Acknowledged> {
        if let Some(beyond) = self.acknowledged.get(ACKNOWLEDGED) {
            problems.push(places.problem(beyond.namespace.span(), format!("more than {ACKNOWLEDGED} containers")));
        }
        self.acknowledged.iter().filter_map(|table| table.read(places, problems)).collect()
    }
}

impl AcknowledgedTable {
    fn read(&self, places: &Places, problems: &mut Vec<Problem>) -> Option<Acknowledged> {
        let before = problems.len();
        if !is_name(self.namespace.get_ref()) {
            problems.push(places.problem(self.namespace.span(), "not the name of a Kubernetes namespace"));
        }
        let pod = match self.pod.get_ref().strip_suffix('*') {
            Some(prefix) => PodName::Begins(prefix.to_owned()),
            None => PodName::Is(self.pod.get_ref().clone()),
        };
        let (PodName::Is(text) | PodName::Begins(text)) = &pod;
        // A beginning may end where a name may not.
        if !is_name(text.trim_end_matches(['-', '.'])) || text.len() > NAME_CHARS {
            problems.push(places.problem(self.pod.span(), "not the name of a pod, nor the beginning of one and a *"));
        }
        let image = match self.image.get_ref().parse::<Repository>() {
            Ok(image) => Some(image),
            Err(why) => {
                problems.push(places.problem(self.image.span(), format!("not a repository: {why}")));
                None
            }
        };
        let image = image.filter(|_| problems.len() == before)?;
        Some(Acknowledged { namespace: self.namespace.get_ref().clone(), pod, image })
    }
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=NAME_CHARS).contains(&text.len())
        && text.chars().all(|c| plain(c) || matches!(c, '-' | '.'))
        && text.starts_with(plain)
        && text.ends_with(plain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Vec<Acknowledged>, String> {
        let config = Config::parse(Path::new("/etc/pullgate/config.toml"), &format!("mode = \"audit\"\n{text}"));
        config.map(|config| config.acknowledged).map_err(|problems| problems.first())
    }

    fn table(namespace: &str, pod: &str, image: &str) -> String {
        format!("[[doctor.acknowledged]]\nnamespace = \"{namespace}\"\npod = \"{pod}\"\nimage = \"{image}\"\n")
    }

    #[test]
    fn a_container_is_named_by_its_pod_and_its_image() {
        let found = parse(&table("monitoring", "node-exporter-*", "quay.io/prometheus/node-exporter")).unwrap();
        let [exporter] = found.as_slice() else { panic!("{found:?}") };
        let image = |text: &str| text.parse::<Repository>().unwrap();
        let own = image("quay.io/prometheus/node-exporter");
        assert!(exporter.covers("monitoring", "node-exporter-x7k2p", &own));
        for (namespace, pod, image) in [
            ("default", "node-exporter-x7k2p", &own),
            ("monitoring-2", "node-exporter-x7k2p", &own),
            ("monitoring", "node-exporte", &own),
            ("monitoring", "my-node-exporter-x", &own),
            ("monitoring", "node-exporter-x7k2p", &image("quay.io/evil/node-exporter")),
            ("monitoring", "node-exporter-x7k2p", &image("quay.io/prometheus/node-exporter/x")),
        ] {
            assert!(!exporter.covers(namespace, pod, image), "{namespace} {pod} {image}");
        }
        let one = &parse(&table("a", "b", "reg.io/c")).unwrap()[0];
        assert!(one.covers("a", "b", &image("reg.io/c")) && !one.covers("a", "b-1", &image("reg.io/c")));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn nothing_is_acknowledged_by_halves() {
        for (bad, line) in [
            (table("", "a", "reg.io/c"), 3),
            (table("*", "a", "reg.io/c"), 3),
            (table("mon*", "a", "reg.io/c"), 3),
            (table("a/b", "a", "reg.io/c"), 3),
            (table("a", "", "reg.io/c"), 4),
            (table("a", "*", "reg.io/c"), 4),
            (table("a", "-*", "reg.io/c"), 4),
            (table("a", "b*c", "reg.io/c"), 4),
            (table("a", "b**", "reg.io/c"), 4),
            (table("a", "B", "reg.io/c"), 4),
            (table("a", &"b".repeat(254), "reg.io/c"), 4),
            (table("a", "b", ""), 5),
            (table("a", "b", "reg.io/**"), 5),
            (table("a", "b", "reg.io/c:1"), 5),
            ("[[doctor.acknowledged]]\nnamespace = \"a\"\npod = \"b\"\n".to_owned(), 2),
            ("[[doctor.acknowledged]]\nnamespace = \"a\"\nimage = \"reg.io/c\"\n".to_owned(), 2),
            ("[[doctor.acknowledged]]\npod = \"a\"\nimage = \"reg.io/c\"\n".to_owned(), 2),
            (table("a", "b", "reg.io/c") + "namespaces = []\n", 6),
            ("[doctor]\nacknowledge = []\n".to_owned(), 3),
        ] {
            let said = parse(&bad).unwrap_err();
            assert!(said.starts_with(&format!("/etc/pullgate/config.toml:{line}:")), "{bad}: {said}");
        }
        let most = table("a", "b", "reg.io/c").repeat(ACKNOWLEDGED);
        assert_eq!(parse(&most).unwrap().len(), ACKNOWLEDGED);
        assert!(parse(&(most + &table("a", "b", "reg.io/c"))).is_err());
    }
}
