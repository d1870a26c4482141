use super::*;
use crate::{
    policy::{Group, Member, Requirement},
    trust::testing::{key, pem},
};

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
    assert_eq!(policy.rules[0].require, Requirement::at_least(2, [0, 1]));
    assert_eq!(policy.rules[1].mode, Mode::Audit(Some("2027-01-31T00:00:00Z".parse().unwrap())));
    let select = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        policy.select(Some(&name.parse().unwrap()), &labels, crate::policy::scope::Whose::Anybody).name.clone()
    };
    assert_eq!(select("reg.io/prod/a", &[("env", "prod")]), "prod");
    assert_eq!(select("REG.io.:443/prod/a", &[("env", "prod")]), "prod");
    assert_eq!(select("reg.io/prod/a", &[("env", "qa")]), "default");
    assert_eq!(select("reg.io/dev/a", &[]), "dev");
    assert_eq!(policy.select(None, &BTreeMap::new(), crate::policy::scope::Whose::Anybody).name, "default");
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
        ("[default]\nrequire = \"deny\"".into(), "policy.toml:2:17: missing key `schema`"),
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
        (rule("require = {}"), "exactly one of `all`, `any`, `at-least` and `digests`"),
        (rule("require = { all = [\"ci\"], any = [\"qa\"] }"), "exactly one of"),
        (rule("require = { all = [] }"), "name at least one"),
        (rule("require = { at-least = { count = 0, of = [\"ci\"] } }"), "0 of 1: ask for 1 to 1"),
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
        (
            rule("require = { all = [\"ci\", { any = [\"qa\", { all = [\"x\"] }] }] }"),
            "policy.toml:21:50: no attestor is called `x`",
        ),
        (rule("require = { all = [\"ci\", { any = [\"qa\", \"ci\"] }] }"), "`ci` is named twice in one requirement"),
        (rule("require = { all = [\"cj\"] }"), "policy.toml:21:20: no attestor is called `cj`; did you mean `ci`?"),
        (
            rule("require = { any = [{ any = [{ any = [{ any = [{ any = [\"ci\"] }] }] }] }] }"),
            "more than 4 requirements within each other",
        ),
        (rule("require = { any = [\"ci\", 3] }"), "expected the name of an attestor, or a table"),
        (rule("require = { any = \"ci\" }"), "expected a list in brackets, found a text"),
        (rule("require = { at-least = { count = \"2\", of = [\"ci\"] } }"), "expected a whole number"),
        (rule("require = { at-least = { count = -1, of = [\"ci\"] } }"), "expected a whole number"),
        (rule("require = { at-least = { of = [\"ci\"] } }"), "missing key `count`"),
        (
            rule("require = { at-least = { count = 1, off = [\"ci\"], of = [\"ci\"] } }"),
            "unknown key `off`; did you mean `of`?",
        ),
        (rule("require = { digests = [] }"), "no digest is pinned"),
        (rule("require = { digests = [\"sha256:12\"] }"), "policy.toml:21:24: not a digest"),
        (rule("require = \"deny\"\nnamespaces = []"), "no namespace at all"),
        (rule("require = \"deny\"\nnamespaces = [\"pay*\"]"), "not a Kubernetes namespace"),
        (rule("require = \"deny\"\nnamespaces = [\"a\", \"a\"]"), "policy.toml:22:20: `a` is named twice"),
        (rule("require = \"deny\"\ncontact = \"\""), "1 to 64 characters"),
        (
            rule(&format!("require = \"deny\"\ncontact = \"{}\"", "x".repeat(limits::CONTACT_CHARS + 1))),
            "1 to 64 characters",
        ),
        (
            rule(&format!("require = \"deny\"\nmessage = \"{}\"", "x".repeat(limits::RULE_MESSAGE_CHARS + 1))),
            "1 to 160 characters",
        ),
        (rule("require = \"deny\"\nmessage = \"a\\nb\""), "one line without control characters"),
        (rule("require = \"deny\"").replace("reg.io/**", "reg.io/x:v1"), "this denies every tag of `reg.io/x`"),
        (
            rule("require = \"insecure-accept-anything\"").replace("reg.io/**", "reg.io/x:v1"),
            "keeps no tag with a name",
        ),
        (
            rule("require = { all = [\"ci\"] }").replace("[[rule]]", "[[floor]]").replace("reg.io/**", "reg.io/x:v1"),
            "a floor counts for every tag",
        ),
        (
            rule("require = { all = [\"ci\"] }").replace("reg.io/**", "reg.io/x:-v"),
            "not a tag, or the beginning of one",
        ),
        (
            rule("require = { all = [\"ci\"] }").replace("\"reg.io/**\"", "\"reg.io/x:v1\", \"reg.io/x\""),
            "without one it admits every tag",
        ),
        (rule("require = { all = [\"ci\"] }").replace("\"reg.io/**\"", "\"reg.io/x\", \"REG.io/x\""), "is named twice"),
        (rule("require = \"deny\"").replace("[[rule]]", "[rule]"), "write it in double brackets"),
        (
            rule("require = \"deny\"\nnodes = { env = 3 }"),
            "policy.toml:22:17: expected a text in quotes, found a number",
        ),
        (rule("require = \"deny\"\nnodes = \"env=prod\""), "expected a table, found a text"),
        (rule("require = \"deny\"\nnodes = {}"), "policy.toml:22:9: no label at all"),
        (rule("require = \"deny\"\nnodes = { env = \"prod \" }"), "policy.toml:22:9: `env=prod `: not a label"),
        (rule("require = \"deny\"\nnodes = { \"env\\u200b\" = \"prod\" }"), "`env?=prod`: not a label"),
        (
            rule("require = \"deny\"\nmode = \"audit\"\naudit-until = 2027-01-31T00:00:00Z"),
            "found a time without quotes",
        ),
        (
            rule("require = \"deny\"\n[[floor]]\nname = \"r\"\nimages = [\"reg.io/x\"]\nrequire = { any = [\"ci\"] }"),
            "a rule and a floor are called `r`",
        ),
        (
            rule(
                "require = \"deny\"\nnamespaces = [\"a\", \"b\"]\n[[rule]]\nname = \"s\"\nimages = [\"reg.io/**\"]\nnamespaces = [\"b\"]\nrequire = \"deny\"",
            ),
            "governed by `r` and `s` alike",
        ),
        (with_keys("[[exempt]]\nname = \"x\"\ninsecure-images = [\"reg.io/x:v1\"]"), "exempt digests instead"),
        (with_keys("[[exempt]]\nname = \"boot-list\""), "`boot-list` is the node's own"),
        (with_keys("[[exempt]]\nname = \"x\"\ndigests = [\"sha256:12\"]"), "not a digest"),
        (with_keys("[[exempt]]\nname = \"x\"\ninsecure-images = [\"reg.io:1/x\"]"), "exempt digests instead"),
        (with_keys("").replacen("ecdsa-p256-sha256", "rsa-pss-sha256", 1), "which is not what the algorithm says"),
        (
            with_keys("").replacen("ecdsa-p256-sha256", "dsa", 1),
            "unknown algorithm `dsa`; known here: ecdsa-p256-sha256",
        ),
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
fn several_mistakes_are_told_at_once_in_the_order_of_the_document() {
    let text = rule("require = { all = [\"xx\", \"yy\"] }\nmode = \"warn\"\nnods = {}\ncontact = 3")
        .replace("reg.io/**", "reg.io");
    let found = errors(&text);
    let places: Vec<&str> = found.lines().filter_map(|line| line.split(": ").next()).collect();
    let lines = ["20:11", "21:20", "21:26", "22:8", "23:1", "24:11"].map(|place| format!("policy.toml:{place}"));
    assert_eq!(places, lines, "{found}");
}

