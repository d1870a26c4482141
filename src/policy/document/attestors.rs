//! Who may vouch, as the document says it.

use std::collections::BTreeMap;

use super::{ATTESTOR, Checker, KEY};
use crate::{
    document::reader::{Fields, Value, unknown},
    evidence::Formats,
    image::{Digest, sanitize},
    limits,
    trust::{Algorithm, Attestor, PublicKey, Purpose},
};

const FORMATS: &[&str] = &["simple-signing", "bundle", "attestation-tag"];

impl Checker<'_> {
    pub(super) fn attestor(&mut self, table: &Value<'_>) {
        let Some(fields) = self.reader.fields(table, ATTESTOR) else { return };
        let name = self.reader.required(&fields, "name").and_then(|name| self.name(name, "attestor"));
        let may_sign = self.may_sign(&fields);
        let formats = self.formats(&fields, &may_sign);
        let keys = fields.get("keys").and_then(|keys| self.reader.list(keys)).unwrap_or_default();
        let keys: Vec<PublicKey> = keys.iter().filter_map(|key| self.key(key)).collect();
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.id == key.id) {
                self.reader.problem(fields.span(), "one of its keys is listed twice");
            }
        }
        let annotations: BTreeMap<String, String> = self
            .reader
            .map(fields.get("annotations"))
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        // A rule that names it is not told that there is no such attestor, whatever else is wrong.
        let name = name.unwrap_or_default();
        let attestor = Attestor { name: name.clone(), may_sign, keys, formats, annotations };
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

    fn key(&mut self, key: &Value<'_>) -> Option<PublicKey> {
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
        match read {
            Ok(public) => {
                self.seal.push_str(&public.id.hex());
                Some(public)
            }
            Err(why) => {
                self.reader.problem(key.span(), format!("{source}{why}"));
                None
            }
        }
    }
}
