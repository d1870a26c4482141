//! The document as it is written. Names, annotations and hints come from whoever made the images: every text goes through
//! [`quoted`] or [`comment`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use jiff::Timestamp;

use super::{Observed, Repo};
use crate::{
    evidence::Formats,
    image::{Digest, sanitize},
    limits,
    trust::{Attestor, Authority, Demands, Identity, Matcher, Purpose, Signer, TrustRoot, TrustedKey},
    verify::Offered,
};

/// Keys that came with the images of one repository and are told of.
const OFFERED: usize = 8;
/// Characters of the name of a rule.
const NAME: usize = 64;

pub(super) fn document(
    attestors: &[&Attestor],
    repos: &BTreeMap<String, Repo<'_>>,
    observed: &[Observed],
    now: Timestamp,
) -> String {
    let mut text = String::new();
    comment(&mut text, &format!("Suggested by `pullgate policy suggest` at {}.", now.strftime("%Y-%m-%d %H:%M UTC")));
    comment(&mut text, "It admits what is on the node, whoever brought that: look at each rule before it takes force.");
    text.push_str("schema = 1\n");
    let named: BTreeSet<&str> = repos.values().flat_map(|repo| repo.signers.iter().copied()).collect();
    let named = attestors.iter().filter(|attestor| named.contains(attestor.name.as_str()));
    let roots: BTreeMap<&str, &TrustRoot> =
        named.clone().flat_map(|attestor| attestor.roots()).map(|root| (root.name.as_str(), &**root)).collect();
    roots.values().for_each(|root| add_root(&mut text, root));
    named.for_each(|attestor| add_attestor(&mut text, attestor));
    let mut names = BTreeSet::new();
    for (repository, repo) in repos {
        add_rule(&mut text, repository, repo, &mut names);
    }
    let nameless: Vec<&Observed> = observed.iter().filter(|image| image.repository.is_none()).collect();
    if !nameless.is_empty() {
        text.push('\n');
        comment(&mut text, "Images without a name that a rule could be about.");
        gaps(&mut text, &nameless);
        let _ = writeln!(text, "[[exempt]]\nname = \"without-a-name\"\ndigests = {}", digests(&nameless));
    }
    text.push_str("\n[default]\nrequire = \"deny\"\n");
    text
}

fn add_attestor(text: &mut String, attestor: &Attestor) {
    let purposes = attestor.may_sign.iter().map(|purpose| match purpose {
        Purpose::Signature => quoted("signature"),
        Purpose::Predicate(uri) => quoted(uri),
    });
    let _ = writeln!(text, "\n[[attestor]]\nname = {}\nmay-sign = {}", quoted(&attestor.name), list(purposes));
    if !attestor.keys.is_empty() || attestor.identities.is_empty() && attestor.authorities.is_empty() {
        let _ = writeln!(text, "keys = {}", list(attestor.keys.iter().map(key)));
    }
    if !attestor.identities.is_empty() {
        let _ = writeln!(text, "identities = {}", list(attestor.identities.iter().map(identity)));
    }
    if !attestor.authorities.is_empty() {
        let _ = writeln!(text, "authorities = {}", list(attestor.authorities.iter().map(authority)));
    }
    if !attestor.repositories.is_empty() {
        let repositories = attestor.repositories.iter().map(|repository| quoted(&repository.to_string()));
        let _ = writeln!(text, "repositories = {}", list(repositories));
    }
    if attestor.formats != Formats::ALL {
        let Formats { simple_signing, bundle, attestation_tag } = attestor.formats;
        let all = [("simple-signing", simple_signing), ("bundle", bundle), ("attestation-tag", attestation_tag)];
        let counting = all.into_iter().filter(|(_, counts)| *counts).map(|(form, _)| quoted(form));
        let _ = writeln!(text, "formats = {}", list(counting));
    }
    if !attestor.annotations.is_empty() {
        let pairs = attestor.annotations.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
        let _ = writeln!(text, "annotations = {{ {} }}", pairs.collect::<Vec<_>>().join(", "));
    }
}

fn add_root(text: &mut String, root: &TrustRoot) {
    let Demands { logs, timestamps, insecure_ignore_sct } = root.demands;
    let _ = writeln!(
        text,
        "\n[[trust-root]]\nname = {}\nfile = {}\nlogs = {logs}\ntimestamps = {timestamps}",
        quoted(&root.name),
        quoted(&root.file)
    );
    if insecure_ignore_sct {
        text.push_str("insecure-ignore-sct = true\n");
    }
}

