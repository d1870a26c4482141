//! The same for a program.

use serde_json::{Value, json};

use super::{Beside, Now, check_command, story};
use crate::{
    audit::{Id, Kind, Told},
    cli::{break_glass, story::Files},
};

/// The story of one entry.
pub(super) fn in_json(told: &Told, beside: &Beside, files: &Files<'_>) -> Value {
    let mut value = told_json(told);
    let Some(object) = value.as_object_mut() else { return value };
    object.insert("namesakes".to_owned(), json!(beside.namesakes));
    let Some(decided) = &told.decided else { return value };
    let (decision, code) = (&decided.decision, decided.decision.code());
    let (now, trouble) = match &beside.policy {
        Now::Same => (told.revision.clone(), None),
        Now::Changed(revision) => (Some(revision.clone()), None),
        Now::Unusable(why) => (None, Some(why)),
    };
    let exempt = decision.digest.filter(|_| code.is_some_and(|code| code.is_settled_by_exemption()));
    let glass = decision.digest.filter(|_| code.is_some_and(|code| code.is_settled_by_break_glass()));
    let boot = decision.digest.filter(|_| code.is_some_and(|code| code.is_settled_by_boot_list()));
    for (name, more) in [
        ("decision", json!(decision)),
        ("name", json!(code.map(|code| code.name()))),
        ("meaning", json!(code.map(|code| code.meaning()))),
        ("remedy", json!(code.map(|code| code.remedy()))),
        ("revision-now", json!(now)),
        ("policy-trouble", json!(trouble)),
        ("exemption", json!(exempt.map(|digest| story::exemption(decision, &digest)))),
        ("boot-list", json!(boot.map(|digest| story::boot_line(&digest, files)))),
        ("break-glass", json!(glass.map(|digest| break_glass::command(&digest)))),
        ("last-admitted", json!(beside.admitted.as_ref().map(told_json))),
        ("check", json!(check_command(decided))),
    ] {
        object.insert(name.to_owned(), more);
    }
    value
}

/// What one entry says, without the long story.
pub(in crate::cli) fn told_json(told: &Told) -> Value {
    let decided = told.decided.as_ref();
    let decision = decided.map(|decided| &decided.decision);
    json!({
        "id": told.id.map(|id| id.to_string()),
        "sequence": told.id.map(Id::sequence),
        "time": told.at,
        "kind": told.kind.map(Kind::name),
        "message": told.message,
        "verdict": decision.map(|decision| decision.verdict),
        "code": told.code,
        "reasons": told.reasons,
        "mode": told.mode,
        "revision": told.revision,
        "gate": decided.map(|decided| &decided.gate),
        "enforced": decided.map(|decided| decided.enforced),
        "image": decided.and_then(|decided| decided.image.as_ref()),
        "digest": decision.and_then(|decision| decision.digest),
        "layer": decided.and_then(|decided| decided.layer.as_ref()),
        "namespace": decided.and_then(|decided| decided.namespace.as_ref()),
        "rule": decision.and_then(|decision| decision.rule.as_ref()),
        "rule-at": decision.and_then(|decision| decision.rule_at.as_ref()),
        "attestors": decision.map(|decision| &decision.attestors),
        "pass": told.pass.as_ref().map(|pass| json!({
            "id": pass.id, "scope": pass.scope, "reason": pass.reason, "by": pass.by, "ends": pass.ends, "over": pass.over,
        })),
        "glass": decision.and_then(|decision| decision.glass.as_ref()),
        "microseconds": decided.and_then(|decided| decided.microseconds),
    })
}
