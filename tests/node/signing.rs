//! Signatures by the suite's own cosign, offline.

use super::{Node, Result, Suite, registry::Published};

/// Where a signature lies, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The `sha256-….sig` tag with a simple-signing payload: cosign 2, and 3 when asked for it.
    SigTag,
    /// A sigstore bundle as an OCI referrer, here by the fallback tag: cosign 3.
    Bundle,
}

impl Layout {
    /// The layouts that the suite's cosign writes.
    pub fn of(suite: Suite) -> &'static [Self] {
        match suite {
            Suite::Trixie => &[Self::SigTag],
            Suite::Forky => &[Self::Bundle, Self::SigTag],
        }
    }

    /// The layout that the suite's cosign writes unless told otherwise.
    pub fn usual(suite: Suite) -> Self {
        match suite {
            Suite::Trixie => Self::SigTag,
            Suite::Forky => Self::Bundle,
        }
    }
}

impl Node {
    /// Makes an ECDSA P-256 key pair and returns the path of the public key.
    ///
    /// # Errors
    /// What cosign says.
    pub fn make_key(&self, name: &str) -> Result<String> {
        let script = format!(
            "mkdir -p /root/keys && cd /root/keys && COSIGN_PASSWORD= cosign generate-key-pair --output-key-prefix {name}"
        );
        self.sh(&script)?.ok()?;
        if self.suite == Suite::Forky {
            self.sh("[ -e /root/keys/offline.json ] || cosign signing-config create --out /root/keys/offline.json")?
                .ok()?;
        }
        Ok(format!("/root/keys/{name}.pub"))
    }

    /// Signs the digest of `image` with the key of that name.
    ///
    /// # Errors
    /// What cosign says.
    pub fn sign(&self, image: &Published, key: &str, layout: Layout) -> Result<()> {
        self.sign_all(std::slice::from_ref(image), key, layout)
    }

    /// As [`Node::sign`], for many images in one run of cosign.
    ///
    /// # Errors
    /// What cosign says.
    pub fn sign_all(&self, images: &[Published], key: &str, layout: Layout) -> Result<()> {
        self.cosign("sign", images, key, layout, "")
    }

    /// Attests a SLSA provenance of `image` with the key of that name.
    ///
    /// # Errors
    /// What cosign says.
    pub fn attest(&self, image: &Published, key: &str, layout: Layout) -> Result<()> {
        let predicate =
            r#"{"builder":{"id":"https://builder.example"},"buildType":"https://builder.example/v1","invocation":{}}"#;
        self.write("/root/keys/provenance.json", predicate)?;
        self.cosign(
            "attest",
            std::slice::from_ref(image),
            key,
            layout,
            "--type slsaprovenance02 --predicate /root/keys/provenance.json",
        )
    }

    fn cosign(&self, what: &str, images: &[Published], key: &str, layout: Layout, more: &str) -> Result<()> {
        let layout = match (self.suite, layout) {
            (Suite::Trixie, Layout::SigTag) => "--tlog-upload=false",
            (Suite::Forky, Layout::SigTag) => {
                "--use-signing-config=false --new-bundle-format=false --tlog-upload=false"
            }
            (Suite::Forky, Layout::Bundle) => "--signing-config /root/keys/offline.json",
            (Suite::Trixie, Layout::Bundle) => return Err("cosign 2.5 writes no bundles to registries".into()),
        };
        let script = format!(
            "COSIGN_PASSWORD= cosign {what} --yes --allow-http-registry {layout} {more} --key /root/keys/{key}.key {}",
            images.iter().map(Published::by_digest).collect::<Vec<_>>().join(" ")
        );
        self.sh(&script)?.ok()?;
        Ok(())
    }

    /// Puts the evidence that lies beside `from` beside `to`, as an attacker would: the same bytes, the other tag.
    ///
    /// # Errors
    /// What skopeo says.
    pub fn replay(&self, from: &Published, to: &Published, layout: Layout) -> Result<()> {
        let tag = |image: &Published| {
            let tag = image.digest().replace(':', "-");
            let path = image.repository().split_once('/').map_or("", |(_, path)| path).to_owned();
            match layout {
                Layout::SigTag => format!("{path}:{tag}.sig"),
                Layout::Bundle => format!("{path}:{tag}"),
            }
        };
        self.copy(&tag(from), &tag(to))
    }
}
