use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn matches(pattern_text: &str, name: &str) -> bool {
    pattern(pattern_text).matches(&name.parse::<crate::image::Reference>().unwrap().repository)
}

#[test]
fn a_star_stays_within_a_component_and_two_stars_do_not() {
    for (text, name, expected) in [
        ("reg.io/p/nginx", "reg.io/p/nginx", true),
        ("reg.io/p/nginx", "reg.io/p/nginx-1", false),
        ("reg.io/p/nginx*", "reg.io/p/nginx-1", true),
        ("reg.io/p/nginx*", "reg.io/p/nginx", false),
        ("reg.io/p/nginx*", "reg.io/p/nginx-1/x", false),
        ("reg.io/p/nginx**", "reg.io/p/nginx-1/x", true),
        ("reg.io/p/*", "reg.io/p/x", true),
        ("reg.io/p/*", "reg.io/p/x/y", false),
        ("reg.io/p/*", "reg.io/pp", false),
        ("reg.io/**", "reg.io/a/b/c", true),
        ("reg.io/**", "reg.io.evil.com/a", false),
        ("reg.io/**", "reg.io:5000/a", false),
        ("**", "anything.example/a", true),
        ("docker.io/**", "busybox", true),
        ("docker.io/library/*", "busybox", true),
        ("docker.io/lib**", "busybox", true),
    ] {
        assert_eq!(matches(text, name), expected, "{text} {name}");
    }
}

#[test]
fn hosts_in_patterns_are_canonical_too() {
    assert!(matches("REG.io:443/p/**", "reg.io./p/x"));
    assert!(matches("index.docker.io/library/*", "docker.io/library/busybox"));
}