fn key(trusted: &TrustedKey) -> String {
    let TrustedKey { key, from, until, root } = trusted;
    let mut fields = vec![("algorithm", quoted(key.algorithm.name())), ("pem", quoted(&key.to_pem()))];
    fields.extend(from.map(|from| ("from", quoted(&from.to_string()))));
    fields.extend(until.map(|until| ("until", quoted(&until.to_string()))));
    fields.extend(root.as_ref().map(|root| ("root", quoted(&root.name))));
    table(fields)
}

fn identity(identity: &Identity) -> String {
    let whom = |name, insecure, whom: &Matcher| match matcher(whom) {
        Some(text) => (name, text),
        None => (insecure, "true".to_owned()),
    };
    let mut fields = vec![
        ("root", quoted(&identity.root.name)),
        whom("issuer", "insecure-any-issuer", &identity.issuer),
        whom("subject", "insecure-any-subject", &identity.subject),
    ];
    fields.extend(identity.claims.iter().filter_map(|(claim, said)| Some((claim.name(), matcher(said)?))));
    table(fields)
}

fn authority(authority: &Authority) -> String {
    let mut fields = vec![("file", quoted(&authority.file))];
    fields.extend(authority.intermediates.as_ref().map(|file| ("intermediates", quoted(file))));
    fields.extend(authority.email.as_ref().and_then(|email| Some(("email", matcher(email)?))));
    fields.extend(authority.host.as_ref().and_then(|host| Some(("host", matcher(host)?))));
    if authority.email.is_none() && authority.host.is_none() {
        fields.push(("insecure-any-subject", "true".to_owned()));
    }
    table(fields)
}

fn matcher(matcher: &Matcher) -> Option<String> {
    match matcher {
        Matcher::Exact(text) => Some(quoted(text)),
        Matcher::Pattern(_) => Some(format!("{{ pattern = {} }}", quoted(&matcher.to_string()))),
        Matcher::Anything => None,
    }
}

fn table(fields: Vec<(&str, String)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
    format!("{{ {} }}", fields.join(", "))
}

fn add_rule(text: &mut String, repository: &str, repo: &Repo<'_>, names: &mut BTreeSet<String>) {
    text.push('\n');
    let unsigned = repo.pinned.iter().filter(|image| image.signers().is_empty()).count();
    if unsigned > 0 {
        comment(text, &format!("{unsigned} of {} signed by nobody known: pinned by digest.", repo.images.len()));
    }
    if unsigned < repo.pinned.len() {
        let signers: BTreeSet<&str> = repo.pinned.iter().flat_map(|image| image.signers()).collect();
        let signers: Vec<&str> = signers.into_iter().collect();
        comment(text, &format!("Signed by {}, and none of them signed all: pinned by digest.", signers.join(", ")));
    }
    gaps(text, &repo.images);
    offered(text, &repo.images);
    let signers = list(repo.signers.iter().map(|signer| quoted(signer)));
    let require = match (repo.signers.len(), repo.pinned.is_empty()) {
        (0, _) => format!("{{ digests = {} }}", digests(&repo.pinned)),
        (_, true) => format!("{{ all = {signers} }}"),
        (1, false) => {
            let signer = repo.signers.iter().map(|signer| quoted(signer)).collect::<String>();
            format!("{{ any = [{signer}, {{ digests = {} }}] }}", digests(&repo.pinned))
        }
        (_, false) => format!("{{ any = [{{ all = {signers} }}, {{ digests = {} }}] }}", digests(&repo.pinned)),
    };
    let name = name(repository, names);
    let _ = writeln!(
        text,
        "[[rule]]\nname = {}\nimages = {}\nrequire = {require}",
        quoted(&name),
        list([quoted(repository)])
    );
}

fn gaps(text: &mut String, images: &[&Observed]) {
    let gaps: BTreeSet<&str> = images.iter().flat_map(|image| &image.gaps).map(String::as_str).collect();
    for gap in gaps {
        comment(text, &format!("Not looked at: {gap}"));
    }
}

