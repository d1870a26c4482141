//! Whom a certificate may name. A certificate authority like Fulcio gives one to anybody with an account somewhere, so that
//! it counts says nothing: who it names does.

use std::{fmt, sync::Arc};

use regex::{Regex, RegexBuilder};
use sigstore_crypto::{CertificateInfo, x509::FulcioCiClaims};
use sigstore_types::DerPublicKey;

use super::{Signer, TrustRoot};
use crate::limits;

/// What an identity asks of one statement of a certificate.
#[derive(Clone)]
pub enum Matcher {
    /// This text.
    Exact(String),
    /// A text that the whole of this pattern matches.
    Pattern(Regex),
    /// Whatever it is. The policy says `insecure`.
    Anything,
}

/// Why a pattern is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

/// What stands for everybody: no pattern of a policy is about these.
const NOBODY: [&str; 4] = [
    "nobody",
    "nobody@nowhere.invalid",
    "https://nowhere.invalid",
    "https://nowhere.invalid/a/b/.c/d.yml@refs/heads/e",
];

impl Matcher {
    /// Reads a regular expression that has to match a text from `^` to `$`.
    ///
    /// # Errors
    /// When it cannot be read, is longer than [`limits::PATTERN_CHARS`], is not anchored at both ends, or matches anybody.
    pub fn pattern(text: &str) -> Result<Self, BadPattern> {
        let bad = |why: String| BadPattern(why);
        if text.chars().count() > limits::PATTERN_CHARS {
            return Err(bad(format!("longer than {} characters", limits::PATTERN_CHARS)));
        }
        let inner = text.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
        // An escaped `$` is no end.
        let Some(inner) = inner.filter(|inner| inner.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 0) else {
            return Err(bad(
                "a pattern has to begin with `^` and end with `$`: it would match what only contains it".into()
            ));
        };
        // By itself first: it must not close the group that holds it.
        let build = |text: &str| RegexBuilder::new(text).size_limit(limits::PATTERN_BYTES).build();
        let whole = build(inner).and_then(|_| build(&format!(r"\A(?:{inner})\z")));
        let whole = whole.map_err(|why| bad(format!("not a regular expression: {}", last_line(&why.to_string()))))?;
        if NOBODY.iter().any(|nobody| whole.is_match(nobody)) {
            return Err(bad("it matches anybody: name whom, or write `insecure-any-subject = true`".into()));
        }
        Ok(Self::Pattern(whole))
    }

    /// Whether `text` is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Pattern(pattern) => pattern.is_match(text),
            Self::Anything => true,
        }
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Pattern(pattern) => {
                let text = pattern.as_str();
                let inner = text.strip_prefix(r"\A(?:").and_then(|rest| rest.strip_suffix(r")\z")).unwrap_or(text);
                write!(f, "^{inner}$")
            }
            Self::Anything => f.write_str("anybody"),
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "exactly {exact:?}"),
            _ => write!(f, "{:?}", self.to_string()),
        }
    }
}

/// Whom a certificate may name, and what else it has to say.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Under which root.
    pub root: Arc<TrustRoot>,
    /// Who vouched for the subject: an OpenID Connect issuer.
    pub issuer: Matcher,
    /// The e-mail address or URI.
    pub subject: Matcher,
    /// What the certificate has to say of the build.
    pub claims: Vec<(Claim, Matcher)>,
}

macro_rules! claims {
    ($($variant:ident $name:literal $field:ident $meaning:literal,)*) => {
        /// What a certificate says of the build that asked for it (Fulcio, "Extension OIDs", 1.3.6.1.4.1.57264.1.9 and later).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Claim { $(#[doc = $meaning] $variant,)* }

        /// Every claim, by its name in the policy.
        pub const CLAIMS: &[(&str, Claim)] = &[$(($name, Claim::$variant),)*];

        impl Claim {
            /// Its name in the policy.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn of(self, claims: &FulcioCiClaims) -> Option<&str> {
                match self { $(Self::$variant => claims.$field.as_deref(),)* }
            }
        }
    };
}

claims! {
    Repository "repository" source_repository_uri "The repository that was built: `https://github.com/acme/app`.",
    RepositoryId "repository-id" source_repository_identifier "Its number, which a rename does not change.",
    Owner "owner" source_repository_owner_uri "Whose it is: `https://github.com/acme`.",
    OwnerId "owner-id" source_repository_owner_identifier "The number of that.",
    Ref "ref" source_repository_ref "What was built: `refs/heads/main`.",
    Commit "commit" source_repository_digest "The commit that was built.",
    Visibility "visibility" source_repository_visibility_at_signing "`public`, `private` or `internal`, when it was signed.",
    Workflow "workflow" build_config_uri "The top-level workflow: `https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main`.",
    Signer "signer" build_signer_uri "The workflow that asked for the certificate, which may be a reusable one.",
    Trigger "trigger" build_trigger "What set it off: `push`.",
    Runner "runner" runner_environment "Where it ran: `github-hosted`.",
    Environment "environment" deployment_environment "The deployment environment, whose protection rules it passed.",
}

