//! The resolve gate, where containerd has one: before anything is fetched, and by the name as it was asked for.

use serde_json::json;

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    containerd::VERIFIERS,
    image::Index,
    path::Outcome,
    product::{CONFIG, POLICY, SERVICE, SOCKETS},
    registry::Published,
    signing::Layout,
};

const WORD: &str = "/run/pullgate/audit-mode";

pub fn refused_before_fetching(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let unsigned = small(&node, "unsigned")?;
    let signed = small(&node, "signed")?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    for &path in Path::verified(suite) {
        node.clean()?;
        let cursor = node.cursor()?;
        let message = expect::refused(&node, path, &unsigned, &["PG101"])?;
        expect::holds(message.contains("verifier"), || format!("not refused by the verifier: {message}"))?;
        let entries = node.audit_since(&cursor)?;
        expect::holds(entries.len() == 1 && entries[0].gate == "resolve" && entries[0].image == unsigned.name, || {
            format!("{}: {entries:?}", path.name(suite))
        })?;
        nothing_fetched(&node, path)?;

        let by_digest = Published { name: signed.by_digest(), ..signed.clone() };
        node.systemctl(&["restart", SERVICE])?;
        let checked = node.run(&["pullgate", "check", "--verbose", &by_digest.name])?;
        let alone: u64 = checked.stderr.split(' ').next().unwrap_or_default().parse()?;
        let before = requests(&node)?;
        let cursor = node.cursor()?;
        expect::admitted(&node, path, &by_digest)?;
        let asked = requests(&node)? - before;
        expect::holds(asked <= alone, || format!("{asked} requests for two gates, {alone} for a check"))?;
        let entries = node.audit_since(&cursor)?;
        let gates: Vec<_> = entries.iter().map(|entry| (entry.gate.as_str(), entry.verdict.as_str())).collect();
        expect::holds(gates == [("resolve", "allow"), ("unpack", "allow")], || format!("{entries:?}"))?;
        // What is there already is asked about again, and not unpacked.
        let cursor = node.cursor()?;
        expect::admitted(&node, path, &by_digest)?;
        let entries = node.audit_since(&cursor)?;
        expect::holds(entries.len() == 1 && entries[0].gate == "resolve", || format!("{entries:?}"))?;
    }
    let status = node.run(&["pullgate", "status"])?.ok()?;
    expect::holds(status.contains("resolve gate") && status.contains("2 allowed"), || status.clone())
}

pub fn without_a_daemon(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = small(&node, "signed")?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    let logged = |since: &str, enforced: &str| {
        node.run(&["journalctl", "--sync"])?.ok()?;
        let entries = node.journal(&[
            &format!("--after-cursor={since}"),
            "OBJECT_SYSTEMD_UNIT=containerd.service",
            "_UID=0",
            "PULLGATE_GATE=resolve",
            "PULLGATE_CODE=PG408",
            &format!("PULLGATE_ENFORCED={enforced}"),
            &format!("PULLGATE_IMAGE={}", image.name),
        ])?;
        expect::holds(entries.len() == 1, || format!("not logged by the verifier: {entries:?}"))
    };
    for &path in Path::verified(suite) {
        node.clean()?;
        node.systemctl(&["stop", SOCKETS, SERVICE])?;
        let cursor = node.cursor()?;
        let message = expect::refused(&node, path, &image, &["PG408"])?;
        expect::holds(message.contains("systemctl start"), || format!("it does not say what to do: {message}"))?;
        logged(&cursor, "yes")?;
        nothing_fetched(&node, path)?;

        node.systemctl(&["start", SOCKETS, SERVICE])?;
        node.systemctl(&["kill", "--signal=SIGSTOP", SERVICE])?;
        let cursor = node.cursor()?;
        let stopped = expect::refused(&node, path, &image, &["PG408"]);
        node.systemctl(&["kill", "--signal=SIGCONT", SERVICE])?;
        expect::holds(stopped?.contains("did not answer in 8 s"), || "another reason".to_owned())?;
        logged(&cursor, "yes")?;
        expect::recovers(&node, path, &image)?;
    }

    // The verifier alone: the diff proxies need the daemon in any mode.
    node.connect_verifier_alone()?;
    says_audit(&node, false)?;
    node.configure(&CONFIG.replace("enforce", "audit"), POLICY)?;
    says_audit(&node, true)?;
    node.systemctl(&["stop", SOCKETS, SERVICE])?;
    for &path in Path::verified(suite) {
        node.clean()?;
        let cursor = node.cursor()?;
        expect::admitted(&node, path, &image)?;
        logged(&cursor, "no")?;
    }
    node.systemctl(&["start", SOCKETS])?;
    node.configure(CONFIG, POLICY)?;
    says_audit(&node, false)?;
    node.systemctl(&["stop", SOCKETS, SERVICE])?;
    node.clean()?;
    expect::refused(&node, Path::CtrPull, &image, &["PG408"]).map(drop)
}

