//! Trust roots, and whom their certificates may name, as the document says it.

use std::sync::Arc;

use super::{AUTHORITY, Checker, IDENTITY, MATCHER, TRUST_ROOT};
use crate::{
    document::reader::{Fields, Value, meant, quoted},
    image::sanitize,
    limits,
    trust::{Authority, CLAIMS, Demands, Identity, Matcher, TrustRoot},
};

/// Logs or timestamp authorities that may be asked for.
const MOST_DEMANDED: usize = 8;

impl Checker<'_> {
    pub(super) fn trust_root(&mut self, table: &Value<'_>) {
        let Some(fields) = self.reader.fields(table, TRUST_ROOT) else { return };
        let name = self.reader.required(&fields, "name").and_then(|name| self.name(name, "trust root"));
        let usual = Demands::default();
        let demands = Demands {
            logs: self.count(&fields, "logs", usual.logs),
            timestamps: self.count(&fields, "timestamps", usual.timestamps),
            insecure_ignore_sct: fields.get("insecure-ignore-sct").is_some_and(|value| self.reader.is_set(value)),
        };
        let file = self.reader.required(&fields, "file").and_then(|file| Some((self.reader.text(file)?, file.span())));
        // What names it is not told that it is unknown, whatever else is wrong.
        let name = name.unwrap_or_default();
        let root = file.and_then(|(file, span)| {
            let read = (self.read_key)(file)
                .and_then(|json| TrustRoot::parse(&name, file, &json, demands).map_err(|why| why.to_string()));
            let shown = sanitize(file, limits::QUOTED_CHARS);
            read.map_err(|why| self.reader.problem(span, format!("{shown}: {}", sanitize(&why, limits::PROBLEM_CHARS))))
                .ok()
        });
        if let Some(root) = &root {
            self.seal.push_str(&root.id.hex());
        }
        self.roots.push((name, root.map(Arc::new)));
    }

    fn count(&mut self, fields: &Fields<'_, '_>, key: &str, usual: usize) -> usize {
        let Some(value) = fields.get(key) else { return usual };
        match self.reader.number(value) {
            Some(number) if number <= MOST_DEMANDED => number,
            Some(_) => {
                self.reader.problem(value.span(), format!("at most {MOST_DEMANDED} can be asked for"));
                usual
            }
            None => usual,
        }
    }

    /// The trust root that `value` names; none where there is no such root, or something is wrong with it.
    pub(super) fn root_called(&mut self, value: &Value<'_>) -> Option<Arc<TrustRoot>> {
        let name = self.reader.text(value)?;
        if let Some((_, root)) = self.roots.iter().find(|(known, _)| known == name) {
            return root.clone();
        }
        let known = self.roots.iter().map(|(known, _)| known.as_str());
        let meant = meant(name, known).map(|known| format!("; did you mean `{known}`?"));
        self.reader
            .problem(value.span(), format!("no trust root is called {}{}", quoted(name), meant.unwrap_or_default()));
        None
    }

    pub(super) fn identity(&mut self, value: &Value<'_>) -> Option<Identity> {
        let fields = self.reader.fields(value, IDENTITY)?;
        let root = self.reader.required(&fields, "root").and_then(|root| self.root_called(root));
        if let Some(why) = root.as_ref().and_then(|root| root.without_certificates()) {
            self.reader.problem(value.span(), format!("no certificate counts under this trust root: {why}"));
        }
        let issuer = self.whom(value, &fields, "issuer", "insecure-any-issuer");
        let subject = self.whom(value, &fields, "subject", "insecure-any-subject");
        let claims =
            CLAIMS.iter().filter_map(|(name, claim)| Some((*claim, self.matcher(fields.get(name)?)?))).collect();
        Some(Identity { root: root?, issuer: issuer?, subject: subject?, claims })
    }

    pub(super) fn authority(&mut self, value: &Value<'_>) -> Option<Authority> {
        let fields = self.reader.fields(value, AUTHORITY)?;
        let anchors = self.reader.required(&fields, "file").and_then(|file| self.reader.text(file));
        let intermediates =
            fields.get("intermediates").map(|file| self.reader.text(file).ok_or(())).transpose().ok()?;
        let (email, host) = (fields.get("email"), fields.get("host"));
        let anybody = fields.get("insecure-any-subject").is_some_and(|value| self.reader.is_set(value));
        if anybody == (email.is_some() || host.is_some()) {
            let why = "`email` or `host` says whose certificates count, or else `insecure-any-subject`";
            self.reader.problem(value.span(), why);
        }
        let email = email.and_then(|email| self.matcher(email));
        let host = host.and_then(|host| self.matcher(host));
        let anchors = anchors?;
        let read = |file: &str| (self.read_key)(file).map_err(|why| (file.to_owned(), why));
        let read = read(anchors).and_then(|text| {
            let leading = intermediates.map(|file| read(file).map(|text| (file, text))).transpose()?;
            let leading = leading.as_ref().map(|(file, text)| (*file, text.as_str()));
            Authority::parse((anchors, &text), leading).map_err(|why| (anchors.to_owned(), why))
        });
        match read {
            Ok(mut authority) => {
                self.seal.push_str(&authority.id.hex());
                (authority.email, authority.host) = (email, host);
                Some(authority)
            }
            Err((file, why)) => {
                let file = sanitize(&file, limits::QUOTED_CHARS);
                self.reader.problem(value.span(), format!("{file}: {}", sanitize(&why, limits::PROBLEM_CHARS)));
                None
            }
        }
    }

    /// Whom `key` names, unless `insecure` says that it may be anybody.
    fn whom(&mut self, table: &Value<'_>, fields: &Fields<'_, '_>, key: &str, insecure: &str) -> Option<Matcher> {
        let anybody = fields.get(insecure).is_some_and(|value| self.reader.is_set(value));
        match fields.get(key) {
            Some(value) if anybody => {
                self.reader.problem(value.span(), format!("either `{key}` or `{insecure}`"));
                None
            }
            Some(value) => self.matcher(value),
            None if anybody => Some(Matcher::Anything),
            None => {
                let why = format!("missing key `{key}`: anybody gets a certificate, so say whose counts");
                self.reader.problem(table.span(), why);
                None
            }
        }
    }

    /// A text that is meant as it stands, or `{ pattern = "^…$" }`.
    fn matcher(&mut self, value: &Value<'_>) -> Option<Matcher> {
        if !value.get_ref().is_table() {
            let text = self.reader.text(value)?;
            let odd = text.is_empty() || text.len() > limits::PATTERN_CHARS || text.chars().any(char::is_control);
            if odd {
                let why = format!("1 to {} characters, none of them a control character", limits::PATTERN_CHARS);
                self.reader.problem(value.span(), why);
            }
            return (!odd).then(|| Matcher::Exact(text.to_owned()));
        }
        let fields = self.reader.fields(value, MATCHER)?;
        let pattern = self.reader.required(&fields, "pattern")?;
        let read = Matcher::pattern(self.reader.text(pattern)?);
        read.map_err(|why| self.reader.problem(pattern.span(), why.to_string())).ok()
    }
}