#[test]
fn what_cannot_mean_one_thing_does_not_parse() {
    for text in [
        "",
        "*",
        "reg.io",
        "reg.io/",
        "*.io/x",
        "reg.io/*/x",
        "reg.io/a***",
        "reg.io/a:v1",
        "reg.io/a@sha256:00",
        "reg.io/A",
        "reg.io//*",
        "reg io/a",
        "reg.io*",
        "docker.io/busybox",
        "index.docker.io/*",
    ] {
        assert!(Pattern::parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_narrower_scope_wins_and_equal_ones_tie() {
    let (any, prod) = (NodeSelector::default(), NodeSelector([("env".into(), "prod".into())].into()));
    let (qa, eu) =
        (NodeSelector([("env".into(), "qa".into())].into()), NodeSelector([("zone".into(), "eu".into())].into()));
    let ordered = ["**", "reg.io/**", "reg.io/p**", "reg.io/p/*", "reg.io/p/x"].map(pattern);
    for pair in ordered.windows(2) {
        let scope = |images| Scope { accounts: &[], namespaces: &[], nodes: &any, images };
        assert_eq!(scope(&pair[0]).cmp_narrowness(&scope(&pair[1])), Ordering::Less, "{pair:?}");
    }
    let [wide, narrow] = ["reg.io/**", "reg.io/p/x"].map(pattern);
    let on_prod = Scope { accounts: &[], namespaces: &[], nodes: &prod, images: &wide };
    assert_eq!(
        on_prod.cmp_narrowness(&Scope { accounts: &[], namespaces: &[], nodes: &any, images: &narrow }),
        Ordering::Greater
    );
    assert!(on_prod.ties_with(&Scope { accounts: &[], namespaces: &[], nodes: &eu, images: &wide }));
    assert!(!on_prod.ties_with(&Scope { accounts: &[], namespaces: &[], nodes: &qa, images: &wide }));
    assert!(!on_prod.ties_with(&Scope { accounts: &[], namespaces: &[], nodes: &any, images: &wide }));
    let [payments, both] = [vec!["payments".to_owned()], vec!["web".to_owned(), "payments".to_owned()]];
    let in_payments = Scope { accounts: &[], namespaces: &payments, nodes: &any, images: &wide };
    for other in [on_prod, Scope { accounts: &[], namespaces: &[], nodes: &prod, images: &narrow }] {
        assert_eq!(in_payments.cmp_narrowness(&other), Ordering::Greater);
        assert!(!in_payments.ties_with(&other) && !other.ties_with(&in_payments));
    }
    assert!(in_payments.ties_with(&Scope { accounts: &[], namespaces: &both, ..in_payments }));
    assert!(!in_payments.ties_with(&Scope { accounts: &[], namespaces: &both[..1], ..in_payments }));
    assert!(!in_payments.ties_with(&Scope { images: &narrow, ..in_payments }));
    let accounts = ["payments:payer", "payments:ledger"].map(|text| text.parse::<Account>().unwrap());
    let of_payer = Scope { accounts: &accounts[..1], namespaces: &[], nodes: &any, images: &wide };
    for other in [in_payments, on_prod, Scope { accounts: &[], namespaces: &payments, nodes: &prod, images: &narrow }] {
        assert_eq!(of_payer.cmp_narrowness(&other), Ordering::Greater);
        assert!(!of_payer.ties_with(&other) && !other.ties_with(&of_payer));
    }
    assert!(of_payer.ties_with(&Scope { accounts: &accounts, ..of_payer }));
    assert!(!of_payer.ties_with(&Scope { accounts: &accounts[1..], ..of_payer }));
}

#[test]
fn a_service_account_says_its_namespace() {
    for text in ["payments:payer", "a:b", "kube-system:default", "n:ci.example.com", &format!("n:{}", "x".repeat(253))]
    {
        assert_eq!(text.parse::<Account>().unwrap().to_string(), text);
    }
    let long = format!("n:{}", "x".repeat(254));
    for text in [
        "", ":", "payer", "n:", ":a", "n:a:b", "n:*", "*:a", "N:a", "n:A", "n:-a", "n:a-", "n:.a", "n:a..b", "n.m:a",
        "n :a", &long,
    ] {
        assert!(text.parse::<Account>().is_err(), "{text}");
    }
}

#[test]
fn a_tag_is_literal_or_begins_alike() {
    for (text, tag, expected) in [
        ("latest", "latest", true),
        ("latest", "latest2", false),
        ("1.*", "1.3", true),
        ("1.*", "1.", true),
        ("1.*", "2.3", false),
        ("*", "anything", true),
        ("v1", "V1", false),
    ] {
        assert_eq!(TagPattern::parse(text).unwrap().matches(tag), expected, "{text} {tag}");
    }
    for text in ["", "-x", ".x*", "a b", "a*b", "a**", "é", &"x".repeat(129)] {
        assert!(TagPattern::parse(text).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn one_pattern_covers_another_where_it_matches_all_of_it(
        cuts in proptest::collection::vec(("[ab]{0,2}(/[ab]{1,2})?/?", 0u8..3), 2),
        names in proptest::collection::vec("[ab]{1,3}(/[ab]{1,3}){0,2}", 40),
    ) {
        let read = |(prefix, ending): &(String, u8)| Pattern::parse(&format!("reg.io/{prefix}{}", ["", "*", "**"][*ending as usize]));
        if let (Ok(one), Ok(other)) = (read(&cuts[0]), read(&cuts[1])) {
            for name in names {
                let repository: Repository = format!("reg.io/{name}").parse().unwrap();
                let (by_one, by_other) = (one.matches(&repository), other.matches(&repository));
                proptest::prop_assert!(!one.covers(&other) || by_one || !by_other, "{} covers {}, not {}", one, other, name);
                proptest::prop_assert!(one.overlaps(&other) || !(by_one && by_other), "{} and {} overlap in {}", one, other, name);
            }
        }
    }

    #[test]
    fn patterns_that_match_one_name_are_nested(name in "[a-c]{1,3}(/[a-c]{1,3}){0,2}", cuts in proptest::collection::vec((0usize..9, 0u8..3), 2)) {
        let repository: Repository = format!("reg.io/{name}").parse().unwrap();
        let mut patterns = Vec::new();
        for (cut, ending) in cuts {
            let text = format!("reg.io/{}{}", &name[..cut.min(name.len())], ["", "*", "**"][ending as usize]);
            if let Ok(pattern) = Pattern::parse(&text) && pattern.matches(&repository) {
                patterns.push(pattern);
            }
        }
        if let [a, b] = patterns.as_slice() {
            let any = NodeSelector::default();
            let order = Scope { accounts: &[], namespaces: &[], nodes: &any, images: a }.cmp_narrowness(&Scope { accounts: &[], namespaces: &[], nodes: &any, images: b });
            proptest::prop_assert_eq!(order == Ordering::Equal, a == b);
        }
    }
}
