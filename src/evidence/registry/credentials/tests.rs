use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Instant,
};

use super::*;
use crate::{evidence::KubeletProviders, limits};

/// A node with files of credentials and programs that know some.
struct Node {
    folder: tempfile::TempDir,
    sources: CredentialSources,
    patience: Duration,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sources = CredentialSources::default();
        Self { folder, sources, patience: Duration::from_secs(20) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// With a file like docker's.
    fn docker(text: &str) -> Self {
        let mut node = Self::new();
        node.sources.docker = vec![node.write("config.json", text, 0o600)];
        node.sources.helpers = Some(node.folder.path().to_owned());
        node
    }

    /// With a provider of the kubelet's called `plugin`, which counts its runs and says `answer`.
    fn kubelet(answer: &str) -> Self {
        let mut node = Self::new();
        node.provide(&["plugin"], "");
        node.plugin("plugin", answer);
        let (config, programs) = (node.path("providers.yaml"), node.folder.path().to_owned());
        node.sources.kubelet = Some(KubeletProviders { config, programs });
        node
    }

    fn provide(&self, names: &[&str], more: &str) {
        let provider = |name: &&str| {
            format!(
                "- name: {name}\n  matchImages: [\"*.reg.io\", \"reg.io:5000\"]\n  defaultCacheDuration: 1h\n  \
                 apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [\"one\", \"two\"]\n  \
                 env: [{{name: HINT, value: given}}]\n{more}"
            )
        };
        let providers: String = names.iter().map(provider).collect();
        let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
        self.write("providers.yaml", &format!("{head}{providers}"), 0o600);
    }

    fn plugin(&self, name: &str, answer: &str) {
        let (runs, asked) = (self.path("runs"), self.path("asked"));
        let script = format!(
            "#!/bin/sh\necho {name} >> {}\n{{ cat; echo; echo \"$@ $HINT\"; env; }} > {}\n{answer}\n",
            runs.display(),
            asked.display()
        );
        self.write(name, &script, 0o755);
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(self.sources.clone(), self.patience)
    }

    async fn of(&self, repository: &str) -> Result<Option<Credential>, String> {
        find(&self.credentials(), repository).await
    }
}

async fn find(credentials: &Credentials, repository: &str) -> Result<Option<Credential>, String> {
    let (host, path) = repository.split_once('/').unwrap();
    credentials.of(&host.parse().unwrap(), path).await.map_err(|cause| match cause {
        Cause::NoCredential(why) => why,
        other => panic!("{other:?}"),
    })
}

fn basic(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Basic { user: user.to_owned(), password: Secret(password.to_owned()) })
}

fn response(key: &str, duration: &str, auth: &str) -> String {
    let duration = if duration.is_empty() { String::new() } else { format!(r#""cacheDuration":"{duration}","#) };
    format!(
        r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"{key}",{duration}"auth":{auth}}}'"#
    )
}

const LOGIN: &str = r#"{"username":"u","password":"hunter2"}"#;

