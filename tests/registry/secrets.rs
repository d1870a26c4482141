//! Credentials: what they open, and who never gets to see one.

use std::time::Instant;

use pullgate::policy::{
    decision::{Code, Verdict},
    evaluate::gap_violation,
};

use super::{
    hostile::{Authority, Reply, Request},
    reach::Files,
    *,
};

const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

/// A registry that needs a name and a password, and a node that trusts it over TLS.
struct Private {
    authority: Authority,
    server: HostileRegistry,
    image: Digest,
    files: Files,
}

async fn private() -> Private {
    let authority = Authority::new();
    let server = HostileRegistry::start_tls(&authority, None).await;
    let image = server.content().image("app", "v1", "x");
    server.content().signatures("app", image, &[(b"payload", "sig")]);
    server.require_login("user", "hunter2");
    let mut files = Files::trusting(&authority);
    files.hosts(&server.host(), &secure(&server));
    files.logins(&[&server.host()]);
    Private { authority, server, image, files }
}

fn secure(server: &HostileRegistry) -> String {
    format!("server = \"https://{}\"\nca = \"{{ca}}\"\n", server.host())
}

impl Private {
    async fn search(&self) -> Gathered {
        let gathered = gather(&self.files.client(in_order()), self.server.place("app"), self.image, TAG).await;
        assert!(!format!("{gathered:?}").contains("hunter2"), "{gathered:?}");
        gathered
    }

    fn realm(&self, server: &HostileRegistry) -> String {
        format!("https://{}/token", server.host())
    }
}

fn shown(requests: &[Request]) -> Vec<&str> {
    requests.iter().filter_map(|request| request.header("authorization")).collect()
}

/// A `localhost` that is another host than `127.0.0.1`, though its port answers there, too.
fn other_name(server: &HostileRegistry) -> String {
    server.host().replace("127.0.0.1", "localhost")
}

#[tokio::test]
async fn a_password_is_shown_once_it_is_asked_for() {
    let private = private().await;
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    let seen = private.server.seen();
    assert_eq!(shown(&seen[..1]), [] as [&str; 0], "not before");
    assert_eq!(shown(&seen), [BASIC, BASIC]);
    assert_eq!(seen.len(), 3, "and then at once: {:?}", private.server.asked());
}

#[tokio::test]
async fn a_password_is_changed_into_a_token_for_this_repository_alone() {
    let private = private().await;
    private.server.require_token(&private.realm(&private.server), "secret");
    // Whoever answers may ask for more than is needed.
    private.server.on("/v2/", |request, right| match request.header("authorization") {
        Some(_) => right,
        None => right.with(
            "WWW-Authenticate",
            &format!(
                r#"Bearer realm="https://{}/token",service="s",scope="repository:app:pull,push repository:other:delete""#,
                request.header("host").unwrap()
            ),
        ),
    });
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    let seen = private.server.seen();
    let token = seen.iter().find(|request| request.path() == "/token").unwrap();
    assert_eq!(token.header("authorization"), Some(BASIC));
    assert_eq!(token.query("scope"), Some("repository%3Aapp%3Apull"));
    assert!(seen.iter().all(|request| request.path() == "/token" || request.header("authorization") != Some(BASIC)));
}

