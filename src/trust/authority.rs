//! Certificate authorities of an organisation's own (RFC 5280), which issue for years and keep no log: what their
//! certificates sign counts while these are valid.

use std::fmt;

use jiff::Timestamp;
use sigstore_types::{DerCertificate, DerPublicKey};

use super::{
    Matcher, Signer,
    certificate::{certificates, is_authority, validity},
};
use crate::{image::Digest, limits};

/// Whose certificates count, and whom they have to name.
pub struct Authority {
    /// The file with its certificates, as the policy names it.
    pub file: String,
    /// The file with certificates that lead to them.
    pub intermediates: Option<String>,
    /// SHA-256 of all its certificates: its identity.
    pub id: Digest,
    /// The e-mail address that a certificate has to name.
    pub email: Option<Matcher>,
    /// The host that a certificate has to name.
    pub host: Option<Matcher>,
    anchors: Vec<Anchor>,
    leading: Vec<DerCertificate>,
}

struct Anchor {
    certificate: DerCertificate,
    from: Timestamp,
    until: Timestamp,
}

/// Whom a certificate of an authority names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) emails: Vec<String>,
    pub(crate) hosts: Vec<String>,
}

impl Names {
    /// What tells their bearer apart: all of them, whichever were asked for, so that one certificate is one signer. Without
    /// names it is its `key`.
    pub(crate) fn id(&self, key: &DerPublicKey) -> Digest {
        let mut all: Vec<&String> = self.emails.iter().chain(&self.hosts).collect();
        all.sort_unstable();
        all.dedup();
        match all.is_empty() {
            true => Digest::of(key.as_bytes()),
            false => Digest::of(format!("names {all:?}").as_bytes()),
        }
    }
}

impl Authority {
    /// The authority whose certificates are in `anchors`, a file and its content; those in `intermediates` lead to it.
    ///
    /// # Errors
    /// When there is no certificate, one that cannot be read, or one that may not issue others.
    pub fn parse((file, anchors): (&str, &str), intermediates: Option<(&str, &str)>) -> Result<Self, String> {
        let read = |text| certificates(text, limits::AUTHORITY_CERTIFICATES);
        let (anchors, leading) = (read(anchors)?, read(intermediates.map_or("", |(_, text)| text))?);
        if anchors.is_empty() {
            return Err("no certificate in it".to_owned());
        }
        for certificate in anchors.iter().chain(&leading) {
            if !is_authority(certificate)? {
                return Err("one of its certificates may not issue others".to_owned());
            }
        }
        let all: Vec<&[u8]> = anchors.iter().chain(&leading).map(DerCertificate::as_bytes).collect();
        let id = Digest::of(format!("{} {:?}", anchors.len(), all).as_bytes());
        let anchor = |certificate| {
            let (from, until) = validity(&certificate)?;
            Ok(Anchor { certificate, from, until })
        };
        let anchors = anchors.into_iter().map(anchor).collect::<Result<_, String>>()?;
        let intermediates = intermediates.map(|(file, _)| file.to_owned());
        Ok(Self { file: file.to_owned(), intermediates, id, email: None, host: None, anchors, leading })
    }

    /// Its own certificates that are valid at `time`. What ends a chain nobody else asks for that.
    pub(crate) fn anchors_at(&self, time: Timestamp) -> impl Iterator<Item = &DerCertificate> {
        let valid = self.anchors.iter().filter(move |anchor| anchor.from <= time && time <= anchor.until);
        valid.map(|anchor| &anchor.certificate)
    }

    /// Certificates that lead to these.
    pub(crate) fn leading(&self) -> &[DerCertificate] {
        &self.leading
    }

    /// Whom it vouches for that is meant; none where a name is missing.
    pub(crate) fn meant(&self, names: &Names) -> Option<Signer> {
        let find = |matcher: &Option<Matcher>, names: &[String]| match matcher {
            Some(matcher) => names.iter().find(|name| matcher.matches(name)).cloned().map(Some),
            None => Some(None),
        };
        let named = [find(&self.email, &names.emails)?, find(&self.host, &names.hosts)?];
        let subject = named.into_iter().flatten().collect::<Vec<_>>().join(" ");
        Some(Signer::Identity { subject, issuer: format!("authority {}", self.id) })
    }
}

/// Two authorities are told apart by their certificates and by whom they have to name.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.id, self.email, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(emails: &[&str], hosts: &[&str]) -> Names {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Names { emails: owned(emails), hosts: owned(hosts) }
    }

    #[test]
    fn every_name_that_is_asked_for_has_to_be_there() {
        let exact = |text: &str| Some(Matcher::Exact(text.to_owned()));
        let authority = |email, host| Authority {
            file: "ca.pem".to_owned(),
            intermediates: None,
            id: Digest::of(b"ca"),
            email,
            host,
            anchors: Vec::new(),
            leading: Vec::new(),
        };
        let both = authority(exact("a@b.c"), exact("b.c"));
        let signer = both.meant(&names(&["x@y.z", "a@b.c"], &["b.c"])).unwrap();
        assert_eq!(signer.to_string(), format!("a@b.c b.c (authority {})", Digest::of(b"ca")));
        for other in [names(&["a@b.c"], &[]), names(&[], &["b.c"]), names(&["b.c"], &["a@b.c"]), Names::default()] {
            assert!(both.meant(&other).is_none(), "{other:?}");
        }
        assert!(authority(None, None).meant(&Names::default()).is_some(), "the policy says `insecure-any-subject`");
    }

    #[test]
    fn what_holds_no_certificate_is_no_authority() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", " \n", "x", broken, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            assert!(Authority::parse(("ca.pem", text), None).is_err(), "{text}");
        }
        let many = |count: usize| Authority::parse(("ca.pem", &broken.repeat(count)), None).unwrap_err();
        assert!(!many(limits::AUTHORITY_CERTIFICATES).contains("more than"));
        assert!(many(limits::AUTHORITY_CERTIFICATES + 1).contains("more than"));
    }
}
