//! Where evidence is looked for, in which order, and with how many requests.

use std::path::Path;

use pullgate::evidence::Material;

use super::{
    hostile::{EMPTY_CONFIG, INDEX, Reply},
    *,
};

#[tokio::test]
async fn a_signature_tag_takes_two_requests() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("a/app", "v1", "x");
    let manifest = server.content().signatures("a/app", image, &[(b"payload", "c2ln")]);
    let registry = client(Bounds { grace: Duration::from_secs(60), ..in_order() });
    let mut stream = registry.evidence(server.place("a/app"), image, ALL);
    let found = stream.items.recv().await.unwrap().unwrap();
    drop(stream);
    let Material::SimpleSigning { payload, signature, .. } = found.material else { panic!("{found:?}") };
    assert_eq!((payload.as_slice(), signature.as_str()), (b"payload".as_slice(), "c2ln"));
    assert_eq!(found.place, format!("{}/a/app@{manifest}", server.host()));
    let [hex, blob] = [&image.hex()[..8], &Digest::of(b"payload").hex()[..8]];
    let expected = [format!("GET /v2/a/app/manifests/sha256-{hex}.sig"), format!("GET /v2/a/app/blobs/sha256:{blob}")];
    assert_eq!(server.asked(), expected);
    assert_eq!(registry.requests(), 2);
    println!("requests, .sig from a digest: {}", registry.requests());
}

#[tokio::test]
async fn a_bundle_takes_three_requests_with_the_api() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    server.content().referrers_api = true;
    server.content().bundle("app", image, b"{bundle}");
    let registry = client(in_order());
    let gathered = gather(&registry, server.place("app"), image, BUNDLE).await;
    assert_eq!(gathered.texts(), ["{bundle}"]);
    assert!(gathered.gaps.is_empty(), "{:?}", gathered.gaps);
    let kinds: Vec<String> = server.asked().iter().map(|asked| asked.split('/').nth(3).unwrap().to_owned()).collect();
    assert_eq!(kinds, ["referrers", "manifests", "blobs"]);
    println!("requests, bundle by API from a digest: {}", registry.requests());
}

#[tokio::test]
async fn the_fallback_tag_is_asked_first_once_it_is_known() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    server.content().bundle("app", image, b"{bundle}");
    server.content().fallback_tag("app", image);
    let registry = client(in_order());
    for (round, expected) in [(1, 4), (2, 3), (3, 3)] {
        let before = registry.requests();
        let gathered = gather(&registry, server.place("app"), image, BUNDLE).await;
        assert_eq!(gathered.texts(), ["{bundle}"], "cosign 3.1 names the wrong type in the index");
        assert!(gathered.gaps.is_empty(), "{:?}", gathered.gaps);
        assert_eq!(registry.requests() - before, expected, "round {round}");
        println!("requests, bundle by fallback tag, round {round}: {expected}");
    }
}

#[tokio::test]
async fn none_is_certain_only_after_every_question() {
    let server = HostileRegistry::start().await;
    let signed = server.content().image("app", "v1", "x");
    server.content().bundle("app", signed, b"{bundle}");
    server.content().fallback_tag("app", signed);
    let unsigned = server.content().image("app", "v2", "y");
    let registry = client(in_order());
    for warm in [false, true] {
        if warm {
            gather(&registry, server.place("app"), signed, BUNDLE).await;
        }
        server.forget();
        let gathered = gather(&registry, server.place("app"), unsigned, SIGNATURES).await;
        assert!(gathered.found.is_empty() && gathered.gaps.is_empty(), "{gathered:?}");
        let mut asked = server.asked();
        asked.sort();
        let hex = &unsigned.hex()[..8];
        let expected = [
            format!("GET /v2/app/manifests/sha256-{hex}"),
            format!("GET /v2/app/manifests/sha256-{hex}.sig"),
            format!("GET /v2/app/referrers/sha256:{hex}"),
        ];
        assert_eq!(asked, expected, "warm: {warm}");
        println!("requests, definite none, warm {warm}: {}", asked.len());
    }
}

