//! What is written of a policy and read again is the same policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use sigstore_crypto::KeyPair;

use crate::{
    evidence::Formats,
    image::Digest,
    policy::{
        Exempt, Group, Member, Mode, Parts, Policy, Requirement, Rule,
        scope::{Account, NodeSelector, Pattern, TagPattern},
    },
    trust::{Algorithm, Attestor, PublicKey, Purpose, TrustedKey, testing},
};

/// No two are the same, so that no two rules tie.
const PATTERNS: [&str; 10] = [
    "**",
    "reg.io/**",
    "reg.io/p**",
    "reg.io/p/*",
    "reg.io/p/x",
    "reg.io/p/x*",
    "reg.io:5000/p/**",
    "docker.io/**",
    "docker.io/library/x",
    "[::1]:80/**",
];
const PREDICATE: &str = "https://example.com/tested/v1";

fn keys() -> &'static [KeyPair] {
    static KEYS: OnceLock<Vec<KeyPair>> = OnceLock::new();
    KEYS.get_or_init(|| (0..4).map(|_| testing::key()).collect())
}

fn digest(number: usize) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn attestors() -> impl Strategy<Value = Vec<Attestor>> {
    let window = (option::of(0i64..9), option::of(10i64..19));
    let one = (1usize..4, option::of(window), any::<bool>(), option::of("[ -~é]{0,9}"), any::<bool>());
    vec(one, 4).prop_map(|drawn| drawn.into_iter().enumerate().map(|(at, drawn)| attestor(at, drawn)).collect())
}

type Window = (Option<i64>, Option<i64>);

fn attestor(at: usize, drawn: (usize, Option<Window>, bool, Option<String>, bool)) -> Attestor {
    let (purposes, window, bundles, annotation, named) = drawn;
    let all = [Purpose::Signature, Purpose::Predicate(PREDICATE.to_owned())];
    let may_sign: Vec<Purpose> =
        all.into_iter().enumerate().filter(|(bit, _)| purposes >> bit & 1 == 1).map(|(_, purpose)| purpose).collect();
    let formats = match bundles {
        true => Formats { simple_signing: false, bundle: true, attestation_tag: false },
        false => Formats::ALL,
    };
    let may_name = !bundles && may_sign.contains(&Purpose::Signature);
    let keys: Vec<&KeyPair> = window.iter().map(|_| &keys()[at]).collect();
    let mut attestor = testing::attestor(&format!("a{at}"), &may_sign, &keys);
    for key in &mut attestor.keys {
        let second = |second: i64| Timestamp::from_second(second).unwrap();
        let (from, until) = window.unwrap_or_default();
        (key.from, key.until) = (from.map(second), until.map(second));
    }
    Attestor {
        annotations: annotation.into_iter().map(|text| ("a.b c".to_owned(), text)).collect(),
        repositories: (named && may_name).then(|| "reg.io:5000/p/x".parse().unwrap()).into_iter().collect(),
        formats,
        ..attestor
    }
}

/// Groups within each other, in which each attestor stands once at most.
fn requirement() -> impl Strategy<Value = Requirement> {
    let attestors = Just(vec![0usize, 1, 2, 3]).prop_shuffle();
    let groups = (attestors, vec((1usize..3, any::<usize>(), option::of(0usize..3)), 1..4));
    let group = groups.prop_map(|(attestors, levels)| {
        let mut free = attestors.into_iter();
        let mut inner: Option<Group> = None;
        for (most, count, pinned) in levels {
            let mut of: Vec<Member> = free.by_ref().take(most).map(Member::Attestor).collect();
            of.extend(pinned.map(|count| Member::Digests((0..=count).map(digest).collect())));
            of.extend(inner.take().map(Member::Group));
            inner = Some(Group { count: 1 + count % of.len().max(1), of }).filter(|group| !group.of.is_empty());
        }
        inner.map_or(Requirement::Deny, Requirement::Of)
    });
    prop_oneof![4 => group, 1 => Just(Requirement::Deny), 1 => Just(Requirement::InsecureAcceptAnything)]
}

fn mode() -> impl Strategy<Value = Mode> {
    let until = (0i64..4_000_000_000).prop_map(|second| jiff::Timestamp::from_second(second).unwrap());
    prop_oneof![2 => Just(Mode::Enforce), 1 => Just(Mode::Audit(None)), 1 => until.prop_map(|at| Mode::Audit(Some(at)))]
}

fn words() -> impl Strategy<Value = Option<String>> {
    option::of("[!-~é][ -~é]{0,20}")
}

