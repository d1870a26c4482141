//! Who signs, and what Fulcio says of that one in a certificate (fulcio `docs/oid-info.md`).

use super::certificate::San;

/// The commit that every workflow runs at.
const COMMIT: &str = "9739798945b2a848e911bcf1dddb97298cade0b1";

/// A subject with all that is known of it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) name: San,
    pub(super) issuer: &'static str,
    /// Numbers below Fulcio's arc and their values.
    pub(super) claims: Vec<(u8, String)>,
}

/// The identity `subject`: a workflow of GitHub or GitLab (`https://HOST/OWNER/REPOSITORY/FILE@REF`), another URI, or
/// an e-mail address.
pub(super) fn identity(subject: &str) -> Identity {
    if !subject.contains("://") {
        let name = San::Email(subject.to_owned());
        return Identity { name, issuer: "https://accounts.example.com", claims: Vec::new() };
    }
    let name = San::Uri(subject.to_owned());
    match workflow(subject) {
        Some((issuer, claims)) => Identity { name, issuer, claims },
        None => Identity { name, issuer: "https://issuer.example.com", claims: Vec::new() },
    }
}

fn workflow(subject: &str) -> Option<(&'static str, Vec<(u8, String)>)> {
    let (file, reference) = subject.split_once('@')?;
    let mut parts = file.strip_prefix("https://")?.splitn(4, '/');
    let (host, owner, repository, _) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let source = format!("https://{host}/{owner}/{repository}");
    let (issuer, runner, run, old) = match host {
        "github.com" => (
            "https://token.actions.githubusercontent.com",
            "github-hosted",
            format!("{source}/actions/runs/1/attempts/1"),
            vec![
                (2, "push".to_owned()),
                (3, COMMIT.to_owned()),
                (4, "release".to_owned()),
                (5, format!("{owner}/{repository}")),
                (6, reference.to_owned()),
            ],
        ),
        "gitlab.com" => ("https://gitlab.com", "gitlab-hosted", format!("{source}/-/jobs/1"), Vec::new()),
        _ => return None,
    };
    let mut claims = old;
    let new = [
        subject,
        COMMIT,
        runner,
        &source,
        COMMIT,
        reference,
        "632596897",
        &format!("https://{host}/{owner}"),
        "131804563",
        subject,
        COMMIT,
        "push",
        &run,
        "public",
    ];
    claims.extend((9..).zip(new.map(str::to_owned)));
    claims.push((24, format!("repo:{owner}/{repository}:ref:{reference}")));
    Some((issuer, claims))
}
