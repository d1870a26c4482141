use sigstore_crypto::KeyPair;

use super::*;
use crate::{
    policy::{Member, Requirement, evaluate::Answer, requirement::Group},
    trust::{Algorithm, PublicKey, Purpose, testing},
};

const HOSTILE: &str = "evil\"\n[[exempt]]\ninsecure-images = [\"**\"]\r\u{202e}\u{1b}[2J'''";

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn attestors(names: &[&str]) -> Vec<Attestor> {
    names.iter().map(|name| testing::attestor(name, &[Purpose::Signature], &[&testing::key()])).collect()
}

fn digest(image: &str) -> Digest {
    Digest::of(image.as_bytes())
}

/// `image`, whose name is before its tag, signed by `signers`.
fn observed(image: &str, signers: &[&Attestor]) -> Observed {
    let vouched = |attestor: &&Attestor| Vouched::for_test(attestor, 0, Purpose::Signature, digest(image));
    Observed {
        repository: image.rsplit_once(':').map(|(repository, _)| repository.parse().unwrap()),
        called: image.to_owned(),
        target: digest(image),
        children: Vec::new(),
        vouched: signers.iter().map(vouched).collect(),
        offered: Vec::new(),
        gaps: Vec::new(),
    }
}

/// The draft, which admits all that it is made of.
fn drafted(attestors: &[Attestor], observed: &[Observed]) -> (Draft, Policy) {
    let draft = Draft::of(&attestors.iter().collect::<Vec<_>>(), observed, now()).unwrap();
    let policy = Policy::parse("policy.toml", &draft.text, &|_| Err("no file".to_owned()))
        .unwrap_or_else(|problems| panic!("{problems}\n{}", draft.text));
    assert_eq!(draft.refused, Vec::<String>::new(), "{}", draft.text);
    for image in observed {
        assert!(is_admitted(&policy, image, now()), "{}\n{}", image.called, draft.text);
    }
    (draft, policy)
}

/// What is asked of `image`, in words.
fn needs(policy: &Policy, image: &str) -> String {
    fn words(policy: &Policy, group: &Group) -> String {
        let member = |member: &Member| match member {
            Member::Attestor(at) => policy.attestors[*at].name.clone(),
            Member::Digests(digests) => format!("{} pinned", digests.len()),
            Member::Group(inner) => words(policy, inner),
        };
        let members: Vec<String> = group.of.iter().map(member).collect();
        members.join(if group.count == members.len() { " + " } else { " or " })
    }
    let image = observed(image, &[]);
    match &policy.select(image.repository.as_ref(), &BTreeMap::new(), crate::policy::scope::Whose::Anybody).require {
        Requirement::Of(group) => words(policy, group),
        other => format!("{other:?}"),
    }
}

#[test]
fn each_repository_asks_for_whom_all_its_images_have_and_for_nobody_else() {
    let known = attestors(&["ci", "qa", "release"]);
    let [ci, release] = [&known[0], &known[2]];
    let images = [
        observed("reg.io:5000/prod/app:1", &[ci, release]),
        observed("reg.io:5000/prod/app:2", &[release]),
        observed("reg.io:5000/prod/base:1", &[ci, release]),
        observed("reg.io:5000/mixed/app:1", &[ci]),
        observed("reg.io:5000/mixed/app:2", &[ci]),
        observed("reg.io:5000/mixed/app:3", &[]),
        observed("reg.io:5000/none/app:1", &[]),
        observed("docker.io/library/busybox:1", &[]),
    ];
    let (draft, policy) = drafted(&known, &images);
    for (image, expected) in [
        ("reg.io:5000/prod/app:9", "release"),
        ("reg.io:5000/prod/base:9", "ci + release"),
        ("reg.io:5000/mixed/app:9", "ci or 1 pinned"),
        ("reg.io:5000/none/app:9", "1 pinned"),
        ("docker.io/library/busybox:9", "1 pinned"),
        ("reg.io:5000/prod/app/below:1", "Deny"),
        ("reg.io/prod/app:1", "Deny"),
    ] {
        assert_eq!(needs(&policy, image), expected, "{image}\n{}", draft.text);
    }
    assert_eq!(draft.attestors, BTreeSet::from(["ci", "release"].map(str::to_owned)));
    assert_eq!(draft.pinned, 3);
    for unsigned in ["reg.io:5000/prod/app:9", "reg.io:5000/mixed/app:9", "reg.io:5000/none/app:9", "reg.io/x:1"] {
        assert!(!is_admitted(&policy, &observed(unsigned, &[]), now()), "{unsigned}");
    }
    let signed = observed("reg.io:5000/none/app:9", &[ci, release]);
    assert!(!is_admitted(&policy, &signed, now()), "nobody signed what is there");
}

