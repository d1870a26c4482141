//! What a scenario claims, with a message that says what was found instead.

use crate::node::{Node, Path, Result, path::Outcome, registry::Published};

/// `image` comes onto the node by `path`.
pub fn admitted(node: &Node, path: Path, image: &Published) -> Result<()> {
    match node.bring(path, image)? {
        Outcome::Admitted => Ok(()),
        other => Err(unexpected(node, path, &image.name, "admitted", &other)),
    }
}

/// `image` is refused by `path`, with one of these codes. Returns the message.
pub fn refused(node: &Node, path: Path, image: &Published, codes: &[&str]) -> Result<String> {
    refusal(node, path, &image.name, node.bring(path, image)?, codes)
}

/// `outcome` is a refusal with one of these codes. Returns the message.
pub fn refusal(node: &Node, path: Path, name: &str, outcome: Outcome, codes: &[&str]) -> Result<String> {
    match outcome {
        Outcome::Refused { code, message, .. } if codes.contains(&code.as_str()) => Ok(message),
        other => Err(unexpected(node, path, name, &format!("refused with {}", codes.join(" or ")), &other)),
    }
}

/// `image` does not come onto the node by `path`, whoever says so.
pub fn kept_out(node: &Node, path: Path, image: &Published) -> Result<()> {
    match node.bring(path, image)? {
        Outcome::Refused { .. } | Outcome::Failed(_) | Outcome::NotUnpacked => Ok(()),
        other => Err(unexpected(node, path, &image.name, "kept out", &other)),
    }
}

/// `image` comes onto the node by `path` again. containerd gives a daemon that starts one second, and dials a socket
/// that was away again after up to three.
pub fn recovers(node: &Node, path: Path, image: &Published) -> Result<()> {
    let mut last = None;
    let recovered = node.wait_until("it is admitted again", || {
        let outcome = node.bring(path, image)?;
        let admitted = outcome == Outcome::Admitted;
        last = Some(outcome);
        Ok(admitted)
    });
    recovered
        .map_err(|error| format!("{error}: {}", last.map(|outcome| outcome.to_string()).unwrap_or_default()).into())
}

/// Without this, say why.
pub fn holds(what: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if what { Ok(()) } else { Err(otherwise().into()) }
}

fn unexpected(
    node: &Node,
    path: Path,
    name: &str,
    expected: &str,
    found: &Outcome,
) -> Box<dyn std::error::Error + Send + Sync> {
    let found = match found {
        Outcome::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    };
    format!("{}, {name}: must be {expected}, and is: {found}", path.name(node.suite)).into()
}
