use super::*;

fn policy(rest: &str) -> Policy {
    let attestor =
        |name: &str, more: &str| format!("[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\n{more}");
    let key = format!(
        "keys = [{{ pem = '''{}''', algorithm = \"ecdsa-p256-sha256\" }}]\n",
        crate::trust::testing::pem(&crate::trust::testing::key())
    );
    let default = if rest.contains("[default]") { "" } else { "[default]\nrequire = \"deny\"\n" };
    let text = format!("{rest}\n{default}{}{}{}schema = 1\n", attestor("ci", &key), attestor("qa", ""), "");
    let text = format!("schema = 1\n{}", text.replace("schema = 1\n", ""));
    Policy::parse("policy.toml", &text, &|_| Err("no file".into())).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn rule(name: &str, images: &str, require: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nimages = [\"{images}\"]\nrequire = {require}\n{more}\n")
}

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn kinds(policy: &Policy) -> Vec<&'static str> {
    let remarks = policy.lint(now());
    remarks.iter().map(|remark| remark.kind).filter(|kind| *kind != "unused-attestor").collect()
}

const CI: &str = "{ all = [\"ci\"] }";

#[test]
fn each_thing_is_noticed_and_nothing_in_a_sound_policy() {
    let sound = rule("prod", "reg.io/prod/**", CI, "nodes = { env = \"prod\" }") + &rule("dev", "reg.io/**", CI, "");
    for (text, expected) in [
        (sound.clone(), &[][..]),
        (format!("{sound}[default]\nrequire = \"insecure-accept-anything\""), &["lax-default"]),
        (format!("{sound}[default]\nrequire = \"deny\"\nmode = \"audit\""), &["lax-default"]),
        (
            format!("{}[default]\nrequire = {CI}", rule("r", "reg.io/x", "{ all = [\"ci\", \"qa\"] }", "")),
            &["never-met", "lax-default"],
        ),
        (rule("r", "reg.io/x", "{ all = [\"qa\"] }", ""), &["never-met"]),
        (rule("r", "reg.io/x", "{ any = [\"qa\", \"ci\"] }", ""), &[]),
        (rule("r", "**", "\"insecure-accept-anything\"", ""), &["matches-anyone"]),
        (rule("r", "docker.io/**", "\"insecure-accept-anything\"", ""), &["matches-anyone"]),
        (rule("r", "docker.io/ours/**", "\"insecure-accept-anything\"", ""), &[]),
        (rule("r", "reg.io/prod**", CI, ""), &["within-a-word"]),
        (rule("r", "reg.io/x", CI, "mode = \"audit\"\naudit-until = \"2026-11-23T11:00:00Z\""), &["audit-ended"]),
        (
            rule("r", "reg.io/x", CI, &format!("message = \"{}\"", "x".repeat(limits::ADVICE_CHARS + 1))),
            &["long-message"],
        ),
        ("[[exempt]]\nname = \"e\"".to_owned(), &["exempts-nothing"]),
        ("[[exempt]]\nname = \"e\"\ninsecure-images = [\"**\"]".to_owned(), &["matches-anyone"]),
        (
            rule("r", "reg.io/x/y", CI, "") + "[[exempt]]\nname = \"e\"\ninsecure-images = [\"reg.io/x/**\"]",
            &["shadowed"],
        ),
        (
            rule("never", "reg.io/prod/bad", "\"deny\"", "")
                + &rule("prod", "reg.io/prod/**", CI, "nodes = { env = \"prod\" }"),
            &["shadowed"],
        ),
    ] {
        assert_eq!(kinds(&policy(&text)), expected, "{text}");
    }
}

#[test]
fn a_lax_namespace_opens_the_gates_before_the_start() {
    let text = rule("prod", "reg.io/**", CI, "")
        + &rule(
            "sandbox",
            "**",
            "\"insecure-accept-anything\"",
            "namespaces = [\"sandbox\"]\nnodes = { env = \"dev\" }",
        )
        + &rule(
            "strict",
            "**",
            "{ all = [\"ci\", \"qa\"] }",
            "namespaces = [\"payments\"]\nnodes = { env = \"prod\" }",
        );
    let policy = policy(&format!("{text}[default]\nrequire = {CI}"));
    let openings = policy.openings(now());
    let told: Vec<_> =
        openings.iter().map(|o| (o.rule.name.as_str(), within(o.rule), o.against.name.as_str())).collect();
    assert_eq!(told, [("sandbox", "on nodes env=dev in namespace sandbox".to_owned(), "prod")]);
    // Stricter everywhere it counts, but something where the default is nothing.
    let policy = super::tests::policy(&rule("n", "reg.io/**", CI, "namespaces = [\"n\"]"));
    assert_eq!(policy.openings(now())[0].against.name, "default");
}

#[test]
fn one_requirement_is_laxer_than_another_where_it_can_be_met_without_it() {
    let laxer = |ours: &str, theirs: &str| {
        let policy = policy(&(rule("a", "reg.io/a", ours, "") + &rule("b", "reg.io/b", theirs, "")));
        policy.is_laxer(&policy.rules[0], &policy.rules[1], now())
    };
    let (any, all) = ("{ any = [\"ci\", \"qa\"] }", "{ all = [\"ci\", \"qa\"] }");
    for (ours, theirs, expected) in [
        (any, all, true),
        (all, any, false),
        (CI, any, false),
        (any, CI, true),
        (CI, CI, false),
        ("\"deny\"", CI, false),
        (CI, "\"deny\"", true),
        ("\"insecure-accept-anything\"", CI, true),
        (CI, "\"insecure-accept-anything\"", false),
    ] {
        assert_eq!(laxer(ours, theirs), expected, "{ours} {theirs}");
    }
}

#[test]
fn what_ended_and_who_could_be_anybody_is_noticed() {
    let pem = crate::trust::testing::pem(&crate::trust::testing::key());
    let root = crate::trust::testing::log_root();
    let text = format!(
        "schema = 1\n[[trust-root]]\nname = \"used\"\nfile = \"root.json\"\n[[trust-root]]\nname = \"unused\"\nfile = \"root.json\"\n\
         [[attestor]]\nname = \"ci\"\nmay-sign = [\"signature\"]\n\
         keys = [{{ pem = '''{pem}''', algorithm = \"ecdsa-p256-sha256\", root = \"used\", until = \"2026-11-23T12:00:00Z\" }}]\n\
         [[rule]]\nname = \"r\"\nimages = [\"reg.io/x\"]\nrequire = {CI}\n[default]\nrequire = \"deny\"\n"
    );
    let policy = Policy::parse("policy.toml", &text, &|_| Ok(root.clone())).unwrap_or_else(|why| panic!("{why}"));
    let remarks = |now: &str| policy.lint(now.parse().unwrap()).into_iter().map(|it| it.kind).collect::<Vec<_>>();
    assert_eq!(remarks("2026-11-23T11:59:59Z"), ["unused-trust-root"]);
    assert_eq!(remarks("2026-11-23T12:00:00Z"), ["key-ended", "unused-trust-root"]);
    let ended = remarks("2030-01-01T00:00:00Z");
    assert_eq!(ended, ["key-ended", "trust-root-ended", "trust-root-ended", "unused-trust-root"]);
}
