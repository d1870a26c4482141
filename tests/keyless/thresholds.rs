//! How many authorities have to say so: one is never counted twice.

use serde_json::{Value, json};

use super::*;

/// The policy of [`usual`] whose root, of these authorities, makes `demands`.
fn demanding(authorities: &[&Authority], demands: &str) -> Result<Policy, String> {
    demanding_of(trusted_root(authorities), demands)
}

fn demanding_of(root: String, demands: &str) -> Result<Policy, String> {
    let tables = usual().replace("file = \"acme.json\"\n", &format!("file = \"acme.json\"\n{demands}\n"));
    parsed(&[("acme", root)], &document(REPOSITORY, &tables, "{ all = [\"release\"] }"))
}

/// The bundle with `changed` in place of what is at `pointer`.
fn with(signing: &Signing, pointer: &str, change: impl FnOnce(&mut Value)) -> Found {
    let mut bundle = signing.bundle();
    change(bundle.pointer_mut(pointer).unwrap());
    raw_bundle(bundle)
}

const ENTRIES: &str = "/verificationMaterial/tlogEntries";
const STAMPS: &str = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps";

fn twice(list: &mut Value) {
    let first = list[0].clone();
    list.as_array_mut().unwrap().push(first);
}

/// GHSA-9vcr-p3rj-q5q6.
#[test]
fn one_log_is_not_two() {
    let [acme, other] = authorities(["acme", "other"]);
    let policy = demanding(&[&acme, &other], "logs = 2").unwrap();
    let sign = || acme.sign(image());
    let (rekor, rekor2) = (&acme.rekor, &acme.rekor2);
    for right in [
        sign().logged(rekor.entry()).logged(other.rekor.entry()),
        sign().logged(other.rekor.entry()).logged(rekor.entry()).logged(rekor.entry()),
        sign().logged(rekor.entry()).logged(rekor2.entry()).stamped(acme.tsa.stamp()),
        sign().logged(rekor2.entry()).logged(other.rekor2.entry()).stamped(other.tsa.stamp()),
    ] {
        admits(&policy, &[bundle(&right)]);
    }
    let words = "2 transparency logs are asked for";
    let elsewhere = rekor.entry().in_tree(2, 9).integrated(3);
    for wrong in [
        bundle(&sign()),
        bundle(&acme.sign2(image())),
        with(&sign(), ENTRIES, twice),
        with(&acme.sign2(image()), ENTRIES, twice),
        bundle(&sign().logged(rekor.entry()).logged(rekor.entry())),
        bundle(&sign().logged(rekor.entry()).logged(elsewhere)),
        bundle(&sign().logged(rekor.entry()).logged(rekor.entry().kind(Kind::Intoto))),
        bundle(&acme.sign2(image()).logged(rekor2.entry().in_tree(2, 9))),
        bundle(&sign().version(Version::V01).logged(rekor.entry().without_proof()).logged(rekor.entry())),
    ] {
        refuses(&policy, &[wrong], Code::SignerNotProven, words);
    }
    // Nor do two pieces add up.
    let pieces = [bundle(&sign()), bundle(&sign().logged(other.rekor.entry()))];
    refuses(&policy, &pieces, Code::SignerNotProven, words);
    refuses(&policy, &[sig(&sign().signature_layer(REPOSITORY))], Code::SignerNotProven, words);
}

#[test]
fn two_logs_with_one_key_are_one() {
    let [acme, mut other] = authorities(["acme", "other"]);
    other.rekor2 = acme.rekor2.clone();
    other.rekor2.name = "log2027.acme.test".to_owned();
    let policy = demanding(&[&acme, &other], "logs = 2").unwrap();
    let both = acme.sign(image()).logged(acme.rekor2.entry()).logged(other.rekor2.entry()).stamped(acme.tsa.stamp());
    let entries = both.bundle()["verificationMaterial"]["tlogEntries"].clone();
    assert_ne!(entries[0]["logId"], entries[1]["logId"], "they go by two names");
    refuses(&policy, &[bundle(&both)], Code::SignerNotProven, "2 transparency logs are asked for, and 1 ");
    admits(&policy, &[bundle(&both.logged(acme.rekor.entry()))]);
    // Of two with one key and one more, three can never be.
    assert!(demanding(&[&acme, &other], "logs = 3").is_ok());
    let why = demanding(&[&acme, &other], "logs = 4").unwrap_err();
    assert!(why.contains("of transparency logs 4 are asked for, and it has 3"), "{why}");
}

#[test]
fn one_timestamp_authority_is_not_two() {
    let [acme, other] = authorities(["acme", "other"]);
    let policy = demanding(&[&acme, &other], "timestamps = 2").unwrap();
    let sign = || acme.sign(image());
    let (one, two) = (&acme.tsa, &other.tsa);
    admits(&policy, &[bundle(&sign().stamped(one.stamp()).stamped(two.stamp()))]);
    admits(&policy, &[bundle(&sign().stamped(one.stamp()).stamped(one.stamp()).stamped(two.stamp().after(9)))]);
    for wrong in [
        bundle(&sign()),
        bundle(&sign().stamped(one.stamp())),
        with(&sign().stamped(one.stamp()), STAMPS, twice),
        bundle(&sign().stamped(one.stamp()).stamped(one.stamp().after(5))),
        bundle(&sign().stamped(one.stamp()).stamped(one.stamp().without_certificate())),
    ] {
        refuses(&policy, &[wrong], Code::SignerNotProven, "2 timestamp authorities are asked for");
    }
    let third = Authority::new("third");
    let stranger = sign().stamped(one.stamp()).stamped(third.tsa.stamp());
    refuses(&policy, &[bundle(&stranger)], Code::SignerNotProven, "");
}

