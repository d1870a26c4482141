//! How much is asked of whom, and when nobody is asked.

use std::{sync::Arc, time::Instant};

use super::{hostile::Reply, reach::Files, *};

#[tokio::test]
async fn who_asks_to_be_left_alone_is_not_asked_by_anybody_until_then() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"payload", "sig")]);
    server.first(1, ".sig", |_, _| Reply::status(429).with("Retry-After", "2"));
    let registry = client(in_order());
    let search = || gather(&registry, server.place("app"), image, TAG);
    assert_eq!(search().await.gap(), &Cause::Throttled);
    // Neither by this search, nor by others, be it about something else.
    assert_eq!(search().await.gap(), &Cause::Throttled);
    let place = server.place("other");
    assert!(matches!(registry.resolve(&place, "v1").await, Err(Gap { cause: Cause::Throttled, .. })));
    assert!(matches!(registry.manifest(&place, &image, None).await, Err(Gap { cause: Cause::Throttled, .. })));
    assert_eq!(server.seen().len(), 1);
    let elsewhere = HostileRegistry::start().await;
    assert!(gather(&registry, elsewhere.place("app"), image, TAG).await.gaps.is_empty(), "no other registry minds");
    // The last second is waited for.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(search().await.texts(), ["payload sig"]);
}

#[tokio::test]
async fn a_date_is_understood_and_an_eternity_is_not_believed() {
    let server = HostileRegistry::start().await;
    let at = jiff::Timestamp::now() + Duration::from_secs(60);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap();
    server.first(1, ".sig", move |_, _| Reply::status(429).with("Retry-After", &date));
    let registry = client(in_order());
    for _ in 0..2 {
        assert_eq!(gather(&registry, server.place("app"), Digest::of(b"x"), TAG).await.gap(), &Cause::Throttled);
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_token_service_that_asks_to_be_left_alone_is() {
    let server = HostileRegistry::start().await;
    let service = HostileRegistry::start().await;
    server.require_token(&format!("http://{}/token", service.host()), "secret");
    service.on("/token", |_, _| Reply::status(429).with("Retry-After", "60"));
    let registry = client(in_order());
    for repository in ["app", "other"] {
        let gathered = gather(&registry, server.place(repository), Digest::of(b"x"), TAG).await;
        assert_eq!(gathered.gap(), &Cause::Throttled);
    }
    assert_eq!(service.seen().len(), 1);
}

/// 64 images are asked for at once, and one of their registries answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn one_slow_registry_holds_up_nobody_who_asks_another() {
    let (slow, quick) = (HostileRegistry::start().await, Arc::new(HostileRegistry::start().await));
    slow.on("/", |_, _| Reply::Silence);
    let registry = client(Bounds::default());
    let mut all = Vec::new();
    for number in 0..64 {
        let path = format!("app{number}");
        let image = quick.content().image(&path, "v1", &path);
        quick.content().signatures(&path, image, &[(path.as_bytes(), "sig")]);
        all.push((path, image));
    }
    let stalled: Vec<_> = (0..64)
        .map(|number| {
            let (registry, place) = (registry.clone(), slow.place(&format!("app{number}")));
            tokio::spawn(async move {
                let _turn = registry.turn(std::slice::from_ref(&place)).await;
                gather(&registry, place, Digest::of(b"x"), ALL).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    let searches: Vec<_> = all
        .into_iter()
        .map(|(path, image)| {
            let (registry, place) = (registry.clone(), quick.place(&path));
            tokio::spawn(async move {
                let _turn = registry.turn(std::slice::from_ref(&place)).await;
                let gathered = gather(&registry, place, image, TAG).await;
                (path, gathered, begin.elapsed())
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for search in searches {
        let (path, gathered, took) = search.await.unwrap();
        assert_eq!(gathered.texts(), [format!("{path} sig")], "{:?}", gathered.gaps);
        slowest = slowest.max(took);
    }
    println!("64 images beside 64 of a registry that does not answer: the last after {slowest:?}");
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    // No more than its share was ever asked of the slow one.
    let asked = slow.connections();
    assert!(asked <= limits::PARALLEL_OF_REGISTRY * limits::PARALLEL_FETCHES, "{asked}");
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn three_hundred_bogus_bundles_do_not_hide_a_good_one() {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    for number in 0..300 {
        server.content().bundle("app", image, format!("{{bogus {number}}}").as_bytes());
    }
    server.content().bundle("app", image, b"{good}");
    let registry = client(Bounds::default());
    let gathered = gather(&registry, server.place("app"), image, SIGNATURES).await;
    assert!(gathered.gaps.is_empty(), "{:?}", gathered.gaps);
    assert_eq!(gathered.found.len(), 301);
    assert!(gathered.texts().contains(&"{good}".to_owned()));
    assert_eq!(registry.requests(), 2 + 2 * 301);
    assert!(server.connections() <= limits::PARALLEL_FETCHES, "{} connections", server.connections());
}

#[tokio::test]
async fn an_image_whose_mirror_and_registry_have_many_bogus_pieces_is_read_to_the_end_of_both() {
    let (server, mirror) = (HostileRegistry::start().await, HostileRegistry::start().await);
    let image = server.content().image("app", "v1", "x");
    let bogus: Vec<Vec<u8>> = (0..30).map(|number| format!("bogus {number}").into_bytes()).collect();
    let bogus: Vec<(&[u8], &str)> = bogus.iter().map(|payload| (payload.as_slice(), "s")).collect();
    mirror.content().signatures("app", image, &bogus);
    server.content().signatures("app", image, &[&bogus[..], &[(b"good", "s")]].concat());
    let files = Files::new();
    files.hosts(
        &server.host(),
        &format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", server.host(), mirror.host()),
    );
    // What a mirror offers takes nothing from what the registry may offer.
    let bounds = Bounds { evidence_items: 31, ..in_order() };
    let gathered = gather(&files.client(bounds), server.place("app"), image, TAG).await;
    assert!(gathered.gaps.is_empty(), "{:?}", gathered.gaps);
    assert_eq!(gathered.found.len(), 31);
    assert!(gathered.texts().contains(&"good s".to_owned()));
}