#[test]
fn images_that_have_no_signer_in_common_are_pinned() {
    let known = attestors(&["ci", "qa"]);
    let (draft, policy) =
        drafted(&known, &[observed("reg.io/app:1", &[&known[0]]), observed("reg.io/app:2", &[&known[1]])]);
    assert_eq!(needs(&policy, "reg.io/app:3"), "2 pinned");
    assert!(draft.text.contains("# Signed by ci, qa, and none of them signed all"), "{}", draft.text);
    assert!(draft.attestors.is_empty());
}

#[test]
fn of_attestors_with_one_key_one_is_asked_for() {
    let key = testing::key();
    let known = ["ci", "qa"].map(|name| testing::attestor(name, &[Purpose::Signature], &[&key]));
    let (_, policy) = drafted(&known, &[observed("reg.io/app:1", &[&known[0], &known[1]])]);
    assert_eq!(needs(&policy, "reg.io/app:2"), "ci");
}

#[test]
fn an_index_is_admitted_by_its_own_signature_or_by_those_of_its_manifests() {
    let known = attestors(&["ci", "qa"]);
    let children = vec![digest("amd64"), digest("arm64")];
    let by = |attestor: &Attestor, digest| Vouched::for_test(attestor, 0, Purpose::Signature, digest);
    let index = |vouched| Observed { children: children.clone(), vouched, ..observed("reg.io/app:1", &[]) };
    for (vouched, expected) in [
        (vec![by(&known[0], digest("reg.io/app:1"))], "ci"),
        (vec![by(&known[0], children[0]), by(&known[0], children[1]), by(&known[1], children[1])], "ci"),
        (vec![by(&known[0], children[0])], "1 pinned"),
        (vec![by(&known[0], children[0]), by(&known[1], children[1])], "1 pinned"),
    ] {
        let (_, policy) = drafted(&known, &[index(vouched)]);
        assert_eq!(needs(&policy, "reg.io/app:2"), expected);
    }
}

#[test]
fn what_has_no_name_is_exempt_by_digest_alone() {
    let image = Observed { repository: None, called: HOSTILE.to_owned(), ..observed("x", &[]) };
    let (_, policy) = drafted(&[], &[image]);
    assert_eq!((policy.exempt.len(), &policy.exempt[0].digests), (1, &vec![digest("x")]));
    assert!(policy.rules.is_empty() && policy.exempt[0].insecure_images.is_empty());
}

#[test]
fn a_node_without_images_gets_a_policy_that_denies() {
    let (_, policy) = drafted(&attestors(&["ci"]), &[]);
    assert!(policy.rules.is_empty() && policy.attestors.is_empty() && policy.exempt.is_empty());
    assert_eq!(policy.default.require, Requirement::Deny);
}

