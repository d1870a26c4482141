use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    testing::{ISSUER, Signer, key_set},
    *,
};

const UID: &str = "8a7f4f0e-0d5c-4a52-9d4a-3e0f6f2c1b11";
const POD: Bound<'_> = Bound { namespace: "payments", uid: UID };
const NOW: i64 = 1_795_435_200;

fn header(signer: &Signer) -> Value {
    json!({ "alg": signer.algorithm(), "kid": "one" })
}

fn claims() -> Value {
    testing::claims("payments", UID, "payer", NOW)
}

fn issuer(signers: &[(&Signer, &str)]) -> Issuer {
    let keys = KeySet::parse(&key_set(signers)).unwrap();
    Issuer { name: ISSUER.to_owned(), audiences: Vec::new(), keys }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_token_of_the_issuer_for_this_pod_proves_its_account() {
    for signer in [Signer::ec(), Signer::rsa()] {
        let issuer = issuer(&[(&signer, "one")]);
        let token = signer.token(&header(&signer).to_string(), &claims().to_string());
        assert_eq!(issuer.account(&token, POD, at(NOW)), Ok("payer".to_owned()));
        assert_eq!(issuer.account(&[&token[..], b"\n"].concat(), POD, at(NOW + 3599)), Ok("payer".to_owned()));
        assert_eq!(issuer.account(&token, POD, at(NOW - AHEAD)), Ok("payer".to_owned()));
        let without_id = signer.token(&json!({ "alg": signer.algorithm() }).to_string(), &claims().to_string());
        assert!(issuer.account(&without_id, POD, at(NOW)).is_ok());
        for audiences in [vec!["other".to_owned()], vec!["other".to_owned(), ISSUER.to_owned()]] {
            let proven = audiences.len() == 2;
            let issuer = Issuer { audiences, ..issuer.clone() };
            assert_eq!(issuer.account(&token, POD, at(NOW)).is_ok(), proven);
        }
    }
}

#[test]
fn what_is_not_for_this_pod_and_now_proves_nothing() {
    let signer = Signer::ec();
    let issuer = issuer(&[(&signer, "one")]);
    let changed = |path: &str, value: Value| {
        let mut claims = claims();
        *claims.pointer_mut(path).unwrap() = value;
        signer.token(&header(&signer).to_string(), &claims.to_string())
    };
    for (path, value) in [
        ("/iss", json!("https://evil.example")),
        ("/iss", json!([ISSUER])),
        ("/sub", json!("system:serviceaccount:payments:admin")),
        ("/sub", json!("system:serviceaccount:web:payer")),
        ("/exp", json!(NOW)),
        ("/exp", json!("never")),
        ("/exp", json!(1e300)),
        ("/exp", Value::Null),
        ("/nbf", json!(NOW + AHEAD + 1)),
        ("/aud", json!(7)),
        ("/kubernetes.io", Value::Null),
        ("/kubernetes.io/namespace", json!("web")),
        ("/kubernetes.io/pod", Value::Null),
        ("/kubernetes.io/pod/uid", json!("another")),
        ("/kubernetes.io/pod/uid", json!("")),
        ("/kubernetes.io/serviceaccount", Value::Null),
        ("/kubernetes.io/serviceaccount/name", json!("admin")),
    ] {
        let proven = issuer.account(&changed(path, value.clone()), POD, at(NOW));
        assert!(proven.is_err(), "{path} {value}: {proven:?}");
    }
    let token = signer.token(&header(&signer).to_string(), &claims().to_string());
    for pod in [Bound { uid: "", ..POD }, Bound { uid: "b", ..POD }, Bound { namespace: "web", ..POD }] {
        assert!(issuer.account(&token, pod, at(NOW)).is_err(), "{pod:?}");
    }
    let nobodys = changed("/kubernetes.io/pod/uid", json!(""));
    assert!(issuer.account(&nobodys, Bound { uid: "", ..POD }, at(NOW)).is_err(), "a pod without a UID is no pod");
}

#[test]
fn a_signature_counts_only_by_a_key_of_the_issuer_and_its_own_algorithm() {
    let (rsa, ec, other) = (Signer::rsa(), Signer::ec(), Signer::ec());
    let issuer = issuer(&[(&rsa, "one"), (&ec, "two")]);
    let claims = claims().to_string();
    let proven = |token: &[u8]| issuer.account(token, POD, at(NOW));
    let good = ec.token(r#"{"alg":"ES256","kid":"two"}"#, &claims);
    assert!(proven(&good).is_ok());
    // The public key as the secret of a symmetric algorithm, and no signature at all.
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let modulus = URL_SAFE_NO_PAD.decode(rsa.jwk("one")["n"].as_str().unwrap()).unwrap();
    let signed = format!("{}.{}", part(r#"{"alg":"HS256","kid":"one"}"#), part(&claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &modulus), signed.as_bytes());
    let by_public_key = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
    let none = ["none", "None", "NONE", ""]
        .map(|alg| format!("{}.{}.", part(&json!({ "alg": alg }).to_string()), part(&claims)));
    for token in none.iter().chain([&by_public_key]) {
        assert!(proven(token.as_bytes()).is_err(), "{token}");
    }
    for header in [
        r#"{"alg":"ES256","kid":"one"}"#,
        r#"{"alg":"RS256","kid":"two"}"#,
        r#"{"alg":"ES256","kid":"three"}"#,
        r#"{"alg":"ES256","kid":""}"#,
        r#"{"alg":"ES256","kid":["two"]}"#,
        r#"{"alg":"ES384","kid":"two"}"#,
        r#"{"alg":"es256","kid":"two"}"#,
        r#"{"kid":"two"}"#,
        r#"{"alg":"ES256","kid":"two","crit":["exp"]}"#,
        r#"{"alg":"ES256","kid":"two","crit":[]}"#,
        r#"{"alg":"ES256","kid":"two","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"none","alg":"ES256","kid":"two"}"#,
        r#"{"alg":"ES256","kid":"three","kid":"two"}"#,
        r#"{"alg":"ES256","kid":"two"} x"#,
        "[]",
        "",
    ] {
        assert!(proven(&ec.token(header, &claims)).is_err(), "{header}");
    }
    assert!(proven(&other.token(r#"{"alg":"ES256","kid":"two"}"#, &claims)).is_err());
    assert!(proven(&other.token(r#"{"alg":"ES256"}"#, &claims)).is_err());
    // The key that comes with the token is nobody's.
    let own = json!({ "alg": "ES256", "kid": "two", "jwk": other.jwk("two"), "x5c": ["x"] }).to_string();
    assert!(proven(&other.token(&own, &claims)).is_err());
}

#[test]
fn claims_that_read_two_ways_prove_nothing() {
    let signer = Signer::ec();
    let issuer = issuer(&[(&signer, "one")]);
    let good = claims().to_string();
    let proven = |claims: &str| issuer.account(&signer.token(&header(&signer).to_string(), claims), POD, at(NOW));
    assert!(proven(&good).is_ok());
    for twice in [
        good.replacen('{', &format!("{{\"exp\":{},", NOW + 9), 1),
        good.replacen('{', "{\"iss\":\"x\",", 1),
        good.replacen('{', "{\"kubernetes.io\":{\"namespace\":\"x\"},", 1),
        good.replace("\"serviceaccount\":{", "\"serviceaccount\":{\"name\":\"admin\","),
        good.replace("\"pod\":{", "\"pod\":{\"uid\":\"x\","),
        format!("{good}{good}"),
        good[..good.len() / 2].to_owned(),
        "null".to_owned(),
        "[".repeat(4096),
        String::new(),
    ] {
        assert!(proven(&twice).is_err(), "{twice}");
    }
}

#[test]
fn what_is_no_token_is_told_apart_by_its_form_alone() {
    let signer = Signer::ec();
    let issuer = issuer(&[(&signer, "one")]);
    let token = String::from_utf8(signer.token(&header(&signer).to_string(), &claims().to_string())).unwrap();
    let proven = |token: &[u8]| issuer.account(token, POD, at(NOW)).is_ok();
    assert!(proven(token.as_bytes()));
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{header}.{claims}"),
        format!("{token}.{signature}"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}="),
        format!("{header}.{claims}.{}", signature.replace(['-', '_'], "+")) + "+",
        format!("{header}.{claims}.{}", &signature[..signature.len() - 4]),
        format!("Bearer {token}"),
    ] {
        assert!(!proven(bad.as_bytes()), "{bad}");
    }
    assert!(!proven(&[0xff; 100]));
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] ^= 1;
        assert!(!proven(&changed), "byte {at}");
    }
}

#[test]
fn a_token_is_bounded() {
    let (signer, most) = (Signer::ec(), usize::try_from(limits::SERVICE_ACCOUNT_TOKEN_BYTES).unwrap());
    let issuer = issuer(&[(&signer, "one")]);
    let token = signer.token(&header(&signer).to_string(), &claims().to_string());
    let ends = |bytes: usize| [token.as_slice(), &vec![b'\n'; bytes - token.len()]].concat();
    assert!(issuer.account(&ends(most), POD, at(NOW)).is_ok());
    assert!(issuer.account(&ends(most + 1), POD, at(NOW)).unwrap_err().starts_with("larger"));
}

#[test]
fn a_key_set_that_cannot_be_used_in_full_is_an_error() {
    let (ec, rsa) = (Signer::ec(), Signer::rsa());
    let set = |keys: &[Value]| KeySet::parse(&json!({ "keys": keys }).to_string());
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    assert!(set(&[ec.jwk("one"), rsa.jwk("two")]).is_ok());
    let mut plain = ec.jwk("one");
    for name in ["alg", "use", "kid"] {
        plain.as_object_mut().unwrap().remove(name);
    }
    assert!(set(&[plain.clone()]).is_ok());
    for bad in [
        vec![],
        vec![ec.jwk("one"), rsa.jwk("one")],
        vec![plain.clone(), plain],
        vec![with(ec.jwk("one"), "use", json!("enc"))],
        vec![with(ec.jwk("one"), "alg", json!("RS256"))],
        vec![with(ec.jwk("one"), "alg", json!("none"))],
        vec![with(ec.jwk("one"), "crv", json!("P-384"))],
        vec![with(ec.jwk("one"), "x", ec.jwk("one")["y"].clone())],
        vec![with(rsa.jwk("one"), "e", json!("AQ"))],
        vec![with(rsa.jwk("one"), "e", json!("Aw"))],
        vec![with(rsa.jwk("one"), "n", json!("AQAB"))],
        vec![with(rsa.jwk("one"), "kty", json!("oct"))],
        vec![json!({ "kty": "oct", "k": "AAAA" })],
        vec![json!({})],
    ] {
        assert!(set(&bad).is_err(), "{bad:?}");
    }
    let many: Vec<Value> = (0..=limits::SERVICE_ACCOUNT_KEYS).map(|id| ec.jwk(&id.to_string())).collect();
    assert!(set(&many).is_err() && set(&many[1..]).is_ok());
    for text in ["", "{}", "[]", "{\"keys\":[],\"keys\":[]}"] {
        assert!(KeySet::parse(text).is_err(), "{text}");
    }
}
