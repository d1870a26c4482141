//! Who may vouch, as the document says it.

use std::{collections::BTreeMap, ops::Range};

use super::{ATTESTOR, Checker, KEY};
use crate::{
    document::reader::{Fields, Value, unknown},
    evidence::Formats,
    image::{Digest, Repository, sanitize},
    limits,
    trust::{Algorithm, Attestor, Authority, Identity, PublicKey, Purpose, TrustedKey},
};

const FORMATS: &[&str] = &["simple-signing", "bundle", "attestation-tag"];

impl Checker<'_> {
    pub(super) fn attestor(&mut self, table: &Value<'_>) {
        let Some(fields) = self.reader.fields(table, ATTESTOR) else { return };
        let name = self.reader.required(&fields, "name").and_then(|name| self.name(name, "attestor"));
        let may_sign = self.may_sign(&fields);
        let formats = self.formats(&fields, &may_sign);
        let keys = fields.get("keys").and_then(|keys| self.reader.list(keys)).unwrap_or_default();
        let keys: Vec<TrustedKey> = keys.iter().filter_map(|key| self.key(key)).collect();
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.key.id == key.key.id) {
                self.reader.problem(fields.span(), "one of its keys is listed twice");
            }
        }
        let identities =
            fields.get("identities").and_then(|identities| self.reader.list(identities)).unwrap_or_default();
        let identities: Vec<Identity> = identities.iter().filter_map(|identity| self.identity(identity)).collect();
        let authorities = fields.get("authorities").and_then(|list| self.reader.list(list)).unwrap_or_default();
        let authorities: Vec<Authority> = authorities.iter().filter_map(|table| self.authority(table)).collect();
        let repositories = self.repositories(&fields, &may_sign, formats);
        let annotations: BTreeMap<String, String> = self
            .reader
            .map(fields.get("annotations"))
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        // A rule that names it is not told that there is no such attestor, whatever else is wrong.
        let name = name.unwrap_or_default();
        let attestor = Attestor {
            name: name.clone(),
            may_sign,
            keys,
            identities,
            authorities,
            formats,
            annotations,
            repositories,
        };
        self.content.push(Digest::of(format!("{attestor:?}").as_bytes()));
        self.by_name.entry(name).or_insert(self.attestors.len());
        self.attestors.push(attestor);
    }

    fn may_sign(&mut self, fields: &Fields<'_, '_>) -> Vec<Purpose> {
        let Some(value) = self.reader.required(fields, "may-sign") else { return Vec::new() };
        let Some([]) = self.reader.list(value) else {
            let texts = self.reader.texts(Some(value));
            let purpose = |(text, span): (&str, _)| match text {
                "signature" => Purpose::Signature,
                uri => {
                    if !uri.contains("://") {
                        self.reader.problem(span, "neither \"signature\" nor the URI of a predicate type");
                    }
                    Purpose::Predicate(uri.to_owned())
                }
            };
            return texts.into_iter().map(purpose).collect();
        };
        let message = "an attestor that may sign nothing is never satisfied: write [\"signature\"]";
        self.reader.problem(value.span(), message);
        Vec::new()
    }

    fn formats(&mut self, fields: &Fields<'_, '_>, may_sign: &[Purpose]) -> Formats {
        let Some(value) = fields.get("formats") else { return Formats::ALL };
        let mut formats = Formats { simple_signing: false, bundle: false, attestation_tag: false };
        let texts = self.reader.texts(Some(value));
        let is_empty = texts.is_empty();
        let mut all_known = true;
        for (text, span) in texts {
            match text {
                "simple-signing" => formats.simple_signing = true,
                "bundle" => formats.bundle = true,
                "attestation-tag" => formats.attestation_tag = true,
                other => {
                    all_known = false;
                    self.reader.problem(span, unknown("value", other, FORMATS));
                }
            }
        }
        let signs = may_sign.contains(&Purpose::Signature);
        let attests = may_sign.iter().any(|purpose| *purpose != Purpose::Signature);
        let held = formats.bundle || formats.simple_signing && signs || formats.attestation_tag && attests;
        if is_empty {
            self.reader.problem(value.span(), "no form counts: leave `formats` out for all of them");
        } else if !held && all_known && !may_sign.is_empty() {
            self.reader.problem(value.span(), "none of these forms holds what the attestor may sign");
        }
        formats
    }

    /// The repositories of which a signature must name one. Only a simple-signing payload names any.
    fn repositories(&mut self, fields: &Fields<'_, '_>, may_sign: &[Purpose], formats: Formats) -> Vec<Repository> {
        let Some(value) = fields.get("repositories") else { return Vec::new() };
        let texts = self.reader.texts(Some(value));
        if texts.is_empty() && value.get_ref().is_array() {
            self.reader.problem(value.span(), "no repository counts: leave `repositories` out for whichever is named");
        }
        if !formats.simple_signing || !may_sign.contains(&Purpose::Signature) {
            self.reader.problem(value.span(), "only a `signature` in the form `simple-signing` names a repository");
        }
        let read = |(text, span): (&str, Range<usize>)| {
            let repository = text.parse::<Repository>();
            repository.map_err(|why| self.reader.problem(span, why.to_string())).ok()
        };
        texts.into_iter().filter_map(read).collect()
    }

    fn key(&mut self, key: &Value<'_>) -> Option<TrustedKey> {
        let fields = self.reader.fields(key, KEY)?;
        let stated = self.reader.required(&fields, "algorithm")?;
        let name = self.reader.text(stated)?;
        let algorithm = Algorithm::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm);
        let Some(algorithm) = algorithm else {
            let known: Vec<_> = Algorithm::ALL.iter().map(|(known, _)| *known).collect();
            self.reader.problem(stated.span(), unknown("algorithm", name, &known));
            return None;
        };
        let file = fields.get("file").map(|file| self.reader.text(file).ok_or(())).transpose().ok()?;
        let pem = fields.get("pem").map(|pem| self.reader.text(pem).ok_or(())).transpose().ok()?;
        let (source, pem) = match (file, pem) {
            (Some(file), None) => (format!("{}: ", sanitize(file, limits::QUOTED_CHARS)), (self.read_key)(file)),
            (None, Some(pem)) => (String::new(), Ok(pem.to_owned())),
            _ => (String::new(), Err("a key has either `file` or `pem`".to_owned())),
        };
        let read = pem.and_then(|pem| PublicKey::from_pem(&pem, algorithm).map_err(|e| e.to_string()));
        let from = fields.get("from").and_then(|from| self.time(from));
        let until = fields.get("until").and_then(|until| self.time(until));
        if let (Some(from), Some(until), Some(at)) = (from, until, fields.get("until"))
            && until <= from
        {
            self.reader.problem(at.span(), "a key is valid `until` later than `from`");
        }
        let root = fields.get("root").map(|root| (self.root_called(root), root.span()));
        match read {
            Ok(public) => {
                if let Some((Some(_), span)) = &root
                    && !public.is_usual()
                {
                    let name = algorithm.name();
                    self.reader.problem(span.clone(), format!("no trust root can be asked about a key with {name}"));
                }
                self.seal.push_str(&public.id.hex());
                Some(TrustedKey { key: public, from, until, root: root.and_then(|(root, _)| root) })
            }
            Err(why) => {
                self.reader.problem(key.span(), format!("{source}{why}"));
                None
            }
        }
    }
}