#[test]
fn a_key_that_came_with_an_image_counts_for_nothing() {
    let pem = testing::pem(&KeyPair::generate_ecdsa_p256().unwrap());
    let key = || PublicKey::from_pem(&pem, Algorithm::EcdsaP256Sha256).unwrap();
    let offered = vec![Offered::Key(key()), Offered::Hint(HOSTILE.to_owned()), Offered::Key(key())];
    let image = Observed { offered, ..observed("reg.io/app:1", &[]) };
    let (draft, policy) = drafted(&[], &[image]);
    assert!(policy.attestors.is_empty());
    assert_eq!(draft.text.matches(&key().id.to_string()).count(), 1, "{}", draft.text);
    // Whoever takes out the number signs, and gives it a name, trusts it.
    let lines = draft.text.lines().skip_while(|line| *line != "# [[attestor]]");
    let lines = lines.take_while(|line| line.starts_with('#') && !line.contains("Signed by"));
    let active: String = lines.map(|line| format!("{}\n", &line[2..])).collect();
    let text =
        format!("schema = 1\n{}[default]\nrequire = \"deny\"", active.replace("name = \"\"", "name = \"found\""));
    let policy = Policy::parse("policy.toml", &text, &|_| Err("no file".to_owned()));
    assert_eq!(policy.unwrap_or_else(|why| panic!("{why}\n{text}")).attestors[0].keys[0].key.id, key().id);
}

#[test]
fn nothing_that_others_wrote_becomes_a_line_of_its_own() {
    let mut known = attestors(&["ci"]);
    known[0].annotations = BTreeMap::from([(HOSTILE.to_owned(), HOSTILE.to_owned())]);
    known[0].may_sign = vec![Purpose::Signature, Purpose::Predicate(format!("x://{HOSTILE}"))];
    let hostile = |image: &str, signers: &[&Attestor]| Observed {
        called: HOSTILE.repeat(20),
        offered: vec![Offered::Hint(HOSTILE.to_owned())],
        gaps: vec![HOSTILE.to_owned()],
        ..observed(image, signers)
    };
    let images = [hostile("reg.io/a:1", &[&known[0]]), hostile("reg.io/a:2", &[]), hostile("reg.io/b:1", &[])];
    let (draft, policy) = drafted(&known, &images);
    assert!(policy.exempt.is_empty() && policy.rules.len() == 2, "{}", draft.text);
    assert_eq!(policy.attestors[0].annotations, known[0].annotations);
    assert_eq!(policy.attestors[0].may_sign, known[0].may_sign);
    let is_harmless = |c: char| c == '\n' || crate::image::sanitize(&c.to_string(), 1) == c.to_string();
    assert!(draft.text.chars().all(is_harmless), "{:?}", draft.text);
    assert!(draft.text.contains("# Not looked at: "));
}

#[test]
fn more_than_a_policy_has_room_for_is_an_error() {
    let name = "x".repeat(200);
    let many =
        (0..60_000).map(|number| Observed { called: name.clone(), ..observed(&format!("r.io/a:{number}"), &[]) });
    assert!(Draft::of(&[], &many.collect::<Vec<_>>(), now()).is_err());
}

proptest::proptest! {
    #[test]
    fn what_is_on_the_node_is_admitted_and_nothing_else_without_a_signature(
        images in proptest::collection::vec(("[ab]{1,2}", 0u8..6, 0u8..8), 0..12)
    ) {
        let known = attestors(&["ci", "qa", "release"]);
        let mut seen = BTreeSet::new();
        let all: Vec<Observed> = images
            .iter()
            .filter(|(repository, tag, _)| seen.insert((repository, tag)))
            .map(|(repository, tag, signers)| {
                let signers: Vec<&Attestor> = (0..3).filter(|at| signers >> at & 1 == 1).map(|at| &known[at]).collect();
                observed(&format!("reg.io/{repository}:{tag}"), &signers)
            })
            .collect();
        let (draft, policy) = drafted(&known, &all);
        for repository in all.iter().filter_map(|image| image.repository.as_ref()) {
            let other = digest("another");
            let other = Subject::new(other, Some(repository.clone()), Origin::Fetched).tagged(Tag::NotKept);
            let admitted = match policy.ask(&other, &BTreeMap::new(), now()) {
                Answer::Settled(decision) => decision.verdict == Verdict::Allow,
                Answer::NeedsEvidence(governing) => policy.satisfied(&governing, &other, &[]),
            };
            proptest::prop_assert!(!admitted, "{}", draft.text);
        }
    }
}