/// An unsigned index is what all its children are that this node could choose.
pub fn indexes(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let (here, lesser, variant) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "arm", "v9"),
        _ => ("amd64", "386", "v3"),
    };
    let other = if here == "amd64" { "s390x" } else { "amd64" };
    let platform = |architecture: &str| Some(json!({ "os": "linux", "architecture": architecture }));
    let with_variant = Some(json!({ "os": "linux", "architecture": here, "variant": variant }));
    let good = Image::of_small_layers("good child", 2)?;
    let evil = Image::of_small_layers("evil child", 2)?;
    let signed = node.plant("demo/index", &good)?;
    node.plant("demo/index", &evil)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let index = |children: &[(&Image, Option<serde_json::Value>)]| {
        let listed: Vec<_> = children.iter().map(|(image, platform)| child(image.descriptor(), platform)).collect();
        node.plant_index("demo/index", Index::listing(&listed), good.clone())
    };

    let admitted = [
        index(&[(&good, platform(here))])?,
        index(&[(&good, platform(here)), (&evil, platform(other))])?,
        index(&[(&evil, Some(json!({ "os": "windows", "architecture": here }))), (&good, platform(here))])?,
        index(&[(&good, platform(here)), (&evil, Some(json!({ "os": "unknown", "architecture": "unknown" })))])?,
    ];
    let refused = [
        index(&[(&good, platform(here)), (&evil, platform(lesser))])?,
        index(&[(&good, platform(here)), (&evil, with_variant.clone())])?,
        index(&[(&good, platform(here)), (&evil, platform(here))])?,
        index(&[(&good, platform(here)), (&evil, None)])?,
        index(&[(&evil, platform(lesser)), (&good, platform(here))])?,
        index(&[(&evil, with_variant), (&good, platform(here))])?,
        index(&[])?,
    ];
    for &path in Path::verified(suite) {
        for image in &admitted {
            node.clean()?;
            expect::admitted(&node, path, image)?;
        }
        for image in &refused {
            node.clean()?;
            let cursor = node.cursor()?;
            expect::refused(&node, path, image, &["PG101"])?;
            by_resolve(&node, &cursor)?;
        }
    }
    let inner = index(&[(&good, platform(here))])?.index.ok_or("no index")?;
    let nested = Index::listing(&[child(good.descriptor(), &platform(here)), inner.descriptor()]);
    let nested = node.plant_index("demo/index", nested, good.clone())?;
    // What a signed index lists is admitted with it, whoever could choose it.
    let listed = index(&[(&evil, platform(here)), (&good, platform(lesser))])?;
    let listed = Published { image: evil.clone(), ..listed };
    node.sign(&listed, "demo", Layout::usual(suite))?;
    for &path in Path::verified(suite) {
        node.clean()?;
        expect::refused(&node, path, &nested, &["PG107"])?;
        node.clean()?;
        expect::admitted(&node, path, &listed)?;
    }
    Ok(())
}

/// However a registry is written, its rule governs; another port is another registry.
pub fn spellings(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = small(&node, "library")?;
    let signed = node.push("library/app:v1", &image.image)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    for port in [80, 443, 6000] {
        node.start_registry_on(port)?;
    }
    let names = "127.0.0.1 reg.test reg.test. docker.io index.docker.io registry-1.docker.io\n";
    node.write("/etc/hosts", format!("127.0.0.1 localhost\n{names}"))?;

    // Only the registry with port 5000 is trusted, and whoever signed the image.
    let as_signed = POLICY.replace("/demo/**", "/library/**");
    node.configure(CONFIG, &as_signed)?;
    expect::admitted(&node, Path::CtrPull, &signed)?;
    for &path in Path::verified(suite) {
        node.clean()?;
        let elsewhere = renamed(&signed, "127.0.0.1:6000/library/app:v1");
        let cursor = node.cursor()?;
        expect::refused(&node, path, &elsewhere, &["PG201"])?;
        by_resolve(&node, &cursor)?;
    }

    // All is admitted but what these rules deny.
    let denied = ["reg.test/library/**", "reg.test:5000/library/**", "docker.io/library/**"];
    let policy = format!(
        "schema = 1\n[[rule]]\nname = \"denied\"\nimages = {denied:?}\nrequire = \"deny\"\n\
         [default]\nrequire = \"insecure-accept-anything\"\n"
    );
    node.configure(CONFIG, &policy)?;
    for name in [
        "reg.test/library/app:v1",
        "REG.Test:80/library/app:v1",
        "reg.test:443/library/app:v1",
        "reg.test.:443/library/app:v1",
        "Reg.test:5000/library/app:v1",
        "reg.test.:5000/library/app:v1",
        "reg.test:05000/library/app:v1",
        "docker.io/library/app:v1",
        "index.docker.io/library/app:v1",
        "registry-1.docker.io:443/library/app:v1",
        "Docker.io/library/app:v1",
    ] {
        node.clean()?;
        let outcome = node.bring(Path::CtrPull, &renamed(&signed, name))?;
        // Port 80 is another registry; a name that containerd cannot read or reach is not admitted either.
        match outcome {
            Outcome::Refused { code, .. } if code == "PG202" || code == "PG410" => {}
            Outcome::Admitted if name.contains(":80/") => {}
            Outcome::Failed(_) if name.contains("docker.io") => {}
            other => return Err(format!("{name}: {other}").into()),
        }
    }
    Ok(())
}

