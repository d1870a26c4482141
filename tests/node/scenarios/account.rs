//! Rules for Kubernetes service accounts: the token that the kubelet mounted proves one, and nothing else does.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    cri::{ContainerMetadata, Mount},
    pod::{Pod, container_config},
    product::{CONFIG, CONFIG_FILE, POLICY_FILE, policy_with},
    registry::Published,
    signing::Layout,
};

const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000000"];
/// A refused container keeps its name until it is removed.
static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

/// An API server, as far as it signs tokens.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Result<Self> {
        Ok(Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?))
    }

    fn key_set(&self) -> String {
        let point = self.0.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k", "x": x, "y": y }] })
            .to_string()
    }

    /// A token for the service account `account`, made for the pod in `namespace` with this UID, that lasts so many seconds.
    fn token(&self, namespace: &str, uid: &str, account: &str, seconds: i64) -> Result<String> {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let claims = json!({
            "aud": [ISSUER], "iss": ISSUER, "exp": now + seconds, "iat": now - 60, "nbf": now - 60,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": { "name": "x", "uid": uid },
                "serviceaccount": { "name": account, "uid": "1" },
            },
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        });
        let header = json!({ "alg": "ES256", "kid": "k" });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

/// Writes a volume of the pod with `token`, as the kubelet does, and returns where it is.
fn volume(node: &Node, uid: &str, kind: &str, token: &str) -> Result<String> {
    let volume = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~{kind}/kube-api-access-x");
    let script = format!(
        "rm -rf {volume} && mkdir -p {volume}/..1 && ln -s ..1 {volume}/..data && ln -s ..data/token {volume}/token \
         && ln -s ..data/namespace {volume}/namespace"
    );
    node.sh(&script)?.ok()?;
    node.write(&format!("{volume}/..1/token"), token)?;
    node.write(&format!("{volume}/..1/namespace"), "shop")?;
    Ok(volume)
}

/// What comes of a container of `image` with `source` mounted where the token is expected, once its image is verified.
fn outcome(node: &Node, pod: &Pod<'_>, image: &Published, source: Option<&str>) -> Result<String> {
    let mut said = String::new();
    node.wait_until("it was verified", || {
        let mut config = container_config("x", &image.name, &SLEEP);
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        config.metadata = config.metadata.map(|metadata| ContainerMetadata { attempt, ..metadata });
        config.mounts.extend(source.map(|source| Mount {
            container_path: MOUNTED.to_owned(),
            host_path: source.to_owned(),
            readonly: true,
            ..Mount::default()
        }));
        said = match pod.run_of(config)? {
            Ok(id) => {
                pod.remove_container(&id)?;
                "starts".to_owned()
            }
            // Whoever passes it on may quote it.
            Err(status) => status.message().replace('\\', ""),
        };
        Ok(!said.contains("PG309"))
    })?;
    Ok(said)
}

