//! The policy document, from text to a checked [`Policy`].

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};
use toml::Spanned;

use super::{
    Exempt, Mode, Policy, Requirement, Rule,
    scope::{NodeSelector, Pattern, Scope},
};
use crate::{
    document::{Places, Problem, Problems, read},
    evidence::Formats,
    image::Digest,
    limits,
    trust::{Algorithm, Attestor, PublicKey, Purpose},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    schema: Spanned<u32>,
    #[serde(default)]
    attestor: Vec<AttestorTable>,
    #[serde(default)]
    rule: Vec<Spanned<RuleTable>>,
    #[serde(default)]
    exempt: Vec<Spanned<ExemptTable>>,
    default: Spanned<DefaultTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AttestorTable {
    name: Spanned<String>,
    may_sign: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    keys: Vec<Spanned<KeyTable>>,
    formats: Option<Spanned<Vec<Format>>>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    SimpleSigning,
    Bundle,
    AttestationTag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KeyTable {
    file: Option<String>,
    pem: Option<String>,
    algorithm: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleTable {
    name: Spanned<String>,
    images: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    nodes: BTreeMap<String, String>,
    require: Spanned<RequireValue>,
    mode: Option<Spanned<String>>,
    audit_until: Option<Spanned<String>>,
    contact: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ExemptTable {
    name: Spanned<String>,
    #[serde(default)]
    digests: Vec<Spanned<String>>,
    #[serde(default)]
    insecure_images: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DefaultTable {
    require: Spanned<RequireValue>,
    mode: Option<Spanned<String>>,
    audit_until: Option<Spanned<String>>,
    contact: Option<String>,
}

enum RequireValue {
    Word(String),
    Of(RequireTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RequireTable {
    all: Option<Vec<String>>,
    any: Option<Vec<String>>,
    at_least: Option<AtLeast>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AtLeast {
    count: usize,
    of: Vec<String>,
}

impl<'de> Deserialize<'de> for RequireValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RequireValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"deny\", \"insecure-accept-anything\", or a table with `all`, `any` or `at-least`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<RequireValue, E> {
                Ok(RequireValue::Word(word.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RequireValue, A::Error> {
                RequireTable::deserialize(MapAccessDeserializer::new(map)).map(RequireValue::Of)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How a key file that the document names is read: the path as written, to the text in it.
pub type ReadKey<'a> = &'a dyn Fn(&str) -> Result<String, String>;

impl Policy {
    /// Reads and checks a policy document; `file` is how messages call it.
    ///
    /// # Errors
    /// Everything that is wrong with it; a syntax error or an unknown key hides what comes after it.
    pub fn parse(file: &str, text: &str, read_key: ReadKey<'_>) -> Result<Self, Problems> {
        if text.len() as u64 > limits::DOCUMENT_BYTES {
            return Err(Problems::whole(file, format!("larger than {} bytes", limits::DOCUMENT_BYTES)));
        }
        let document: Document = read(file, text)?;
        let mut checker = Checker { places: Places::new(file, text), read_key, problems: Vec::new() };
        let policy = checker.policy(document, text);
        match checker.problems.is_empty() {
            true => Ok(policy),
            false => Err(Problems(checker.problems)),
        }
    }
}

/// Collects every problem of a document. What it builds beside a problem is never used.
struct Checker<'a> {
    places: Places<'a>,
    read_key: ReadKey<'a>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.problems.push(self.places.problem(at.span(), message));
    }

    fn policy(&mut self, document: Document, text: &str) -> Policy {
        if *document.schema.get_ref() != 1 {
            self.problem(&document.schema, "this pullgate reads schema 1");
        }
        self.check_names("attestor", document.attestor.iter().map(|attestor| &attestor.name));
        self.check_names("rule", document.rule.iter().map(|rule| &rule.get_ref().name));
        self.check_names("exempt", document.exempt.iter().map(|exempt| &exempt.get_ref().name));
        let mut seal = text.to_owned();
        let attestors: Vec<Attestor> =
            document.attestor.into_iter().map(|table| self.attestor(table, &mut seal)).collect();
        let spans: Vec<Spanned<()>> =
            document.rule.iter().map(|rule| Spanned::new(rule.get_ref().name.span(), ())).collect();
        let rules: Vec<Rule> = document.rule.into_iter().map(|table| self.rule(table, &attestors)).collect();
        self.check_ties(&rules, &spans);
        let exempt = document.exempt.into_iter().map(|table| self.exempt(table)).collect();
        let line = self.places.line(document.default.span().start);
        let default = document.default.into_inner();
        let require = self.requirement(&default.require, &attestors);
        let mode = self.mode(default.mode.as_ref(), default.audit_until.as_ref());
        let default = Rule {
            name: "default".into(),
            line,
            content: content(&require, &attestors),
            images: Vec::new(),
            nodes: NodeSelector::default(),
            require,
            mode,
            contact: default.contact,
        };
        let revision = Digest::of(seal.as_bytes()).hex()[..12].to_owned();
        Policy { file: self.places.file().to_owned(), revision, attestors, rules, exempt, default }
    }

    fn check_names<'n>(&mut self, kind: &str, names: impl Iterator<Item = &'n Spanned<String>>) {
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let text = name.get_ref().as_str();
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
                self.problem(name, "a name has 1 to 64 letters, digits, `-`, `_`, `.` or `/`");
            } else if kind == "rule" && text == "default" {
                self.problem(name, "`default` is the name of the default; call the rule something else");
            } else if !seen.insert(text) {
                self.problem(name, format!("a second {kind} is called `{text}`"));
            }
        }
    }

    fn attestor(&mut self, table: AttestorTable, seal: &mut String) -> Attestor {
        if table.may_sign.get_ref().is_empty() {
            self.problem(
                &table.may_sign,
                "an attestor that may sign nothing is never satisfied: write [\"signature\"]",
            );
        }
        let may_sign = table.may_sign.get_ref().iter().map(|purpose| match purpose.get_ref().as_str() {
            "signature" => Purpose::Signature,
            uri => {
                if !uri.contains("://") {
                    self.problem(purpose, "neither \"signature\" nor the URI of a predicate type");
                }
                Purpose::Predicate(uri.to_owned())
            }
        });
        let may_sign = may_sign.collect();
        let formats = match &table.formats {
            None => Formats::ALL,
            Some(formats) => {
                if formats.get_ref().is_empty() {
                    self.problem(formats, "no form counts: leave `formats` out for all of them");
                }
                let counts = |format| formats.get_ref().contains(&format);
                Formats {
                    simple_signing: counts(Format::SimpleSigning),
                    bundle: counts(Format::Bundle),
                    attestation_tag: counts(Format::AttestationTag),
                }
            }
        };
        let may_sign: Vec<Purpose> = may_sign;
        let (signs, attests) =
            (may_sign.contains(&Purpose::Signature), may_sign.iter().any(|purpose| *purpose != Purpose::Signature));
        let held = formats.bundle || formats.simple_signing && signs || formats.attestation_tag && attests;
        if let Some(at) = table.formats.as_ref().filter(|at| !at.get_ref().is_empty() && !held) {
            self.problem(at, "none of these forms holds what the attestor may sign");
        }
        let keys = table.keys.into_iter().filter_map(|key| self.key(key, seal)).collect();
        Attestor { name: table.name.into_inner(), may_sign, keys, formats, annotations: table.annotations }
    }

    fn key(&mut self, key: Spanned<KeyTable>, seal: &mut String) -> Option<PublicKey> {
        let name = key.get_ref().algorithm.get_ref();
        let algorithm = Algorithm::ALL.iter().find(|(known, _)| known == name).map(|(_, algorithm)| *algorithm);
        let Some(algorithm) = algorithm else {
            let known: Vec<_> = Algorithm::ALL.iter().map(|(known, _)| *known).collect();
            self.problem(&key.get_ref().algorithm, format!("unknown algorithm; known: {}", known.join(", ")));
            return None;
        };
        let (source, pem) = match (&key.get_ref().file, &key.get_ref().pem) {
            (Some(file), None) => (format!("{file}: "), (self.read_key)(file)),
            (None, Some(pem)) => (String::new(), Ok(pem.clone())),
            _ => (String::new(), Err("a key has either `file` or `pem`".to_owned())),
        };
        let read = pem.and_then(|pem| {
            let public = PublicKey::from_pem(&pem, algorithm).map_err(|e| e.to_string())?;
            seal.push_str(&public.id.hex());
            Ok(public)
        });
        read.map_err(|why| self.problem(&key, format!("{source}{why}"))).ok()
    }

    fn rule(&mut self, table: Spanned<RuleTable>, attestors: &[Attestor]) -> Rule {
        let line = self.places.line(table.span().start);
        let table = table.into_inner();
        if table.images.get_ref().is_empty() {
            self.problem(&table.images, "a rule for no image never counts: name a pattern, or delete the rule");
        }
        let images: Vec<Pattern> = table.images.get_ref().iter().filter_map(|text| self.pattern(text)).collect();
        let require = self.requirement(&table.require, attestors);
        if require == Requirement::InsecureAcceptAnything
            && let Some(pattern) = images.iter().find(|pattern| pattern.host().is_some_and(|h| h.port().is_some()))
        {
            let message = format!(
                "`{pattern}` admits by name alone, and containerd keeps no port with a name: require an attestor, or exempt digests"
            );
            self.problem(&table.require, message);
        }
        let mode = self.mode(table.mode.as_ref(), table.audit_until.as_ref());
        Rule {
            name: table.name.into_inner(),
            line,
            content: content(&require, attestors),
            images,
            nodes: NodeSelector(table.nodes),
            require,
            mode,
            contact: table.contact,
        }
    }

    fn pattern(&mut self, text: &Spanned<String>) -> Option<Pattern> {
        Pattern::parse(text.get_ref()).map_err(|why| self.problem(text, why)).ok()
    }

    fn requirement(&mut self, value: &Spanned<RequireValue>, attestors: &[Attestor]) -> Requirement {
        let (count, names) = match value.get_ref() {
            RequireValue::Word(word) if word == "deny" => return Requirement::Deny,
            RequireValue::Word(word) if word == "insecure-accept-anything" => {
                return Requirement::InsecureAcceptAnything;
            }
            RequireValue::Word(word) => {
                let message = format!(
                    "unknown requirement `{word}`; known: \"deny\", \"insecure-accept-anything\", {{ all = […] }}, {{ any = […] }}, {{ at-least = {{ count = …, of = […] }} }}"
                );
                self.problem(value, message);
                return Requirement::Deny;
            }
            RequireValue::Of(RequireTable { all: Some(names), any: None, at_least: None }) => (names.len(), names),
            RequireValue::Of(RequireTable { all: None, any: Some(names), at_least: None }) => (1, names),
            RequireValue::Of(RequireTable { all: None, any: None, at_least: Some(of) }) => (of.count, &of.of),
            RequireValue::Of(_) => {
                self.problem(value, "a requirement has exactly one of `all`, `any` and `at-least`");
                return Requirement::Deny;
            }
        };
        if names.is_empty() || count == 0 || count > names.len() {
            let message = format!("{count} of {} attestors: name at least one, and ask for 1 to {0}", names.len());
            self.problem(value, message.replace("{0}", &names.len().to_string()));
            return Requirement::Deny;
        }
        let mut of = Vec::new();
        for name in names {
            match attestors.iter().position(|attestor| attestor.name == *name) {
                None => self.problem(value, format!("no attestor is called `{name}`")),
                Some(i) if of.contains(&i) => self.problem(value, format!("`{name}` is named twice")),
                Some(i) => of.push(i),
            }
        }
        self.check_shared_keys(value, &of, attestors);
        Requirement::AtLeast { count, of }
    }

    /// One key may not stand for two attestors of one requirement.
    fn check_shared_keys(&mut self, value: &Spanned<RequireValue>, of: &[usize], attestors: &[Attestor]) {
        let mut owners: BTreeMap<Digest, &str> = BTreeMap::new();
        for attestor in of.iter().filter_map(|i| attestors.get(*i)) {
            for key in &attestor.keys {
                if let Some(owner) = owners.insert(key.id, &attestor.name)
                    && owner != attestor.name
                {
                    self.problem(
                        value,
                        format!("`{owner}` and `{}` share a key, so one signer could be both", attestor.name),
                    );
                }
            }
        }
    }

    fn mode(&mut self, mode: Option<&Spanned<String>>, until: Option<&Spanned<String>>) -> Mode {
        let end = until.and_then(|text| match text.get_ref().parse::<Timestamp>() {
            Ok(end) => Some(end),
            Err(_) => {
                self.problem(text, "not a time like 2027-01-31T00:00:00Z");
                None
            }
        });
        match mode.map(|mode| (mode, mode.get_ref().as_str())) {
            None | Some((_, "enforce")) => {
                if let Some(until) = until {
                    self.problem(until, "`audit-until` goes with `mode = \"audit\"`");
                }
                Mode::Enforce
            }
            Some((_, "audit")) => Mode::Audit(end),
            Some((at, _)) => {
                self.problem(at, "a mode is \"enforce\" or \"audit\"");
                Mode::Enforce
            }
        }
    }

    fn exempt(&mut self, table: Spanned<ExemptTable>) -> Exempt {
        let line = self.places.line(table.span().start);
        let table = table.into_inner();
        let digests = table.digests.iter().filter_map(|text| {
            text.get_ref().parse::<Digest>().map_err(|why| self.problem(text, why.to_string())).ok()
        });
        let digests = digests.collect();
        let insecure_images: Vec<Pattern> =
            table.insecure_images.iter().filter_map(|text| self.pattern(text)).collect();
        for (pattern, text) in insecure_images.iter().zip(&table.insecure_images) {
            if pattern.host().is_some_and(|host| host.port().is_some()) {
                self.problem(text, "containerd keeps no port with a name: exempt digests instead");
            }
        }
        Exempt { name: table.name.into_inner(), line, digests, insecure_images }
    }

    fn check_ties(&mut self, rules: &[Rule], spans: &[Spanned<()>]) {
        let mut by_pattern: std::collections::HashMap<&Pattern, Vec<usize>> = std::collections::HashMap::new();
        for (i, rule) in rules.iter().enumerate() {
            for pattern in &rule.images {
                let others = by_pattern.entry(pattern).or_default();
                for &j in others.iter() {
                    let [mine, theirs] = [rule, &rules[j]].map(|rule| Scope { nodes: &rule.nodes, images: pattern });
                    if mine.ties_with(&theirs) {
                        let message = format!(
                            "`{pattern}` is governed by `{}` and `{}` alike: no rule is the narrower one",
                            rules[j].name, rule.name
                        );
                        self.problem(&spans[i], message);
                    }
                }
                others.push(i);
            }
        }
    }
}

/// The identity of a requirement with everything it rests on.
fn content(require: &Requirement, attestors: &[Attestor]) -> Digest {
    let mut text = format!("{require:?}");
    if let Requirement::AtLeast { of, .. } = require {
        for attestor in of.iter().filter_map(|i| attestors.get(*i)) {
            text.push_str(&format!("{attestor:?}"));
        }
    }
    Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests;
