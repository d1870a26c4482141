//! Who is asked for a registry: its mirrors first, and it itself for what is not there.

use pullgate::policy::{decision::Code, evaluate::gap_violation};

use super::{
    hostile::{Authority, Body, INDEX, MANIFEST, Reply},
    reach::Files,
    *,
};

/// A registry, a mirror of it, and an image that both have.
struct Pair {
    registry: HostileRegistry,
    mirror: HostileRegistry,
    image: Digest,
    files: Files,
}

async fn pair() -> Pair {
    let (registry, mirror) = (HostileRegistry::start().await, HostileRegistry::start().await);
    let image = registry.content().image("app", "v1", "x");
    mirror.content().image("app", "v1", "x");
    let files = Files::new();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", registry.host(), mirror.host());
    files.hosts(&registry.host(), &text);
    Pair { registry, mirror, image, files }
}

impl Pair {
    async fn search(&self, bounds: Bounds) -> Gathered {
        gather(&self.files.client(bounds), self.registry.place("app"), self.image, TAG).await
    }
}

fn patient() -> Bounds {
    Bounds { mirror_hedge: Duration::from_secs(60), ..in_order() }
}

#[tokio::test]
async fn what_a_mirror_has_the_registry_need_not_be_asked_for() {
    let pair = pair().await;
    pair.mirror.content().signatures("app", pair.image, &[(b"payload", "sig")]);
    let client = pair.files.client(patient());
    let mut stream = client.evidence(pair.registry.place("app"), pair.image, TAG);
    let found = stream.items.recv().await.unwrap().unwrap();
    assert!(found.place.starts_with(&pair.mirror.host()), "{}", found.place);
    // It sufficed.
    drop(stream);
    assert!(pair.registry.seen().is_empty());
    let asked = pair.mirror.seen();
    assert!(
        asked.iter().all(|request| request.query("ns") == Some(&pair.registry.host().replace(':', "%3A"))),
        "{asked:?}"
    );
    assert!(asked.iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn what_a_mirror_has_does_not_hide_what_the_registry_has() {
    let pair = pair().await;
    pair.mirror.content().signatures("app", pair.image, &[(b"payload", "old")]);
    pair.registry.content().signatures("app", pair.image, &[(b"payload", "old"), (b"payload", "new")]);
    let gathered = pair.search(patient()).await;
    assert_eq!(gathered.texts(), ["payload new", "payload old"], "each once");
    assert!(gathered.gaps.is_empty());
    assert!(pair.registry.seen().iter().all(|request| request.query("ns").is_none()));
}

#[tokio::test]
async fn absent_is_for_the_registry_itself_to_say() {
    let pair = pair().await;
    let gathered = pair.search(patient()).await;
    assert!(gathered.found.is_empty() && gathered.gaps.is_empty(), "{gathered:?}");
    assert_eq!((pair.mirror.seen().len(), pair.registry.seen().len()), (1, 1));
    for status in [401, 403, 429, 500] {
        pair.registry.on(".sig", move |_, _| Reply::status(status));
        let gathered = pair.search(patient()).await;
        assert_eq!(gathered.gaps.len(), 1, "{status}: that a mirror has none says nothing");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_mirror_counts_only_where_the_registry_could_not_tell_either() {
    let broken: [fn(Reply) -> Reply; 6] = [
        |_| Reply::status(500),
        |_| Reply::status(403),
        |_| Reply::Reset,
        |_| Reply::Silence,
        |_| Reply::new(200, MANIFEST, "").body(Body::Trickle),
        |_| Reply::new(200, "text/html", "<html>"),
    ];
    for (number, behaviour) in broken.into_iter().enumerate() {
        let pair = pair().await;
        pair.mirror.on("/", move |_, right| behaviour(right));
        let bounds = || Bounds { mirror_patience: Duration::from_millis(300), ..patient() };
        let gathered = pair.search(bounds()).await;
        assert!(gathered.found.is_empty() && gathered.gaps.is_empty(), "{number}: {gathered:?}");
        assert!(gathered.asked.iter().any(|asked| asked.gap.is_some()), "{number}: it is told all the same");
        pair.registry.on("/", |_, _| Reply::status(500));
        assert_eq!(pair.search(bounds()).await.gaps.len(), 2, "{number}");
        pair.registry.on("/", |_, right| right);
        pair.registry.content().signatures("app", pair.image, &[(b"payload", "sig")]);
        assert_eq!(pair.search(bounds()).await.texts(), ["payload sig"], "{number}");
    }
}

#[tokio::test]
async fn a_mirror_that_is_slow_delays_no_other_host_for_long() {
    let pair = pair().await;
    pair.mirror.on("/", |_, _| Reply::Silence);
    pair.registry.content().signatures("app", pair.image, &[(b"payload", "sig")]);
    let client = pair.files.client(Bounds { mirror_hedge: Duration::from_millis(50), ..in_order() });
    let begin = std::time::Instant::now();
    let mut stream = client.evidence(pair.registry.place("app"), pair.image, TAG);
    assert!(stream.items.recv().await.unwrap().is_ok());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // And the default ends before whoever asks gives up.
    let defaults = Bounds::default();
    let last = defaults.mirror_hedge * u32::try_from(limits::MIRRORS - 1).unwrap() + defaults.mirror_patience;
    assert!(last < defaults.deadline);
}

#[tokio::test]
async fn hosts_are_asked_in_the_order_of_the_file_and_for_what_they_may_be() {
    let pair = pair().await;
    let second = HostileRegistry::start().await;
    for (capabilities, expected) in [
        (r#"["pull", "resolve"]"#, 1),
        (r#"["pull", "referrers"]"#, 1),
        (r#"["pull"]"#, 0),
        (r#"["push", "resolve"]"#, 0),
    ] {
        pair.files.hosts(
            &pair.registry.host(),
            &format!(
                "[host.\"http://{}\"]\n[host.\"http://{}\"]\ncapabilities = {capabilities}\n",
                second.host(),
                pair.mirror.host(),
            ),
        );
        let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        for (name, server) in [("second", &second), ("mirror", &pair.mirror), ("registry", &pair.registry)] {
            let order = order.clone();
            server.on("/", move |_, right| {
                order.lock().unwrap().push(name);
                right
            });
        }
        pair.search(patient()).await;
        let expected = [&["second"][..], &["mirror"][..expected], &["registry"]].concat();
        assert_eq!(*order.lock().unwrap(), expected, "{capabilities}");
    }
    // A registry that is not read from cannot say that something is absent.
    let text = format!("server = \"http://{}\"\ncapabilities = [\"push\"]\n", pair.registry.host());
    pair.files.hosts(&pair.registry.host(), &text);
    assert!(matches!(pair.search(patient()).await.gap(), Cause::NotAllowed(_)));
}

#[tokio::test]
async fn a_hosts_file_that_cannot_be_read_asks_nobody_and_minds_no_other_registry() {
    let pair = pair().await;
    pair.registry.content().signatures("app", pair.image, &[(b"payload", "sig")]);
    for (text, line) in [
        ("server = ", ":1:"),
        ("# all is well\n\n[host.\"http://127.0.0.1:1\"]\ncapabilities = [\"pul\"]\n", ":4:"),
        ("ca = \"/nowhere/ca.pem\"", "/nowhere/ca.pem: the file is not there"),
    ] {
        pair.files.hosts(&pair.registry.host(), text);
        let client = pair.files.client(patient());
        let gathered = gather(&client, pair.registry.place("app"), pair.image, ALL).await;
        let gap = &gathered.gaps[0];
        assert!(matches!(gap.cause, Cause::HostsUnreadable(_)), "{gap:?}");
        assert!(gap.cause.to_string().contains(line), "{gap:?}");
        let violation = gap_violation(gap);
        assert_eq!(
            (violation.code, violation.code.verdict()),
            (Code::HostsUnreadable, pullgate::policy::decision::Verdict::Inconclusive)
        );
        assert!(gathered.found.is_empty() && gathered.asked.iter().all(|asked| !asked.absent()), "{gathered:?}");
        let place = pair.registry.place("app");
        assert!(matches!(client.resolve(&place, "v1").await, Err(Gap { cause: Cause::HostsUnreadable(_), .. })));
        assert!(matches!(
            client.manifest(&place, &pair.image, None).await,
            Err(Gap { cause: Cause::HostsUnreadable(_), .. })
        ));
        assert_eq!((client.requests(), pair.registry.seen().len(), pair.mirror.seen().len()), (0, 0, 0));
        assert!(gather(&client, pair.mirror.place("app"), pair.image, TAG).await.gaps.is_empty());
        pair.mirror.forget();
    }
    // Mended, it counts without a restart.
    pair.files.hosts(&pair.registry.host(), "");
    assert_eq!(pair.search(patient()).await.texts(), ["payload sig"]);
}

#[tokio::test]
async fn a_mirror_that_does_not_know_a_digest_is_asked_for_the_tag() {
    let pair = pair().await;
    let list = r#"{"schemaVersion":2,"manifests":[]}"#;
    let index = pair.registry.content().manifest("app", INDEX, list);
    pair.registry.on("/", |_, _| Reply::status(500));
    pair.mirror.content().manifest("app", INDEX, list);
    pair.mirror.content().tag("app", "v1", index);
    // It fetches by tag, and knows the digest from then on.
    pair.mirror.on(&format!("/manifests/{index}"), |_, _| Reply::status(404));
    let client = pair.files.client(patient());
    let place = pair.registry.place("app");
    assert!(client.manifest(&place, &index, None).await.is_err(), "the registry itself must say that it is not there");
    let (bytes, _) = client.manifest(&place, &index, Some("v1")).await.unwrap().unwrap();
    assert_eq!(Digest::of(&bytes), index);
    // What the tag is now may be something else.
    pair.mirror.content().tag("app", "v1", pair.image);
    assert!(client.manifest(&place, &index, Some("v1")).await.is_err());
    for tag in ["../../x", "", "a b"] {
        pair.mirror.forget();
        assert!(client.manifest(&place, &index, Some(tag)).await.is_err());
        assert_eq!(pair.mirror.seen().len(), 1, "{tag:?} is no tag");
    }
    // The registry itself knows what it has.
    pair.registry.on("/", |_, right| right);
    pair.registry.on(&format!("/manifests/{index}"), |_, _| Reply::status(404));
    pair.registry.content().tag("app", "v1", index);
    pair.registry.forget();
    assert_eq!(client.manifest(&place, &index, Some("v1")).await, Ok(None));
    assert_eq!(pair.registry.seen().len(), 1);
}

#[tokio::test]
async fn a_mirror_that_lies_about_a_digest_is_passed_over() {
    let pair = pair().await;
    let image = pair.image;
    let evil = Reply::new(200, MANIFEST, r#"{"evil":1}"#).with("Docker-Content-Digest", &image.to_string());
    pair.mirror.on(&format!("/manifests/{image}"), move |_, _| evil.clone());
    let client = pair.files.client(patient());
    let (bytes, _) = client.manifest(&pair.registry.place("app"), &image, None).await.unwrap().unwrap();
    assert_eq!(Digest::of(&bytes), image);
    assert_eq!(client.resolve(&pair.registry.place("app"), "v1").await.unwrap().unwrap().digest, image);
}

#[tokio::test]
async fn an_authority_counts_for_the_host_that_it_is_configured_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = HostileRegistry::start_tls(&authority, None).await;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"payload", "sig")]);
    let bounds = || Bounds { tries: 1, ..in_order() };
    let secure = format!("server = \"https://{}\"\n", server.host());
    for (authority, text, reached) in [
        (&authority, format!("{secure}ca = \"{{ca}}\""), true),
        (&authority, "ca = [\"{ca}\"]".to_owned(), true),
        (&authority, format!("server = \"http://{}\"\nca = \"{{ca}}\"", server.host()), true),
        (&other, format!("{secure}ca = \"{{ca}}\""), false),
        (&authority, secure.clone(), false),
        // Loosening is not for this file alone.
        (&authority, format!("{secure}skip_verify = true"), false),
        (&authority, format!("{secure}ca = \"{{ca}}\"\nskip_verify = true"), true),
    ] {
        let files = Files::trusting(authority);
        files.hosts(&server.host(), &text);
        let gathered = gather(&files.client(bounds()), server.place("app"), image, TAG).await;
        assert_eq!(gathered.found.len() == 1, reached, "{text}: {gathered:?}");
        assert!(reached || matches!(gathered.gap(), Cause::Unreachable(_)), "{gathered:?}");
    }
    let mut files = Files::new();
    files.options.skip_verify = vec![server.host().parse().unwrap()];
    files.hosts(&server.host(), &format!("{secure}skip_verify = true"));
    assert_eq!(gather(&files.client(bounds()), server.place("app"), image, TAG).await.texts(), ["payload sig"]);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_its_host_alone() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = HostileRegistry::start_tls(&authority, Some(&clients)).await;
    let storage = HostileRegistry::start_tls(&authority, Some(&clients)).await;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"payload", "sig")]);
    let files = Files::trusting(&authority);
    let issued = clients.issue(&["node"]);
    files.write("both.pem", &format!("{}{}", issued.certificate, issued.key), 0o600);
    files.write("node.cert", &issued.certificate, 0o644);
    files.write("node.key", &issued.key, 0o600);
    let path = |name: &str| files.path(name).display().to_string();
    let bounds = || Bounds { tries: 1, ..in_order() };
    let search = async || gather(&files.client(bounds()), server.place("app"), image, TAG).await;
    let text = format!("server = \"https://{}\"\nca = \"{{ca}}\"\n", server.host());
    files.hosts(&server.host(), &text);
    assert!(matches!(search().await.gap(), Cause::Unreachable(_)), "without one it is not let in");
    for client in [
        format!("client = \"{}\"", path("both.pem")),
        format!("client = [\"{}\"]", path("both.pem")),
        format!("client = [[\"{}\", \"{}\"]]", path("node.cert"), path("node.key")),
    ] {
        files.hosts(&server.host(), &format!("{text}{client}"));
        assert_eq!(search().await.texts(), ["payload sig"], "{client}");
    }
    // Who is redirected to trusts the same authorities, and gets to see nothing.
    let host = storage.host();
    storage.content().blob(b"payload");
    server.on("/blobs/", move |request, _| Reply::redirect(307, &format!("https://{host}{}", request.target)));
    assert!(matches!(search().await.gap(), Cause::Unreachable(_)), "the certificate stayed at home");
    assert!(storage.seen().is_empty());
}

#[tokio::test]
async fn headers_of_a_hosts_file_go_to_its_host_alone_and_not_in_plain_http() {
    let authority = Authority::new();
    let server = HostileRegistry::start_tls(&authority, None).await;
    let storage = HostileRegistry::start_tls(&authority, None).await;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"payload", "sig")]);
    storage.content().blob(b"payload");
    let host = storage.host();
    server.on("/blobs/", move |request, _| Reply::redirect(307, &format!("https://{host}{}", request.target)));
    let files = Files::trusting(&authority);
    let text = format!("server = \"https://{}\"\nca = \"{{ca}}\"\n[header]\nx-key = \"hunter2\"\n", server.host());
    files.hosts(&server.host(), &text);
    let gathered = gather(&files.client(in_order()), server.place("app"), image, TAG).await;
    assert_eq!(gathered.texts(), ["payload sig"], "{:?}", gathered.gaps);
    assert!(server.seen().iter().all(|request| request.header("x-key") == Some("hunter2")));
    assert_eq!(storage.seen().len(), 1);
    assert_eq!(storage.seen()[0].header("x-key"), None);

    let place = Place { repository: "reg.example.com:5000/app".parse().unwrap(), proven: true };
    files.hosts("reg.example.com:5000", "server = \"http://reg.example.com:5000\"\n[header]\nx-key = \"hunter2\"\n");
    let client = files.client(in_order());
    let gathered = gather(&client, place, image, TAG).await;
    let Cause::Withheld(why) = gathered.gap() else { panic!("{gathered:?}") };
    assert!(why.contains("[registry.\"reg.example.com:5000\"] insecure-plain-http = true") && !why.contains("hunter2"));
    assert_eq!(client.requests(), 0);
}

#[tokio::test]
async fn a_path_of_its_own_and_dockers_layout_are_followed() {
    let authority = Authority::new();
    let server = HostileRegistry::start_tls(&authority, None).await;
    let image = server.content().image("app", "v1", "x");
    let files = Files::trusting(&authority);
    let text = format!("server = \"https://{}/api/reg\"\noverride_path = true\nca = \"{{ca}}\"", server.host());
    files.hosts(&server.host(), &text);
    gather(&files.client(in_order()), server.place("app"), image, TAG).await;
    assert!(server.seen()[0].path().starts_with("/api/reg/app/manifests/"), "{:?}", server.asked());
    server.forget();
    files.hosts(&server.host(), "");
    let (name, port) = server.host().rsplit_once(':').map(|(name, port)| (name.to_owned(), port.to_owned())).unwrap();
    files.write(&format!("certs.d/{name}_{port}_/ca.crt"), authority.pem(), 0o644);
    let gathered = gather(&files.client(in_order()), server.place("app"), image, TAG).await;
    assert!(gathered.gaps.is_empty(), "{gathered:?}");
    assert!(server.seen()[0].path().starts_with("/v2/app/manifests/"), "{:?}", server.asked());
    assert!(files.folder().is_absolute());
}
