//! The policy document against what is published about it: the JSON Schema and the manual.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "authority/mod.rs"]
mod authority;
#[path = "policy/bad.rs"]
mod bad;
#[path = "policy/commands.rs"]
mod commands;
#[path = "policy/schema.rs"]
mod schema;

use std::{collections::BTreeSet, sync::OnceLock};

use pullgate::policy::{KEYS, Policy, SCHEMA};
use serde_json::{Value, json};

const MANUAL: &str = include_str!("../docs/policy.md");
const SHIPPED: &str = include_str!("../config/policy.toml");

fn parse(text: &str) -> Result<Policy, String> {
    let text = text.replace("ed25519", "ecdsa-p256-sha256");
    Policy::parse("policy.toml", &text, &read).map_err(|problems| problems.to_string())
}

/// What is in a file that a document names.
fn read(file: &str) -> Result<String, String> {
    static AUTHORITY: OnceLock<authority::Authority> = OnceLock::new();
    let authority = || AUTHORITY.get_or_init(|| authority::Authority::new("acme"));
    match file.rsplit('.').next() {
        Some("json") => Ok(authority().trusted_root()),
        Some("pem") => Ok(authority().fulcio.root.pem()),
        _ => Ok(fresh_key()),
    }
}

fn fresh_key() -> String {
    sigstore_crypto::KeyPair::generate_ecdsa_p256().unwrap().public_key_der().unwrap().to_pem()
}

fn published() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// The table of the schema that stands for `table` of the parser.
fn table<'s>(schema: &'s Value, table: &str) -> &'s Value {
    let defs = &schema["$defs"];
    match table {
        "" => schema,
        "attestor.keys" => &defs["key"],
        "attestor.identities" => &defs["identity"],
        "attestor.identities.subject" => &defs["pattern-of-text"],
        "attestor.authorities" => &defs["authority"],
        "floor" => &defs["rule"],
        "require" => &defs["requirement"],
        "require.at-least" => &defs["requirement"]["properties"]["at-least"],
        name => &defs[name],
    }
}

