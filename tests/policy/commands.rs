//! `pullgate policy` as its author runs it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{MANUAL, examples, fresh_key};

/// A directory with the manual's last example and its keys.
fn prepared() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("keys")).unwrap();
    for key in ["ci", "qa", "a", "b"] {
        fs::write(directory.path().join(format!("keys/{key}.pub")), fresh_key()).unwrap();
    }
    let staged = |text: &&str| text.contains("[[floor]]");
    let policy = examples().into_iter().find(staged).unwrap().replace("ed25519", "ecdsa-p256-sha256");
    fs::write(directory.path().join("policy.toml"), policy).unwrap();
    directory
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pullgate")).arg("policy").args(arguments).current_dir(directory).output().unwrap()
}

fn told(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {}", told(output).1))
}

fn is_readable(text: &str) {
    // The line of a refusal is as long as a line of a refusal may be.
    for line in text.lines().filter(|line| !line.contains("DENY ") && !line.contains("@sha256:")) {
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn a_sound_policy_is_checked_shown_and_linted() {
    let directory = prepared();
    let (code, text) = told(&run(directory.path(), &["check", "policy.toml"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("policy.toml can be used, revision ")
            && text.contains("4 attestors, 3 rules, 1 floor, 1 exemption"),
        "{text}"
    );
    is_readable(&text);
    let (code, text) = told(&run(directory.path(), &["show", "policy.toml"]));
    assert_eq!(code, Some(0));
    is_readable(&text);
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is missing in\n{text}"));
    assert!(place("payments:") < place("canary:") && place("canary:") < place("default:"), "{text}");
    assert!(text.contains("qa + (release-a or release-b)") && text.contains("env=prod ns payments"), "{text}");
    let (code, text) = told(&run(directory.path(), &["lint", "policy.toml"]));
    assert_eq!((code, text.as_str()), (Some(0), "policy.toml: nothing to remark\n"));
    let schema = json(&run(directory.path(), &["schema"]));
    assert_eq!(schema, super::published());
    let shown = json(&run(directory.path(), &["show", "policy.toml", "-o", "json"]));
    assert_eq!(shown["rules"].as_array().unwrap().len(), 6);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let directory = prepared();
    fs::write(
        directory.path().join("bad.toml"),
        "schema = 1\n[[rule]]\nname = \"r\"\nimages = [\"reg.io\"]\nrequire = { all = [\"x\"] }\nmod = \"audit\"\n[default]\nrequire = \"deny\"\n",
    )
    .unwrap();
    for command in ["check", "lint", "show"] {
        let (code, text) = told(&run(directory.path(), &[command, "bad.toml"]));
        assert_eq!(code, Some(2));
        let places = [
            "bad.toml:4:11: no repository",
            "bad.toml:5:20: no attestor",
            "bad.toml:6:1: unknown key `mod`; did you mean `mode`?",
        ];
        assert!(places.iter().all(|place| text.contains(place)), "{text}");
    }
    let problems = json(&run(directory.path(), &["check", "bad.toml", "-o", "json"]));
    assert_eq!((&problems["usable"], &problems["problems"][1]["column"]), (&Value::Bool(false), &Value::from(20)));
    let (code, text) = told(&run(directory.path(), &["check", "nowhere.toml"]));
    assert_eq!((code, text.as_str()), (Some(2), "pullgate: nowhere.toml: the file is not there\n"));
    let large = directory.path().join("large.toml");
    fs::write(&large, "#".repeat(50 << 20)).unwrap();
    let (code, text) = told(&run(directory.path(), &["check", "large.toml"]));
    assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("large.toml: larger than"), "{text}");
}

#[test]
fn of_many_open_namespaces_a_person_is_shown_some_and_told_how_many_more() {
    let directory = prepared();
    let file = directory.path().join("policy.toml");
    let open = |team| {
        format!(
            "[[rule]]\nname = \"open-{team}\"\nimages = [\"reg.io/team-{team}/**\"]\nnamespaces = [\"team-{team}\"]\n\
             require = \"insecure-accept-anything\"\n"
        )
    };
    let rules: String = (0..11).map(open).collect();
    let text = fs::read_to_string(&file).unwrap().replace("[default]", &format!("{rules}[default]"));
    fs::write(&file, &text).unwrap();
    let (_, shown) = told(&run(directory.path(), &["check", "policy.toml"]));
    assert_eq!(shown.matches("Open before the start").count(), 8, "{shown}");
    assert!(shown.contains("3 more patterns"), "{shown}");
    let (_, each) = told(&run(directory.path(), &["lint", "policy.toml"]));
    assert_eq!(each.matches("open-before-start").count(), 11, "{each}");
}

#[test]
fn an_open_namespace_and_a_lax_default_are_named() {
    let directory = prepared();
    let file = directory.path().join("policy.toml");
    let sandbox = "[[rule]]\nname = \"sandbox\"\nimages = [\"**\"]\nnodes = { env = \"dev\" }\nnamespaces = [\"sandbox\"]\nrequire = \"insecure-accept-anything\"\n[default]";
    let text = fs::read_to_string(&file).unwrap().replace("[default]", sandbox);
    fs::write(&file, &text).unwrap();
    let (code, told_text) = told(&run(directory.path(), &["check", "policy.toml"]));
    assert_eq!(code, Some(0));
    assert!(
        told_text.contains("Open before the start, on nodes env=dev: **\n  rule      \"sandbox\" at policy.toml:"),
        "{told_text}"
    );
    is_readable(&told_text);
    let checked = json(&run(directory.path(), &["check", "policy.toml", "-o", "json"]));
    assert_eq!(checked["openings"][0]["nodes"], serde_json::json!({ "env": "dev" }));
    fs::write(
        &file,
        text.replace("[default]\nrequire = \"deny\"", "[default]\nrequire = \"insecure-accept-anything\""),
    )
    .unwrap();
    let (code, told_text) = told(&run(directory.path(), &["lint", "policy.toml"]));
    assert_eq!(code, Some(1));
    for kind in ["lax-default", "matches-anyone"] {
        assert!(told_text.contains(&format!("({kind})")), "{kind} is missing in\n{told_text}");
    }
}

#[test]
fn an_image_is_explained() {
    let directory = prepared();
    let explain = |arguments: &[&str]| {
        let all = [&["explain"], arguments].concat();
        let (code, text) = told(&run(directory.path(), &all));
        is_readable(&text);
        (code.unwrap(), text)
    };
    let app = "registry.example.com/prod/app:1";
    let (code, text) = explain(&[app, "policy.toml", "--node", "env=prod", "--namespace", "payments"]);
    assert_eq!(code, 3, "{text}");
    for part in [
        "rule      \"payments\" at policy.toml:",
        "and floor \"built-here\"",
        "\"prod\" at policy.toml:",
        "wider than what governs",
        "only on nodes env=canary",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let (code, text) = explain(&["other.example.com/x", "policy.toml"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Refused whatever is signed: PG201 no-matching-rule"), "{text}");
    let agent = format!("agents.example.com/a@sha256:{}", "0".repeat(64));
    let (code, text) = explain(&[&agent, "policy.toml"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("exempt    \"node-agents\""), "{text}");
    assert_eq!(explain(&["a b", "policy.toml"]).0, 2);
    let explained = json(&run(directory.path(), &["explain", app, "policy.toml", "--node", "env=prod", "-o", "json"]));
    let names: Vec<_> =
        explained["rules"].as_array().unwrap().iter().map(|rule| rule["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["prod", "built-here", "payments"]);
}

#[test]
fn service_accounts_are_shown_explained_and_tested() {
    let directory = prepared();
    let file = directory.path().join("policy.toml");
    let payer = "[[rule]]\nname = \"payer\"\nimages = [\"registry.example.com/prod/**\"]\nnodes = { env = \"prod\" }\n\
         service-accounts = [\"payments:payer\"]\nrequire = { all = [\"ci\", \"qa\"] }\n[default]";
    let text = fs::read_to_string(&file).unwrap().replace("[default]", payer);
    fs::write(&file, text).unwrap();
    let says = |arguments: &[&str], parts: &[&str]| {
        let (_, text) = told(&run(directory.path(), arguments));
        for part in parts {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        text
    };
    let shown = says(&["show", "policy.toml"], &["env=prod sa payments:payer"]);
    assert!(shown.lines().any(|line| line.starts_with("1 ") && line.contains("sa payments:payer")), "{shown}");
    says(&["check", "policy.toml"], &["The account payments:payer is known only when"]);
    let app = ["explain", "registry.example.com/prod/app:1", "policy.toml", "--node", "env=prod"];
    let of = |more: &[&'static str], parts: &[&str]| says(&[&app[..], more].concat(), parts);
    of(&["--service-account", "payments:payer"], &["payer, proven", "rule      \"payer\""]);
    of(&["--service-account", "payments:other"], &["rule      \"payments\"", "only for payments:payer"]);
    of(&["--namespace", "payments"], &["not proven: ", "rule      \"payments\"", "rule      \"payer\""]);
    assert_eq!(told(&run(directory.path(), &[&app[..], &["--service-account", "payer"]].concat())).0, Some(2));
    fs::create_dir(directory.path().join("cases")).unwrap();
    let case = |scope: &str, verdict: &str| {
        format!(
            "[[case]]\nname = \"{scope}\"\nimage = \"registry.example.com/prod/app:1\"\nnode = {{ env = \"prod\" }}\n\
             signed-by = [\"ci\", \"qa\"]\n{}\nexpect = {{ verdict = \"{verdict}\" }}\n",
            scope.replace('\'', "\"")
        )
    };
    let cases = [
        case("service-account = 'payments:payer'", "allow"),
        case("service-account = 'payments:other'", "deny"),
        case("namespace = 'payments'", "deny"),
    ];
    let tested = |text: &str| {
        fs::write(directory.path().join("cases/a.toml"), format!("time = \"2026-11-23T12:00:00Z\"\n{text}")).unwrap();
        told(&run(directory.path(), &["test", "cases", "policy.toml"]))
    };
    let (code, text) = tested(&cases.concat());
    assert_eq!(code, Some(0), "{text}");
    for (scope, why) in [
        ("service-account = 'payer'", "NAMESPACE:NAME"),
        ("service-account = 'payments:payer'\nnamespace = 'payments'", "leave out `namespace`"),
    ] {
        let (code, text) = tested(&case(scope, "deny").replacen(scope, "x", 1));
        assert!(code == Some(2) && text.contains(why), "{text}");
    }
}

#[test]
fn cases_are_decided_by_real_signatures_and_what_they_leave_out_is_told() {
    let directory = prepared();
    let cases = directory.path().join("cases");
    fs::create_dir(&cases).unwrap();
    let mut of_manual = MANUAL.split("```toml\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    let of_manual = of_manual.find(|block| block.contains("[[case]]")).unwrap();
    fs::write(cases.join("manual.toml"), of_manual).unwrap();
    let test = |more: &str| {
        fs::write(cases.join("more.toml"), format!("time = \"2026-11-23T12:00:00Z\"\n{more}")).unwrap();
        let (code, text) = told(&run(directory.path(), &["test", "cases", "policy.toml"]));
        is_readable(&text);
        (code.unwrap(), text)
    };
    let case = |rest: &str| {
        format!(
            "[[case]]\nname = \"more\"\nimage = \"registry.example.com/prod/app:1.2\"\nnode = {{ env = \"prod\" }}\n{rest}\n"
        )
    };
    let (code, text) =
        test(&case("signed-by = [\"ci\", \"qa\", \"release-b\"]\nexpect = { verdict = \"allow\", rule = \"prod\" }"));
    assert_eq!(code, 0, "{text}");
    for part in [
        "ok    prod needs a release manager",
        "3 cases, all as expected",
        "Covered: 3 of 6 rules",
        "canary:",
        "no case is about it",
        "ci never missing",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let (code, text) = test(&case(
        "signed-by = [\"ci\", \"qa\"]\nunreachable = true\nexpect = { verdict = \"inconclusive\", code = \"pg302\" }",
    ));
    assert_eq!(code, 0, "{text}");
    let (code, text) =
        test(&case("signed-by = [\"qa\", \"release-a\"]\nexpect = { verdict = \"allow\", rule = \"prod\" }"));
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("FAIL  more")
            && text.contains("expected ALLOW, is DENY; expected rule \"prod\", is \"built-here\""),
        "{text}"
    );
    assert!(text.contains("more.toml:2: ") && text.contains("DENY PG102 rule \"built-here\":"), "{text}");
    for (broken, expected) in [
        ("signed-by = [\"cii\"]\nexpect = { verdict = \"deny\" }", "more.toml:6:14: no attestor is called `cii`"),
        ("expect = { verdict = \"maybe\" }", "unknown value `maybe`"),
        ("evidence = [\"none.json\"]\nexpect = { verdict = \"deny\" }", "the file is not there"),
        ("expects = { verdict = \"deny\" }", "unknown key `expects`; did you mean `expect`?"),
    ] {
        let (code, text) = test(&case(broken));
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    fs::write(cases.join("more.toml"), case("expect = { verdict = \"deny\" }")).unwrap();
    assert!(told(&run(directory.path(), &["test", "cases", "policy.toml"])).1.contains("when? write `time ="));
    fs::create_dir(directory.path().join("empty")).unwrap();
    assert_eq!(told(&run(directory.path(), &["test", "empty", "policy.toml"])).0, Some(2));
    fs::write(cases.join("more.toml"), "").unwrap();
    assert_eq!(told(&run(directory.path(), &["test", "cases", "policy.toml"])).0, Some(2));
    fs::remove_file(cases.join("more.toml")).unwrap();
    let tested = json(&run(directory.path(), &["test", "cases", "policy.toml", "-o", "json"]));
    assert_eq!(
        (&tested["cases"][0]["passed"], &tested["coverage"]["rules"]["all"]),
        (&Value::Bool(true), &Value::from(6))
    );
}

#[test]
fn evidence_that_a_node_kept_is_decided_by_the_attestors_own_keys() {
    let directory = tempfile::tempdir().unwrap();
    let key = sigstore_crypto::KeyPair::generate_ecdsa_p256().unwrap();
    let image = pullgate::image::Digest::of(b"image");
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{image}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let signature = base64(key.sign(payload.as_bytes()).unwrap().as_bytes());
    let found = serde_json::json!({ "material": { "simple-signing": { "payload": base64(payload.as_bytes()), "signature": signature } }, "place": "reg.io/x" });
    let kept =
        serde_json::json!({ "evidence": [{ "first-seen": "2026-11-23T12:00:00Z", "found": found }], "indexes": [] });
    fs::create_dir(directory.path().join("cases")).unwrap();
    fs::write(directory.path().join("cases/app.json"), kept.to_string()).unwrap();
    let case = |image: &str, verdict: &str| {
        format!(
            "[[case]]\nname = \"{verdict}\"\nimage = \"reg.io/x@{image}\"\nevidence = [\"app.json\"]\nexpect = {{ verdict = \"{verdict}\" }}\n"
        )
    };
    let other = pullgate::image::Digest::of(b"other");
    let cases = format!(
        "time = \"2026-11-23T12:00:00Z\"\n{}{}",
        case(&image.to_string(), "allow"),
        case(&other.to_string(), "deny")
    );
    fs::write(directory.path().join("cases/cases.toml"), cases).unwrap();
    let policy = format!(
        "schema = 1\n[[attestor]]\nname = \"ci\"\nmay-sign = [\"signature\"]\nkeys = [{{ pem = '''{}''', algorithm = \"ecdsa-p256-sha256\" }}]\n\
         [[rule]]\nname = \"r\"\nimages = [\"reg.io/x\"]\nrequire = {{ all = [\"ci\"] }}\n[default]\nrequire = \"deny\"\n",
        key.public_key_der().unwrap().to_pem()
    );
    fs::write(directory.path().join("policy.toml"), policy).unwrap();
    let (code, text) = told(&run(directory.path(), &["test", "cases", "policy.toml"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("2 cases, all as expected\nCovered: 1 of 2 rules, 1 of 1 requirement both met and missing"),
        "{text}"
    );
}
