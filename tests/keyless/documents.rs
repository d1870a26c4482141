//! Policies and trust roots that cannot be used: one clear line each, with file and place, before anything is asked.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::*;

/// The line of `file = "acme.json"` in a document of these tables.
const LINE: usize = 4;

/// What is wrong with the policy of [`usual`], whose root is `json` and makes `demands`.
fn problem(json: &str, demands: &str) -> String {
    let tables = usual().replace("file = \"acme.json\"\n", &format!("file = \"acme.json\"\n{demands}"));
    let document = document(REPOSITORY, &tables, "{ all = [\"release\"] }");
    let why = parsed(&[("acme", json.to_owned())], &document).map(drop).unwrap_err();
    assert_eq!(why.lines().count(), 1, "one line: {why}");
    assert!(!why.chars().any(char::is_control), "{why:?}");
    assert!(why.chars().count() <= 400, "{} characters: {why}", why.chars().count());
    why
}

/// The root of `acme` with a change.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut root: Value = serde_json::from_str(&Authority::new("acme").trusted_root()).unwrap();
    change(&mut root);
    root.to_string()
}

#[test]
fn a_root_that_is_none_is_told_with_its_file_and_the_policys_line() {
    let right = Authority::new("acme").trusted_root();
    let mut acme = Authority::new("acme");
    acme.fulcio = Fulcio::new("acme", |_, intermediate| intermediate.ca = None);
    let not_an_authority = acme.trusted_root();
    let duplicated = right.replacen("\"tlogs\":", "\"tlogs\":[],\"tlogs\":", 1);
    for (root, words) in [
        (String::new(), "not a trusted root"),
        ("   ".to_owned(), "not a trusted root"),
        ("null".to_owned(), "not a trusted root"),
        ("[]".to_owned(), "not a trusted root"),
        ("{}".to_owned(), "not a trusted root"),
        ("\u{feff}{}".to_owned(), "not a trusted root"),
        (right[..right.len() / 2].to_owned(), "not a trusted root"),
        (format!("{right}{right}"), "not a trusted root"),
        (duplicated, "duplicate field `tlogs`"),
        (changed(|root| root["mediaType"] = json!("text/plain")), "its mediaType is none of"),
        (changed(|root| root["mediaType"] = json!(7)), "not a trusted root"),
        (changed(|root| root["tlogs"] = json!({})), "not a trusted root"),
        (changed(|root| root["tlogs"] = json!([])), "of transparency logs 1 are asked for, and it has 0"),
        (changed(|root| root["tlogs"][0]["publicKey"]["rawBytes"] = json!("AAAA")), "cannot be used"),
        (changed(|root| root["tlogs"][0]["publicKey"]["rawBytes"] = json!("*")), "not a trusted root"),
        (changed(|root| root["tlogs"][1] = root["tlogs"][0].clone()), "cannot be used"),
        (changed(|root| root["tlogs"] = json!(vec![root["tlogs"][0].clone(); 32])), "cannot be used"),
        (changed(|root| root["tlogs"] = json!(vec![root["tlogs"][0].clone(); 33])), "more than 32 authorities"),
        (changed(|root| root["certificateAuthorities"] = json!([])), "it has no certificate authority"),
        (changed(|root| root["ctlogs"] = json!([])), "it has no certificate transparency log"),
        (changed(|root| root["certificateAuthorities"][0]["certChain"]["certificates"] = json!([])), "cannot be used"),
        (
            changed(|root| {
                root["certificateAuthorities"][0]["certChain"]["certificates"][0]["rawBytes"] = json!("AAAA");
            }),
            "a certificate of https://fulcio.acme.test: not a certificate",
        ),
        (
            changed(|root| root["certificateAuthorities"][0]["validFor"] = json!({ "start": "yesterday" })),
            "not a trusted root",
        ),
        (
            changed(|root| {
                root["certificateAuthorities"][0]["validFor"] =
                    json!({ "start": "2030-01-01T00:00:00Z", "end": "2029-01-01T00:00:00Z" });
            }),
            "are never valid together",
        ),
        (
            changed(|root| {
                root["certificateAuthorities"][0]["uri"] = json!("https://x\n\u{1b}[31m");
                root["certificateAuthorities"][0]["certChain"]["certificates"][0]["rawBytes"] = json!("AAAA");
            }),
            "not a certificate",
        ),
        (not_an_authority, "a certificate of https://fulcio.acme.test: it may not issue others"),
    ] {
        let why = problem(&root, "");
        assert!(why.starts_with(&format!("policy.toml:{LINE}")) || why.starts_with("policy.toml:8"), "{why}");
        assert!(why.contains(words), "{words:?} is not in {why:?}");
    }
}

