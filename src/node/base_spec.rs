//! The base specification of a runtime handler's containers, with pullgate's hook in it: a `createRuntime` hook that ends
//! with anything but 0 keeps the container from starting (OCI runtime specification 1.2, `config.md`, "POSIX-platform
//! Hooks"). Pure.

#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use super::dump::VERIFIERS_DIRECTORY;
use crate::image::Object;

/// What a hook's second argument has to be for pullgate's program to judge a container.
pub const ARGUMENT: &str = "create-runtime";
/// The base spec of handlers that had none.
pub const OF_CONTAINERD: &str = "/etc/pullgate/base-spec.json";
/// Seconds until the hook is ended, and the container with it.
const TIMEOUT: u64 = 10;
/// The parts of a base spec in which the spelling of keys decides about the hook.
const KEYS: [&str; 5] = ["ociVersion", "process", "root", "linux", "hooks"];
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The program that is the hook.
pub fn program() -> String {
    format!("{VERIFIERS_DIRECTORY}/{}", super::verifiers::NAME)
}

/// The base spec of a handler that has one of the administrator's: its content, and the hook. None for a handler whose
/// name is none for a file.
pub fn beside(handler: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = !handler.is_empty() && handler.len() <= 63 && handler.chars().all(plain);
    is_name.then(|| format!("/etc/pullgate/base-spec-{handler}.json"))
}

/// Whether a base spec at `path` is pullgate's to write and to take away.
pub fn is_ours(path: &Path) -> bool {
    let text = path.to_string_lossy();
    path == Path::new(OF_CONTAINERD)
        || text
            .strip_prefix("/etc/pullgate/base-spec-")
            .and_then(|rest| rest.strip_suffix(".json"))
            .is_some_and(|handler| beside(handler).is_some())
}

/// `text`, containerd's default for every container, with the hook and without what CRI takes out of it where no base
/// spec is set (`WithoutDefaultSecuritySettings`): the limits, the AppArmor profile and the seccomp filter.
///
/// # Errors
/// Where it is no OCI specification.
pub fn of_containerd(text: &str) -> Result<String, String> {
    let spec = read(text)?;
    for key in ["ociVersion", "process", "root", "linux"] {
        if !spec.has(key) {
            return Err(format!("no OCI specification: {key} is missing"));
        }
    }
    let members = spec.members().map(|(key, value)| match key {
        "process" => Ok((key, without(value, &["rlimits", "apparmorProfile"])?)),
        "linux" => Ok((key, without(value, &["seccomp"])?)),
        _ => Ok((key, value.to_owned())),
    });
    let members = members.collect::<Result<BTreeMap<&str, String>, String>>()?;
    pretty(&hooked(&text_of(&members))?)
}

/// `text`, an administrator's base spec, with the hook in front of its own; all else is as it is written there.
///
/// # Errors
/// Where it is no object, or can be read in two ways.
pub fn of_administrator(text: &str) -> Result<String, String> {
    Ok(hooked(text)? + "\n")
}

/// Whether a container with this base spec is started by pullgate's leave alone.
///
/// # Errors
/// Where it cannot be read.
pub fn has_hook(text: &str) -> Result<bool, String> {
    let Some(hooks) = read(text)?.object("hooks", &HOOKS)? else { return Ok(false) };
    let Some(list) = hooks.optional::<Vec<Map<String, Value>>>("createRuntime")? else { return Ok(false) };
    Ok(list.iter().any(|hook| {
        let path = hook.get("path").and_then(Value::as_str);
        let argument = hook.get("args").and_then(|args| args.get(1)?.as_str());
        path == Some(program().as_str()) && argument == Some(ARGUMENT)
    }))
}

fn read(text: &str) -> Result<Object<'_>, String> {
    Object::read(text.as_bytes(), &KEYS)
}

fn hooked(text: &str) -> Result<String, String> {
    if has_hook(text)? {
        return Ok(text.trim_end().to_owned());
    }
    let spec = read(text)?;
    let hooks = spec.object("hooks", &HOOKS)?;
    let mut parts: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in hooks.iter().flat_map(Object::members) {
        parts.insert(key, value.to_owned());
    }
    let ours = json!({ "path": program(), "args": [super::verifiers::NAME, ARGUMENT], "timeout": TIMEOUT });
    // Theirs keep their text: a list of hooks is one value after the other.
    let theirs = match parts.get("createRuntime").map(|list| list.trim()) {
        None | Some("null") => String::new(),
        Some(list) => {
            let inside = list.strip_prefix('[').and_then(|list| list.strip_suffix(']'));
            inside.ok_or("hooks: createRuntime is no list")?.trim().to_owned()
        }
    };
    let separator = if theirs.is_empty() { "" } else { ", " };
    parts.insert("createRuntime", format!("[{ours}{separator}{theirs}]"));
    let hooks = text_of(&parts);
    let mut members: BTreeMap<&str, String> = spec.members().map(|(key, value)| (key, value.to_owned())).collect();
    members.insert("hooks", hooks);
    Ok(text_of(&members))
}

fn without(text: &str, keys: &[&str]) -> Result<String, String> {
    let object = Object::read(text.as_bytes(), keys)?;
    let kept = object.members().filter(|(key, _)| !keys.contains(key));
    Ok(text_of(&kept.map(|(key, value)| (key, value.to_owned())).collect()))
}

fn text_of(members: &BTreeMap<&str, String>) -> String {
    let lines: Vec<String> = members.iter().map(|(key, value)| format!("{}: {value}", json!(key))).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}