#[tokio::test]
async fn a_missing_repository_does_not_hide_the_api_of_another() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    server.content().bundle("app", image, b"{bundle}");
    server.on("/v2/gone/", |_, _| Reply::status(404));
    let registry = client(in_order());
    assert!(gather(&registry, server.place("gone"), image, ALL).await.found.is_empty());
    assert_eq!(gather(&registry, server.place("app"), image, BUNDLE).await.texts(), ["{bundle}"]);
}

#[tokio::test]
async fn the_layout_that_had_evidence_is_asked_first_the_next_time() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    server.content().bundle("app", image, b"{bundle}");
    let registry = client(in_order());
    gather(&registry, server.place("app"), image, ALL).await;
    server.forget();
    let mut stream = registry.evidence(server.place("app"), image, ALL);
    assert!(stream.items.recv().await.unwrap().is_ok());
    drop(stream);
    let asked = server.asked();
    assert!(asked[0].contains("/referrers/"), "{asked:?}");
}

#[tokio::test]
async fn only_the_layouts_that_a_rule_can_use_are_asked() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"p", "s")]);
    server.content().attestations("app", image, &[b"{envelope}"]);
    server.content().bundle("app", image, b"{bundle}");
    let attestations = Formats { simple_signing: false, bundle: false, attestation_tag: true };
    let nothing = Formats { attestation_tag: false, ..attestations };
    for (formats, expected) in [
        (TAG, vec!["p s"]),
        (BUNDLE, vec!["{bundle}"]),
        (attestations, vec!["{envelope}"]),
        (SIGNATURES, vec!["p s", "{bundle}"]),
        (ALL, vec!["p s", "{bundle}", "{envelope}"]),
        (nothing, vec![]),
    ] {
        let gathered = gather(&client(in_order()), server.place("app"), image, formats).await;
        assert_eq!(gathered.texts(), expected, "{formats:?}");
        assert!(gathered.gaps.is_empty(), "{:?}", gathered.gaps);
    }
}

#[tokio::test]
async fn referrers_that_are_something_else_are_not_read() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    server.content().referrer("app", image, "application/vnd.cncf.notary.signature", b"jws");
    server.content().referrer("app", image, "application/spdx+json", b"sbom");
    // A manifest that says nothing about its type must be read to know.
    let empty = server.content().referrer("app", image, EMPTY_CONFIG, b"nothing");
    let registry = client(in_order());
    let gathered = gather(&registry, server.place("app"), image, BUNDLE).await;
    assert!(gathered.found.is_empty() && gathered.gaps.is_empty(), "{gathered:?}");
    assert_eq!(server.asked().len(), 2, "the list, and one manifest: {:?}", server.asked());
    assert!(server.asked()[1].ends_with(&empty.hex()[..8]));
}

#[tokio::test]
async fn a_referrer_of_another_image_is_handed_on_to_be_judged_by_what_was_signed() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    let other = server.content().image("app", "v2", "y");
    server.content().bundle("app", other, b"{bundle}");
    let list = server.content().referrers("app", other, |_| serde_json::Value::Null);
    let index = server.content().manifest("app", INDEX, list);
    server.content().tag("app", &format!("sha256-{}", image.hex()), index);
    let gathered = gather(&client(in_order()), server.place("app"), image, BUNDLE).await;
    assert_eq!(gathered.texts(), ["{bundle}"]);
}

#[tokio::test]
async fn signatures_over_one_payload_read_it_once() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"p", "one"), (b"q", "two"), (b"p", "three")]);
    let registry = client(in_order());
    let gathered = gather(&registry, server.place("app"), image, TAG).await;
    assert_eq!(gathered.texts(), ["p one", "p three", "q two"]);
    assert_eq!(registry.requests(), 3);
}

