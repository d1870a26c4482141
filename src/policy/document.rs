//! The policy document, from text to a checked [`Policy`]. `docs/policy.md` has every key of it.

mod attestors;
mod roots;
mod rules;
mod ties;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use jiff::Timestamp;

use toml::{Spanned, de::DeTable};

use super::{Exempt, Mode, Parts, Policy, Rule, scope::NodeSelector};
use crate::{
    document::{
        Problems,
        reader::{Reader, Value},
    },
    image::{Digest, sanitize},
    limits,
    trust::{Attestor, TrustRoot},
};

/// How a key file that the document names is read: the path as written, to the text in it.
pub type ReadKey<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// Every table of the document with its keys. What is not in here is an error.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", DOCUMENT),
    ("trust-root", TRUST_ROOT),
    ("attestor", ATTESTOR),
    ("attestor.keys", KEY),
    ("attestor.identities", IDENTITY),
    ("attestor.identities.subject", MATCHER),
    ("attestor.authorities", AUTHORITY),
    ("rule", RULE),
    ("floor", RULE),
    ("exempt", EXEMPT),
    ("default", DEFAULT),
    ("require", REQUIRE),
    ("require.at-least", AT_LEAST),
];

const DOCUMENT: &[&str] = &["schema", "trust-root", "attestor", "rule", "floor", "exempt", "default"];
const TRUST_ROOT: &[&str] = &["name", "file", "logs", "timestamps", "insecure-ignore-sct"];
const ATTESTOR: &[&str] =
    &["name", "may-sign", "keys", "identities", "authorities", "formats", "annotations", "repositories"];
const KEY: &[&str] = &["file", "pem", "algorithm", "from", "until", "root"];
const IDENTITY: &[&str] = &[
    "root",
    "issuer",
    "insecure-any-issuer",
    "subject",
    "insecure-any-subject",
    "repository",
    "repository-id",
    "owner",
    "owner-id",
    "ref",
    "commit",
    "visibility",
    "workflow",
    "signer",
    "trigger",
    "runner",
    "environment",
];
const AUTHORITY: &[&str] = &["file", "intermediates", "email", "host", "insecure-any-subject"];
const MATCHER: &[&str] = &["pattern"];
const RULE: &[&str] = &[
    "name",
    "images",
    "nodes",
    "namespaces",
    "service-accounts",
    "require",
    "mode",
    "audit-until",
    "contact",
    "message",
];
const EXEMPT: &[&str] = &["name", "digests", "insecure-images"];
const DEFAULT: &[&str] = &["require", "mode", "audit-until", "contact", "message"];
const REQUIRE: &[&str] = &["all", "any", "at-least", "digests"];
const AT_LEAST: &[&str] = &["count", "of"];

impl Policy {
    /// Reads and checks a policy document; `file` is how messages call it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at most [`limits::PROBLEMS`] of it; a syntax error hides what comes after it.
    pub fn parse(file: &str, text: &str, read_key: ReadKey<'_>) -> Result<Self, Problems> {
        if text.len() as u64 > limits::DOCUMENT_BYTES {
            return Err(Problems::whole(file, format!("larger than {} bytes", limits::DOCUMENT_BYTES)));
        }
        let document = Reader::parse(file, text)?;
        let mut checker = Checker {
            reader: Reader::new(file, text),
            read_key,
            seal: text.to_owned(),
            names: HashMap::new(),
            roots: Vec::new(),
            attestors: Vec::new(),
            by_name: HashMap::new(),
            content: Vec::new(),
        };
        let parts = checker.policy(&document);
        checker.reader.conclude(parts).map(|mut parts| {
            parts.file = file.to_owned();
            Self::from(parts)
        })
    }
}

/// Goes through a document and notes every problem. What it builds beside a problem is never used.
struct Checker<'a> {
    reader: Reader<'a>,
    read_key: ReadKey<'a>,
    /// What the revision is the hash of.
    seal: String,
    /// The names of rules, floors and exemptions: a decision names one of them.
    names: HashMap<String, &'static str>,
    /// The trust roots by their names; none for one with which something is wrong.
    roots: Vec<(String, Option<Arc<TrustRoot>>)>,
    attestors: Vec<Attestor>,
    by_name: HashMap<String, usize>,
    /// The identity of each attestor with its keys.
    content: Vec<Digest>,
}

