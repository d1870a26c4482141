//! What images need, as the document says it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{AT_LEAST, Checker, DEFAULT, REQUIRE, RULE};
use crate::{
    document::reader::{Fields, Value, meant, quoted},
    image::Digest,
    limits,
    policy::{
        Group, Member, Mode, Requirement, Rule,
        scope::{Account, LABEL, NodeSelector, Pattern, TagPattern, is_label},
    },
};

impl Checker<'_> {
    /// A rule or a floor, and where its name stands.
    pub(super) fn rule(&mut self, table: &Value<'_>, kind: &'static str) -> Option<(Rule, Range<usize>)> {
        let fields = self.reader.fields(table, RULE)?;
        let line = self.reader.line(fields.span());
        let named = self.reader.required(&fields, "name");
        let at = named.map_or(fields.span(), Value::span);
        let name = named.and_then(|name| self.name(name, kind)).unwrap_or_default();
        let images = self.reader.required(&fields, "images");
        let require = self.reader.required(&fields, "require");
        let requirement = require.map_or(Requirement::Deny, |value| self.requirement(value));
        let (images, tags) = images.map(|images| self.images(images)).unwrap_or_default();
        if let Some(require) = require {
            self.check_provable(&requirement, require, &images, &tags, kind);
        }
        let nodes = self.nodes(fields.get("nodes"));
        let rule = Rule {
            images,
            tags,
            nodes: NodeSelector(nodes),
            namespaces: self.namespaces(fields.get("namespaces")),
            accounts: self.accounts(&fields),
            ..self.rule_of(Some(name), line, requirement)
        };
        Some((self.with_manners(rule, &fields), at))
    }

    pub(super) fn default(&mut self, table: &Value<'_>) -> Option<Rule> {
        let fields = self.reader.fields(table, DEFAULT)?;
        let line = self.reader.line(fields.span());
        let require = self.reader.required(&fields, "require")?;
        let requirement = self.requirement(require);
        let rule = self.rule_of(None, line, requirement);
        Some(self.with_manners(rule, &fields))
    }

    /// `rule` with its mode and what people are told.
    fn with_manners(&mut self, rule: Rule, fields: &Fields<'_, '_>) -> Rule {
        let mode = self.mode(fields);
        let contact = self.words(fields.get("contact"), limits::CONTACT_CHARS);
        let message = self.words(fields.get("message"), limits::RULE_MESSAGE_CHARS);
        Rule { mode, contact, message, ..rule }
    }

    fn images(&mut self, value: &Value<'_>) -> (Vec<Pattern>, BTreeMap<Pattern, Vec<TagPattern>>) {
        let texts = self.reader.texts(Some(value));
        if texts.is_empty() && value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
            let message = "a rule for no image never counts: name a pattern, or delete the rule";
            self.reader.problem(value.span(), message);
        }
        let (mut images, mut tags) = (Vec::new(), BTreeMap::<Pattern, Vec<TagPattern>>::new());
        for (text, span) in texts {
            let Some((pattern, tag)) = self.pattern(text, span.clone()) else { continue };
            let known = images.contains(&pattern);
            match (known, tag) {
                (false, tag) => {
                    if let Some(tag) = tag {
                        tags.insert(pattern.clone(), vec![tag]);
                    }
                    images.push(pattern);
                }
                (true, Some(tag)) => match tags.get_mut(&pattern) {
                    Some(tags) if tags.contains(&tag) => {
                        self.reader.problem(span, format!("{} is named twice", quoted(text)))
                    }
                    Some(tags) => tags.push(tag),
                    None => {
                        let message = format!("`{pattern}` is named without a tag as well, which admits every tag");
                        self.reader.problem(span, message);
                    }
                },
                (true, None) if tags.contains_key(&pattern) => {
                    let message = format!("`{pattern}` is named with a tag as well: without one it admits every tag");
                    self.reader.problem(span, message);
                }
                (true, None) => self.reader.problem(span, format!("{} is named twice", quoted(text))),
            }
        }
        (images, tags)
    }

    /// The repositories that `text` means, and the tags of them.
    pub(super) fn pattern(&mut self, text: &str, span: Range<usize>) -> Option<(Pattern, Option<TagPattern>)> {
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) if repository.contains('/') && !tag.contains('/') && !text.contains('@') => {
                (repository, Some(tag))
            }
            _ => (text, None),
        };
        let read = Pattern::parse(repository).and_then(|pattern| {
            Ok((
                pattern,
                tag.map(TagPattern::parse)
                    .transpose()
                    .map_err(|why| format!("{}: {why}", quoted(tag.unwrap_or_default())))?,
            ))
        });
        read.map_err(|why| self.reader.problem(span, why)).ok()
    }

    /// A name alone proves neither a port nor a tag, and a tag only restricts what a rule admits.
    fn check_provable(
        &mut self,
        requirement: &Requirement,
        require: &Value<'_>,
        images: &[Pattern],
        tags: &BTreeMap<Pattern, Vec<TagPattern>>,
        kind: &str,
    ) {
        let with_port = images.iter().find(|pattern| pattern.host().is_some_and(|host| host.port().is_some()));
        let tagged = tags.first_key_value().map(|(pattern, _)| pattern);
        let problem = match (requirement, with_port, tagged) {
            (Requirement::InsecureAcceptAnything, Some(pattern), _) => format!(
                "`{pattern}` admits by name alone, and containerd keeps no port with a name: require an attestor, or exempt digests"
            ),
            (Requirement::InsecureAcceptAnything, _, Some(pattern)) => format!(
                "`{pattern}` admits by name alone, and containerd keeps no tag with a name: require an attestor, or exempt digests"
            ),
            (Requirement::Deny, _, Some(pattern)) => {
                format!("this denies every tag of `{pattern}`, since rules govern repositories: leave out the tag")
            }
            (_, _, Some(pattern)) if kind == "floor" => {
                format!("a floor counts for every tag of `{pattern}`: leave out the tag")
            }
            _ => return,
        };
        self.reader.problem(require.span(), problem);
    }

    fn nodes(&mut self, value: Option<&Value<'_>>) -> BTreeMap<String, String> {
        let labels = self.reader.map(value);
        if let Some(value) = value
            && value.get_ref().as_table().is_some_and(|table| table.is_empty())
        {
            self.reader.problem(value.span(), "no label at all: name one, or leave `nodes` out for every node");
        } else if let Some((label, text)) = labels.iter().find(|(label, value)| !is_label(label, value)) {
            let span = value.map(Value::span).unwrap_or_default();
            self.reader.problem(span, format!("{}: {LABEL}", quoted(&format!("{label}={text}"))));
        }
        labels.into_iter().map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
    }

    fn namespaces(&mut self, value: Option<&Value<'_>>) -> Vec<String> {
        let mut namespaces: Vec<String> = Vec::new();
        if let Some(value) = value.filter(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty())) {
            let message = "no namespace at all: name one, or leave `namespaces` out for all of them";
            self.reader.problem(value.span(), message);
        }
        for (text, span) in self.reader.texts(value) {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            let is_label = (1..=63).contains(&text.len())
                && text.bytes().all(plain)
                && !text.starts_with('-')
                && !text.ends_with('-');
            if !is_label {
                self.reader.problem(span, "not a Kubernetes namespace (1 to 63 of a-z, 0-9 and `-`; no pattern)");
            } else if namespaces.iter().any(|known| known == text) {
                self.reader.problem(span, format!("{} is named twice", quoted(text)));
            } else {
                namespaces.push(text.to_owned());
            }
        }
        namespaces
    }

    fn accounts(&mut self, fields: &Fields<'_, '_>) -> Vec<Account> {
        let Some(value) = fields.get("service-accounts") else { return Vec::new() };
        let mut accounts: Vec<Account> = Vec::new();
        if value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
            let message = "no service account at all: name one, or leave `service-accounts` out for all of them";
            self.reader.problem(value.span(), message);
        }
        if fields.get("namespaces").is_some() {
            let message = "a service account says its namespace: leave out `namespaces`, or write two rules";
            self.reader.problem(value.span(), message);
        }
        for (text, span) in self.reader.texts(Some(value)) {
            match text.parse::<Account>() {
                Ok(account) if accounts.contains(&account) => {
                    self.reader.problem(span, format!("`{text}` is named twice"));
                }
                Ok(account) => accounts.push(account),
                Err(why) => self.reader.problem(span, why),
            }
        }
        accounts
    }

    fn requirement(&mut self, value: &Value<'_>) -> Requirement {
        match value.get_ref().as_str() {
            Some("deny") => return Requirement::Deny,
            Some("insecure-accept-anything") => return Requirement::InsecureAcceptAnything,
            Some(word) => {
                let message = format!(
                    "unknown requirement {}; known: \"deny\", \"insecure-accept-anything\", {{ all = […] }}, {{ any = […] }}, \
                     {{ at-least = {{ count = …, of = […] }} }}, {{ digests = […] }}",
                    quoted(word)
                );
                self.reader.problem(value.span(), message);
                return Requirement::Deny;
            }
            None if !value.get_ref().is_table() => {
                let expected =
                    "\"deny\", \"insecure-accept-anything\", or a table with `all`, `any`, `at-least` or `digests`";
                self.reader.wrong_type(value, expected);
                return Requirement::Deny;
            }
            None => {}
        }
        let mut named = BTreeMap::new();
        let Some(member) = self.table(value, 1, &mut named) else { return Requirement::Deny };
        let group = match member {
            Member::Group(group) => group,
            member => Group { count: 1, of: vec![member] },
        };
        if group.attestors().len() > limits::REQUIREMENT_ATTESTORS || group.count_ways() > limits::REQUIREMENT_WAYS {
            let message = format!(
                "more than {} attestors, or than {} ways to meet it: nobody can tell what it means; make it flatter",
                limits::REQUIREMENT_ATTESTORS,
                limits::REQUIREMENT_WAYS
            );
            self.reader.problem(value.span(), message);
            return Requirement::Deny;
        }
        self.check_shared_keys(value, &group);
        Requirement::Of(group)
    }

    /// A table with exactly one kind of requirement, `depth` tables deep; `named` has the attestors so far.
    fn table(&mut self, value: &Value<'_>, depth: usize, named: &mut BTreeMap<usize, ()>) -> Option<Member> {
        if depth > limits::REQUIREMENT_DEPTH {
            let message =
                format!("more than {} requirements within each other: make it flatter", limits::REQUIREMENT_DEPTH);
            self.reader.problem(value.span(), message);
            return None;
        }
        let fields = self.reader.fields(value, REQUIRE)?;
        let given: Vec<&str> = REQUIRE.iter().copied().filter(|key| fields.get(key).is_some()).collect();
        let [kind] = given[..] else {
            if fields.entries().all(|(key, _)| REQUIRE.contains(&key.get_ref().as_ref())) {
                let message = "a requirement has exactly one of `all`, `any`, `at-least` and `digests`";
                self.reader.problem(value.span(), message);
            }
            return None;
        };
        let inner = fields.get(kind)?;
        if kind == "digests" {
            let before = inner.get_ref().as_array().map_or(0, |list| list.len());
            if before == 0 && inner.get_ref().is_array() {
                self.reader.problem(inner.span(), "no digest is pinned: name one, or write \"deny\"");
            }
            return Some(Member::Digests(self.digests(Some(inner))));
        }
        let (count, members) = match kind {
            "at-least" => {
                let fields = self.reader.fields(inner, AT_LEAST)?;
                let count = self.reader.required(&fields, "count");
                let of = self.reader.required(&fields, "of");
                let count = count.and_then(|count| self.reader.number(count));
                (Some(count?), of?)
            }
            "any" => (Some(1), inner),
            _ => (None, inner),
        };
        let list = self.reader.list(members)?;
        let count = count.unwrap_or(list.len());
        if list.is_empty() || count == 0 || count > list.len() {
            let message = match list.len() {
                0 => {
                    "nobody has to vouch: name at least one attestor, or write \"insecure-accept-anything\"".to_owned()
                }
                most => format!("{count} of {most}: ask for 1 to {most}"),
            };
            self.reader.problem(inner.span(), message);
            return None;
        }
        let of: Vec<Option<Member>> = list.iter().map(|member| self.member(member, depth, named)).collect();
        let of: Option<Vec<Member>> = of.into_iter().collect();
        Some(Member::Group(Group { count, of: of? }))
    }

    fn member(&mut self, value: &Value<'_>, depth: usize, named: &mut BTreeMap<usize, ()>) -> Option<Member> {
        if value.get_ref().is_table() {
            return self.table(value, depth + 1, named);
        }
        if !value.get_ref().is_str() {
            self.reader.wrong_type(value, "the name of an attestor, or a table with a requirement");
            return None;
        }
        let name = self.reader.text(value)?;
        match self.by_name.get(name) {
            None => {
                let known = self.attestors.iter().map(|attestor| attestor.name.as_str());
                self.reader.problem_of(value.span(), || {
                    let meant = meant(name, known).map(|known| format!("; did you mean `{known}`?"));
                    format!("no attestor is called {}{}", quoted(name), meant.unwrap_or_default())
                });
                None
            }
            Some(at) if named.insert(*at, ()).is_some() => {
                self.reader
                    .problem(value.span(), format!("`{name}` is named twice in one requirement, and counts once"));
                None
            }
            Some(at) => Some(Member::Attestor(*at)),
        }
    }

    /// One key may not stand for two attestors of one requirement.
    fn check_shared_keys(&mut self, value: &Value<'_>, group: &Group) {
        let mut owners: BTreeMap<Digest, &str> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for attestor in group.attestors().iter().filter_map(|at| self.attestors.get(*at)) {
            for key in &attestor.keys {
                if let Some(owner) = owners.insert(key.key.id, &attestor.name)
                    && owner != attestor.name
                {
                    shared
                        .insert(format!("`{owner}` and `{}` share a key, so one signer could be both", attestor.name));
                }
            }
        }
        for message in shared {
            self.reader.problem(value.span(), message);
        }
    }

    fn mode(&mut self, fields: &Fields<'_, '_>) -> Mode {
        let (mode, until) = (fields.get("mode"), fields.get("audit-until"));
        let end = until.and_then(|value| self.time(value));
        match mode.and_then(|mode| Some((mode, self.reader.text(mode)?))) {
            None | Some((_, "enforce")) => {
                if let Some(until) = until {
                    self.reader.problem(until.span(), "`audit-until` goes with `mode = \"audit\"`");
                }
                Mode::Enforce
            }
            Some((_, "audit")) => Mode::Audit(end),
            Some((at, _)) => {
                self.reader.problem(at.span(), "a mode is \"enforce\" or \"audit\"");
                Mode::Enforce
            }
        }
    }
}