#[tokio::test]
async fn a_layout_that_does_not_answer_delays_no_other() {
    for silent in [".sig", "/referrers/", ".att"] {
        let server = HostileRegistry::start().await;
        server.content().referrers_api = true;
        let image = server.content().image("app", "v1", "x");
        server.content().signatures("app", image, &[(b"p", "s")]);
        server.content().attestations("app", image, &[b"{envelope}"]);
        server.content().bundle("app", image, b"{bundle}");
        server.on(silent, |_, _| Reply::Silence);
        let request = Duration::from_millis(500);
        let bounds = Bounds { hedge: Duration::from_millis(1), request, tries: 1, ..Bounds::default() };
        let mut stream = client(bounds).evidence(server.place("app"), image, ALL);
        for _ in 0..2 {
            let first = stream.items.recv().await.unwrap();
            assert!(first.is_ok(), "evidence comes before the gap: {first:?}");
        }
        assert!(stream.items.recv().await.unwrap().is_err());
    }
}

#[tokio::test]
async fn bogus_evidence_that_stalls_does_not_hide_another_layout() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    let payloads: Vec<String> = (0..40).map(|number| format!("payload {number}")).collect();
    let bogus: Vec<(&[u8], &str)> = payloads.iter().map(|payload| (payload.as_bytes(), "bogus")).collect();
    server.content().signatures("app", image, &bogus);
    let bundle = server.content().bundle("app", image, b"{bundle}");
    server.on(
        "/blobs/",
        |request, right| {
            if request.target.ends_with(&Digest::of(b"{bundle}").hex()) { right } else { Reply::Silence }
        },
    );
    let bounds = Bounds { patience: Duration::from_millis(1), ..Bounds::default() };
    let mut stream = client(bounds).evidence(server.place("app"), image, ALL);
    let found = stream.items.recv().await.unwrap().unwrap();
    assert!(found.place.ends_with(&bundle.to_string()), "{found:?}");
}

#[tokio::test]
async fn a_connection_serves_more_than_one_request() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    server.content().attestations("app", image, &[b"{envelope}"]);
    let registry = client(in_order());
    for _ in 0..5 {
        registry.resolve(&server.place("app"), "v1").await.unwrap();
        gather(&registry, server.place("app"), image, ALL).await;
    }
    assert_eq!((registry.requests(), server.connections()), (30, 1));
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_no_longer_asked() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    for number in 0..500 {
        server.content().bundle("app", image, format!("{{bogus {number}}}").as_bytes());
    }
    let registry = client(Bounds::default());
    let mut stream = registry.evidence(server.place("app"), image, BUNDLE);
    assert!(stream.items.recv().await.unwrap().is_ok());
    drop(stream);
    let mut asked = registry.requests();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if registry.requests() == asked {
            break;
        }
        asked = registry.requests();
    }
    assert!(asked < 500, "{asked}");
}

#[tokio::test]
async fn the_samples_of_real_signers_are_found() {
    let Some(vectors) = std::env::var_os("PULLGATE_VECTORS") else {
        println!("skipped: PULLGATE_VECTORS names no folder");
        return;
    };
    let mut seen = 0;
    for case in std::fs::read_dir(Path::new(&vectors).join("samples/keyed")).unwrap() {
        let case = case.unwrap().path();
        let about: serde_json::Value = serde_json::from_slice(&std::fs::read(case.join("case.json")).unwrap()).unwrap();
        let image: Digest = about["image_digest"].as_str().unwrap().parse().unwrap();
        for referrers_api in [false, true] {
            let server = HostileRegistry::start().await;
            server.content().load_layout(&case.join("layout"), "app");
            server.content().referrers_api = referrers_api;
            let gathered = gather(&client(in_order()), server.place("app"), image, ALL).await;
            let name = case.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(gathered.gaps.is_empty(), "{name}: {:?}", gathered.gaps);
            let fits = |material: &Material| match name.as_bytes()[0] {
                b's' => matches!(material, Material::SimpleSigning { signature, .. } if !signature.is_empty()),
                b'b' => matches!(material, Material::Bundle(_)),
                _ => matches!(material, Material::Envelope { .. }),
            };
            let expected = if name.starts_with("s09") { 2 } else { 1 };
            assert_eq!(gathered.found.len(), expected, "{name}, API {referrers_api}");
            assert!(gathered.found.iter().all(|found| fits(&found.material)), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