#[tokio::test]
async fn an_entry_is_for_its_host_and_repositories() {
    // user:hunter2
    let node = Node::docker(
        r#"{"auths":{
            "reg.io":{"auth":"dXNlcjpodW50ZXIy"},
            "reg.io/team":{"username":"team","password":"p"},
            "reg.io:5000":{"identitytoken":"refresh"},
            "https://index.docker.io/v1/":{"registrytoken":"access"},
            "*.cloud.io":{"auth":"dXNlcjpodW50ZXIy"},
            "empty.io":{}
        }}"#,
    );
    for (repository, expected) in [
        ("reg.io/app", basic("user", "hunter2")),
        ("reg.io/team/app", basic("team", "p")),
        ("reg.io/teammate/app", basic("user", "hunter2")),
        ("reg.io:5000/app", Some(Credential::Identity(Secret("refresh".into())))),
        ("docker.io/library/app", Some(Credential::Registry(Secret("access".into())))),
        ("eu.cloud.io/app", basic("user", "hunter2")),
        ("cloud.io/app", None),
        ("evil.io/reg.io", None),
        ("reg.io.evil.io/app", None),
        ("empty.io/app", None),
    ] {
        assert_eq!(node.of(repository).await, Ok(expected), "{repository}");
    }
    assert_eq!(Node::new().of("reg.io/app").await, Ok(None), "nothing is looked for that nobody named");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_an_error_without_its_content() {
    for (text, why) in [
        ("{\n\"auths\": hunter2", "config.json: no such file as docker's: line 2"),
        (r#"{"auths":{"reg.io":{"auth":"hunter2!"}}}"#, "auths, reg.io: `auth` is not"),
        (r#"{"auths":{"reg.io":{"auth":"aHVudGVyMg=="}}}"#, "auths, reg.io: `auth` is not"),
        (r#"{"auths":{"reg.io":{"username":{"hunter2":1}}}}"#, "line 1"),
        (r#"{"credsStore":"../hunter2"}"#, "a helper that is no name"),
        (r#"{"credsStore":"missing"}"#, "docker-credential-missing: the program is not there"),
        ("", "line 1"),
    ] {
        let told = Node::docker(text).of("reg.io/app").await.unwrap_err();
        assert!(told.contains(why), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let node = Node::docker(&" ".repeat(usize::try_from(limits::CREDENTIALS_FILE_BYTES).unwrap() + 1));
    assert!(node.of("reg.io/app").await.unwrap_err().contains("larger than"));
    fs::remove_file(node.path("config.json")).unwrap();
    assert!(node.of("reg.io/app").await.unwrap_err().contains("config.json: the file is not there"));
    let node = Node::docker("{}");
    node.write("config.json", "{}", 0o666);
    assert!(node.of("reg.io/app").await.unwrap_err().contains("others can write to it"));
    let mut node = Node::docker(r#"{"credsStore":"x"}"#);
    node.sources.helpers = None;
    assert!(node.of("reg.io/app").await.unwrap_err().contains("[credentials] docker-helpers ="));
}

#[tokio::test]
async fn a_helper_is_asked_for_the_host_and_finds_little_of_its_environment() {
    let node =
        Node::docker(r#"{"credsStore":"all","credHelpers":{"reg.io":"one"},"auths":{"reg.io":{"auth":"eDp5"}}}"#);
    node.plugin("docker-credential-one", r#"echo '{"ServerURL":"x","Username":"u","Secret":"hunter2"}'"#);
    assert_eq!(node.of("reg.io/app").await, Ok(basic("u", "hunter2")));
    let asked = fs::read_to_string(node.path("asked")).unwrap();
    assert!(asked.starts_with("reg.io\nget"), "{asked}");
    let environment: Vec<&str> =
        asked.lines().skip(2).filter_map(|line| line.split('=').next()).filter(|name| !name.is_empty()).collect();
    let known = ["PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_"];
    assert!(environment.iter().all(|name| known.contains(name)), "{environment:?}");
    node.plugin("docker-credential-all", r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"refresh"}'"#);
    assert_eq!(node.of("docker.io/library/x").await, Ok(Some(Credential::Identity(Secret("refresh".into())))));
    assert!(fs::read_to_string(node.path("asked")).unwrap().starts_with("https://index.docker.io/v1/\n"));
    node.plugin("docker-credential-all", "echo 'credentials not found in native keychain'; exit 1");
    assert_eq!(node.of("other.io/x").await, Ok(None));
}

#[tokio::test]
async fn a_helper_that_misbehaves_is_an_error_of_its_own_in_time() {
    let long = "x".repeat(limits::HELPER_CHARS);
    let name = format!("docker-credential-{long}");
    for (answer, why) in [
        ("sleep 600 & sleep 600", "no end after 0.3 s"),
        ("echo hunter2", "none of a credential helper"),
        ("echo '{\"Username\":\"hunter2\"}'", "none of a credential helper"),
        ("exit 3", "exit status: 3"),
        ("echo hunter2 >&2; echo hunter2; exit 1", "exit status: 1"),
        ("kill -9 $$", "signal: 9"),
        ("yes hunter2", "it prints more than"),
    ] {
        let mut node = Node::docker(&format!(r#"{{"credHelpers":{{"reg.io":"{long}"}}}}"#));
        node.plugin(&name, answer);
        if answer.starts_with("sleep") {
            node.patience = Duration::from_millis(300);
        }
        let begin = Instant::now();
        let told = node.of("reg.io/app").await.unwrap_err();
        assert!(told.contains(why) && told.contains(&name), "{answer}: {told}");
        assert!(!told.contains("hunter2"), "{told}");
        assert!(begin.elapsed() < Duration::from_secs(15));
        assert_eq!(node.of("other.io/app").await, Ok(None), "no other registry minds");
    }
    let node = Node::docker(&format!(r#"{{"credsStore":"{long}x"}}"#));
    assert!(node.of("reg.io/app").await.unwrap_err().contains("a helper that is no name"));
}

#[tokio::test]
async fn a_program_that_others_could_have_put_there_is_not_run() {
    let answer = r#"echo '{"ServerURL":"x","Username":"u","Secret":"p"}'"#;
    let node = Node::docker(r#"{"credsStore":"x"}"#);
    node.plugin("docker-credential-x", answer);
    let program = node.path("docker-credential-x");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for bits in [0o777, 0o775, 0o757] {
        mode(&program, bits);
        assert!(node.of("reg.io/app").await.unwrap_err().contains("others can write to"), "{bits:o}");
    }
    mode(&program, 0o644);
    assert!(node.of("reg.io/app").await.unwrap_err().contains("not a program"));
    mode(&program, 0o755);
    mode(node.folder.path(), 0o777);
    assert!(node.of("reg.io/app").await.unwrap_err().contains("others can write to"));
    mode(node.folder.path(), 0o755);
    assert_eq!(node.runs(), 0);
    assert_eq!(node.of("reg.io/app").await, Ok(basic("u", "p")));
    fs::remove_file(&program).unwrap();
    fs::create_dir(&program).unwrap();
    assert!(node.of("reg.io/app").await.unwrap_err().contains("not a program"));
}

#[tokio::test]
async fn what_a_program_started_ends_with_it() {
    let mut node = Node::docker(r#"{"credsStore":"x"}"#);
    node.patience = Duration::from_millis(300);
    let started = node.path("started");
    node.plugin("docker-credential-x", &format!("sleep 600 & echo $! > {}; wait", started.display()));
    node.of("reg.io/app").await.unwrap_err();
    let id: u32 = fs::read_to_string(started).unwrap().trim().parse().unwrap();
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    };
    let begin = Instant::now();
    while runs() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{id} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_provider_is_asked_as_the_kubelet_asks() {
    let node = Node::kubelet(&response("Image", "", &format!(r#"{{"*.reg.io":{LOGIN}}}"#)));
    assert_eq!(node.of("eu.reg.io/app").await, Ok(basic("u", "hunter2")));
    let asked = fs::read_to_string(node.path("asked")).unwrap();
    let mut lines = asked.lines();
    let request: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(request["apiVersion"], "credentialprovider.kubelet.k8s.io/v1");
    assert_eq!((&request["kind"], &request["image"]), (&"CredentialProviderRequest".into(), &"eu.reg.io/app".into()));
    assert_eq!(lines.next(), Some("one two given"));
    assert_eq!(node.of("other.io/app").await, Ok(None));
    assert_eq!(node.runs(), 1, "it is not asked for what it does not know");
}

#[tokio::test]
async fn of_what_a_provider_answers_the_closest_pattern_counts() {
    let auth = r#"{"*.reg.io":{"username":"a","password":"1"},"eu.reg.io":{"username":"b","password":"2"},"eu.reg.io/team":{"username":"c","password":"3"},"other.io":{"username":"d","password":"4"}}"#;
    let node = Node::kubelet(&response("Global", "", auth));
    let credentials = node.credentials();
    assert_eq!(find(&credentials, "us.reg.io/app").await, Ok(basic("a", "1")));
    assert_eq!(find(&credentials, "eu.reg.io/app").await, Ok(basic("b", "2")));
    assert_eq!(find(&credentials, "eu.reg.io/team/app").await, Ok(basic("c", "3")));
    assert_eq!(find(&credentials, "other.io/app").await, Ok(None), "it was not asked for that");
    assert_eq!(node.runs(), 1);
}

#[tokio::test]
async fn an_answer_is_kept_for_what_it_is_about_and_as_long_as_it_says() {
    for (key, duration, expected) in [
        ("Image", "", [1, 1, 2, 3]),
        ("Registry", "", [1, 1, 1, 2]),
        ("Global", "", [1, 1, 1, 1]),
        ("Global", "0s", [1, 2, 3, 4]),
    ] {
        let node = Node::kubelet(&response(key, duration, &format!(r#"{{"*.reg.io":{LOGIN}}}"#)));
        let credentials = node.credentials();
        for (repository, runs) in ["eu.reg.io/a", "eu.reg.io/a", "eu.reg.io/b", "us.reg.io/a"].into_iter().zip(expected)
        {
            assert_eq!(find(&credentials, repository).await, Ok(basic("u", "hunter2")));
            assert_eq!(node.runs(), runs, "{key} {duration} {repository}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_renewed_before_it_ends_and_kept_no_longer_than_is_sensible() {
    let minute = Duration::from_secs(60);
    for (stated, lives) in [
        ("10m", 9 * minute),
        ("12h", 12 * 60 * minute - limits::CREDENTIAL_SLACK),
        ("1000h", limits::CREDENTIAL_LIFE - limits::CREDENTIAL_SLACK),
    ] {
        let node = Node::kubelet(&response("Global", stated, &format!(r#"{{"*.reg.io":{LOGIN}}}"#)));
        let credentials = node.credentials();
        find(&credentials, "eu.reg.io/a").await.unwrap();
        tokio::time::pause();
        tokio::time::advance(lives - Duration::from_secs(30)).await;
        tokio::time::resume();
        find(&credentials, "eu.reg.io/a").await.unwrap();
        assert_eq!(node.runs(), 1, "{stated}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        find(&credentials, "eu.reg.io/a").await.unwrap();
        assert_eq!(node.runs(), 2, "{stated}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_question_is_asked_once_at_a_time_and_only_so_many_at_all() {
    let slow = format!(
        "echo in >> $0.log; sleep 0.3; echo out >> $0.log\n{}",
        response("Image", "1h", &format!(r#"{{"*.reg.io":{LOGIN}}}"#))
    );
    let node = Node::kubelet(&slow);
    let credentials = std::sync::Arc::new(node.credentials());
    let ask = |repository: String| {
        let credentials = credentials.clone();
        tokio::spawn(async move { find(&credentials, &repository).await })
    };
    let same: Vec<_> = (0..10).map(|_| ask("eu.reg.io/a".to_owned())).collect();
    for asked in same {
        assert_eq!(asked.await.unwrap(), Ok(basic("u", "hunter2")));
    }
    assert_eq!(node.runs(), 1);
    let others: Vec<_> = (0..6).map(|number| ask(format!("eu.reg.io/b{number}"))).collect();
    for asked in others {
        asked.await.unwrap().unwrap();
    }
    let (mut now, mut most) = (0, 0);
    for line in fs::read_to_string(node.path("plugin.log")).unwrap().lines() {
        now = if line == "in" { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    assert_eq!(most, limits::PARALLEL_HELPERS);
}

#[tokio::test]
async fn a_provider_that_misbehaves_is_an_error_that_is_remembered_for_a_moment() {
    let other = |from: &str, to: &str| response("Image", "1h", &format!(r#"{{"*.reg.io":{LOGIN}}}"#)).replace(from, to);
    for (answer, why) in [
        ("sleep 600".to_owned(), "no end after"),
        ("echo hunter2".to_owned(), "its answer is no CredentialProviderResponse"),
        ("exit 7".to_owned(), "exit status: 7"),
        (other("CredentialProviderResponse", "X"), "its answer is no CredentialProviderResponse"),
        (other("k8s.io/v1", "k8s.io/v2"), "its answer is no CredentialProviderResponse"),
        (other("Image", "Planet"), "`cacheKeyType`"),
        (other("1h", "soon"), "`cacheDuration`"),
    ] {
        let mut node = Node::kubelet(&answer);
        node.patience = Duration::from_millis(1500);
        let credentials = node.credentials();
        for _ in 0..2 {
            let told = find(&credentials, "eu.reg.io/app").await.unwrap_err();
            assert!(told.contains(why) && told.contains("/plugin"), "{answer}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        assert_eq!(node.runs(), 1, "{answer}");
        tokio::time::pause();
        tokio::time::advance(limits::HELPER_FAILED).await;
        tokio::time::resume();
        find(&credentials, "eu.reg.io/app").await.unwrap_err();
        assert_eq!(node.runs(), 2, "{answer}");
        assert_eq!(find(&credentials, "other.io/app").await, Ok(None), "no other registry minds");
    }
    let node = Node::kubelet("");
    node.write("providers.yaml", "kind: [", 0o600);
    assert!(node.of("eu.reg.io/app").await.unwrap_err().contains("providers.yaml: "));
    node.provide(&["missing"], "");
    assert!(node.of("eu.reg.io/app").await.unwrap_err().contains("missing: the program is not there"));
}

#[tokio::test]
async fn providers_are_asked_in_their_order_after_the_files_and_not_for_accounts() {
    let node = Node::kubelet(&response("Image", "", "{}"));
    node.provide(&["plugin", "second"], "");
    node.plugin("second", &response("Image", "", &format!(r#"{{"*.reg.io":{LOGIN}}}"#)));
    assert_eq!(node.of("eu.reg.io/app").await, Ok(basic("u", "hunter2")));
    assert_eq!(fs::read_to_string(node.path("runs")).unwrap(), "plugin\nsecond\n");
    let mut node = node;
    node.sources.docker = vec![node.write("config.json", r#"{"auths":{"eu.reg.io":{"auth":"eDp5"}}}"#, 0o600)];
    assert_eq!(node.of("eu.reg.io/app").await, Ok(basic("x", "y")));
    assert_eq!(node.runs(), 2);
    node.sources.docker.clear();
    let more = "  tokenAttributes: {serviceAccountTokenAudience: a, requireServiceAccount: true}\n";
    node.provide(&["plugin", "second"], more);
    assert_eq!(node.of("eu.reg.io/app").await, Ok(None));
    assert_eq!(node.runs(), 2);
}

#[tokio::test]
async fn the_answers_that_are_kept_are_bounded() {
    let node = Node::kubelet("");
    let kubelet = Kubelet::new(node.sources.kubelet.clone().unwrap());
    for number in 0..=limits::CREDENTIALS {
        kubelet.keep_for_test(format!("eu.reg.io/a{number}"));
    }
    assert_eq!(kubelet.kept(), limits::CREDENTIALS);
}

#[test]
fn nothing_shows_a_secret() {
    let all = [
        Credential::Basic { user: "u".to_owned(), password: Secret("hunter2".to_owned()) },
        Credential::Identity(Secret("hunter2".to_owned())),
        Credential::Registry(Secret("hunter2".to_owned())),
    ];
    for credential in &all {
        assert!(!format!("{credential:?}").contains("hunter2"));
        let header = match credential {
            Credential::Registry(token) => token.bearer().unwrap(),
            other => other.basic().unwrap_or(HeaderValue::from_static("")),
        };
        assert!(!format!("{header:?}").contains("hunter2"));
    }
    let ids: std::collections::HashSet<_> = all
        .iter()
        .flat_map(|credential| ["https://a.io/v2/x/", "https://b.io/v2/x/"].map(|place| credential.id(place)))
        .collect();
    assert_eq!(ids.len(), 6);
    let unfit = Credential::Registry(Secret("hunter2\n".to_owned()));
    let Credential::Registry(token) = unfit else { unreachable!() };
    assert!(!token.bearer().unwrap_err().to_string().contains("hunter2"));
}