#[tokio::test]
async fn an_identity_token_is_changed_and_a_registry_token_shown() {
    let mut private = private().await;
    private.server.require_token(&private.realm(&private.server), "secret");
    let host = private.server.host();
    private.files.docker(&format!(r#"{{"auths":{{"{host}":{{"identitytoken":"refresh"}}}}}}"#));
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    let seen = private.server.seen();
    let token = seen.iter().find(|request| request.path() == "/token").unwrap();
    assert_eq!((token.method.as_str(), token.query("scope")), ("POST", None));
    for part in
        ["grant_type=refresh_token", "refresh_token=refresh", "scope=repository%3Aapp%3Apull", "service=hostile"]
    {
        assert!(token.body.contains(part), "{}", token.body);
    }
    private.files.docker(&format!(r#"{{"auths":{{"{host}":{{"registrytoken":"secret"}}}}}}"#));
    private.server.forget();
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    assert!(private.server.seen().iter().all(|request| request.path() != "/token"));
}

#[tokio::test]
async fn a_token_service_elsewhere_gets_nothing_unless_it_is_named() {
    let mut private = private().await;
    let service = HostileRegistry::start_tls(&private.authority, None).await;
    service.require_token("", "secret");
    service.require_login("user", "hunter2");
    let elsewhere = other_name(&service);
    private.server.require_token(&format!("https://{elsewhere}/token"), "secret");
    let gathered = private.search().await;
    let Cause::Withheld(why) = gathered.gap() else { panic!("{gathered:?}") };
    let line = format!("[registry.\"{}\"] token-service = \"{elsewhere}\"", private.server.host());
    assert!(why.contains(&line), "{why}");
    let violation = gap_violation(&gathered.gaps[0]);
    assert_eq!((violation.code, violation.code.verdict()), (Code::RegistryUnauthorized, Verdict::Inconclusive));
    assert!(service.seen().is_empty());

    let (registry, other) = (private.server.host().parse().unwrap(), elsewhere.parse().unwrap());
    private.files.options.token_services = vec![(registry, other)];
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    assert_eq!(shown(&service.seen()), [BASIC]);

    // Neither is what was named for one registry named for another, nor in plain HTTP.
    service.forget();
    private.files.options.token_services = vec![("reg.example.com".parse().unwrap(), elsewhere.parse().unwrap())];
    assert!(matches!(private.search().await.gap(), Cause::Withheld(_)));
    private.files.options.token_services = vec![(private.server.host().parse().unwrap(), elsewhere.parse().unwrap())];
    private.server.require_token(&format!("http://{elsewhere}/token"), "secret");
    let gathered = private.search().await;
    assert!(matches!(gathered.gap(), Cause::NotAllowed(_) | Cause::Withheld(_)), "{gathered:?}");
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn another_port_of_this_node_is_another_host() {
    let private = private().await;
    let service = HostileRegistry::start_tls(&private.authority, None).await;
    private.server.require_token(&private.realm(&service), "secret");
    assert!(matches!(private.search().await.gap(), Cause::Withheld(_)));
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn a_redirect_takes_a_password_to_no_other_host() {
    let private = private().await;
    for other in ["127.0.0.1", "localhost"] {
        let storage = HostileRegistry::start_tls(&private.authority, None).await;
        storage.content().blob(b"payload");
        let host = storage.host().replace("127.0.0.1", other);
        private.server.on("/blobs/", move |request, right| match request.header("authorization") {
            Some(_) => Reply::redirect(307, &format!("https://{host}{}", request.target)),
            None => right,
        });
        assert_eq!(private.search().await.texts(), ["payload sig"], "{other}");
        assert_eq!((storage.seen().len(), shown(&storage.seen()).len()), (1, 0), "{other}");
        // Nor is one shown to who asks for it there.
        storage.require_login("user", "hunter2");
        assert_eq!(private.search().await.gap(), &Cause::Unauthorized, "{other}");
        assert!(shown(&storage.seen()).is_empty(), "{other}");
    }
    // The manifest's answer, too.
    let storage = HostileRegistry::start_tls(&private.authority, None).await;
    let host = storage.host();
    private.server.on(".sig", move |request, _| Reply::redirect(302, &format!("https://{host}{}", request.target)));
    private.search().await;
    assert!(!storage.seen().is_empty() && shown(&storage.seen()).is_empty());
}

#[tokio::test]
async fn a_password_of_a_registry_goes_to_no_mirror_of_it() {
    let mut private = private().await;
    let mirror = HostileRegistry::start_tls(&private.authority, None).await;
    mirror.require_login("user", "hunter2");
    let text = format!("{}[host.\"https://{}\"]\nca = \"{{ca}}\"\n", secure(&private.server), mirror.host());
    private.files.hosts(&private.server.host(), &text);
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    assert!(!mirror.seen().is_empty() && shown(&mirror.seen()).is_empty());
    // It has its own.
    private.files.logins(&[&mirror.host()]);
    private.search().await;
    assert!(shown(&mirror.seen()).contains(&BASIC));
    private.server.forget();
    private.search().await;
    assert!(shown(&private.server.seen()).is_empty(), "nor the other way round");
}

#[tokio::test]
async fn a_password_for_some_repositories_is_not_shown_for_others() {
    let mut private = private().await;
    let host = private.server.host();
    private.files.logins(&[&format!("{host}/team")]);
    assert_eq!(private.search().await.gap(), &Cause::Unauthorized);
    private.files.logins(&[&format!("{host}/app")]);
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    private.files.logins(&["evil.example.com", &format!("{host}.evil.example.com")]);
    private.server.forget();
    assert_eq!(private.search().await.gap(), &Cause::Unauthorized);
    assert!(shown(&private.server.seen()).is_empty());
}

#[tokio::test]
async fn a_wrong_password_is_not_shown_again_and_again() {
    let private = private().await;
    private.server.require_login("user", "another");
    let client = private.files.client(in_order());
    for _ in 0..3 {
        let gathered = gather(&client, private.server.place("app"), private.image, ALL).await;
        assert!(gathered.gaps.iter().all(|gap| gap.cause == Cause::Unauthorized), "{gathered:?}");
    }
    assert_eq!(shown(&private.server.seen()).len(), 1, "an account may be locked by it");
    // The same with a token service.
    private.server.require_token(&private.realm(&private.server), "secret");
    private.server.forget();
    let client = private.files.client(in_order());
    for _ in 0..3 {
        gather(&client, private.server.place("app"), private.image, ALL).await;
    }
    assert_eq!(shown(&private.server.seen()).len(), 1);
}

#[tokio::test]
async fn what_one_request_is_refused_the_others_are_not() {
    let private = private().await;
    private.server.on("/referrers/", |_, _| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
    let client = private.files.client(in_order());
    for _ in 0..2 {
        let gathered = gather(&client, private.server.place("app"), private.image, ALL).await;
        assert_eq!(gathered.texts(), ["payload sig"]);
        assert_eq!(gathered.gap(), &Cause::Unauthorized);
    }
}

#[tokio::test]
async fn a_registry_that_never_has_enough_is_asked_a_few_times() {
    let private = private().await;
    private.server.on("/v2/", |_, _| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
    let client = private.files.client(in_order());
    assert_eq!(gather(&client, private.server.place("app"), private.image, TAG).await.gap(), &Cause::Unauthorized);
    assert_eq!(client.requests(), 2);
    let challenge = format!(r#"Bearer realm="{}",service="s""#, private.realm(&private.server));
    private.server.on("/v2/", move |_, _| Reply::status(401).with("WWW-Authenticate", &challenge));
    let client = private.files.client(in_order());
    assert_eq!(gather(&client, private.server.place("app"), private.image, TAG).await.gap(), &Cause::Unauthorized);
    assert_eq!(client.requests(), 3);
}

#[tokio::test]
async fn a_token_is_for_the_credential_that_it_was_issued_for() {
    let mut private = private().await;
    private.server.require_token(&private.realm(&private.server), "secret");
    let client = private.files.client(in_order());
    assert_eq!(gather(&client, private.server.place("app"), private.image, TAG).await.texts(), ["payload sig"]);
    // What was issued is refused now, and the credential has changed.
    private.server.require_token(&private.realm(&private.server), "newer");
    private.server.require_login("user", "another");
    private
        .files
        .docker(&format!(r#"{{"auths":{{"{}":{{"username":"user","password":"another"}}}}}}"#, private.server.host()));
    assert_eq!(gather(&client, private.server.place("app"), private.image, TAG).await.texts(), ["payload sig"]);
}

#[tokio::test]
async fn a_helper_that_fails_is_a_cause_of_its_own_and_no_other_registry_minds() {
    let mut private = private().await;
    let open = HostileRegistry::start().await;
    let host = private.server.host();
    private.files.docker(&format!(r#"{{"credHelpers":{{"{host}":"x"}}}}"#));
    for (script, why) in [
        (None, "the program is not there"),
        (Some("sleep 600"), "no end after"),
        (Some("echo hunter2"), "none of a credential helper"),
        (Some("yes hunter2"), "it prints more than"),
        (Some("echo hunter2 >&2; exit 4"), "exit status: 4"),
    ] {
        if let Some(script) = script {
            private.files.write("docker-credential-x", &format!("#!/bin/sh\n{script}\n"), 0o755);
        }
        let client = private.files.client(Bounds { helper: Duration::from_secs(1), ..in_order() });
        let begin = Instant::now();
        let gathered = gather(&client, private.server.place("app"), private.image, TAG).await;
        let Cause::NoCredential(told) = gathered.gap() else { panic!("{gathered:?}") };
        assert!(told.contains(why) && told.contains("docker-credential-x") && !told.contains("hunter2"), "{told}");
        assert!(begin.elapsed() < Duration::from_secs(7));
        let violation = gap_violation(&gathered.gaps[0]);
        assert_eq!((violation.code, violation.code.verdict()), (Code::CredentialUnavailable, Verdict::Inconclusive));
        let elsewhere = gather(&client, open.place("app"), private.image, TAG).await;
        assert!(elsewhere.gaps.is_empty(), "{elsewhere:?}");
    }
    let answer = r#"echo '{"ServerURL":"x","Username":"user","Secret":"hunter2"}'"#;
    private.files.write("docker-credential-x", &format!("#!/bin/sh\n{answer}\n"), 0o777);
    let gathered = private.search().await;
    assert!(gathered.gap().to_string().contains("others can write to"), "{gathered:?}");
    private.files.write("docker-credential-x", &format!("#!/bin/sh\n{answer}\n"), 0o755);
    assert_eq!(private.search().await.texts(), ["payload sig"]);
}

#[tokio::test]
async fn a_registry_that_asks_for_nothing_gets_nothing_and_no_program_runs() {
    let mut private = private().await;
    let open = HostileRegistry::start().await;
    private.files.docker(r#"{"credsStore":"x"}"#);
    let ran = private.files.path("ran");
    private.files.write("docker-credential-x", &format!("#!/bin/sh\ntouch {}\n", ran.display()), 0o755);
    assert!(gather(&private.files.client(in_order()), open.place("app"), private.image, ALL).await.gaps.is_empty());
    assert!(!ran.exists() && shown(&open.seen()).is_empty());
}

/// What is logged at every level, by pullgate and by all below it.
#[derive(Clone, Default)]
struct Logged(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level_or_left_on_the_disk() {
    let mut private = private().await;
    private.server.require_token(&private.realm(&private.server), "hunter2-token");
    let host = private.server.host();
    private.files.docker(&format!(r#"{{"credHelpers":{{"{host}":"x"}}}}"#));
    let answer = r#"echo '{"ServerURL":"x","Username":"user","Secret":"hunter2"}'"#;
    private.files.write("docker-credential-x", &format!("#!/bin/sh\n{answer}\n"), 0o755);
    private.files.hosts(&host, &format!("{}[header]\nx-key = \"hunter2\"\n", secure(&private.server)));
    let files = || std::fs::read_dir(private.files.folder()).unwrap().count();
    let (logged, before) = (Logged::default(), files());
    let sink = logged.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || sink.clone()).finish();
    let logging = tracing::subscriber::set_default(subscriber);
    tracing::info!("it is listened to");
    assert_eq!(private.search().await.texts(), ["payload sig"]);
    private.server.require_login("user", "another");
    private.server.require_token(&private.realm(&private.server), "newer");
    private.search().await;
    drop(logging);
    let text = String::from_utf8_lossy(&logged.0.lock().unwrap()).into_owned();
    assert!(text.contains("it is listened to"));
    for secret in ["hunter2", "dXNlcjpodW50ZXIy"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(files(), before);
}

#[tokio::test]
async fn no_secret_is_in_what_is_told_of_requests() {
    let private = private().await;
    private.server.require_token(&private.realm(&private.server), "hunter2-token");
    let client = private.files.client(in_order());
    gather(&client, private.server.place("app"), private.image, TAG).await;
    let told = client.told();
    assert_eq!(told.len() as u64, client.requests());
    let all = format!("{told:?}");
    assert!(!all.contains("hunter2") && !all.contains("dXNlcjpodW50ZXIy") && !all.contains("scope"), "{all}");
    let first = &told[0];
    assert_eq!((first.host.as_str(), first.status), (private.server.host().as_str(), Some(401)));
    assert!(first.what.starts_with("GET /v2/app/manifests/sha256-"), "{first:?}");
}