#[test]
fn of_many_mistakes_a_person_is_told_some() {
    let rules: String = (0..limits::PROBLEMS + 7)
        .map(|i| format!("[[rule]]\nname = \"r{i}\"\nimages = [\"reg.io/{i}\"]\nrequire = \"dny\"\n"))
        .collect();
    let found = errors(&with_keys(&rules));
    assert_eq!(found.lines().count(), limits::PROBLEMS + 1, "{found}");
    assert!(found.ends_with("policy.toml: and 7 more mistakes"), "{found}");
}

#[test]
fn a_requirement_is_no_deeper_and_no_wider_than_a_person_can_read() {
    let nested = |depth: usize| format!("require = {}\"ci\"{}", "{ any = [".repeat(depth), "] }".repeat(depth));
    assert!(parse(&rule(&nested(limits::REQUIREMENT_DEPTH))).is_ok());
    assert!(errors(&rule(&nested(limits::REQUIREMENT_DEPTH + 1))).contains("make it flatter"));
    let attestors = |count: usize| -> String {
        (0..count).map(|i| format!("[[attestor]]\nname = \"a{i}\"\nmay-sign = [\"signature\"]\n")).collect()
    };
    let names = |of: std::ops::Range<usize>| of.map(|i| format!("\"a{i}\"")).collect::<Vec<_>>().join(", ");
    let wide = |count: usize| {
        let rule = format!("[[rule]]\nname = \"r\"\nimages = [\"**\"]\nrequire = {{ any = [{}] }}", names(0..count));
        with_keys(&format!("{}{rule}", attestors(count)))
    };
    assert!(parse(&wide(limits::REQUIREMENT_ATTESTORS)).is_ok());
    assert!(errors(&wide(limits::REQUIREMENT_ATTESTORS + 1)).contains("make it flatter"));
    // Each group of two is another two ways; half of 2 n groups can be chosen in many.
    let ways = |groups: usize, count: usize| {
        let of: Vec<String> = (0..groups).map(|i| format!("{{ all = [{}] }}", names(2 * i..2 * i + 2))).collect();
        let require = format!("require = {{ at-least = {{ count = {count}, of = [{}] }} }}", of.join(", "));
        let rule = format!("[[rule]]\nname = \"r\"\nimages = [\"**\"]\n{require}");
        parse(&with_keys(&format!("{}{rule}", attestors(2 * groups))))
    };
    assert!(
        ways(10, 5).is_ok_and(
            |policy| matches!(&policy.rules[0].require, Requirement::Of(group) if group.count_ways() == 252)
        )
    );
    assert_eq!(limits::REQUIREMENT_WAYS, 256);
    assert!(ways(11, 5).unwrap_err().to_string().contains("make it flatter"));
}