/// A denial is not remembered beyond the next question.
pub fn signed_after_a_denial(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    for &path in Path::verified(suite) {
        node.clean()?;
        let image = small(&node, &format!("late-{}", path.namespace().replace('.', "-")))?;
        expect::refused(&node, path, &image, &["PG101"])?;
        expect::refused(&node, path, &image, &["PG101"])?;
        node.sign(&image, "demo", Layout::usual(suite))?;
        expect::admitted(&node, path, &image)?;
    }
    Ok(())
}

/// Only what containerd started is answered, in either mode.
pub fn strangers(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = small(&node, "signed")?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    expect::admitted(&node, Path::CtrPull, &image)?;
    let (digest, name) = (image.digest(), &image.name);
    let script = format!(
        "printf '{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{digest}\",\"size\":1}}' | \
         {VERIFIERS}/pullgate-verifier -name {name} -digest {digest} \
         -stdin-media-type application/vnd.oci.descriptor.v1+json"
    );
    for mode in ["enforce", "audit"] {
        node.configure(&CONFIG.replace("enforce", mode), POLICY)?;
        let cursor = node.cursor()?;
        let answer = node.sh(&script)?;
        expect::holds(answer.code == 1 && answer.stdout.contains("PG407"), || format!("{mode}: {}", answer.text()))?;
        let entries = node.audit_since(&cursor)?;
        expect::holds(entries.len() == 1 && entries[0].gate == "resolve" && entries[0].code == "PG407", || {
            format!("{entries:?}")
        })?;
    }
    // Bytes that no verifier sends.
    let noise = node
        .sh("head -c 1000000 /dev/urandom | timeout 20 curl -s --unix-socket /run/pullgate/verify.sock telnet://x")?;
    expect::holds(!noise.stdout.contains("ALLOW"), || noise.text())?;
    node.configure(CONFIG, POLICY)?;
    node.clean()?;
    expect::admitted(&node, Path::CtrPull, &image)
}

fn small(node: &Node, name: &str) -> Result<Published> {
    node.push(&format!("demo/{name}:v1"), &Image::of_small_layers(name, 2)?)
}

fn renamed(image: &Published, name: &str) -> Published {
    Published { name: name.to_owned(), ..image.clone() }
}

fn child(mut descriptor: serde_json::Value, platform: &Option<serde_json::Value>) -> serde_json::Value {
    if let Some(platform) = platform {
        descriptor["platform"] = platform.clone();
    }
    descriptor
}

fn requests(node: &Node) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&node.run(&["pullgate", "status", "-o", "json"])?.ok()?)?;
    status["registry-requests"].as_u64().ok_or_else(|| format!("no count: {status}").into())
}

fn nothing_fetched(node: &Node, path: Path) -> Result<()> {
    let blobs = node.run(&["ctr", "--namespace", path.namespace(), "content", "ls", "-q"])?.ok()?;
    expect::holds(blobs.is_empty(), || format!("{}: fetched all the same: {blobs}", path.name(node.suite)))
}

fn by_resolve(node: &Node, since: &str) -> Result<()> {
    let entries = node.audit_since(since)?;
    let only = !entries.is_empty() && entries.iter().all(|entry| entry.gate == "resolve");
    expect::holds(only, || format!("not refused by the resolve gate: {entries:?}"))
}

fn says_audit(node: &Node, expected: bool) -> Result<()> {
    let said = node.run(&["test", "-e", WORD])?.success();
    expect::holds(said == expected, || format!("{WORD}: must be there: {expected}, is: {said}"))
}