#[test]
fn every_key_of_the_parser_is_one_of_the_schema_and_the_other_way_round() {
    let published = published();
    for (name, keys) in KEYS {
        let in_schema: BTreeSet<&str> =
            table(&published, name)["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(in_schema, keys.iter().copied().collect(), "[{name}]");
        assert_eq!(table(&published, name)["additionalProperties"], json!(false), "[{name}]");
    }
    let tables = published["$defs"].as_object().unwrap().values().filter(|def| def.get("properties").is_some());
    // The document, each table, and the one within a requirement; rules and floors share one.
    assert_eq!(tables.count() + 3, KEYS.len());
}

/// The examples of the manual, each a whole document.
fn examples() -> Vec<&'static str> {
    let blocks = MANUAL.split("```toml\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    blocks.filter(|block| block.contains("schema = 1")).collect()
}

fn as_json(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap()
}

#[test]
fn what_the_parser_takes_the_schema_takes() {
    let (published, examples) = (published(), examples());
    assert!(examples.len() >= 3, "docs/policy.md has an example for each stage");
    for text in examples.into_iter().chain([SHIPPED]) {
        parse(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
        assert_eq!(schema::mistakes(&published, &as_json(text)), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    let published = published();
    let around = |rule: &str| {
        format!(
            "schema = 1\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\n[[attestor]]\nname = \"b\"\nmay-sign = [\"signature\"]\n\
             [[rule]]\nname = \"r\"\nimages = [\"reg.io/x\"]\nrequire = \"deny\"\n{rule}\n[default]\nrequire = \"deny\""
        )
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    let whole = around(&format!(
        "mode = \"audit\"\naudit-until = \"2027-01-01T00:00:00Z\"\nnamespaces = [\"n\"]\nnodes = {{ env = \"x\" }}\ncontact = \"c\"\nmessage = \"m\"\n\
         [[rule]]\nname = \"s\"\nimages = [\"reg.io/y:v*\", \"reg.io/z/**\"]\nrequire = {{ at-least = {{ count = 1, of = [\"a\", {{ all = [\"b\"] }}, {{ digests = [\"{digest}\"] }}] }} }}"
    ));
    parse(&whole).unwrap();
    assert_eq!(schema::mistakes(&published, &as_json(&whole)), Vec::<String>::new());
    for (from, to) in [
        ("schema = 1", "schema = 2"),
        ("schema = 1", "schema = \"1\""),
        ("[default]", "[defaults]"),
        ("require = \"deny\"", "require = \"allow\""),
        ("require = \"deny\"", "requires = \"deny\""),
        ("images = [\"reg.io/x\"]", "images = []"),
        ("images = [\"reg.io/x\"]", "images = \"reg.io/x\""),
        ("\"reg.io/x\"", "\"reg.io/*/x\""),
        ("\"reg.io/x\"", "\"reg.io\""),
        ("\"reg.io/x\"", "3"),
        ("may-sign = [\"signature\"]", "may-sign = []"),
        ("may-sign = [\"signature\"]", "may-sign = [\"signatures\"]"),
        ("may-sign = [\"signature\"]", ""),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nformats = [\"sig\"]"),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nkeys = [{ file = \"x\" }]"),
        (
            "may-sign = [\"signature\"]",
            "may-sign = [\"signature\"]\nkeys = [{ file = \"x\", pem = \"y\", algorithm = \"ed25519\" }]",
        ),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nkeys = [{ algorithm = \"ed25519\" }]"),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nkeys = [{ file = \"x\", algorithm = \"dsa\" }]"),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nidentities = [{ root = \"t\", issuer = \"i\" }]"),
        (
            "may-sign = [\"signature\"]",
            "may-sign = [\"signature\"]\nidentities = [{ root = \"t\", issuer = \"i\", subject = { pattern = \"s\" } }]",
        ),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nauthorities = [{ email = \"i\" }]"),
        ("may-sign = [\"signature\"]", "may-sign = [\"signature\"]\nrepositories = []"),
        ("schema = 1", "schema = 1\n[[trust-root]]\nname = \"t\""),
        ("schema = 1", "schema = 1\n[[trust-root]]\nname = \"t\"\nfile = \"t.json\"\nlogs = -1"),
        ("schema = 1", "schema = 1\n[[trust-root]]\nname = \"t\"\nfile = \"t.json\"\nlogs = 9"),
        ("name = \"r\"", "name = \"a b\""),
        ("name = \"r\"", ""),
        ("mode = \"audit\"", "mode = \"warn\""),
        ("namespaces = [\"n\"]", "namespaces = []"),
        ("namespaces = [\"n\"]", "namespaces = [\"n*\"]"),
        ("{ env = \"x\" }", "{}"),
        ("{ env = \"x\" }", "{ env = 3 }"),
        ("{ env = \"x\" }", "{ env = \"x \" }"),
        ("{ env = \"x\" }", "{ \"\" = \"x\" }"),
        ("{ env = \"x\" }", "{ \"en v\" = \"x\" }"),
        ("contact = \"c\"", "contact = \"\""),
        ("message = \"m\"", "message = 1"),
        ("count = 1", "count = 0"),
        ("count = 1", "count = \"1\""),
        ("count = 1, ", ""),
        ("{ all = [\"b\"] }", "{}"),
        ("{ all = [\"b\"] }", "{ all = [\"b\"], any = [\"b\"] }"),
        ("{ all = [\"b\"] }", "{ none = [\"b\"] }"),
        ("{ all = [\"b\"] }", "\"deny it\""),
        ("sha256:0", "sha512:0"),
    ] {
        assert!(whole.contains(from), "{from}");
        let broken = whole.replacen(from, to, 1);
        assert!(parse(&broken).is_err(), "the parser takes {to}");
        assert!(!schema::mistakes(&published, &as_json(&broken)).is_empty(), "the schema takes {to}");
    }
}

#[test]
fn every_key_stands_in_the_manual_once() {
    let rows = |key: &str| MANUAL.lines().filter(|line| line.starts_with(&format!("| `{key}` |"))).count();
    let keys: BTreeSet<&str> = KEYS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    for key in keys {
        assert_eq!(rows(key), 1, "`{key}` in docs/policy.md");
    }
    let told = MANUAL.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for key in told {
        assert!(KEYS.iter().any(|(_, keys)| keys.contains(&key)), "docs/policy.md explains `{key}`, which is no key");
    }
}
