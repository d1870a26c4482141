//! The story of one decision, the same from `check` as from `why`: what was required, where it was looked for, what was
//! found, and what makes it pass.

use std::path::Path;

use super::{break_glass, page::Page};
use crate::{
    evidence::{Asked, Layout},
    image::{Digest, Repository},
    policy::{
        Policy,
        decision::{Code, Decision, Verdict},
        grounds::{Part, Required},
    },
};

/// Where this node keeps what would have to change.
pub(super) struct Files<'a> {
    /// The policy document.
    pub(super) policy: &'a Path,
    /// The directory of the boot list.
    pub(super) boot: &'a Path,
}

/// The first line: the verdict and what its code means.
pub(super) fn headline(decision: &Decision) -> String {
    match decision.code() {
        Some(code) if decision.verdict != Verdict::Allow => {
            format!("{} {code} {}: {}", decision.verdict.word(), code.name(), code.meaning())
        }
        _ => decision.verdict.word().to_owned(),
    }
}

/// The rule, and what was found against what it requires.
pub(super) fn tell(page: &mut Page, decision: &Decision) {
    if let Some(rule) = &decision.rule {
        let at = decision.rule_at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        let policy = match decision.revision.as_str() {
            "" => String::new(),
            revision => format!(", policy {revision}"),
        };
        page.row("rule", format!("\"{rule}\"{at}{policy}"));
    }
    if let Some(glass) = &decision.glass {
        match &glass.pass {
            Some(pass) => page.row("pass", format!("{pass}, made by {}: `pullgate why {pass}`", glass.who)),
            None => page.row("pass", format!("none: {} has the label", glass.who)),
        }
        page.row("", format!("because: {}", glass.reason));
        let rule = glass.otherwise_rule.as_ref().map(|rule| format!(" by rule \"{rule}\"")).unwrap_or_default();
        page.row("otherwise", format!("{}{rule}", glass.otherwise.word()));
    }
    if let Some(contact) = &decision.contact {
        page.row("", format!("ask {contact}"));
    }
    if let Some(advice) = &decision.advice {
        page.row("", advice);
    }
    if !decision.attestors.is_empty() {
        page.row("attested", decision.attestors.join(", "));
    }
    for violation in &decision.violations {
        page.row("found", format!("{} {}: {}", violation.code, violation.code.name(), violation.found));
        if !violation.fix.is_empty() {
            page.row("", format!("fix: {}", violation.fix));
        }
    }
    tell_grounds(page, decision);
}

fn tell_grounds(page: &mut Page, decision: &Decision) {
    let grounds = &decision.grounds;
    if grounds.is_empty() {
        return;
    }
    let name = decision.name.as_deref().unwrap_or_default();
    // What a floor requires stands behind what the rule does.
    let of_rule = |required: &&Required| required.at.len() <= 1 && !required.is_floor();
    let met = grounds.required.iter().filter(of_rule).filter(|required| required.is_met()).count();
    let mut title = "required";
    if grounds.required.iter().any(|required| of_rule(&required)) {
        page.row(title, format!("{} of these; {met} met", grounds.needed));
        title = "";
    }
    for required in &grounds.required {
        page.row(title, requirement(required, name));
        title = "";
    }
    let mut title = "looked at";
    for asked in &grounds.asked {
        page.row(title, format!("{}: {}", place(asked, name, decision.digest.as_ref()), came_back(asked)));
        title = "";
    }
    if grounds.asked.is_empty() {
        page.row(
            title,
            match name {
                "" => "nothing: without a name there is no registry to ask",
                _ => "nothing: nobody was asked",
            },
        );
    }
    title = "unused";
    for kind in &grounds.uncounted {
        page.row(title, format!("{} {}", pieces(kind.pieces), kind.what));
        title = "";
    }
    if grounds.omitted > 0 {
        page.row("", format!("and {} more that there was no room for", grounds.omitted));
    }
}

/// One member of a requirement, further in the deeper it stands.
fn requirement(required: &Required, name: &str) -> String {
    let met = if required.is_met() { "met" } else { "missing" };
    let depth = required.at.len().saturating_sub(1).min(8);
    let floor = if required.is_floor() { format!("floor \"{}\", ", required.attestor) } else { String::new() };
    let what = match (&required.part, &required.vouched) {
        (Some(Part::Group { needed, .. }), _) => format!("{floor}{needed} of these:"),
        (Some(Part::Digests { listed, .. }), _) => format!("one of {listed} pinned digests"),
        (Some(Part::Floor { met: true }), _) => format!("{floor}which asks for a proven name"),
        (Some(Part::Floor { met: false }), _) => format!("{floor}which admits nothing here"),
        (None, Some(vouching)) => {
            let what = vouching.predicate.as_deref().unwrap_or("signature");
            let by = match &vouching.identity {
                Some(identity) => identity.clone(),
                None => format!("key {}", short(&vouching.key)),
            };
            let at = vouching.signed_at.map(|at| format!(" at {}", at.strftime("%Y-%m-%d %H:%M:%S UTC")));
            let (at, place) = (at.unwrap_or_default(), beside(name, &vouching.place));
            format!("{}: {what}, {by}{at}, in {place}", required.attestor)
        }
        (None, None) => required.attestor.clone(),
    };
    format!("{met:<9}{:width$}{what}", "", width = 2 * depth)
}