pub fn proven_by_its_token(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    let (issuer, another) = (Issuer::new()?, Issuer::new()?);
    let busybox = node.read("/usr/bin/busybox")?;
    let image = |name: &str| -> Result<Published> {
        node.push(&format!("demo/{name}:v1"), &Image::of_layers(&busybox, name, 2)?)
    };
    let (signed, unsigned) = (image("signed")?, image("unsigned")?);
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let key = node.make_key("release")?;
    node.write("/etc/pullgate/keys/release.pub", node.read(&key)?)?;
    let attestor = "[[attestor]]\nname = \"release\"\nmay-sign = [\"signature\"]\n\
         keys = [{ file = \"keys/release.pub\", algorithm = \"ecdsa-p256-sha256\" }]\n";
    let rule = |name: &str, account: &str, require: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nimages = [\"127.0.0.1:5000/demo/**\"]\n\
             service-accounts = [\"{account}\"]\nrequire = {require}\n"
        )
    };
    let rules = [
        rule("payer", "shop:payer", "{ all = [\"demo\", \"release\"] }"),
        rule("debug", "shop:debug", &format!("{{ any = [\"demo\", {{ digests = [\"{}\"] }}] }}", unsigned.digest())),
    ];
    node.write(POLICY_FILE, policy_with(&format!("{attestor}{}", rules.concat())))?;
    node.write("/etc/pullgate/jwks.json", issuer.key_set())?;
    node.write(CONFIG_FILE, format!("{CONFIG}\n[service-accounts]\nkeys = \"jwks.json\"\nissuer = \"{ISSUER}\"\n"))?;
    node.reload()?;
    let checked = node.run(&["pullgate", "policy", "check"])?.ok()?;
    expect::holds(checked.contains("The account shop:debug is known only when"), || checked.clone())?;

    // Before the start an account that would be admitted is enough.
    expect::admitted(&node, Path::CriPull, &signed)?;
    expect::admitted(&node, Path::CriPull, &unsigned)?;

    let (shop, web) = (node.pod("shop", "one")?, node.pod("web", "two")?);
    let token = |account: &str| issuer.token("shop", "uid-one", account, 600);
    let projected = |token: String| volume(&node, "uid-one", "projected", &token);
    let ends = |pod: &Pod<'_>, image: &Published, source: Option<&str>, words: &str| {
        let said = outcome(&node, pod, image, source)?;
        expect::holds(said.contains(words), || format!("{} with {source:?}: must say `{words}`: {said}", image.name))
    };
    let (starts, payer, demo) = ("starts", "rule \"payer\"", "rule \"demo\"");
    for (account, of_signed, of_unsigned) in
        [("debug", starts, starts), ("default", starts, demo), ("payer", payer, payer)]
    {
        let source = projected(token(account)?)?;
        ends(&shop, &signed, Some(&source), of_signed)?;
        ends(&shop, &unsigned, Some(&source), of_unsigned)?;
    }

    // Whatever proves nothing: the strictest account is meant, and the laxest opens nothing.
    let is_unproven = |source: Option<&str>| {
        ends(&shop, &signed, source, payer)?;
        ends(&shop, &unsigned, source, "DENY PG101")
    };
    is_unproven(None)?;
    is_unproven(Some(&volume(&node, "uid-one", "configmap", &token("debug")?)?))?;
    is_unproven(Some(&volume(&node, "uid-two", "projected", &token("debug")?)?))?;
    for forged in [
        another.token("shop", "uid-one", "debug", 600)?,
        issuer.token("shop", "uid-two", "debug", 600)?,
        issuer.token("web", "uid-one", "debug", 600)?,
        issuer.token("shop", "uid-one", "debug", -1)?,
        token("debug")?.replacen("ey", "eyJhbGciOiJub25lIn0.ey", 1),
        String::new(),
    ] {
        is_unproven(Some(&projected(forged)?))?;
    }
    // A token that only its pod's user may read needs a capability that the unit does not have.
    let private = projected(token("default")?)?;
    node.sh(&format!("chown 1000 {private}/..1/token && chmod 600 {private}/..1/token"))?.ok()?;
    is_unproven(Some(&private))?;
    let journal = node.run(&["journalctl", "--no-pager", "-u", "pullgate.service", "-o", "cat"])?.ok()?;
    expect::holds(journal.contains("no service account of shop is proven: its signature is wrong"), || {
        journal.clone()
    })?;
    expect::holds(journal.contains("needs CAP_DAC_READ_SEARCH"), || journal.clone())?;
    node.write(
        "/etc/systemd/system/pullgate.service.d/accounts.conf",
        "[Service]\nCapabilityBoundingSet=CAP_DAC_READ_SEARCH\n",
    )?;
    node.sh("systemctl daemon-reload && systemctl restart pullgate.service")?.ok()?;
    ends(&shop, &signed, Some(&private), starts)?;

    // Of a namespace for whose accounts nothing is said nobody wants a proof.
    ends(&web, &signed, None, starts)?;
    ends(&web, &unsigned, None, demo)
}
