//! Keyless signatures by a private sigstore: whom a certificate names decides at every gate, and cosign says the same.

use super::{
    expect,
    start::{SLEEP, refused_at_last, starts},
};
use crate::{
    authority::{Artifact, Authority, COSIGN_SIGN, Signing, Version, WORKFLOW},
    node::{
        Image, Node, Path, Result, Suite,
        pod::container_config,
        product::{CONFIG, SERVICE, policy_with},
        registry::Published,
        signing::Layout,
    },
};

const ROOT: &str = "/etc/pullgate/roots/acme.json";
const GITHUB: &str = "https://token.actions.githubusercontent.com";
const REPOSITORY: &str = "keyless/app";
const RULES: &str = r#"
[[trust-root]]
name = "acme"
file = "roots/acme.json"
[[attestor]]
name = "release"
may-sign = ["signature"]
[[attestor.identities]]
root = "acme"
issuer = "https://token.actions.githubusercontent.com"
subject = { pattern = "^https://github\\.com/acme/app/\\.github/workflows/release\\.yml@refs/heads/main$" }
repository = "https://github.com/acme/app"
[[rule]]
name = "keyless"
images = ["127.0.0.1:5000/keyless/**"]
require = { all = ["release"] }
"#;

/// A node with the trust root of a private sigstore, and pods.
struct Stage {
    node: Node,
    acme: Authority,
    busybox: Vec<u8>,
}