/// A place that leaves out the decision's own `name`.
fn beside(name: &str, place: &str) -> String {
    if place.is_empty() || place.starts_with('@') { format!("{name}{place}") } else { place.to_owned() }
}

fn place(asked: &Asked, name: &str, digest: Option<&Digest>) -> String {
    let repository = beside(name, &asked.repository);
    let tag = |end: &str| match digest {
        Some(digest) => format!("{repository}, tag sha256-{}….{end}", &digest.hex()[..12]),
        None => format!("{repository}, the tag .{end}"),
    };
    match asked.layout {
        Layout::SignatureTag => tag("sig"),
        Layout::AttestationTag => tag("att"),
        Layout::Referrers => format!("{repository}, referrers"),
        Layout::Kept => "this node's disk".to_owned(),
        Layout::Directory => format!("directory {}", asked.repository),
        Layout::OciLayout => format!("layout {}", asked.repository),
        Layout::ContentStore => "containerd's content store".to_owned(),
    }
}

fn came_back(asked: &Asked) -> String {
    match (&asked.gap, asked.found) {
        (Some(gap), 0) => format!("COULD NOT TELL: {gap}"),
        (Some(gap), found) => format!("{}, then COULD NOT TELL: {gap}", pieces(found)),
        (None, 0) if asked.ended => "nothing there".to_owned(),
        (None, 0) => "nobody waited for the answer".to_owned(),
        (None, found) if asked.ended => pieces(found),
        (None, found) => format!("{}; nobody waited for more", pieces(found)),
    }
}

fn pieces(count: u32) -> String {
    format!("{count} piece{}", if count == 1 { "" } else { "s" })
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}…", &digest.hex()[..12])
}

/// What makes a refused image pass: for the one who deploys it first, then for the one who keeps the policy.
pub(super) fn mend(page: &mut Page, decision: &Decision, files: &Files<'_>, policy: Option<&Policy>) {
    let Some(code) = decision.code().filter(|_| decision.verdict != Verdict::Allow) else { return };
    page.gap();
    page.line("What makes it pass");
    page.row("to do", code.remedy());
    if decision.verdict == Verdict::Inconclusive {
        page.row("", "the same pull, once pullgate can look; the kubelet tries again by itself");
    }
    let Some(digest) = &decision.digest else { return };
    if let Some(rule) = rule_for(decision, policy).filter(|_| code == Code::NoMatchingRule) {
        page.row("or a rule", format!("in {}, then `systemctl reload pullgate`:", files.policy.display()));
        page.copy(&rule);
    }
    if code.is_settled_by_exemption() {
        page.row(
            "or exempt",
            format!(
                "this digest, which then needs no signature, in {}, then `systemctl reload pullgate`:",
                files.policy.display()
            ),
        );
        page.copy(&exemption(decision, digest));
    }
    if code.is_settled_by_boot_list() {
        page.row("or now", "on a node that must start right now, whatever the policy says:");
        page.copy(&boot_line(digest, files));
    }
    if code.is_settled_by_break_glass() {
        page.row("briefly", "for some time, as an alert in the journal, without a change of any file:");
        page.copy(&break_glass::command(digest));
    }
}

/// An exemption of the digest, to be appended to the policy.
pub(super) fn exemption(decision: &Decision, digest: &Digest) -> String {
    let end = &digest.hex()[..12];
    let repository = decision.name.as_ref().and_then(|name| name.parse::<Repository>().ok());
    let image = repository.as_ref().and_then(|repository| repository.path.rsplit('/').next()).unwrap_or("image");
    let image: String = image.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(48).collect();
    format!("[[exempt]]\nname = \"{image}-{end}\"\ndigests = [\"{digest}\"]\n")
}

/// A rule for the repository, by the first attestor of the policy, to be appended to it.
fn rule_for(decision: &Decision, policy: Option<&Policy>) -> Option<String> {
    let (policy, repository) = (policy?, decision.name.as_ref()?.parse::<Repository>().ok()?);
    let attestor = &policy.attestors.first()?.name;
    let name: String =
        repository.path.chars().filter(|c| c.is_ascii_alphanumeric() || "-_./".contains(*c)).take(48).collect();
    let names = policy.rules.iter().chain(&policy.floors).map(|rule| rule.name.as_str());
    let names: Vec<&str> = names.chain(policy.exempt.iter().map(|exempt| exempt.name.as_str())).collect();
    let taken = |name: &str| names.contains(&name) || name == "default" || name == "boot-list";
    let name =
        std::iter::once(name.clone()).chain((2..100).map(|n| format!("{name}-{n}"))).find(|name| !taken(name))?;
    Some(format!("[[rule]]\nname = \"{name}\"\nimages = [\"{repository}\"]\nrequire = {{ all = [\"{attestor}\"] }}\n"))
}

/// The command that puts the digest into the boot list.
pub(super) fn boot_line(digest: &Digest, files: &Files<'_>) -> String {
    format!("echo {digest} >> {}/local.list && systemctl reload pullgate", files.boot.display())
}

#[cfg(test)]
mod tests;