#[test]
fn requirements_stand_within_each_other_and_beside_pinned_digests() {
    let digest = Digest::of(b"x");
    let text = format!("require = {{ all = [\"ci\", {{ any = [{{ digests = [\"{digest}\"] }}, \"qa\"] }}] }}");
    let policy = parse(&rule(&text)).unwrap();
    let inner = Group { count: 1, of: vec![Member::Digests(vec![digest]), Member::Attestor(1)] };
    let expected = Group { count: 2, of: vec![Member::Attestor(0), Member::Group(inner)] };
    assert_eq!(policy.rules[0].require, Requirement::Of(expected));
    let pinned = parse(&rule(&format!("require = {{ digests = [\"{digest}\"] }}"))).unwrap();
    let expected = Group { count: 1, of: vec![Member::Digests(vec![digest])] };
    assert_eq!(pinned.rules[0].require, Requirement::Of(expected));
}

#[test]
fn a_floor_may_stand_where_a_rule_does() {
    let text = rule("require = { all = [\"ci\"] }");
    let floor = "[[floor]]\nname = \"f\"\nimages = [\"reg.io/**\"]\nrequire = { all = [\"qa\"] }\nmessage = \"ask qa\"\n[[floor]]\nname = \"g\"\nimages = [\"reg.io/**\"]\nrequire = \"deny\"\n";
    let policy = parse(&text.replace("[default]", &format!("{floor}[default]"))).unwrap();
    let told: Vec<_> =
        policy.floors.iter().map(|floor| (floor.name.as_str(), floor.line, floor.message.as_deref())).collect();
    assert_eq!(told, [("f", 23, Some("ask qa")), ("g", 28, None)]);
}