/// One authority under two certificates of its root, or listed as a whole and in part, is one.
#[test]
fn one_timestamp_authority_in_two_chains_is_one() {
    let [acme, mut again] = authorities(["acme", "again"]);
    // The root anew, by the same key, for another time.
    let mut description = Description::ca("CN=tsa root,O=acme.test");
    description.not_after = instant("2033-12-31T00:00:00Z");
    again.tsa = acme.tsa.clone();
    again.tsa.root = Certified::by_itself(acme.tsa.root.key.clone(), &description);
    let why = demanding(&[&acme, &again], "timestamps = 2").unwrap_err();
    assert!(why.contains("of timestamp authorities 2 are asked for, and it has 1"), "{why}");
    let other = Authority::new("other");
    let policy = demanding(&[&acme, &again, &other], "timestamps = 2").unwrap();
    let twice = acme.sign(image()).stamped(acme.tsa.stamp()).stamped(again.tsa.stamp().after(2));
    refuses(&policy, &[bundle(&twice)], Code::SignerNotProven, "2 timestamp authorities are asked for, and 1 ");
    admits(&policy, &[bundle(&twice.stamped(other.tsa.stamp()))]);
}

#[test]
fn a_root_without_logs_takes_a_timestamp_for_the_time() {
    let acme = Authority::new("acme");
    let policy = demanding(&[&acme], "logs = 0\ntimestamps = 1").unwrap();
    let sign = || acme.sign(image());
    admits(&policy, &[bundle(&sign().unlogged().stamped(acme.tsa.stamp()))]);
    admits(&policy, &[bundle(&sign().stamped(acme.tsa.stamp()))]);
    admits(&policy, &[sig(&sign().unlogged().stamped(acme.tsa.stamp()).signature_layer(REPOSITORY))]);
    for wrong in [sign(), sign().unlogged(), sign().unlogged().stamped(acme.tsa.stamp().after(601))] {
        refuses(&policy, &[bundle(&wrong)], Code::SignerNotProven, "");
    }
    // What logs say is not believed unseen, even where nobody asked for it.
    let strange = Authority::new("other").rekor.entry();
    refuses(&policy, &[bundle(&sign().logged(strange).stamped(acme.tsa.stamp()))], Code::SignerNotProven, "");
    let why = demanding(&[&acme], "logs = 0").unwrap_err();
    assert!(why.contains("`logs` or `timestamps` has to be 1 or more"), "{why}");
}

#[test]
fn without_a_promise_a_certificate_counts_only_where_the_policy_says_insecure() {
    let acme = Authority::new("acme");
    let unseen = bundle(&acme.sign(image()).leaf(|leaf| leaf.promised_by.clear()));
    refuses(&policy(&acme), std::slice::from_ref(&unseen), Code::SignerNotProven, "SCT");
    admits(&demanding(&[&acme], "insecure-ignore-sct = true").unwrap(), &[unseen]);
    let mut root: Value = serde_json::from_str(&acme.trusted_root()).unwrap();
    root["ctlogs"] = json!([]);
    let why = demanding_of(root.to_string(), "").unwrap_err();
    assert!(why.contains("insecure-ignore-sct = true"), "{why}");
}

#[test]
fn under_several_roots_each_counts_for_its_own() {
    let [acme, other, third] = authorities(["acme", "other", "third"]);
    let files = [("acme", acme.trusted_root()), ("other", other.trusted_root())];
    let roots = format!("{ACME}{}", ACME.replace("acme", "other"));
    let dev = "dev@acme.example";
    let identities = [identity("acme", ""), identity_of("other", "https://accounts.example.com", dev, "")];
    let tables = format!("{roots}{}", attestor("release", &identities));
    let policy = policy_of(&files, &tables, "{ all = [\"release\"] }");
    admits(&policy, &[bundle(&acme.sign(image()))]);
    admits(&policy, &[bundle(&other.sign(image()).by(dev))]);
    // Both are proven, each under the root that does not name them.
    refuses(&policy, &[bundle(&acme.sign(image()).by(dev))], Code::UntrustedAttestor, &format!("(found {dev})"));
    refuses(&policy, &[bundle(&other.sign(image()))], Code::UntrustedAttestor, "(found https://github.com");
    refuses(&policy, &[bundle(&third.sign(image()))], Code::SignerNotProven, "does not vouch");
    // Parts of two roots make no whole.
    for mixed in [
        acme.sign(image()).logged(other.rekor.entry()),
        acme.sign(image()).certified_by(&other.fulcio),
        acme.sign(image()).leaf(|leaf| leaf.promised_by = vec![other.ct_log.clone()]),
        acme.sign(image()).logged(acme.rekor2.entry()).stamped(other.tsa.stamp()),
    ] {
        refuses(&policy, &[bundle(&mixed)], Code::SignerNotProven, "does not vouch");
    }
}
