//! A registry inside the node, on loopback, and images in it.

use super::{Image, Node, Result};

pub const REGISTRY: &str = "127.0.0.1:5000";
const UNIT: &str = "registry";

const CONFIG: &str = "version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: /var/lib/registry }, delete: { enabled: true } }
http: { addr: '127.0.0.1:5000' }
";

/// An image in the registry, under a tag.
#[derive(Clone, Debug)]
pub struct Published {
    /// `host/path:tag`.
    pub name: String,
    pub image: Image,
}

impl Published {
    /// `host/path`.
    pub fn repository(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(repository, _)| repository)
    }

    /// `host/path@sha256:…`.
    pub fn by_digest(&self) -> String {
        format!("{}@{}", self.repository(), self.image.digest())
    }
}

impl Node {
    /// Starts the registry and waits until it answers.
    ///
    /// # Errors
    /// Where it does not.
    pub fn start_registry(&self) -> Result<()> {
        self.write("/etc/registry.yml", CONFIG)?;
        let unit = format!("--unit={UNIT}");
        self.run(&["systemd-run", "--quiet", "--collect", &unit, "docker-registry", "serve", "/etc/registry.yml"])?
            .ok()?;
        self.wait_until("the registry answers", || {
            Ok(self.run(&["curl", "-sf", &format!("http://{REGISTRY}/v2/")])?.success())
        })
    }

    /// Stops the registry. What it holds stays.
    ///
    /// # Errors
    /// What systemd says.
    pub fn stop_registry(&self) -> Result<()> {
        self.run(&["systemctl", "stop", UNIT])?.ok()?;
        Ok(())
    }

    /// Puts `image` into the registry as `path` (with its tag, without the host).
    ///
    /// # Errors
    /// What skopeo says, or where the registry gave it another digest.
    pub fn push(&self, path: &str, image: &Image) -> Result<Published> {
        let published = Published { name: format!("{REGISTRY}/{path}"), image: image.clone() };
        self.write("/var/tmp/push.tar", image.archive("pushed:v1", &[])?)?;
        let to = format!("docker://{}", published.name);
        self.run(&[
            "skopeo",
            "copy",
            "--quiet",
            "--insecure-policy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            "oci-archive:/var/tmp/push.tar",
            &to,
        ])?
        .ok()?;
        let digest = self.digest_of(path)?;
        if digest != image.digest() {
            return Err(format!("{path} is {digest} in the registry, not {}", image.digest()).into());
        }
        Ok(published)
    }

    /// The digest that the registry has for `path:tag`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn digest_of(&self, path: &str) -> Result<String> {
        let (repository, tag) = path.rsplit_once(':').ok_or("no tag")?;
        let script = format!(
            "curl -sfI -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
             -H 'Accept: application/vnd.oci.image.index.v1+json' \
             http://{REGISTRY}/v2/{repository}/manifests/{tag} | tr -d '\\r' | sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p'"
        );
        let digest = self.sh(&script)?.ok()?.trim().to_owned();
        if digest.is_empty() { Err(format!("no {path} in the registry").into()) } else { Ok(digest) }
    }

    /// Copies whatever is at `from` to `to`, blobs included, without changing a byte.
    ///
    /// # Errors
    /// What skopeo says.
    pub fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.run(&[
            "skopeo",
            "copy",
            "--quiet",
            "--insecure-policy",
            "--preserve-digests",
            "--all",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &format!("docker://{REGISTRY}/{from}"),
            &format!("docker://{REGISTRY}/{to}"),
        ])?
        .ok()?;
        Ok(())
    }
}