/// A rule about nothing yet.
fn bare_rule(name: String) -> impl Strategy<Value = Rule> {
    let nodes = proptest::collection::btree_map("[a-z./-]{1,5}", "[A-Za-z0-9_.-]{0,5}", 0..3);
    let namespaces = subsequence(vec!["default".to_owned(), "a-1".to_owned(), "payments".to_owned()], 0..3);
    let accounts = subsequence(vec!["default:ci.example", "a-1:b", "payments:payer"], 1..3)
        .prop_map(|texts| texts.into_iter().map(|text| text.parse().unwrap()).collect::<Vec<Account>>());
    let whose = prop_oneof![
        2 => namespaces.prop_map(|namespaces| (namespaces, Vec::new())),
        1 => accounts.prop_map(|accounts| (Vec::new(), accounts)),
    ];
    (nodes, whose, requirement(), mode(), words(), words()).prop_map(
        move |(nodes, (namespaces, accounts), require, mode, contact, message)| Rule {
            name: name.clone(),
            line: 0,
            content: digest(0),
            images: Vec::new(),
            tags: BTreeMap::new(),
            nodes: NodeSelector(nodes),
            namespaces,
            accounts,
            require,
            mode,
            contact,
            message,
        },
    )
}

fn rules(kind: &'static str) -> impl Strategy<Value = Vec<Rule>> {
    let of_pattern = move |pattern: &'static str| {
        let tags = option::weighted(0.3, subsequence(vec!["v*", "latest", "1.2_x"], 1..3));
        (bare_rule(format!("{kind}/{}", PATTERNS.iter().position(|known| *known == pattern).unwrap())), tags).prop_map(
            move |(rule, tags)| {
                let images = Pattern::parse(pattern).unwrap();
                let by_signature = matches!(rule.require, Requirement::Of(_));
                let tags = tags.filter(|_| by_signature && kind == "rule" && pattern != "**");
                let tags = tags.map(|tags| tags.into_iter().map(|tag| TagPattern::parse(tag).unwrap()).collect());
                let has_port = images.host().is_some_and(|host| host.port().is_some());
                let require = match rule.require {
                    Requirement::InsecureAcceptAnything if has_port => Requirement::Deny,
                    require => require,
                };
                let tags = tags.into_iter().map(|tags| (images.clone(), tags)).collect();
                Rule { images: vec![images], tags, require, ..rule }
            },
        )
    };
    subsequence(PATTERNS.to_vec(), 0..6).prop_flat_map(move |some| some.into_iter().map(of_pattern).collect::<Vec<_>>())
}