#[test]
fn demands_that_cannot_be_met_are_told_where_they_stand() {
    let right = Authority::new("acme").trusted_root();
    for (demands, words) in [
        ("logs = 3\n", "acme.json: of transparency logs 3 are asked for, and it has 2"),
        ("timestamps = 2\n", "acme.json: of timestamp authorities 2 are asked for, and it has 1"),
        ("logs = 9\n", "at most 8 can be asked for"),
        ("logs = -1\n", "expected a whole number, 0 or more"),
        ("logs = \"2\"\n", "expected a whole number, 0 or more"),
        ("logs = 0\n", "`logs` or `timestamps` has to be 1 or more"),
        ("log = 2\n", "`log`"),
    ] {
        let why = problem(&right, demands);
        let place = why.split(':').nth(1).and_then(|line| line.parse::<usize>().ok());
        assert!(place.is_some_and(|line| (LINE..=LINE + 1).contains(&line)), "{why}");
        assert!(why.contains(words), "{words:?} is not in {why:?}");
    }
}

#[test]
fn a_root_that_is_not_there_or_not_known_is_told_once() {
    let tables = usual().replace("root = \"acme\"", "root = \"acmee\"");
    let right = [("acme", Authority::new("acme").trusted_root())];
    let check = |files: &Files<'_>, tables: &str| {
        parsed(files, &document(REPOSITORY, tables, "{ all = [\"release\"] }")).map(drop).unwrap_err()
    };
    let why = check(&right, &tables);
    assert!(why.contains("no trust root is called `acmee`; did you mean `acme`?"), "{why}");
    let why = check(&[], &usual());
    assert_eq!(why.lines().count(), 1, "what names it is not told as well: {why}");
    assert!(why.starts_with("policy.toml:4") && why.contains("acme.json: no such file"), "{why}");
    let why = check(&right, &format!("{ACME}{}", usual()));
    assert!(why.contains("acme") && why.starts_with("policy.toml:6"), "{why}");
    let key = Key::new(Algorithm::P384);
    let odd = keyed("release", &key, ", root = \"acme\"").replace("ecdsa-p384-sha384", "ecdsa-p384-sha256");
    let why = check(&right, &format!("{ACME}{odd}"));
    assert!(why.contains("no trust root can be asked about a key with ecdsa-p384-sha256"), "{why}");
    let window = ", from = \"2026-02-01T00:00:00Z\", until = \"2026-01-01T00:00:00Z\"";
    let why = check(&right, &keyed("release", &key, window));
    assert!(why.contains("a key is valid `until` later than `from`"), "{why}");
}

/// A root whose time is over can be used: images that were signed in time still run.
#[test]
fn an_expired_root_is_no_mistake_of_the_policy() {
    let mut acme = Authority::new("acme");
    acme.fulcio.trusted = Window::between("2025-01-01T00:00:00Z", "2026-03-31T00:00:00Z");
    admits(&policy(&acme), &[bundle(&acme.sign(image()))]);
}

#[test]
fn policy_check_tells_it_from_the_files_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("policy.toml"), document(REPOSITORY, &usual(), "{ all = [\"release\"] }")).unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
        let output = command.current_dir(folder.path()).args(["policy", "check", "policy.toml"]).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let right = Authority::new("acme").trusted_root();
    fs::write(at("acme.json"), &right).unwrap();
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
    for (content, words) in [
        (None, "acme.json"),
        (Some(Vec::new()), "not a trusted root"),
        (Some(b"\xff\xfe".to_vec()), "acme.json"),
        (Some(right.as_bytes()[..100].to_vec()), "not a trusted root"),
        (Some(format!("{right}{}", " ".repeat(1 << 20)).into_bytes()), "acme.json"),
    ] {
        fs::remove_file(at("acme.json")).ok();
        if let Some(content) = &content {
            fs::write(at("acme.json"), content).unwrap();
        }
        let (code, text) = check();
        assert_eq!(code, Some(2), "{text}");
        let told: Vec<&str> = text.lines().filter(|line| line.contains("policy.toml:")).collect();
        let [line] = told.as_slice() else { panic!("{text}") };
        assert!(line.contains("policy.toml:4") && line.contains(words), "{text}");
    }
}
