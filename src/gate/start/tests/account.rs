//! The service account of a pod, as its token proves it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{gate::Gate, node::Node, usual};
use crate::verify::token::testing::{ISSUER, Signer, claims, key_set};

const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Of the pod that [`Node::pod_container`] makes.
const POD: (&str, &str) = ("shop", "u");
const RULES: &str = "[[rule]]\nname = \"all\"\nimages = [\"reg.io/**\"]\nrequire = \"insecure-accept-anything\"\n\
     [[rule]]\nname = \"strict\"\nimages = [\"reg.io/**\"]\nservice-accounts = [\"shop:payer\"]\nrequire = \"deny\"\n";
const LAX: &str = "[[rule]]\nname = \"lax\"\nimages = [\"reg.io/**\"]\nservice-accounts = [\"shop:debug\"]\n\
     require = \"insecure-accept-anything\"\n";

/// What a token is made of, once there is a kubelet.
type Token = Box<dyn Fn(&Kubelet) -> Vec<u8>>;

/// A kubelet's folder, and an issuer.
struct Kubelet {
    folder: tempfile::TempDir,
    signer: Signer,
}

impl Kubelet {
    fn new() -> Self {
        let (folder, signer) = (tempfile::tempdir().unwrap(), Signer::ec());
        let keys = folder.path().join("jwks.json");
        fs::write(&keys, key_set(&[(&signer, "one")])).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder, signer }
    }

    fn claims(account: &str) -> Value {
        let (namespace, uid) = POD;
        claims(namespace, uid, account, jiff::Timestamp::now().as_second())
    }

    fn token(&self, claims: &Value) -> Vec<u8> {
        self.signer.token(r#"{"alg":"ES256","kid":"one"}"#, &claims.to_string())
    }

    fn volume(&self, uid: &str, kind: &str) -> PathBuf {
        self.folder.path().join("kubelet/pods").join(uid).join("volumes").join(kind).join("kube-api-access-x")
    }

    /// A volume with `token`, as the kubelet writes it.
    fn write(&self, uid: &str, kind: &str, token: &[u8]) -> PathBuf {
        let volume = self.volume(uid, kind);
        let data = volume.join("..2026_11_23_12_00_00.1");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("token"), token).unwrap();
        symlink("..2026_11_23_12_00_00.1", volume.join("..data")).unwrap();
        symlink("..data/token", volume.join("token")).unwrap();
        volume
    }

    /// The answer about a container with these mounts, under `rules`.
    async fn ask(self, mounts: &[(&str, &Path)], rules: &str) -> String {
        let mut node = Node::default();
        let image = node.image(&["a"], "app", "");
        node.fetched(&image.manifest, "reg.io", "app");
        node.record("reg.io/app:1", &image.manifest);
        node.pod_container("pod", &image, "reg.io/app:1", usual);
        let mounts: Vec<(&str, &str)> = mounts.iter().map(|(at, source)| (*at, source.to_str().unwrap())).collect();
        node.mounts("pod", &mounts);
        let path = self.folder.path().display();
        let more = format!(
            "mode = \"enforce\"\n[service-accounts]\nkeys = \"jwks.json\"\nissuer = \"{ISSUER}\"\nkubelet = \"{path}/kubelet\"\n"
        );
        Gate::within(self.folder, node.containerd(), &more, rules).await.ask("pod").await
    }
}

fn is_unproven(answer: &str) {
    assert!(answer.starts_with("DENY PG202 rule \"strict\""), "{answer}");
}

#[tokio::test]
async fn the_rule_of_the_proven_account_governs() {
    for (account, rules, expected) in [
        ("payer", RULES, "DENY PG202 rule \"strict\""),
        ("default", RULES, "ALLOW "),
        ("debug", LAX, "ALLOW "),
        ("default", LAX, "DENY PG201"),
    ] {
        let kubelet = Kubelet::new();
        let token = kubelet.token(&Kubelet::claims(account));
        let volume = kubelet.write(POD.1, "kubernetes.io~projected", &token);
        let answer = kubelet.ask(&[("/data", Path::new("/x")), (MOUNTED, &volume)], rules).await;
        assert!(answer.starts_with(expected), "{account}: {answer}");
    }
}

#[tokio::test]
async fn without_a_proof_the_strictest_account_is_meant_and_the_laxest_opens_nothing() {
    let kubelet = Kubelet::new();
    is_unproven(&kubelet.ask(&[], RULES).await);
    let answer = Kubelet::new().ask(&[], LAX).await;
    assert!(answer.starts_with("DENY PG201"), "{answer}");
    // What no rule for an account here could make different needs no proof.
    let elsewhere = RULES.replace("shop:payer", "web:payer");
    let answer = Kubelet::new().ask(&[], &elsewhere).await;
    assert!(answer.starts_with("ALLOW "), "{answer}");
}