#[test]
fn every_key_that_is_known_is_read() {
    let digest = Digest::of(b"x");
    let key = format!("{{ pem = '''{}''', algorithm = \"ecdsa-p256-sha256\" }}", pem(&key()));
    let text = format!(
        "schema = 1\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\nkeys = [{key}]\nformats = [\"bundle\"]\nannotations = {{ a = \"b\" }}\n\
         [[rule]]\nname = \"r\"\nimages = [\"reg.io/x:v*\"]\nnodes = {{ env = \"qa\" }}\nnamespaces = [\"n\"]\nrequire = {{ at-least = {{ count = 1, of = [\"a\"] }} }}\n\
         mode = \"audit\"\naudit-until = \"2027-01-31T00:00:00Z\"\ncontact = \"c\"\nmessage = \"m\"\n\
         [[exempt]]\nname = \"e\"\ndigests = [\"{digest}\"]\ninsecure-images = [\"reg.io/y\"]\n[default]\nrequire = {{ any = [\"a\"] }}\ncontact = \"d\"\nmessage = \"n\"",
    );
    let policy = parse(&text).unwrap();
    let rule = &policy.rules[0];
    assert_eq!((rule.namespaces.as_slice(), rule.nodes.0["env"].as_str()), (["n".to_owned()].as_slice(), "qa"));
    assert_eq!(rule.tags[&rule.images[0]][0].to_string(), "v*");
    assert_eq!((rule.contact.as_deref(), rule.message.as_deref()), (Some("c"), Some("m")));
    assert_eq!((policy.default.contact.as_deref(), policy.default.message.as_deref()), (Some("d"), Some("n")));
    assert_eq!(policy.attestors[0].annotations["a"], "b");
    assert!(policy.exempts(&digest) && policy.exempt[0].insecure_images.len() == 1);
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
fn rules_are_told_apart_by_as_many_sets_of_labels_as_a_person_can_compare() {
    let document = |count: usize| {
        let rules = (0..count).map(|i| {
            format!("[[rule]]\nname = \"r{i}\"\nimages = [\"**\"]\nnodes = {{ env = \"v{i}\", l{i} = \"x\" }}\nrequire = \"deny\"\n")
        });
        format!("schema = 1\n{}[default]\nrequire = \"deny\"", rules.collect::<String>())
    };
    assert!(parse(&document(limits::LABEL_SETS)).is_ok());
    let found = errors(&document(limits::LABEL_SETS + 1));
    assert!(found.contains("more than 64 sets of labels") && found.lines().count() == 1, "{found}");
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

#[test]
fn a_service_account_stands_in_the_place_of_a_namespace() {
    let of = |scope: &str| rule(&format!("{scope}\nrequire = \"deny\""));
    let policy = parse(&of("service-accounts = [\"shop:payer\", \"web:payer\"]")).unwrap();
    let named: Vec<String> = policy.rules[0].accounts.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["shop:payer", "web:payer"]);
    for (scope, why) in [
        ("service-accounts = []", "no service account at all"),
        ("service-accounts = [\"payer\"]", "NAMESPACE:NAME"),
        ("service-accounts = [\"shop:*\"]", "NAMESPACE:NAME"),
        ("service-accounts = [\"system:serviceaccount:shop:payer\"]", "NAMESPACE:NAME"),
        ("service-accounts = [\"shop:payer\", \"shop:payer\"]", "is named twice"),
        ("service-accounts = [\"shop:payer\"]\nnamespaces = [\"shop\"]", "leave out `namespaces`"),
        ("service-accounts = \"shop:payer\"", "expected"),
        ("service-account = [\"shop:payer\"]", "did you mean `service-accounts`?"),
    ] {
        let told = parse(&of(scope)).unwrap_err().to_string();
        assert!(told.contains(why), "{scope}: {told}");
    }
    let pair = |account: &str| {
        let one = |name: &str, account: &str| {
            format!(
                "[[rule]]\nname = \"{name}\"\nimages = [\"reg.io/**\"]\nservice-accounts = [\"{account}\"]\nrequire = \"deny\"\n"
            )
        };
        parse(&with_keys(&format!("{}{}", one("one", "shop:payer"), one("two", account))))
    };
    assert!(pair("web:payer").is_ok() && pair("shop:a").is_ok());
    assert!(pair("shop:payer").unwrap_err().to_string().contains("no rule is the narrower one"));
}
