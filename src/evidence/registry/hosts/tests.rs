use std::os::unix::fs::PermissionsExt;

use super::*;

struct Directories {
    folder: tempfile::TempDir,
    hosts: Arc<Hosts>,
}

impl Directories {
    fn new(skip_verify: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = ["containerd", "docker"].map(|root| folder.path().join(root));
        let skip_verify = skip_verify.iter().map(|host| host.parse().unwrap()).collect();
        Self { hosts: Arc::new(Hosts::new(roots.to_vec(), skip_verify)), folder }
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    async fn of(&self, host: &str) -> Result<Option<Arc<Configured>>, String> {
        self.hosts.of(&host.parse().unwrap()).await.map_err(|cause| cause.to_string())
    }

    /// The first server that is asked for `host`; none where nothing is configured.
    async fn first(&self, host: &str) -> Option<String> {
        let configured = self.of(host).await.unwrap()?;
        Some(configured.hosts[0].server.as_ref().map_or_else(|| "itself".to_owned(), Url::to_string))
    }
}

fn mirror(name: &str) -> String {
    format!("[host.\"https://{name}\"]\n")
}

fn authority() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["reg.io".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn the_directory_is_the_one_that_containerd_chooses() {
    let all = Directories::new(&[]);
    assert_eq!(all.first("reg.io:5000").await, None);
    for (path, name) in [
        ("docker/reg.io/hosts.toml", "1.io"),
        ("docker/reg.io_5000_/hosts.toml", "2.io"),
        ("containerd/_default/hosts.toml", "3.io"),
        ("containerd/reg.io:5000/hosts.toml", "4.io"),
        ("containerd/reg.io_5000_/hosts.toml", "5.io"),
    ] {
        all.write(path, &mirror(name));
        let found = all.first("reg.io:5000").await;
        // Of a directory of that host without its port nobody speaks who asks for the port.
        let expected = if name == "1.io" { None } else { Some(format!("https://{name}/v2")) };
        assert_eq!(found, expected, "{path}");
    }
    assert_eq!(all.first("other.io").await.as_deref(), Some("https://3.io/v2"));
    assert_eq!(all.first("reg.io").await.as_deref(), Some("https://3.io/v2"), "one root after the other");
    // Nobody claims the directory of another by how he calls himself.
    for spoof in ["reg.io_5000_", "_default"] {
        assert_eq!(all.first(spoof).await.as_deref(), Some("https://3.io/v2"), "{spoof}");
        assert!(!all.of(spoof).await.unwrap().unwrap().named, "{spoof}");
    }
    assert!(all.of("reg.io:5000").await.unwrap().unwrap().named);
}

#[tokio::test]
async fn a_change_is_noticed() {
    let all = Directories::new(&[]);
    assert_eq!(all.first("reg.io").await, None);
    let path = all.write("containerd/reg.io/hosts.toml", &mirror("one.io"));
    assert_eq!(all.first("reg.io").await.as_deref(), Some("https://one.io/v2"));
    all.write("containerd/reg.io/hosts.toml", &mirror("two.io"));
    assert_eq!(all.first("reg.io").await.as_deref(), Some("https://two.io/v2"));
    all.write("containerd/reg.io/hosts.toml", "server = ");
    assert!(all.of("reg.io").await.is_err());
    fs::remove_file(path).unwrap();
    assert_eq!(all.first("reg.io").await.as_deref(), Some("itself"));
    let (certificate, _) = authority();
    let ca = all.write("containerd/reg.io/ca.crt", &certificate);
    let before = all.of("reg.io").await.unwrap().unwrap().hosts[0].trust.id();
    fs::write(&ca, authority().0).unwrap();
    let after = all.of("reg.io").await.unwrap().unwrap().hosts[0].trust.id();
    assert!(before.is_some() && after.is_some() && before != after);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_it() {
    let (certificate, key) = authority();
    let pem = |all: &Directories| {
        all.write("containerd/reg.io/ca.pem", &certificate);
        all.write("containerd/reg.io/key.pem", &key);
    };
    let large = "#".repeat(usize::try_from(limits::HOSTS_FILE_BYTES).unwrap() + 1);
    let many = format!("ca = {:?}", vec!["ca.pem"; limits::HOST_AUTHORITIES + 1]);
    for (text, why) in [
        ("server = ", "hosts.toml:1:"),
        ("\n[host.\"m.io\"]\ncapabilities = [\"pul\"]", "hosts.toml:3:17: no capability"),
        ("ca = \"missing.pem\"", "missing.pem: the file is not there"),
        ("ca = \"key.pem\"", "key.pem: no certificate"),
        ("client = \"ca.pem\"", "ca.pem: no certificate with its key"),
        ("client = [[\"ca.pem\", \"missing.pem\"]]", "missing.pem: the file is not there"),
        (large.as_str(), "hosts.toml: larger than"),
        (many.as_str(), "more than 16 files"),
    ] {
        let all = Directories::new(&[]);
        pem(&all);
        all.write("containerd/reg.io/hosts.toml", text);
        let told = all.of("reg.io").await.err().unwrap();
        assert!(told.contains(why), "{told}");
        assert!(all.of("other.io").await.unwrap().is_none(), "no other registry minds");
    }
    let all = Directories::new(&[]);
    let path = all.write("containerd/reg.io/hosts.toml", &mirror("one.io"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(all.of("reg.io").await.err().unwrap().contains("others can write to it"));
    let all = Directories::new(&[]);
    let long = "x".repeat(usize::try_from(limits::CERTIFICATE_BYTES).unwrap() + 1);
    all.write("containerd/reg.io/ca.crt", &long);
    assert!(all.of("reg.io").await.err().unwrap().contains("ca.crt: larger than"));
}

#[tokio::test]
async fn dockers_layout_has_certificates_alone() {
    let (certificate, key) = authority();
    let all = Directories::new(&[]);
    all.write("docker/reg.io/ca.crt", &certificate);
    all.write("docker/reg.io/client.cert", &certificate);
    all.write("docker/reg.io/client.key", &key);
    all.write("docker/both.io/client.cert", &format!("{certificate}{key}"));
    all.write("docker/two.io/a.cert", &format!("{certificate}{key}"));
    all.write("docker/two.io/b.cert", &format!("{certificate}{key}"));
    for host in ["reg.io", "both.io"] {
        let found = all.of(host).await.unwrap().unwrap();
        assert_eq!((found.hosts.len(), found.named), (1, true));
        assert!(found.hosts[0].server.is_none() && found.hosts[0].trust.is_some(), "{host}");
        assert_eq!(found.hosts[0].trust.of_others().is_some(), host == "reg.io", "what is its own stays at home");
    }
    assert!(all.of("two.io").await.err().unwrap().contains("not several"));
    all.write("docker/lonely.io/client.cert", &certificate);
    assert!(all.of("lonely.io").await.err().unwrap().contains("no certificate with its key"));
}

#[tokio::test]
async fn nothing_is_loosened_and_no_secret_spread_by_a_hosts_file_alone() {
    let text = "skip_verify = true\n[header]\nauthorization = \"Basic hunter2\"\n";
    for (allowed, expected) in [(vec![], false), (vec!["reg.io"], true), (vec!["other.io"], false)] {
        let all = Directories::new(&allowed);
        all.write("containerd/reg.io/hosts.toml", text);
        let found = all.of("reg.io").await.unwrap().unwrap();
        assert_eq!(found.hosts[0].trust.skip_verify, expected);
        assert_eq!(found.hosts[0].header.len(), 1);
    }
    // A directory for all hosts does not say whose header it is; with a server it does.
    let all = Directories::new(&[]);
    let (certificate, key) = authority();
    all.write("containerd/_default/both.pem", &format!("{certificate}{key}"));
    all.write("containerd/_default/hosts.toml", &format!("client = \"both.pem\"\n{text}"));
    let found = all.of("reg.io").await.unwrap().unwrap();
    assert!(found.hosts[0].header.is_empty() && !found.hosts[0].trust.is_some());
    all.write(
        "containerd/_default/hosts.toml",
        &format!("server = \"https://proxy.io\"\nclient = \"both.pem\"\n{text}"),
    );
    let found = all.of("reg.io").await.unwrap().unwrap();
    assert!(found.hosts[0].header.len() == 1 && found.hosts[0].trust.is_some());
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let all = Directories::new(&[]);
    for number in 0..2 * limits::REGISTRY_HABITS {
        let _ = all.hosts.look(&format!("r{number}.io").parse().unwrap());
    }
    assert!(all.hosts.known.lock().unwrap().len() <= limits::REGISTRY_HABITS);
}