/// Keys that would be trusted by whoever takes out the number signs, which nobody does without reading them.
fn offered(text: &mut String, images: &[&Observed]) {
    let mut told = BTreeSet::new();
    let all = images.iter().flat_map(|image| &image.offered);
    for offered in all {
        let lines = match offered {
            Offered::Hint(hint) => {
                format!("Signed by a key that is called {} and is not in the evidence.", quoted(hint))
            }
            Offered::Key(offered) => format!(
                "Signed by the key {}, which came with the signature: anybody could have made it.\n\
                 Only if you know whose it is:\n[[attestor]]\nname = \"\"\nmay-sign = [\"signature\"]\nkeys = [{}]",
                offered.id,
                table(vec![("algorithm", quoted(offered.algorithm.name())), ("pem", quoted(&offered.to_pem()))])
            ),
            Offered::Identity(Signer::Key(_)) => continue,
            Offered::Identity(Signer::Identity { subject, issuer }) => format!(
                "Signed with a certificate for {} by {}, about which no trust root of the policy was asked.\n\
                 Only if you know who that is:\n[[attestor]]\nname = \"\"\nmay-sign = [\"signature\"]\nidentities = [{}]",
                quoted(subject),
                quoted(issuer),
                table(vec![("root", quoted("")), ("issuer", quoted(issuer)), ("subject", quoted(subject))])
            ),
        };
        if told.len() < OFFERED && told.insert(lines.clone()) {
            lines.lines().for_each(|line| comment(text, line));
        }
    }
}

/// The name of the rule about `repository`, which no rule has yet.
fn name(repository: &str, names: &mut BTreeSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_./".contains(c) { c } else { '-' };
    let plain: String = repository.chars().map(plain).collect();
    let hash = &Digest::of(repository.as_bytes()).hex()[..8];
    let short: String = plain.chars().take(NAME - 9).collect();
    let name = match plain.len() <= NAME && !names.contains(&plain) {
        true => plain,
        false => format!("{short}-{hash}"),
    };
    names.insert(name.clone());
    name
}

fn digests(images: &[&Observed]) -> String {
    let mut called: BTreeMap<Digest, BTreeSet<&str>> = BTreeMap::new();
    for image in images {
        called.entry(image.target).or_default().insert(&image.called);
    }
    let mut text = "[\n".to_owned();
    for (digest, names) in called {
        let names: Vec<&str> = names.into_iter().collect();
        let _ = write!(text, "    {}, ", quoted(&digest.to_string()));
        comment(&mut text, &names.join(" "));
    }
    text + "]"
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// A comment to the end of the line, whatever is in `words`.
fn comment(text: &mut String, words: &str) {
    let _ = writeln!(text, "# {}", sanitize(words, limits::REFERENCE_CHARS).trim_end());
}

/// `text` as a TOML string (TOML v1.0.0, "String"), in letters that are harmless to show.
fn quoted(text: &str) -> String {
    let is_harmless = |c: char| c == '\n' || sanitize(c.encode_utf8(&mut [0; 4]), 1).starts_with(c);
    if text.chars().all(is_harmless) {
        return toml::Value::String(text.to_owned()).to_string();
    }
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        c if is_harmless(c) => c.to_string(),
        c => format!("\\U{:08x}", u32::from(c)),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\"\"\"'''\\\n[[exempt]]\nname = \"x\"\r\u{202e}\u{1b}[2J\u{0}\u{e0041}#é";

    #[test]
    fn a_text_is_read_as_it_was_and_ends_where_it_ends() {
        let parts = [HOSTILE, "", "plain", "two\nlines\n", "\n", "'", "\"", "\\", "\"\"\"\n", "'''\n", "\u{2066}x"];
        for text in parts {
            let document = format!("k = {}\n", quoted(text));
            let read: toml::Table = document.parse().unwrap_or_else(|why| panic!("{why}\n{document}"));
            assert_eq!(read["k"].as_str(), Some(text), "{document}");
            assert!(document.chars().all(|c| c == '\n' || !sanitize(&c.to_string(), 1).is_empty()));
            assert!(!document.contains(['\u{202e}', '\u{2066}', '\u{1b}', '\r', '\u{0}']), "{document:?}");
        }
    }

    #[test]
    fn a_comment_has_one_line() {
        let mut text = String::new();
        comment(&mut text, HOSTILE);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.parse::<toml::Table>().unwrap().is_empty());
    }

    #[test]
    fn no_two_rules_have_one_name() {
        let mut names = BTreeSet::new();
        let long = "x".repeat(200);
        for repository in
            ["reg.io:5000/a", "reg.io-5000/a", "[::1]:5000/a", &format!("reg.io/{long}a"), &format!("reg.io/{long}b")]
        {
            let name = name(repository, &mut names);
            assert!((1..=NAME).contains(&name.len()), "{name}");
        }
        assert_eq!(names.len(), 5);
    }
}