/// What is wrong with a signing, the code that says so, and words of the story.
type Wrong = (&'static str, fn(&Authority, Signing) -> Signing, &'static str, &'static str);

const WRONG: [Wrong; 5] = [
    ("wrong-subject", |_, signing| signing.by(&WORKFLOW.replace("main", "dev")), "PG102", "refs/heads/dev"),
    ("wrong-issuer", |_, signing| signing.issuer("https://issuer.evil.example"), "PG102", "issuer.evil.example"),
    ("unlogged", |_, signing| signing.unlogged(), "PG112", "does not vouch"),
    ("expired", |acme, signing| signing.logged(acme.rekor.entry().integrated(601)), "PG112", "CertExpired"),
    ("stranger", |_, signing| signing.certified_by(&Authority::new("other").fulcio), "PG112", "certificate chain"),
];

impl Stage {
    fn set(suite: Suite) -> Result<Self> {
        let node = Node::gated_with_pods(suite)?;
        let acme = Authority::new("acme");
        node.write(ROOT, acme.trusted_root())?;
        node.configure(CONFIG, &policy_with(RULES))?;
        let busybox = node.read("/usr/bin/busybox")?;
        Ok(Self { node, acme, busybox })
    }

    /// An image with the signature that `change` makes of the right one.
    fn signed(
        &self,
        name: &str,
        layout: Layout,
        change: impl FnOnce(&Authority, Signing) -> Signing,
    ) -> Result<Published> {
        self.sign(Image::of_layers(&self.busybox, &format!("{name} {layout:?}"), 2)?, name, layout, change)
    }

    fn sign(
        &self,
        image: Image,
        name: &str,
        layout: Layout,
        change: impl FnOnce(&Authority, Signing) -> Signing,
    ) -> Result<Published> {
        let tag = format!("{name}-{layout:?}").to_lowercase();
        let image = self.node.push(&format!("{REPOSITORY}:{tag}"), &image)?;
        let signing = change(&self.acme, self.acme.sign(image.digest()));
        let tag = image.digest().replace(':', "-");
        match layout {
            Layout::SigTag => {
                let Artifact { manifest, blobs } = Artifact::tagged(&[signing.signature_layer(image.repository())]);
                self.node.plant_tagged(REPOSITORY, &format!("{tag}.sig"), &manifest, &blobs)?;
            }
            Layout::Bundle => {
                let media_type = Version::V03.media_type();
                let bundle = Artifact::referrer(&image.image.manifest, media_type, &signing.json(), COSIGN_SIGN);
                let parts = (&bundle.manifest[..], &bundle.blobs[..]);
                self.node.plant_referrer(REPOSITORY, &image, media_type, bundle.descriptor(), parts)?;
            }
        }
        Ok(image)
    }

    /// What cosign says of `image`, offline: whether it is signed by [`WORKFLOW`] under the root.
    fn cosign(&self, image: &Published, layout: Layout) -> Result<(bool, String)> {
        let is_bundle = layout == Layout::Bundle;
        let output = self.node.run(&[
            "cosign",
            "verify",
            "--allow-http-registry",
            &format!("--trusted-root={ROOT}"),
            &format!("--new-bundle-format={is_bundle}"),
            &format!("--certificate-identity={WORKFLOW}"),
            &format!("--certificate-oidc-issuer={GITHUB}"),
            &image.by_digest(),
        ])?;
        Ok((output.success(), output.text()))
    }
}

pub fn at_every_gate(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    for layout in [Layout::Bundle, Layout::SigTag] {
        let right = stage.signed("right", layout, |_, signing| signing)?;
        for &path in Path::of(suite) {
            node.clean()?;
            let cursor = node.cursor()?;
            expect::admitted(node, path, &right)?;
            let entries = node.audit_since(&cursor)?;
            let is_right = |entry: &crate::node::journal::Entry| entry.verdict == "allow" && entry.rule == "keyless";
            expect::holds(!entries.is_empty() && entries.iter().all(is_right), || format!("{entries:?}"))?;
            expect::holds(!Path::verified(suite).contains(&path) || entries[0].gate == "resolve", || {
                format!("{}: {entries:?}", path.name(suite))
            })?;
            let story = node.run(&["pullgate", "why", &entries[0].id])?.text();
            expect::holds(story.contains(WORKFLOW) && story.contains(GITHUB), || story)?;
        }
        node.clean()?;
        expect::admitted(node, Path::CriPull, &right)?;
        let pod = node.pod("prod", "keyless")?;
        starts(&pod, container_config("right", &right.name, &SLEEP))?;
        if suite == Suite::Forky {
            let (accepted, said) = stage.cosign(&right, layout)?;
            expect::holds(accepted, || format!("cosign does not take {layout:?}: {said}"))?;
        }
        for (name, change, code, words) in WRONG {
            let wrong = stage.signed(name, layout, change)?;
            for &path in Path::of(suite).iter().filter(|path| layout == Layout::usual(suite) || **path == Path::CriPull)
            {
                node.clean()?;
                let cursor = node.cursor()?;
                expect::refused(node, path, &wrong, &[code])?;
                let entries = node.audit_since(&cursor)?;
                let is_told = |entry: &crate::node::journal::Entry| entry.verdict == "deny" && entry.code == code;
                expect::holds(!entries.is_empty() && entries.iter().all(is_told), || format!("{name}: {entries:?}"))?;
                let story = node.run(&["pullgate", "why", &entries[0].id])?.text();
                expect::holds(story.contains(words) && story.contains("\"keyless\""), || format!("{name}: {story}"))?;
            }
            if suite == Suite::Forky {
                let (accepted, said) = stage.cosign(&wrong, layout)?;
                expect::holds(!accepted, || format!("cosign takes {name}, {layout:?}: {said}"))?;
            }
        }
        // What has all its layers on the node comes to the last gate.
        node.clean()?;
        expect::admitted(node, Path::CriPull, &right)?;
        let (name, change, code, _) = WRONG[0];
        let name = format!("{name}-start");
        let slipped = stage.sign(Image::running(right.image.layers.clone(), &name, &SLEEP), &name, layout, change)?;
        node.slip_in(&slipped, &[])?;
        let pod = node.pod("prod", "keyless")?;
        refused_at_last(node, &pod, &|| container_config("slipped", &slipped.name, &SLEEP), &[code])?;
        starts(&pod, container_config("right", &right.name, &SLEEP))?;
    }
    Ok(())
}

/// A root file that breaks leaves the last good one in force, and what was admitted needs nobody.
pub fn without(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let layout = Layout::usual(suite);
    let right = stage.signed("right", layout, |_, signing| signing)?;
    let later = stage.signed("later", layout, |_, signing| signing)?;
    let (_, change, code, _) = WRONG[0];
    let wrong = stage.signed("wrong", layout, change)?;
    expect::admitted(node, Path::CriPull, &right)?;
    let good = stage.acme.trusted_root();
    for broken in
        ["", "{}", "null", &good[..good.len() / 2], &Authority::new("acme").trusted_root().replace("tlogs", "logs")]
    {
        node.write(ROOT, broken)?;
        let said = node.reload_refused()?;
        expect::holds(said.contains("policy.toml:") && said.contains("roots/acme.json: "), || said)?;
        node.clean()?;
        expect::admitted(node, Path::CriPull, &right)?;
        expect::refused(node, Path::CriPull, &wrong, &[code])?;
    }
    // Nor does a start take it.
    node.systemctl(&["restart", SERVICE])?;
    node.clean()?;
    expect::admitted(node, Path::CriPull, &later)?;
    expect::refused(node, Path::CriPull, &wrong, &[code])?;
    node.write(ROOT, &good)?;
    node.reload()?;
    // Under another root the same signatures are a stranger's.
    node.write(ROOT, Authority::new("acme").trusted_root())?;
    node.reload()?;
    node.clean()?;
    expect::refused(node, Path::CriPull, &later, &["PG112"])?;
    node.write(ROOT, &good)?;
    node.reload()?;
    node.clean()?;
    expect::admitted(node, Path::CriPull, &later)?;

    node.wait_until("the evidence is on the disk", || {
        Ok(node.sh("grep -l keyless/app /var/lib/pullgate/evidence-2/*.json")?.success())
    })?;
    node.stop_registry()?;
    node.systemctl(&["restart", SERVICE])?;
    for &path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        node.clean()?;
        expect::admitted(node, path, &right)?;
        expect::refused(node, path, &wrong, &["PG302"])?;
    }
    Ok(())
}
