use proptest::prelude::*;

use super::*;
use crate::{
    policy::{
        decision::{Code, Decision, Verdict},
        evaluate::{Answer, Findings, Origin},
        scope::{Account, Scope},
    },
    trust::testing::{key, pem},
    verify::Vouched,
};

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn policy(rest: &str) -> Policy {
    let attestor = |name: &str| {
        format!(
            "[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\nkeys = [{{ pem = '''{}''', algorithm = \"ecdsa-p256-sha256\" }}]\n",
            pem(&key())
        )
    };
    let default = if rest.contains("[default]") { "" } else { "[default]\nrequire = \"deny\"\n" };
    let text = format!("schema = 1\n{}{}{rest}\n{default}", attestor("ci"), attestor("release"));
    Policy::parse("policy.toml", &text, &|_| Err("no file".into())).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn rule(name: &str, images: &str, require: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nimages = [\"{images}\"]\nrequire = {require}\n{more}\n")
}

fn floor(name: &str, images: &str, require: &str, more: &str) -> String {
    rule(name, images, require, more).replace("[[rule]]", "[[floor]]")
}

fn image() -> Digest {
    Digest::of(b"image")
}

fn subject(name: &str) -> Subject {
    Subject::new(image(), Some(name.parse().unwrap()), Origin::Fetched)
}

/// What is decided when the attestors `signed` vouch.
fn decide(policy: &Policy, subject: &Subject, signed: &[&str]) -> Decision {
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let attestors = policy.attestors.iter().filter(|attestor| signed.contains(&attestor.name.as_str()));
    let vouched = attestors.map(|attestor| Vouched::for_test(attestor, 0, Purpose::Signature, image()));
    let findings = Findings { vouched: vouched.collect(), ..Findings::default() };
    match policy.ask(subject, &labels, now()) {
        Answer::Settled(decision) => decision,
        Answer::NeedsEvidence(governing) => {
            let decision = policy.evaluate(&governing, subject, &findings, now());
            assert_eq!(
                policy.satisfied(&governing, subject, &findings.vouched),
                decision.verdict == Verdict::Allow,
                "{decision:?}"
            );
            decision
        }
    }
}

fn told(decision: &Decision) -> (Verdict, Option<&str>, Option<Code>) {
    (decision.verdict, decision.rule.as_deref(), decision.code())
}

#[test]
fn a_floor_counts_beside_every_rule_and_every_exemption() {
    let policy = policy(&format!(
        "{}{}{}{}[[exempt]]\nname = \"agent\"\ndigests = [\"{}\"]\n",
        rule("open", "reg.io/open/**", "\"insecure-accept-anything\"", ""),
        rule("prod", "reg.io/prod/**", "{ all = [\"release\"] }", ""),
        rule("shut", "reg.io/shut/**", "\"deny\"", ""),
        floor("built", "reg.io/**", "{ all = [\"ci\"] }", ""),
        image(),
    ));
    let policy_without = |name: &str| {
        let other = Subject { digest: Digest::of(b"other"), ..subject(name) };
        told(&decide(&policy, &other, &[])).0
    };
    assert_eq!(policy_without("reg.io/open/x"), Verdict::Deny);
    for (name, signed, expected) in [
        ("reg.io/open/x", &[][..], (Verdict::Deny, Some("built"), Some(Code::Unsigned))),
        ("reg.io/open/x", &["release"], (Verdict::Deny, Some("built"), Some(Code::UntrustedAttestor))),
        ("reg.io/open/x", &["ci"], (Verdict::Allow, Some("agent"), None)),
        ("reg.io/prod/x", &["ci"], (Verdict::Allow, Some("agent"), None)),
        ("other.io/prod/x", &[], (Verdict::Allow, Some("agent"), None)),
    ] {
        assert_eq!(told(&decide(&policy, &subject(name), signed)), expected, "{name} {signed:?}");
    }
}

#[test]
fn a_floor_and_the_rule_are_both_told() {
    let policy = policy(&format!(
        "{}{}",
        rule("prod", "reg.io/prod/**", "{ all = [\"release\"] }", ""),
        floor("built", "**", "{ all = [\"ci\"] }", ""),
    ));
    let prod = subject("reg.io/prod/x");
    for (signed, expected) in [
        (&["ci", "release"][..], (Verdict::Allow, Some("prod"), None)),
        (&["ci"], (Verdict::Deny, Some("prod"), Some(Code::UntrustedAttestor))),
        (&["release"], (Verdict::Deny, Some("built"), Some(Code::UntrustedAttestor))),
        (&[], (Verdict::Deny, Some("prod"), Some(Code::Unsigned))),
    ] {
        let decision = decide(&policy, &prod, signed);
        assert_eq!(told(&decision), expected, "{signed:?}");
        assert_eq!(decision.grounds.required.len(), 3, "{:?}", decision.grounds);
        assert!(decision.grounds.required[1].is_floor() && decision.grounds.required[1].attestor == "built");
        assert!(decision.valid_until.is_some());
    }
    let neither = decide(&policy, &prod, &[]);
    assert!(neither.violations[1].found.starts_with("rule \"built\" as well: no signature"), "{neither:?}");
    let both = decide(&policy, &prod, &["ci", "release"]);
    assert_eq!(both.attestors, ["release", "ci"]);
    // Nothing is known of a name: `**` is about it all the same.
    let nameless = Subject { name: None, ..prod };
    let open = super::tests::policy(&format!(
        "{}[default]\nrequire = {{ all = [\"release\"] }}",
        floor("built", "**", "{ all = [\"ci\"] }", "")
    ));
    assert_eq!(told(&decide(&open, &nameless, &["release"])).1, Some("built"));
    assert_eq!(decide(&open, &nameless, &["release", "ci"]).verdict, Verdict::Allow);
}

#[test]
fn a_floor_that_only_audits_is_recorded_and_admits() {
    let policy = policy(&format!(
        "{}{}",
        rule("prod", "reg.io/prod/**", "{ all = [\"release\"] }", ""),
        floor("built", "**", "{ all = [\"ci\"] }", "mode = \"audit\"\naudit-until = \"2026-11-23T12:00:10Z\""),
    ));
    let decision = decide(&policy, &subject("reg.io/prod/x"), &["release"]);
    assert_eq!((told(&decision).1, decision.audit_only), (Some("built"), true));
    assert_eq!(decision.valid_until, "2026-11-23T12:00:10Z".parse().ok());
    let decision = decide(&policy, &subject("reg.io/prod/x"), &["ci"]);
    assert_eq!((told(&decision).1, decision.audit_only), (Some("prod"), false));
}

#[test]
fn before_the_start_a_namespace_in_which_it_is_admitted_is_enough() {
    let policy = policy(&format!(
        "{}{}{}{}",
        rule("prod", "reg.io/**", "{ all = [\"release\"] }", ""),
        rule("sandbox", "**", "\"insecure-accept-anything\"", "namespaces = [\"sandbox\", \"play\"]"),
        rule("payments", "**", "{ all = [\"ci\", \"release\"] }", "namespaces = [\"payments\"]"),
        floor("guard", "**", "\"deny\"", "namespaces = [\"play\"]"),
    ));
    let within = |namespace: Option<&str>, signed: &[&str]| {
        let subject = subject("reg.io/x").in_namespace(namespace.map(str::to_owned).into());
        let decision = decide(&policy, &subject, signed);
        (decision.verdict, decision.rule.unwrap())
    };
    let allow = |rule: &str| (Verdict::Allow, rule.to_owned());
    let deny = |rule: &str| (Verdict::Deny, rule.to_owned());
    assert_eq!(within(None, &[]), allow("sandbox"));
    assert_eq!(within(Some("sandbox"), &[]), allow("sandbox"));
    assert_eq!(within(Some("play"), &[]), deny("guard"));
    assert_eq!(within(Some("payments"), &["release"]), deny("payments"));
    assert_eq!(within(Some("payments"), &["release", "ci"]), allow("payments"));
    assert_eq!(within(Some("web"), &[]), deny("prod"));
    assert_eq!(within(Some("web"), &["release"]), allow("prod"));
    // A name that an archive claims opens nothing.
    let claimed = Subject { origin: Origin::Claimed, ..subject("reg.io/x") };
    assert_eq!(decide(&policy, &claimed, &[]).verdict, Verdict::Deny);
}

#[test]
fn a_rule_for_a_service_account_counts_for_the_proven_one_and_what_is_unproven_must_meet_all() {
    let policy = policy(&format!(
        "{}{}{}{}{}",
        rule("all", "reg.io/**", "{ all = [\"release\"] }", ""),
        rule("shop", "**", "{ any = [\"ci\", \"release\"] }", "namespaces = [\"shop\"]"),
        rule("lax", "**", "\"insecure-accept-anything\"", "service-accounts = [\"shop:debug\", \"web:debug\"]"),
        rule("strict", "**", "{ all = [\"ci\", \"release\"] }", "service-accounts = [\"shop:payer\"]"),
        floor("never", "**", "\"deny\"", "service-accounts = [\"web:evil\"]"),
    ));
    let of = |account: &str| Namespace::Of(account.parse().unwrap());
    let is = |namespace: &str| Namespace::Is(namespace.to_owned());
    let decided = |namespace: Namespace, signed: &[&str]| {
        let decision = decide(&policy, &subject("reg.io/x").in_namespace(namespace), signed);
        (decision.verdict == Verdict::Allow, decision.rule.unwrap())
    };
    for (namespace, signed, expected) in [
        (of("shop:debug"), &[][..], (true, "lax")),
        (of("shop:payer"), &["release"], (false, "strict")),
        (of("shop:payer"), &["ci", "release"], (true, "strict")),
        (of("shop:default"), &["ci"], (true, "shop")),
        (of("shop:default"), &[], (false, "shop")),
        // An account of this name in another namespace is another account.
        (of("other:debug"), &["ci"], (false, "all")),
        (of("web:debug"), &[], (true, "lax")),
        (of("web:evil"), &["ci", "release"], (false, "never")),
        (of("web:other"), &["release"], (true, "all")),
        // Unproven: the laxest opens nothing, and the strictest holds.
        (is("shop"), &[], (false, "shop")),
        (is("shop"), &["release"], (false, "strict")),
        (is("shop"), &["ci", "release"], (true, "shop")),
        (is("web"), &["ci", "release"], (false, "never")),
        (is("other"), &["release"], (true, "all")),
        (Namespace::Outside, &["release"], (true, "all")),
        (Namespace::Outside, &[], (false, "all")),
        // Before the start some account must admit.
        (Namespace::NotKnown, &[], (true, "lax")),
    ] {
        let (allowed, rule) = decided(namespace.clone(), signed);
        assert_eq!((allowed, rule.as_str()), expected, "{namespace:?} {signed:?}");
    }
    let told = decide(&policy, &subject("reg.io/x").in_namespace(is("shop")), &["release"]);
    assert!(told.grounds.required.iter().any(|required| required.attestor == "strict"), "{:?}", told.grounds);
    assert!(
        policy.asks_for_namespaces() && policy.asks_for_accounts_of("shop") && !policy.asks_for_accounts_of("other")
    );
}

#[test]
fn a_floor_holds_in_every_namespace_that_could_admit() {
    let policy = policy(&format!(
        "{}{}",
        rule("sandbox", "**", "\"insecure-accept-anything\"", "namespaces = [\"sandbox\"]"),
        floor("built", "**", "{ all = [\"ci\"] }", ""),
    ));
    assert_eq!(told(&decide(&policy, &subject("reg.io/x"), &[])).0, Verdict::Deny);
    assert_eq!(told(&decide(&policy, &subject("reg.io/x"), &["ci"])).1, Some("sandbox"));
}

#[test]
fn a_tag_restricts_and_never_hands_over_to_a_wider_rule() {
    let policy = policy(&format!(
        "{}{}",
        rule("app", "reg.io/app:prod-*\", \"reg.io/app:stable", "{ all = [\"release\"] }", ""),
        rule("rest", "reg.io/**", "\"insecure-accept-anything\"", ""),
    ));
    let asked = |tag: Tag| {
        let decision = decide(&policy, &subject("reg.io/app").tagged(tag), &["release"]);
        (decision.verdict, decision.code(), decision.rule.unwrap())
    };
    let is = |tag: &str| Tag::Is(tag.to_owned());
    for (tag, expected) in [
        (is("prod-7"), (Verdict::Allow, None)),
        (is("stable"), (Verdict::Allow, None)),
        (Tag::NotKept, (Verdict::Allow, None)),
        (is("dev-7"), (Verdict::Deny, Some(Code::TagNotAdmitted))),
        (Tag::None, (Verdict::Deny, Some(Code::TagNotAdmitted))),
    ] {
        let (verdict, code, rule) = asked(tag.clone());
        assert_eq!(((verdict, code), rule.as_str()), (expected, "app"), "{tag:?}");
    }
    let unsigned = decide(&policy, &subject("reg.io/app").tagged(is("prod-7")), &[]);
    assert_eq!(unsigned.code(), Some(Code::Unsigned));
    for (reference, tag) in [
        ("reg.io/app:prod-7".to_owned(), is("prod-7")),
        ("reg.io/app".to_owned(), is("latest")),
        (format!("reg.io/app:prod-7@{}", image()), Tag::None),
        (format!("reg.io/app@{}", image()), Tag::None),
    ] {
        assert_eq!(Tag::from(&reference.parse::<crate::image::Reference>().unwrap()), tag, "{reference}");
    }
}

#[test]
fn every_image_is_also_one_without_a_name() {
    let policy = policy(&format!(
        "{}{}{}[default]\nrequire = {{ any = [\"ci\", \"release\"] }}\n",
        rule("all", "**", "{ all = [\"ci\"] }", "nodes = { env = \"prod\" }"),
        rule("payments", "**", "{ all = [\"ci\", \"release\"] }", "namespaces = [\"payments\"]"),
        rule("named", "reg.io/**", "\"deny\"", "namespaces = [\"web\"]"),
    ));
    let within = |namespace: &str, signed: &[&str]| {
        let nameless = Subject::new(image(), None, Origin::Claimed).in_namespace(Namespace::Is(namespace.to_owned()));
        let decision = decide(&policy, &nameless, signed);
        (decision.verdict, decision.rule.unwrap())
    };
    assert_eq!(within("payments", &["ci"]), (Verdict::Deny, "payments".to_owned()));
    assert_eq!(within("payments", &["ci", "release"]), (Verdict::Allow, "payments".to_owned()));
    assert_eq!(within("web", &["release"]), (Verdict::Deny, "all".to_owned()));
    assert_eq!(within("web", &["ci"]), (Verdict::Allow, "all".to_owned()));
    let nowhere = policy.select(None, &BTreeMap::new(), Whose::Anybody);
    assert_eq!(nowhere.name, "default");
}

#[test]
fn pinned_digests_need_no_signer_and_no_proven_name() {
    let (here, other) = (image(), Digest::of(b"other"));
    let policy = policy(&format!(
        "{}{}",
        rule("pinned", "reg.io/pinned", &format!("{{ digests = [\"{here}\"] }}"), ""),
        rule("either", "reg.io/either", &format!("{{ any = [\"release\", {{ digests = [\"{here}\"] }}] }}"), ""),
    ));
    for (name, digest, signed, expected) in [
        ("reg.io/pinned", here, &[][..], (Verdict::Allow, None)),
        ("reg.io/pinned", other, &["ci", "release"], (Verdict::Deny, Some(Code::DigestNotPinned))),
        ("reg.io/either", here, &[], (Verdict::Allow, None)),
        ("reg.io/either", other, &[], (Verdict::Deny, Some(Code::Unsigned))),
    ] {
        let subject = Subject { digest, origin: Origin::Claimed, ..subject(name) };
        let decision = decide(&policy, &subject, signed);
        assert_eq!((decision.verdict, decision.code()), expected, "{name} {digest}");
    }
}

#[test]
fn what_is_kept_is_kept_for_these_rules_in_this_mode_alone() {
    let text = rule("prod", "reg.io/**", "{ all = [\"ci\"] }", "");
    let keys = policy(&text);
    let identity = |policy: &Policy, subject: &Subject, now: Timestamp| {
        policy.governing(subject, &BTreeMap::new()).identity(subject, now)
    };
    let base = identity(&keys, &subject("reg.io/x"), now());
    assert_eq!(base, identity(&keys, &subject("reg.io/y"), now()));
    assert_eq!(base, identity(&keys, &subject("reg.io/x").in_namespace(Namespace::Is("n".into())), now()));
    let from_host = Subject { origin: Origin::FetchedFromHost, ..subject("reg.io/x") };
    assert_ne!(base, identity(&keys, &from_host, now()), "a name that is not proven admits less");
    let tagged = policy(&rule("app", "reg.io/app:prod-*", "{ all = [\"ci\"] }", ""));
    let asked = |tag: &str| identity(&tagged, &subject("reg.io/app").tagged(Tag::Is(tag.to_owned())), now());
    assert_eq!(asked("prod-1"), asked("prod-2"));
    assert_ne!(asked("prod-1"), asked("dev-1"), "a tag that is not admitted shares no decision with one that is");
    // The same document with other keys.
    assert_ne!(base, identity(&policy(&text), &subject("reg.io/x"), now()));
    let audits = policy(&rule(
        "prod",
        "reg.io/**",
        "{ all = [\"ci\"] }",
        "mode = \"audit\"\naudit-until = \"2026-11-24T00:00:00Z\"",
    ));
    let later: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
    assert_ne!(identity(&audits, &subject("reg.io/x"), now()), identity(&audits, &subject("reg.io/x"), later));
}

#[test]
fn a_decision_is_restated_in_the_words_of_the_rule_it_is_about() {
    let text = |contact: &str| {
        format!(
            "{}{}",
            rule("prod", "reg.io/prod/**", "{ all = [\"release\"] }", ""),
            floor("built", "**", "{ all = [\"ci\"] }", &format!("contact = \"{contact}\""))
        )
    };
    let (before, after) = (policy(&text("old")), policy(&format!("# moved\n{}", text("new"))));
    let prod = subject("reg.io/prod/x");
    let decided = decide(&before, &prod, &["release"]);
    assert_eq!((decided.rule.as_deref(), decided.contact.as_deref()), (Some("built"), Some("old")));
    let governing = after.governing(&prod, &BTreeMap::new());
    let restated = after.restate(decided.clone(), &governing, &prod, now());
    assert_eq!((restated.rule.as_deref(), restated.contact.as_deref()), (Some("built"), Some("new")));
    assert_ne!(restated.rule_at, decided.rule_at);
    assert_eq!((restated.revision.as_str(), &restated.violations), (after.revision.as_str(), &decided.violations));
}

/// Rules drawn from a few names, so that they meet: pattern, node label, namespace or service account.
fn rules() -> impl Strategy<Value = Vec<(String, Option<String>, Option<String>)>> {
    let host = prop_oneof![Just("reg.io"), Just("REG.io:443"), Just("other.io:5000")];
    let path = "[ab]{1,2}(/[ab]{1,2})?";
    let pattern = (host, path, prop_oneof![Just(""), Just("*"), Just("**"), Just("/**"), Just("/*")])
        .prop_map(|(host, path, end)| format!("{host}/{path}{end}"));
    let pattern = prop_oneof![9 => pattern, 1 => Just("**".to_owned()), 1 => Just("reg.io/**".to_owned())];
    let rule = (pattern, proptest::option::of("[pq]"), proptest::option::of("[mn](:[ab])?"));
    proptest::collection::vec(rule, 1..24)
}

/// The policy of those of the drawn rules that tie with none before them.
fn drawn_policy(drawn: &[(String, Option<String>, Option<String>)]) -> Policy {
    let mut parts = super::super::Parts {
        file: String::new(),
        revision: String::new(),
        roots: Vec::new(),
        attestors: Vec::new(),
        rules: Vec::new(),
        floors: Vec::new(),
        exempt: Vec::new(),
        default: bare("default", &[]),
    };
    for (at, (pattern, env, namespace)) in drawn.iter().enumerate() {
        let mut rule = bare(&format!("r{at}"), &[pattern]);
        rule.nodes.0.extend(env.iter().map(|env| ("env".to_owned(), env.clone())));
        match namespace.as_ref().map(|text| (text, text.parse())) {
            Some((_, Ok(account))) => rule.accounts.push(account),
            Some((namespace, Err(_))) => rule.namespaces.push(namespace.clone()),
            None => {}
        }
        let ties = |known: &Rule| scope(&rule, &rule.images[0]).ties_with(&scope(known, &known.images[0]));
        if !parts.rules.iter().any(ties) {
            parts.rules.push(rule);
        }
    }
    parts.into()
}

fn accounts() -> [Account; 5] {
    ["m:a", "m:b", "n:a", "n:b", "m:c"].map(|text| text.parse().unwrap())
}

fn bare(name: &str, images: &[&str]) -> Rule {
    Rule {
        name: name.to_owned(),
        line: 0,
        content: Digest::of(name.as_bytes()),
        images: images.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        tags: BTreeMap::new(),
        nodes: Default::default(),
        namespaces: Vec::new(),
        accounts: Vec::new(),
        require: super::super::Requirement::Deny,
        mode: Default::default(),
        contact: None,
        message: None,
    }
}

fn scope<'r>(rule: &'r Rule, images: &'r Pattern) -> Scope<'r> {
    Scope { accounts: &rule.accounts, namespaces: &rule.namespaces, nodes: &rule.nodes, images }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_index_selects_what_looking_at_every_rule_selects(
        drawn in rules(),
        name in "(reg\\.io|other\\.io:5000|third\\.io)/[ab]{1,2}(/[ab]{1,2}){0,2}",
        env in proptest::option::of("[pq]"),
        whose in proptest::option::of("[mn](:[ab])?"),
    ) {
        let policy = drawn_policy(&drawn);
        let account = whose.as_ref().and_then(|text| text.parse().ok());
        let whose = match (&account, &whose) {
            (Some(account), _) => Whose::Account(account),
            (None, Some(namespace)) => Whose::Namespace(namespace),
            (None, None) => Whose::Anybody,
        };
        let name: Repository = name.parse().unwrap();
        let labels: BTreeMap<String, String> = env.iter().map(|env| ("env".to_owned(), env.clone())).collect();
        let about: Vec<&Rule> = policy.rules.iter().filter(|rule| {
            rule.images[0].matches(&name) && rule.nodes.selects(&labels) && rule.counts_for(whose)
        }).collect();
        let narrowest = about.iter().copied().max_by(|a, b| scope(a, &a.images[0]).cmp_narrowness(&scope(b, &b.images[0])));
        let selected = policy.select(Some(&name), &labels, whose);
        prop_assert_eq!(&selected.name, narrowest.map_or("default", |rule| rule.name.as_str()));
        let first = policy.in_order().into_iter().map(|(rule, _)| rule).find(|rule| about.iter().any(|known| std::ptr::eq(*known, *rule)));
        prop_assert_eq!(&selected.name, first.map_or("default", |rule| rule.name.as_str()));
        // The order is total among them, and a narrower rule never loses to a wider one.
        for (at, one) in about.iter().enumerate() {
            for other in &about[at + 1..] {
                let order = scope(one, &one.images[0]).cmp_narrowness(&scope(other, &other.images[0]));
                prop_assert_ne!(order, std::cmp::Ordering::Equal);
                let (wide, narrow) = if order.is_lt() { (one, other) } else { (other, one) };
                prop_assert!(!std::ptr::eq(selected, *wide) || std::ptr::eq(*wide, *narrow));
            }
        }
        // What governs before the start is what governs in some namespace.
        let subject = Subject::new(image(), Some(name.clone()), Origin::Fetched);
        let mut names: Vec<&str> = policy.governing(&subject, &labels).rules().iter().map(|rule| rule.name.as_str()).collect();
        let accounts = accounts();
        let all = ["m", "n", "elsewhere"].map(Whose::Namespace).into_iter().chain(accounts.iter().map(Whose::Account));
        let all = all.chain([Whose::Anybody]);
        let mut exact: Vec<&str> = all.map(|whose| policy.select(Some(&name), &labels, whose).name.as_str()).collect();
        names.sort_unstable();
        exact.sort_unstable();
        exact.dedup();
        prop_assert_eq!(names, exact);
    }

    #[test]
    fn an_unproven_account_gets_what_every_account_gets_and_nothing_more(
        drawn in rules(),
        floors in rules(),
        name in "reg\\.io/[ab]{1,2}(/[ab]{1,2}){0,2}",
        env in proptest::option::of("[pq]"),
        admits in any::<u64>(),
        tags in any::<u64>(),
    ) {
        let mut policy = drawn_policy(&drawn);
        let floors = drawn_policy(&floors);
        let require = |rule: &mut Rule, at: usize| {
            let laxest = crate::policy::Requirement::InsecureAcceptAnything;
            rule.require = if admits >> at & 1 == 1 { laxest } else { crate::policy::Requirement::Deny };
            if tags >> at & 1 == 1 {
                rule.tags.insert(rule.images[0].clone(), vec![TagPattern::parse("v1").unwrap()]);
            }
        };
        policy.rules.iter_mut().enumerate().for_each(|(at, rule)| require(rule, at));
        let Policy { mut rules, default, .. } = policy;
        let mut floors: Vec<Rule> = floors.rules.into_iter().take(3).collect();
        floors.iter_mut().enumerate().for_each(|(at, floor)| require(floor, 32 + at));
        floors.iter_mut().for_each(|floor| floor.tags.clear());
        rules.truncate(24);
        let parts = super::super::Parts {
            file: String::new(), revision: String::new(), roots: Vec::new(), attestors: Vec::new(), rules, floors, exempt: Vec::new(), default,
        };
        let policy = Policy::from(parts);
        let labels: BTreeMap<String, String> = env.iter().map(|env| ("env".to_owned(), env.clone())).collect();
        let allows = |namespace: Namespace| {
            let subject = subject(&name).tagged(Tag::Is("v2".to_owned())).in_namespace(namespace);
            match policy.ask(&subject, &labels, now()) {
                Answer::Settled(decision) => {
                    let governing = policy.governing(&subject, &labels);
                    assert_eq!(policy.satisfied(&governing, &subject, &[]), decision.verdict == Verdict::Allow);
                    decision.verdict == Verdict::Allow
                }
                Answer::NeedsEvidence(_) => panic!("no rule asks for a signature"),
            }
        };
        for namespace in ["m", "n", "elsewhere"] {
            let of = |name: &str| Namespace::Of(format!("{namespace}:{name}").parse().unwrap());
            // `c` is an account that no rule names.
            let every = ["a", "b", "c"].iter().all(|name| allows(of(name)));
            prop_assert_eq!(allows(Namespace::Is(namespace.to_owned())), every, "{}", namespace);
        }
    }

    #[test]
    fn another_spelling_of_a_registry_selects_the_same_rule(drawn in rules(), path in "[ab]{1,2}(/[ab]{1,2}){0,2}", upper in any::<u8>()) {
        let policy = drawn_policy(&drawn);
        let of = |host: &str| {
            let name: Repository = format!("{host}/{path}").parse().unwrap();
            policy.select(Some(&name), &BTreeMap::new(), Whose::Anybody).name.clone()
        };
        let mixed: String = "reg.io".chars().enumerate().map(|(at, c)| if upper >> at & 1 == 1 { c.to_ascii_uppercase() } else { c }).collect();
        for spelling in [mixed.clone(), format!("{mixed}."), format!("{mixed}:443"), format!("{mixed}.:0443")] {
            prop_assert_eq!(of(&spelling), of("reg.io"), "{}", spelling);
        }
        // Another port is another registry, whatever the rules for the first are.
        prop_assert_eq!(of("reg.io:5000"), of("unheard.of"));
    }

    #[test]
    fn what_nothing_is_said_about_is_denied(name in "[c-z]{1,8}\\.io/[a-z]{1,8}", drawn in rules()) {
        prop_assume!(!drawn.iter().any(|(pattern, ..)| pattern == "**"));
        let (policy, subject) = (drawn_policy(&drawn), subject(&name));
        prop_assume!(policy.hosts().all(|host| subject.name.as_ref().is_none_or(|name| name.host != *host)));
        match policy.ask(&subject, &BTreeMap::new(), now()) {
            Answer::Settled(decision) => prop_assert_eq!(told(&decision), (Verdict::Deny, Some("default"), Some(Code::NoMatchingRule))),
            Answer::NeedsEvidence(_) => prop_assert!(false),
        }
    }
}
