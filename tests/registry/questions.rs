//! What a search says that it asked, and what came back: absent, found, broken, or not waited for.

use pullgate::evidence::{Asked, Layout};

use super::{hostile::Reply, *};

/// What was asked for and found, whether all was read, and the gap.
fn told(gathered: &Gathered) -> Vec<(Layout, u32, bool, Option<&str>)> {
    gathered.asked.iter().map(|asked| (asked.layout, asked.found, asked.ended, asked.gap.as_deref())).collect()
}

/// A repository with two signatures and a bundle, and no attestation.
async fn signed() -> (HostileRegistry, Digest) {
    let server = HostileRegistry::start().await;
    server.content().referrers_api = true;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"payload", "one"), (b"payload", "two")]);
    server.content().bundle("app", image, b"{bundle}");
    (server, image)
}

#[tokio::test]
async fn what_is_there_is_counted_and_what_is_not_is_absent() {
    let (server, image) = signed().await;
    let gathered = gather(&client(in_order()), server.place("app"), image, ALL).await;
    let expected = [
        (Layout::SignatureTag, 2, true, None),
        (Layout::Referrers, 1, true, None),
        (Layout::AttestationTag, 0, true, None),
    ];
    assert_eq!(told(&gathered), expected);
    assert_eq!(gathered.asked.iter().filter(|asked| asked.absent()).count(), 1);
    assert!(gathered.asked.iter().all(|asked| asked.repository == server.place("app").repository.to_string()));
    let only = gather(&client(in_order()), server.place("app"), image, BUNDLE).await;
    assert_eq!(told(&only), expected[1..2]);
}

#[tokio::test]
async fn a_registry_without_the_referrers_api_is_asked_once_as_far_as_it_is_told() {
    let server = HostileRegistry::start().await;
    let image = server.content().image("app", "v1", "x");
    let gathered = gather(&client(in_order()), server.place("app"), image, BUNDLE).await;
    assert_eq!(told(&gathered), [(Layout::Referrers, 0, true, None)]);
}

#[tokio::test]
async fn what_could_not_be_told_is_no_absence() {
    for (part, broken, found) in
        [(".sig", Layout::SignatureTag, 0), ("/referrers/", Layout::Referrers, 0), (".att", Layout::AttestationTag, 0)]
    {
        let (server, image) = signed().await;
        server.on(part, |_, _| Reply::status(429));
        let gathered = gather(&client(in_order()), server.place("app"), image, ALL).await;
        let broke = gathered.asked.iter().find(|asked| asked.layout == broken).unwrap();
        assert_eq!(broke.gap.as_deref(), Some("it limits the rate of requests (429)"), "{part}");
        assert_eq!((broke.found, broke.absent()), (found, false));
        assert!(gathered.asked.iter().filter(|asked| asked.layout != broken).all(|asked| asked.gap.is_none()));
    }
    let (server, image) = signed().await;
    server.on("/blobs/", |_, _| Reply::status(404));
    let gathered = gather(&client(in_order()), server.place("app"), image, TAG).await;
    assert_eq!(told(&gathered), [(Layout::SignatureTag, 0, true, Some("it is listed, but not there (404)"))]);
}

#[tokio::test]
async fn who_does_not_answer_in_time_leaves_a_gap_and_who_did_does_not() {
    let (server, image) = signed().await;
    server.on(".att", |_, _| Reply::Silence);
    let bounds = Bounds { deadline: Duration::from_secs(2), hedge: Duration::from_millis(1), ..Bounds::default() };
    let gathered = gather(&client(bounds), server.place("app"), image, ALL).await;
    let gap = |layout| gathered.asked.iter().find(|asked| asked.layout == layout).unwrap().gap.clone();
    assert_eq!((gap(Layout::SignatureTag), gap(Layout::Referrers)), (None, None));
    let why = gap(Layout::AttestationTag).unwrap();
    assert!(why.starts_with("not all evidence could be read in"), "{why}");
}

#[tokio::test]
async fn who_listens_no_more_is_told_how_far_it_came() {
    let (server, image) = signed().await;
    let mut stream = client(in_order()).evidence(server.place("app"), image, ALL);
    assert!(stream.items.recv().await.unwrap().is_ok());
    let questions = stream.questions.clone();
    drop(stream);
    let so_far = questions.so_far();
    let [Asked { layout: Layout::SignatureTag, found: 1.., gap: None, .. }] = &so_far[..] else { panic!("{so_far:?}") };
    assert!(!so_far[0].absent());
}