impl Checker<'_> {
    fn policy(&mut self, document: &Spanned<DeTable<'_>>) -> Parts {
        // What is missing goes to the end.
        let end = self.seal.trim_end().len();
        let fields = self.reader.known(document.get_ref(), end..end, DOCUMENT);
        if let Some(schema) = self.reader.required(&fields, "schema")
            && self.reader.number(schema).is_some_and(|schema| schema != 1)
        {
            self.reader.problem(schema.span(), "this pullgate reads schema 1");
        }
        for table in self.tables(fields.get("trust-root")) {
            self.trust_root(table);
        }
        for table in self.tables(fields.get("attestor")) {
            self.attestor(table);
        }
        let rules = self.rules(fields.get("rule"), "rule");
        let floors = self.rules(fields.get("floor"), "floor");
        self.check_ties(&rules);
        let exempt = self.tables(fields.get("exempt")).iter().filter_map(|table| self.exempt(table)).collect();
        let default = match self.reader.required(&fields, "default").and_then(|value| self.default(value)) {
            Some(default) => default,
            None => self.rule_of(None, 0, super::Requirement::Deny),
        };
        Parts {
            file: String::new(),
            revision: Digest::of(self.seal.as_bytes()).hex()[..12].to_owned(),
            roots: std::mem::take(&mut self.roots).into_iter().filter_map(|(_, root)| root).collect(),
            attestors: std::mem::take(&mut self.attestors),
            rules: rules.into_iter().map(|(rule, _)| rule).collect(),
            floors: floors.into_iter().map(|(rule, _)| rule).collect(),
            exempt,
            default,
        }
    }

    /// The elements of a list of tables; nothing where there is none.
    fn tables<'v, 'd>(&mut self, value: Option<&'v Value<'d>>) -> &'v [Value<'d>] {
        match value {
            None => &[],
            Some(value) if value.get_ref().is_table() => {
                self.reader.problem(value.span(), "there may be several of these: write it in double brackets");
                &[]
            }
            Some(value) => self.reader.list(value).unwrap_or_default(),
        }
    }

    fn rules(&mut self, value: Option<&Value<'_>>, kind: &'static str) -> Vec<(Rule, Range<usize>)> {
        self.tables(value).iter().filter_map(|table| self.rule(table, kind)).collect()
    }

    /// The name in `value`, which nothing else of its kind may have.
    fn name(&mut self, value: &Value<'_>, kind: &'static str) -> Option<String> {
        let name = self.reader.text(value)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            self.reader.problem(value.span(), "a name has 1 to 64 letters, digits, `-`, `_`, `.` or `/`");
        } else if kind == "trust root" {
            if self.roots.iter().any(|(known, _)| known == name) {
                self.reader.problem(value.span(), format!("a second trust root is called `{name}`"));
            }
        } else if kind == "attestor" {
            if self.by_name.contains_key(name) {
                self.reader.problem(value.span(), format!("a second attestor is called `{name}`"));
            }
        } else if name == "default" {
            self.reader
                .problem(value.span(), format!("`default` is the name of the default; call the {kind} something else"));
        } else if name == "boot-list" {
            self.reader.problem(value.span(), format!("`boot-list` is the node's own; call the {kind} something else"));
        } else if let Some(other) = self.names.insert(name.to_owned(), kind) {
            let which = if other == kind { format!("a second {kind}") } else { format!("a {other} and a {kind}") };
            let verb = if other == kind { "is" } else { "are" };
            self.reader.problem(value.span(), format!("{which} {verb} called `{name}`"));
        }
        Some(name.to_owned())
    }

    fn exempt(&mut self, table: &Value<'_>) -> Option<Exempt> {
        let fields = self.reader.fields(table, EXEMPT)?;
        let line = self.reader.line(fields.span());
        let name = self.reader.required(&fields, "name").and_then(|name| self.name(name, "exempt"))?;
        let digests = self.digests(fields.get("digests"));
        let mut insecure_images = Vec::new();
        for (text, span) in self.reader.texts(fields.get("insecure-images")) {
            let Some((pattern, tag)) = self.pattern(text, span.clone()) else { continue };
            if pattern.host().is_some_and(|host| host.port().is_some()) {
                self.reader.problem(span, "containerd keeps no port with a name: exempt digests instead");
            } else if tag.is_some() {
                self.reader.problem(span, "containerd keeps no tag with a name: exempt digests instead");
            }
            insecure_images.push(pattern);
        }
        Some(Exempt { name, line, digests, insecure_images })
    }

    fn digests(&mut self, value: Option<&Value<'_>>) -> Vec<Digest> {
        let mut digests: Vec<Digest> = Vec::new();
        for (text, span) in self.reader.texts(value) {
            match text.parse::<Digest>() {
                Ok(digest) if digests.contains(&digest) => self.reader.problem(span, "this digest is listed twice"),
                Ok(digest) => digests.push(digest),
                Err(why) => self.reader.problem(span, why.to_string()),
            }
        }
        digests
    }

    /// The time that `value` is.
    fn time(&mut self, value: &Value<'_>) -> Option<Timestamp> {
        let time = self.reader.text(value)?.parse();
        time.map_err(|_| self.reader.problem(value.span(), "not a time like \"2027-01-31T00:00:00Z\"")).ok()
    }

    /// A text that people are shown, of at most `most` characters.
    fn words(&mut self, value: Option<&Value<'_>>, most: usize) -> Option<String> {
        let value = value?;
        let words = self.reader.text(value)?;
        if words.trim().is_empty() || words.chars().count() > most {
            self.reader.problem(value.span(), format!("1 to {most} characters, since people are shown it"));
        } else if sanitize(words, most) != words {
            self.reader.problem(value.span(), "one line without control characters, since people are shown it");
        }
        Some(words.to_owned())
    }

    /// A rule about everything, with nothing said about it.
    fn rule_of(&self, name: Option<String>, line: usize, require: super::Requirement) -> Rule {
        Rule {
            name: name.unwrap_or_else(|| "default".to_owned()),
            line,
            content: self.content_of(&require),
            images: Vec::new(),
            tags: BTreeMap::new(),
            nodes: NodeSelector::default(),
            namespaces: Vec::new(),
            accounts: Vec::new(),
            require,
            mode: Mode::Enforce,
            contact: None,
            message: None,
        }
    }

    /// The identity of a requirement with everything it rests on.
    fn content_of(&self, require: &super::Requirement) -> Digest {
        let mut bytes = Vec::with_capacity(128);
        require.encode(&|attestor| self.content.get(attestor), &mut bytes);
        Digest::of(&bytes)
    }
}

#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