#[tokio::test]
async fn a_token_that_is_not_the_kubelets_for_this_pod_proves_nothing() {
    type Made = fn(&Kubelet) -> Vec<u8>;
    let changed = |path: &'static str, value: Value| {
        move |kubelet: &Kubelet| {
            let mut claims = Kubelet::claims("default");
            *claims.pointer_mut(path).unwrap() = value.clone();
            kubelet.token(&claims)
        }
    };
    let ago = |seconds: i64| jiff::Timestamp::now().as_second() - seconds;
    let good: Made = |kubelet| kubelet.token(&Kubelet::claims("default"));
    let by_another: Made = |_| Kubelet::new().token(&Kubelet::claims("default"));
    let tokens: Vec<(&str, Token)> = vec![
        ("good", Box::new(good)),
        ("by another", Box::new(by_another)),
        ("unsigned", Box::new(|_| b"eyJhbGciOiJub25lIn0.e30.".to_vec())),
        ("empty", Box::new(|_| Vec::new())),
        ("huge", Box::new(|kubelet| [kubelet.token(&Kubelet::claims("default")), vec![b'\n'; 1 << 20]].concat())),
        ("expired", Box::new(move |kubelet| kubelet.token(&claims("shop", "u", "default", ago(3601))))),
        ("not yet", Box::new(move |kubelet| kubelet.token(&claims("shop", "u", "default", ago(-600))))),
        ("another pod's", Box::new(changed("/kubernetes.io/pod/uid", json!("another")))),
        ("another namespace's", Box::new(move |kubelet| kubelet.token(&claims("web", "u", "default", ago(0))))),
        ("another issuer's", Box::new(changed("/iss", json!("https://other.example")))),
    ];
    for (what, made) in tokens {
        let kubelet = Kubelet::new();
        let volume = kubelet.write(POD.1, "kubernetes.io~projected", &made(&kubelet));
        let answer = kubelet.ask(&[(MOUNTED, &volume)], RULES).await;
        match what {
            "good" => assert!(answer.starts_with("ALLOW "), "{answer}"),
            what => assert!(answer.starts_with("DENY PG202 rule \"strict\""), "{what}: {answer}"),
        }
    }
}

/// A change to what the kubelet wrote, which makes the paths of what is mounted.
type Spoil = fn(&Kubelet, &Path) -> Vec<(&'static str, PathBuf)>;

#[tokio::test]
async fn what_is_mounted_by_another_way_is_not_followed() {
    fn data(volume: &Path) -> PathBuf {
        volume.join("..2026_11_23_12_00_00.1")
    }
    let as_it_is: Spoil = |_, volume| vec![(MOUNTED, volume.to_owned())];
    let ways: &[(&str, Spoil)] = &[
        ("nothing spoilt", as_it_is),
        ("two volumes", |_, volume| vec![(MOUNTED, volume.to_owned()), (MOUNTED, volume.to_owned())]),
        ("two volumes, one with a slash", |_, volume| {
            vec![(MOUNTED, volume.to_owned()), ("/var/run/secrets/kubernetes.io/serviceaccount/", volume.to_owned())]
        }),
        ("another place in the container", |_, volume| vec![("/secrets", volume.to_owned())]),
        ("a config map", |kubelet, volume| {
            let token = fs::read(volume.join("token")).unwrap();
            vec![(MOUNTED, kubelet.write(POD.1, "kubernetes.io~configmap", &token))]
        }),
        ("another pod's volume", |kubelet, volume| {
            let token = fs::read(volume.join("token")).unwrap();
            vec![(MOUNTED, kubelet.write("v", "kubernetes.io~projected", &token))]
        }),
        ("a host path", |kubelet, volume| {
            let copy = kubelet.folder.path().join("copy");
            fs::rename(volume, &copy).unwrap();
            vec![(MOUNTED, copy)]
        }),
        ("a subfolder", |_, volume| vec![(MOUNTED, data(volume))]),
        ("dots", |_, volume| vec![(MOUNTED, volume.join("../kube-api-access-x"))]),
        ("the volume is a link", |kubelet, volume| {
            let copy = kubelet.folder.path().join("copy");
            fs::rename(volume, &copy).unwrap();
            symlink(&copy, volume).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the data leads elsewhere", |kubelet, volume| {
            let copy = kubelet.folder.path().join("copy");
            fs::rename(data(volume), &copy).unwrap();
            fs::remove_file(volume.join("..data")).unwrap();
            symlink(&copy, volume.join("..data")).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the data leads up", |_, volume| {
            fs::remove_file(volume.join("..data")).unwrap();
            symlink("..", volume.join("..data")).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the token is a link", |_, volume| {
            let token = data(volume).join("token");
            fs::rename(&token, data(volume).join("real")).unwrap();
            symlink("real", &token).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the token is a FIFO", |_, volume| {
            let token = data(volume).join("token");
            fs::remove_file(&token).unwrap();
            nix::unistd::mkfifo(&token, nix::sys::stat::Mode::S_IRWXU).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the token is a folder", |_, volume| {
            let token = data(volume).join("token");
            fs::remove_file(&token).unwrap();
            fs::create_dir(&token).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the token is gone", |_, volume| {
            fs::remove_file(data(volume).join("token")).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
        ("the volume is gone", |_, volume| {
            fs::remove_dir_all(volume).unwrap();
            vec![(MOUNTED, volume.to_owned())]
        }),
    ];
    for (what, spoil) in ways {
        let kubelet = Kubelet::new();
        let token = kubelet.token(&Kubelet::claims("default"));
        let volume = kubelet.write(POD.1, "kubernetes.io~projected", &token);
        let mounts = spoil(&kubelet, &volume);
        let mounts: Vec<(&str, &Path)> = mounts.iter().map(|(at, source)| (*at, source.as_path())).collect();
        let answer = kubelet.ask(&mounts, RULES).await;
        match *what {
            "nothing spoilt" => assert!(answer.starts_with("ALLOW "), "{answer}"),
            what => assert!(answer.starts_with("DENY PG202 rule \"strict\""), "{what}: {answer}"),
        }
    }
}
