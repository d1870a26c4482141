//! Who counts as one signer, and who as two.

use super::*;

const MAIL: &str = "https://accounts.example.com";
const DEV: &str = "dev@acme.example";

/// A policy under `acme` and `other` that asks for two of the attestors with these tables.
fn two_of(authorities: &[Authority; 2], tables: &[String]) -> Policy {
    let files = [("acme", authorities[0].trusted_root()), ("other", authorities[1].trusted_root())];
    let names: Vec<String> = (0..tables.len()).map(|number| format!("\"a{number}\"")).collect();
    let tables = format!("{ACME}{}{}", ACME.replace("acme", "other"), tables.concat());
    policy_of(&files, &tables, &format!("{{ at-least = {{ count = 2, of = [{}] }} }}", names.join(", ")))
}

#[test]
fn one_subject_is_one_signer_under_two_roots_and_by_two_certificates() {
    let both = authorities(["acme", "other"]);
    let [acme, other] = &both;
    let each = [attestor("a0", &[identity("acme", "")]), attestor("a1", &[identity("other", "")])];
    let any = [identity("acme", ""), identity("other", "")];
    let all = [attestor("a0", &any), attestor("a1", &any)];
    for tables in [each, all] {
        let policy = two_of(&both, &tables);
        let pieces = [
            bundle(&acme.sign(image())),
            bundle(&acme.sign(image()).with(&Key::new(Algorithm::P384))),
            bundle(&other.sign(image())),
            sig(&other.sign(image()).signature_layer(REPOSITORY)),
        ];
        refuses(&policy, &pieces, Code::UntrustedAttestor, "still missing");
    }
}

#[test]
fn one_signature_under_two_roots_with_the_same_authority_is_one() {
    let both = authorities(["acme", "other"]);
    let files = [("acme", both[0].trusted_root()), ("other", both[0].trusted_root())];
    let roots = format!("{ACME}{}", ACME.replace("acme", "other"));
    let tables =
        format!("{roots}{}{}", attestor("a0", &[identity("acme", "")]), attestor("a1", &[identity("other", "")]));
    let signed = [bundle(&both[0].sign(image()))];
    let policy = |require: &str| policy_of(&files, &tables, require);
    admits(&policy("{ any = [\"a0\", \"a1\"] }"), &signed);
    for require in ["{ all = [\"a0\", \"a1\"] }", "{ at-least = { count = 2, of = [\"a0\", \"a1\"] } }"] {
        refuses(&policy(require), &signed, Code::UntrustedAttestor, "");
    }
}

#[test]
fn two_subjects_are_two_and_so_are_a_key_and_a_subject() {
    let both = authorities(["acme", "other"]);
    let [acme, other] = &both;
    let key = Key::new(Algorithm::P256);
    let tables = [
        attestor("a0", &[identity("acme", ""), identity("other", "")]),
        attestor("a1", &[identity_of("acme", MAIL, DEV, "")]),
        keyed("a2", &key, ""),
    ];
    let policy = two_of(&both, &tables);
    let workflow = || bundle(&acme.sign(image()));
    let dev = || bundle(&acme.sign(image()).by(DEV));
    let managed = || bundle(&acme.sign(image()).managed(&key).unlogged().stamped(acme.tsa.stamp()));
    admits(&policy, &[workflow(), dev()]);
    admits(&policy, &[managed(), dev()]);
    admits(&policy, &[managed(), bundle(&other.sign(image()))]);
    refuses(&policy, &[dev(), dev()], Code::UntrustedAttestor, "still missing");
    refuses(&policy, &[managed(), managed()], Code::UntrustedAttestor, "still missing");
    // A subject of another issuer is somebody else, and nobody here.
    let elsewhere = bundle(&acme.sign(image()).by(DEV).issuer("https://evil.example"));
    refuses(&policy, &[workflow(), elsewhere], Code::UntrustedAttestor, "still missing");
}