/// What a certificate says, once a trust root vouches for it.
#[derive(Clone, Debug)]
pub struct Certified {
    subject: String,
    issuer: String,
    claims: FulcioCiClaims,
    key: DerPublicKey,
}

impl Certified {
    /// What `certificate` says; none where it names no subject or no issuer.
    pub(crate) fn by(certificate: &CertificateInfo) -> Option<Self> {
        let subject = certificate.identity.as_ref()?.as_str().to_owned();
        let (claims, key) = (certificate.ci_claims.clone(), certificate.public_key.clone());
        Some(Self { subject, issuer: certificate.issuer.clone()?, claims, key })
    }

    /// The key of the certificate.
    pub(crate) fn key(&self) -> &DerPublicKey {
        &self.key
    }

    /// Who signed.
    pub fn signer(&self) -> Signer {
        Signer::Identity { subject: self.subject.clone(), issuer: self.issuer.clone() }
    }
}

impl Identity {
    /// Whether it means whom `certified` names. A claim that the certificate does not make is not met.
    pub fn means(&self, certified: &Certified) -> bool {
        self.issuer.matches(&certified.issuer)
            && self.subject.matches(&certified.subject)
            && self
                .claims
                .iter()
                .all(|(claim, matcher)| claim.of(&certified.claims).is_some_and(|said| matcher.matches(said)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pattern: &str) -> String {
        Matcher::pattern(pattern).expect_err(pattern).to_string()
    }

    #[test]
    fn a_pattern_matches_from_end_to_end() {
        for (pattern, text, expected) in [
            (
                r"^https://github\.com/acme/[^/]+/\.github/workflows/release\.yml@refs/tags/v.*$",
                "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1",
                true,
            ),
            (r"^https://github\.com/acme/.*$", "https://github.com/acme-evil/x", false),
            (r"^https://github\.com/acme/.*$", "https://evil.example/https://github.com/acme/", false),
            (r"^a@b\.c|d@e\.f$", "a@b.c", true),
            (r"^a@b\.c|d@e\.f$", "d@e.f", true),
            (r"^a@b\.c|d@e\.f$", "a@b.c.evil", false),
            (r"^a@b\.c|d@e\.f$", "evil-d@e.f", false),
            (r"^a@b\.c$", "a@b.c\n", false),
            (r"^(?m)a@b\.c$", "a@b.c\nx", false),
            (r"^(?m)a@b\.c$", "a@b.c", true),
            (r"^a@b\.c\\$", r"a@b.c\", true),
        ] {
            assert_eq!(Matcher::pattern(pattern).unwrap().matches(text), expected, "{pattern} {text:?}");
        }
        let pattern = r"^https://github\.com/acme/.*$";
        assert_eq!(Matcher::pattern(pattern).unwrap().to_string(), pattern);
    }

    #[test]
    fn what_is_no_anchored_pattern_is_an_error() {
        for pattern in ["", "^", "$", "acme", "^acme", "acme$", r"^acme\$", r"^acme\\\$", "(^acme$)", "^acme$ "] {
            assert!(refused(pattern).contains("begin with `^`"), "{pattern}");
        }
        for pattern in ["^a($", "^a)(b$", "^(?:a$", "^[$", "^a{9999}{9999}$", r"^a\p{Nonsense}$", "^(?i$"] {
            assert!(refused(pattern).contains("not a regular expression"), "{pattern}: {}", refused(pattern));
        }
        for pattern in ["^.*$", "^.+$", "^(.|x)*$", r"^[^\n]*$", r"^https://.*$", "^.*@.*$", "^$|^.*$", "^[a-z]+$"] {
            assert!(refused(pattern).contains("matches anybody"), "{pattern}");
        }
        let long = |chars: usize| format!("^{}$", "a".repeat(chars - 2));
        assert!(Matcher::pattern(&long(limits::PATTERN_CHARS)).is_ok());
        assert!(refused(&long(limits::PATTERN_CHARS + 1)).contains("longer than"));
        assert!(refused(r"^\w{200}$").contains("size limit"), "{}", refused(r"^\w{200}$"));
    }

    #[test]
    fn each_claim_is_read_from_its_own_extension() {
        let claims = FulcioCiClaims::default();
        for (name, claim) in CLAIMS {
            assert_eq!(claim.name(), *name);
            assert_eq!(claim.of(&claims), None);
        }
    }
}
