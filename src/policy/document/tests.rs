use super::*;
use crate::trust::testing::{key, pem};

fn parse(text: &str) -> Result<Policy, Problems> {
    Policy::parse("policy.toml", text, &|path| Err(format!("{path} is not there")))
}

fn errors(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn with_keys(rest: &str) -> String {
    let attestor = |name: &str| {
        format!(
            "[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\nkeys = [{{ pem = '''{}''', algorithm = \"ecdsa-p256-sha256\" }}]\n",
            pem(&key())
        )
    };
    format!("schema = 1\n{}{}{rest}\n[default]\nrequire = \"deny\"\n", attestor("ci"), attestor("qa"))
}

fn rule(rest: &str) -> String {
    with_keys(&format!("[[rule]]\nname = \"r\"\nimages = [\"reg.io/**\"]\n{rest}\n"))
}

#[test]
fn a_whole_policy_reads() {
    let policy = parse(&with_keys(
        r#"
[[rule]]
name = "prod"
images = ["reg.io/prod/**", "reg.io:5000/prod/**"]
nodes = { env = "prod" }
require = { at-least = { count = 2, of = ["ci", "qa"] } }
contact = "release team"
[[rule]]
name = "dev"
images = ["reg.io/dev/*"]
require = "insecure-accept-anything"
mode = "audit"
audit-until = "2027-01-31T00:00:00Z"
[[exempt]]
name = "boot"
digests = ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
insecure-images = ["k8s.io/pause"]"#,
    ))
    .unwrap();
    assert_eq!(policy.rules[0].require, Requirement::AtLeast { count: 2, of: vec![0, 1] });
    assert_eq!(policy.rules[1].mode, Mode::Audit(Some("2027-01-31T00:00:00Z".parse().unwrap())));
    let select = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        policy.select(Some(&name.parse().unwrap()), &labels).name.clone()
    };
    assert_eq!(select("reg.io/prod/a", &[("env", "prod")]), "prod");
    assert_eq!(select("REG.io.:443/prod/a", &[("env", "prod")]), "prod");
    assert_eq!(select("reg.io/prod/a", &[("env", "qa")]), "default");
    assert_eq!(select("reg.io/dev/a", &[]), "dev");
    assert_eq!(policy.select(None, &BTreeMap::new()).name, "default");
}

#[test]
fn the_revision_and_the_content_of_a_rule_change_with_a_key() {
    let text = rule("require = { all = [\"ci\"] }");
    let (a, again) = (parse(&text).unwrap(), parse(&text).unwrap());
    let b = parse(&rule("require = { all = [\"ci\"] }")).unwrap();
    assert_eq!((&a.revision, a.rules[0].content), (&again.revision, again.rules[0].content));
    assert_ne!(a.revision, b.revision);
    assert_ne!(a.rules[0].content, b.rules[0].content);
    assert_eq!(a.default.content, b.default.content);
}