/// Somebody's key in somebody else's certificate.
#[test]
fn one_signature_is_not_two_attestors_by_its_key_and_by_the_certificate_over_it() {
    let both = authorities(["acme", "other"]);
    let key = Key::new(Algorithm::P256);
    let policy = two_of(&both, &[keyed("a0", &key, ""), attestor("a1", &[identity("acme", "")])]);
    let certified = sig(&both[0].sign(image()).with(&key).signature_layer(REPOSITORY));
    refuses(&policy, std::slice::from_ref(&certified), Code::UntrustedAttestor, "still missing");
    refuses(&policy, &[certified.clone(), certified.clone()], Code::UntrustedAttestor, "still missing");
    admits(&policy, &[certified, bundle(&both[0].sign(image()))]);
}

/// A certificate's key is nobody's by itself, and a managed key takes nothing from the name beside it.
#[test]
fn a_certificate_speaks_for_its_subject_alone() {
    let acme = Authority::new("acme");
    let key = Key::new(Algorithm::P256);
    let files = [("acme", acme.trusted_root())];
    let by_key = policy_of(&files, &keyed("release", &key, ""), "{ all = [\"release\"] }");
    let certified = bundle(&acme.sign(image()).with(&key));
    refuses(&by_key, std::slice::from_ref(&certified), Code::UntrustedAttestor, "none by \"release\"");
    admits(&policy(&acme), &[certified]);
    refuses(&policy(&acme), &[bundle(&acme.sign(image()).managed(&key))], Code::UntrustedAttestor, "none by");
}

#[test]
fn anyone_with_a_certificate_is_spelled_insecure() {
    let acme = Authority::new("acme");
    let files = [("acme", acme.trusted_root())];
    let check = |identity: &str| {
        let tables = format!("{ACME}{}", attestor("release", &[identity.to_owned()]));
        parsed(&files, &document(REPOSITORY, &tables, "{ all = [\"release\"] }"))
    };
    let issuer = format!("issuer = \"{GITHUB}\"");
    for (identity, words) in [
        (format!("{{ root = \"acme\", {issuer} }}"), "missing key `subject`: anybody gets a certificate"),
        (
            format!("{{ root = \"acme\", subject = \"{WORKFLOW}\" }}"),
            "missing key `issuer`: anybody gets a certificate",
        ),
        ("{ root = \"acme\" }".to_owned(), "anybody gets a certificate"),
        (format!("{{ root = \"acme\", {issuer}, subject = \"\" }}"), "1 to 512 characters"),
        (format!("{{ root = \"acme\", {issuer}, subject = {{ pattern = \"^.*$\" }} }}"), "it matches anybody"),
        (format!("{{ root = \"acme\", {issuer}, subject = {{ pattern = \"acme\" }} }}"), "begin with `^`"),
        (format!("{{ root = \"acme\", {issuer}, subject = {{ }} }}"), "missing key `pattern`"),
        (format!("{{ root = \"acme\", {issuer}, insecure-any-subject = false }}"), "missing key `subject`"),
        (format!("{{ root = \"acme\", {issuer}, subject = \"x\", insecure-any-subject = true }}"), "either `subject`"),
        (format!("{{ {issuer}, subject = \"{WORKFLOW}\" }}"), "missing key `root`"),
    ] {
        let why = check(&identity).unwrap_err();
        assert!(why.contains(words) && why.starts_with("policy.toml:"), "{identity}: {why}");
    }
    let anybody = check("{ root = \"acme\", insecure-any-issuer = true, insecure-any-subject = true }").unwrap();
    admits(&anybody, &[bundle(&acme.sign(image()).by(DEV))]);
    let hub = check(&format!("{{ root = \"acme\", {issuer}, insecure-any-subject = true }}")).unwrap();
    admits(&hub, &[bundle(&acme.sign(image()))]);
    refuses(&hub, &[bundle(&acme.sign(image()).by(DEV))], Code::UntrustedAttestor, DEV);
    // Anybody is still somebody whom the root vouches for.
    refuses(&anybody, &[bundle(&Authority::new("other").sign(image()))], Code::SignerNotProven, "does not vouch");
}