/// `text` one value to a line, in the order of the keys.
///
/// # Errors
/// Where it is not JSON.
pub fn pretty(text: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = r#"{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","rlimits":[{"type":
        "RLIMIT_NOFILE","hard":1024,"soft":1024}],"apparmorProfile":"x","noNewPrivileges":true},"root":{"path":"rootfs"},
        "mounts":[{"destination":"/proc"}],"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"},"maskedPaths":["/proc/acpi"],
        "cgroupsPath":"/default"}}"#;

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_cri_takes_out_of_the_default_is_not_in_it() {
        let made = of_containerd(DEFAULT).unwrap();
        let mut expected = value(DEFAULT);
        expected["process"].as_object_mut().unwrap().retain(|key, _| key != "rlimits" && key != "apparmorProfile");
        expected["linux"].as_object_mut().unwrap().remove("seccomp");
        expected["hooks"] = json!({ "createRuntime": [{
            "path": "/usr/libexec/pullgate/verifiers/pullgate-verifier",
            "args": ["pullgate-verifier", "create-runtime"],
            "timeout": 10,
        }] });
        assert_eq!(value(&made), expected);
        assert!(has_hook(&made).unwrap() && !has_hook(DEFAULT).unwrap());
        assert_eq!(of_containerd(&made).unwrap(), made, "twice is once");
    }

    #[test]
    fn an_administrators_spec_keeps_every_byte_of_its_values() {
        let own = r#"{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1.50e3}]},
            "hooks":{"prestart":[{"path":"/a"}],"createRuntime":[ {"path":"/b","env":["x=é"]} ],"other":1}}"#;
        let made = of_administrator(own).unwrap();
        for kept in [
            r#"{"rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1.50e3}]}"#,
            r#"[{"path":"/a"}]"#,
            r#", {"path":"/b","env":["x=é"]}]"#,
        ] {
            assert!(made.contains(kept), "{made}");
        }
        let hooks = &value(&made)["hooks"];
        assert_eq!(hooks["createRuntime"][0]["args"][1].as_str(), Some("create-runtime"));
        assert_eq!((hooks["createRuntime"].as_array().unwrap().len(), hooks["other"].as_i64()), (2, Some(1)));
        assert_eq!(of_administrator(&made).unwrap(), made, "twice is once");
        for none in [
            "{}",
            r#"{"hooks":null}"#,
            r#"{"hooks":{}}"#,
            r#"{"hooks":{"createRuntime":null}}"#,
            r#"{"hooks":{"createRuntime":[]}}"#,
        ] {
            let made = of_administrator(none).unwrap();
            assert!(has_hook(&made).unwrap() && !has_hook(none).unwrap(), "{made}");
            assert_eq!(value(&made)["hooks"]["createRuntime"].as_array().unwrap().len(), 1, "{made}");
        }
    }

    #[test]
    fn another_hook_is_not_ours() {
        let hook =
            |path: &str, args: &str| format!(r#"{{"hooks":{{"createRuntime":[{{"path":"{path}","args":{args}}}]}}}}"#);
        assert!(has_hook(&hook(&program(), r#"["x","create-runtime","more"]"#)).unwrap());
        for other in [
            hook("/bin/true", r#"["pullgate-verifier","create-runtime"]"#),
            hook(&program(), r#"["create-runtime"]"#),
            hook(&program(), "[]"),
            hook(&program(), "null"),
            hook(&program(), r#"["pullgate-verifier","-name"]"#),
            hook(&program(), r#"["x","create-runtime"]"#).replace("createRuntime", "prestart"),
        ] {
            assert!(!has_hook(&other).unwrap(), "{other}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "[]",
            "null",
            "{",
            "{}{}",
            r#"{"hooks":[]}"#,
            r#"{"hooks":{"createRuntime":{}}}"#,
            r#"{"hooks":{"createRuntime":[1]}}"#,
            r#"{"Hooks":{}}"#,
            r#"{"hooKs":{}}"#,
            r#"{"hooks":{},"hooks":{}}"#,
            r#"{"hooks":{"CreateRuntime":[]}}"#,
            r#"{"hooks":{"createRuntime":[],"createRuntime":[]}}"#,
        ] {
            assert!(of_administrator(text).is_err() && has_hook(text).is_err(), "{text}");
            assert!(of_containerd(text).is_err(), "{text}");
        }
        let deep = format!("{{\"process\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(of_administrator(&deep).is_ok_and(|made| has_hook(&made) == Ok(true)));
        assert!(of_containerd(&DEFAULT.replace("\"rootfs\"", &"[".repeat(100_000))).is_err());
        for key in ["ociVersion", "process", "root", "linux"] {
            assert!(of_containerd(&DEFAULT.replace(key, "x")).unwrap_err().contains(key));
        }
        assert!(of_containerd(&DEFAULT.replace("rlimits", "RLimits")).is_err());
    }

    #[test]
    fn names_of_handlers_do_not_lead_elsewhere() {
        assert_eq!(beside("nvidia-cdi.2"), Some("/etc/pullgate/base-spec-nvidia-cdi.2.json".into()));
        for name in ["", "../../x", "a/b", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert_eq!(beside(name), None, "{name}");
        }
        for ours in ["/etc/pullgate/base-spec.json", "/etc/pullgate/base-spec-runc.json"] {
            assert!(is_ours(Path::new(ours)));
        }
        for other in [
            "/etc/containerd/base.json",
            "/etc/pullgate/base-spec-.json",
            "/etc/pullgate/base-spec-../x.json",
            "base-spec.json",
        ] {
            assert!(!is_ours(Path::new(other)), "{other}");
        }
    }
}