#[test]
fn each_mistake_is_one_error_with_its_place_and_its_mend() {
    for (text, expected) in [
        (String::new(), "policy.toml:1:1: missing key `schema`"),
        ("schema = 1".into(), "missing key `default`"),
        ("schema = 2\n[default]\nrequire = \"deny\"".into(), "policy.toml:1:10: this pullgate reads schema 1"),
        (
            "schema = 1\n[default]\nrequire = \"allow\"".into(),
            "policy.toml:3:11: unknown requirement `allow`; known: \"deny\"",
        ),
        (
            "schema = 1\n[default]\nrequire = \"deny\"\n[defaults]".into(),
            "unknown key `defaults`; did you mean `default`?",
        ),
        (rule("require = { al = [\"ci\"] }"), "unknown key `al`; did you mean `all`?"),
        (rule("require = {}"), "exactly one of `all`, `any` and `at-least`"),
        (rule("require = { all = [\"ci\"], any = [\"qa\"] }"), "exactly one of"),
        (rule("require = { all = [] }"), "name at least one"),
        (rule("require = { at-least = { count = 0, of = [\"ci\"] } }"), "name at least one"),
        (rule("require = { at-least = { count = 3, of = [\"ci\", \"qa\"] } }"), "ask for 1 to 2"),
        (rule("require = { all = [\"xx\"] }"), "no attestor is called `xx`"),
        (rule("require = { all = [\"ci\", \"ci\"] }"), "`ci` is named twice"),
        (rule("require = true"), "expected \"deny\""),
        (rule("require = \"deny\"\nmode = \"warn\""), "a mode is \"enforce\" or \"audit\""),
        (rule("require = \"deny\"\naudit-until = \"2027-01-31T00:00:00Z\""), "goes with `mode = \"audit\"`"),
        (rule("require = \"deny\"\nmode = \"audit\"\naudit-until = \"soon\""), "not a time like"),
        (rule("require = \"deny\"").replace("reg.io/**", "reg.io/*/x"), "stands only at the end"),
        (rule("require = \"deny\"").replace("[\"reg.io/**\"]", "[]"), "a rule for no image"),
        (rule("require = \"deny\"").replace("name = \"r\"", "name = \"default\""), "call the rule something else"),
        (rule("require = \"deny\"").replace("name = \"r\"", "name = \"a b\""), "a name has 1 to 64"),
        (rule("require = \"insecure-accept-anything\"").replace("reg.io/**", "reg.io:5000/**"), "keeps no port"),
        (
            rule("require = \"deny\"\n[[rule]]\nname = \"s\"\nimages = [\"REG.io:443/**\"]\nrequire = \"deny\""),
            "governed by `r` and `s` alike",
        ),
        (
            rule("require = \"deny\"\n[[rule]]\nname = \"r\"\nimages = [\"reg.io/x\"]\nrequire = \"deny\""),
            "a second rule is called `r`",
        ),
        (with_keys("[[exempt]]\nname = \"x\"\ndigests = [\"sha256:12\"]"), "not a digest"),
        (with_keys("[[exempt]]\nname = \"x\"\ninsecure-images = [\"reg.io:1/x\"]"), "exempt digests instead"),
        (with_keys("").replacen("ecdsa-p256-sha256", "rsa-pss-sha256", 1), "which is not what the algorithm says"),
        (with_keys("").replacen("ecdsa-p256-sha256", "dsa", 1), "unknown algorithm; known: ecdsa-p256-sha256"),
        (with_keys("[[attestor]]\nname = \"x\"\nmay-sign = [\"signature\"]\nformats = []"), "no form counts"),
        (
            with_keys("[[attestor]]\nname = \"x\"\nmay-sign = [\"signature\"]\nformats = [\"attestation-tag\"]"),
            "none of these forms holds",
        ),
        (
            with_keys("[[attestor]]\nname = \"x\"\nmay-sign = [\"signature\"]\nformats = [\"bundel\"]"),
            "unknown value `bundel`; did you mean `bundle`?",
        ),
        (with_keys("[[attestor]]\nname = \"x\"\nmay-sign = []"), "may sign nothing"),
        (with_keys("[[attestor]]\nname = \"x\"\nmay-sign = [\"signatures\"]"), "neither \"signature\" nor the URI"),
        (
            with_keys(
                "[[attestor]]\nname = \"x\"\nmay-sign = [\"signature\"]\nkeys = [{ file = \"x.pub\", algorithm = \"ed25519\" }]",
            ),
            "x.pub: x.pub is not there",
        ),
        (
            with_keys("[[attestor]]\nname = \"x\"\nmay-sign = [\"signature\"]\nkeys = [{ algorithm = \"ed25519\" }]"),
            "either `file` or `pem`",
        ),
    ] {
        let found = errors(&text);
        assert!(found.contains(expected), "{text}\n{found}\n{expected}");
        assert!(found.starts_with("policy.toml:"), "{found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn several_mistakes_are_told_at_once() {
    let found = errors(&rule("require = { all = [\"xx\"] }\nmode = \"warn\"").replace("reg.io/**", "reg.io"));
    assert_eq!(found.lines().count(), 3, "{found}");
}

#[test]
fn one_key_cannot_stand_for_two_attestors_of_one_requirement() {
    let shared = pem(&key());
    let attestor = |name: &str| {
        format!(
            "[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\nkeys = [{{ pem = '''{shared}''', algorithm = \"ecdsa-p256-sha256\" }}]\n"
        )
    };
    let text = format!(
        "schema = 1\n{}{}[[rule]]\nname = \"r\"\nimages = [\"**\"]\nrequire = {{ all = [\"a\", \"b\"] }}\n[default]\nrequire = \"deny\"",
        attestor("a"),
        attestor("b")
    );
    assert!(errors(&text).contains("`a` and `b` share a key"));
}

#[test]
fn a_document_of_any_size_is_bounded() {
    assert!(errors(&"#".repeat(limits::DOCUMENT_BYTES as usize + 1)).contains("larger than"));
}

#[test]
fn rules_know_their_lines() {
    let text = "schema = 1\n\n[default]\nrequire = \"deny\"\n\n# prod\n[[rule]]\nname = \"prod\"\nimages = [\"reg.io/p/**\"]\nrequire = \"deny\"\n\
                [[exempt]]\nname = \"x\"\n\n  [[rule]]\n\n  images = [\"reg.io/q/**\"]\n  name = \"q\"\n  require = \"deny\"\n[rule.nodes]\nenv = \"qa\"\n";
    let policy = parse(text).unwrap();
    let lines: Vec<usize> = policy.rules.iter().map(|rule| rule.line).collect();
    assert_eq!((lines, policy.exempt[0].line, policy.default.line), (vec![7, 14], 11, 3));
    let inline = parse("schema = 1\ndefault = { require = \"deny\" }\nrule = [\n  { name = \"r\", images = [\"**\"], require = \"deny\" },\n]").unwrap();
    assert_eq!((inline.default.line, inline.rules[0].line), (2, 4));
}