fn exempt() -> impl Strategy<Value = Vec<Exempt>> {
    let one = (0usize..4, subsequence(vec!["**", "reg.io/a", "docker.io/library/*"], 0..3));
    vec(one, 0..3).prop_map(|drawn| {
        let exempt = |(at, (digests, images)): (usize, (usize, Vec<&str>))| Exempt {
            name: format!("e{at}"),
            line: 0,
            digests: (0..digests).map(digest).collect(),
            insecure_images: images.into_iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        };
        drawn.into_iter().enumerate().map(exempt).collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let default = bare_rule("default".to_owned());
    (attestors(), rules("rule"), rules("floor"), exempt(), default).prop_map(|drawn| {
        let (attestors, rules, floors, exempt, default) = drawn;
        let default = Rule { nodes: NodeSelector::default(), namespaces: Vec::new(), accounts: Vec::new(), ..default };
        Parts {
            file: String::new(),
            revision: String::new(),
            roots: Vec::new(),
            attestors,
            rules,
            floors,
            exempt,
            default,
        }
        .into()
    })
}

/// `value` as the document has it.
fn text(value: impl ToString) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn list<T>(items: impl IntoIterator<Item = T>, written: impl Fn(T) -> String) -> String {
    format!("[{}]", items.into_iter().map(written).collect::<Vec<_>>().join(", "))
}

fn table(items: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = items.iter().map(|(key, value)| format!("{} = {}", text(key), text(value))).collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// A document that says `policy`.
fn written(policy: &Policy) -> String {
    let mut document = "schema = 1\n".to_owned();
    for attestor in &policy.attestors {
        let Attestor { name, may_sign, keys, identities, authorities, formats, annotations, repositories } = attestor;
        assert!(identities.is_empty() && authorities.is_empty());
        let key = |TrustedKey { key, from, until, root: _ }: &TrustedKey| {
            let times = [("from", from), ("until", until)];
            let times = times.iter().filter_map(|(key, time)| Some(format!(", {key} = {}", text(time.as_ref()?))));
            let times: String = times.collect();
            format!("{{ file = {}, algorithm = \"ecdsa-p256-sha256\"{times} }}", text(key.id))
        };
        document += &format!("[[attestor]]\nname = {}\nmay-sign = {}\n", text(name), list(may_sign, text));
        document += &format!("keys = {}\nannotations = {}\n", list(keys, key), table(annotations));
        if !formats.simple_signing {
            document += "formats = [\"bundle\"]\n";
        }
        if !repositories.is_empty() {
            document += &format!("repositories = {}\n", list(repositories, text));
        }
    }
    for (kind, rules) in [("rule", &policy.rules), ("floor", &policy.floors)] {
        for rule in rules {
            let images = rule.images.iter().flat_map(|pattern| match rule.tags.get(pattern) {
                None => vec![pattern.to_string()],
                Some(tags) => tags.iter().map(|tag| format!("{pattern}:{tag}")).collect(),
            });
            document += &format!("[[{kind}]]\nname = {}\nimages = {}\n", text(&rule.name), list(images, text));
            if !rule.nodes.0.is_empty() {
                document += &format!("nodes = {}\n", table(&rule.nodes.0));
            }
            if !rule.accounts.is_empty() {
                document += &format!("service-accounts = {}\n", list(&rule.accounts, text));
            }
            if !rule.namespaces.is_empty() {
                document += &format!("namespaces = {}\n", list(&rule.namespaces, text));
            }
            document += &manners(policy, rule);
        }
    }
    for Exempt { name, digests, insecure_images, .. } in &policy.exempt {
        let (digests, images) = (list(digests, text), list(insecure_images, text));
        document += &format!("[[exempt]]\nname = {}\ndigests = {digests}\ninsecure-images = {images}\n", text(name));
    }
    format!("{document}[default]\n{}", manners(policy, &policy.default))
}

fn manners(policy: &Policy, rule: &Rule) -> String {
    let require = match &rule.require {
        Requirement::Deny => text("deny"),
        Requirement::InsecureAcceptAnything => text("insecure-accept-anything"),
        Requirement::Of(group) => group_of(policy, group),
    };
    let mut lines = format!("require = {require}\n");
    if let Mode::Audit(until) = rule.mode {
        lines += "mode = \"audit\"\n";
        lines += &until.map(|until| format!("audit-until = {}\n", text(until))).unwrap_or_default();
    }
    for (key, words) in [("contact", &rule.contact), ("message", &rule.message)] {
        lines += &words.as_ref().map(|words| format!("{key} = {}\n", text(words))).unwrap_or_default();
    }
    lines
}

fn group_of(policy: &Policy, group: &Group) -> String {
    let member = |member: &Member| match member {
        Member::Attestor(at) => text(&policy.attestors[*at].name),
        Member::Digests(digests) => format!("{{ digests = {} }}", list(digests, text)),
        Member::Group(group) => group_of(policy, group),
    };
    let of = list(&group.of, member);
    // Each word for it means what the general one does.
    match group.count {
        count if count == group.of.len() => format!("{{ all = {of} }}"),
        1 => format!("{{ any = {of} }}"),
        count => format!("{{ at-least = {{ count = {count}, of = {of} }} }}"),
    }
}

/// All that `policy` says, and nothing of how it was written.
fn meaning(policy: &Policy) -> BTreeSet<String> {
    let rule = |kind: &str, rule: &Rule| {
        let Rule { name, images, tags, nodes, namespaces, accounts, require, mode, contact, message, .. } = rule;
        format!("{kind} {:?}", (name, images, tags, nodes, namespaces, accounts, require, mode, contact, message))
    };
    let attestors = policy.attestors.iter().map(|attestor| format!("{attestor:?}"));
    let exempt = policy.exempt.iter().map(|it| format!("exempt {:?}", (&it.name, &it.digests, &it.insecure_images)));
    let rules = policy.rules.iter().map(|it| rule("rule", it)).chain(policy.floors.iter().map(|it| rule("floor", it)));
    attestors.chain(exempt).chain(rules).chain([rule("default", &policy.default)]).collect()
}

fn read(document: &str) -> Policy {
    let key = |name: &str| {
        let is_named = |key: &&KeyPair| {
            PublicKey::from_pem(&testing::pem(key), Algorithm::EcdsaP256Sha256)
                .is_ok_and(|key| key.id.to_string() == name)
        };
        keys().iter().find(is_named).map(testing::pem).ok_or_else(|| "not there".to_owned())
    };
    Policy::parse("policy.toml", document, &key).unwrap_or_else(|why| panic!("{why}\n{document}"))
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(policy in policies()) {
        let document = written(&policy);
        let again = read(&document);
        prop_assert_eq!(meaning(&policy), meaning(&again), "{}", document);
        prop_assert_eq!(&written(&again), &document);
        // The order of a document says nothing.
        let content = |policy: &Policy| -> BTreeMap<String, Digest> {
            policy.rules.iter().chain(&policy.floors).map(|rule| (rule.name.clone(), rule.content)).collect()
        };
        let commented = document.replace("\n[[", "\n\n# a remark\n\t[[");
        let commented = read(&commented);
        prop_assert_eq!(content(&again), content(&commented));
        prop_assert_ne!(&again.revision, &commented.revision);
    }
}
