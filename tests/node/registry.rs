//! A registry inside the node, on loopback, and images in it.

use serde_json::{Value, json};

use super::{
    Image, Node, Result,
    image::{Index, digest},
    product::in_registry,
};

const PLAIN_TO: &str = "--dest-tls-verify=false";
pub const REGISTRY: &str = "127.0.0.1:5000";
const UNIT: &str = "registry";
const STORAGE: &str = "/var/lib/registry/docker/registry/v2";

/// The user and password of a private registry.
pub const SECRET: (&str, &str) = ("user", "pass");
/// [`SECRET`] as a registry keeps it.
const HTPASSWD: &str = "user:$2b$05$uxpDpmluF6yFahmqJBNbce5v645LFHTJ1TwZ044sJZW.bLceZ9yoS\n";

const CONFIG: &str = "version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: /var/lib/registry }, delete: { enabled: true } }
http: { addr: '127.0.0.1:5000' }
";

/// An image in the registry, under a tag.
#[derive(Clone, Debug)]
pub struct Published {
    /// `host/path:tag`, or `host/path@sha256:…`.
    pub name: String,
    /// What this node runs of it.
    pub image: Image,
    /// The index that the tag stands for, where it is one.
    pub index: Option<Index>,
}

impl Published {
    /// `host/path`.
    pub fn repository(&self) -> &str {
        let name = self.name.split_once('@').map_or(self.name.as_str(), |(name, _)| name);
        name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(repository, _)| repository)
    }

    /// The digest that the tag stands for.
    pub fn digest(&self) -> String {
        self.index.as_ref().map_or_else(|| self.image.digest(), Index::digest)
    }

    /// `host/path@sha256:…`.
    pub fn by_digest(&self) -> String {
        format!("{}@{}", self.repository(), self.digest())
    }

    /// An archive of it that calls it by its name.
    ///
    /// # Errors
    /// Never for these paths.
    pub fn archive(&self) -> Result<Vec<u8>> {
        match &self.index {
            Some(index) => index.archive(&self.name),
            None => self.image.archive(&self.name),
        }
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

    /// Starts another registry with the same content on `port`.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_registry_on(&self, port: u16) -> Result<()> {
        self.start_another(port, "", "200")
    }

    /// As [`Node::start_registry_on`], for those alone who know [`SECRET`].
    ///
    /// # Errors
    /// As [`Node::start_registry_on`].
    pub fn start_private_registry_on(&self, port: u16) -> Result<()> {
        self.write("/etc/registry.htpasswd", HTPASSWD)?;
        self.start_another(port, "auth:\n  htpasswd: { realm: node, path: /etc/registry.htpasswd }\n", "401")
    }

    /// Starts the unit `unit`: a registry with the same content on `address`, by TLS, for those who know [`SECRET`].
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_secured_registry(&self, unit: &str, address: &str, certificate: &str, key: &str) -> Result<()> {
        self.write("/etc/registry.htpasswd", HTPASSWD)?;
        let http = format!("http: {{ addr: '{address}', tls: {{ certificate: {certificate}, key: {key} }} }}");
        let config = CONFIG.replace("http: { addr: '127.0.0.1:5000' }", &http);
        let config = format!("{config}\nauth:\n  htpasswd: {{ realm: node, path: /etc/registry.htpasswd }}\n");
        self.write("/etc/registry-secured.yml", config)?;
        let unit = format!("--unit={unit}");
        let serve = ["docker-registry", "serve", "/etc/registry-secured.yml"];
        self.run(&[&["systemd-run", "--quiet", "--collect", &unit], &serve[..]].concat())?.ok()?;
        let url = format!("https://{address}/v2/");
        self.wait_until("the registry with TLS answers", || {
            Ok(self.run(&["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", &url])?.stdout == "401")
        })
    }

    fn start_another(&self, port: u16, more: &str, status: &str) -> Result<()> {
        let (file, unit) = (format!("/etc/registry-{port}.yml"), format!("--unit={UNIT}-{port}"));
        self.write(&file, format!("{}\n{more}", CONFIG.replace(":5000", &format!(":{port}"))))?;
        self.run(&["systemd-run", "--quiet", "--collect", &unit, "docker-registry", "serve", &file])?.ok()?;
        let url = format!("http://127.0.0.1:{port}/v2/");
        self.wait_until("the other registry answers", || {
            Ok(self.run(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url])?.stdout == status)
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
        self.publish(path, Published { name: in_registry(path), image: image.clone(), index: None })
    }

    /// As [`Node::push`], for an index with its children.
    ///
    /// # Errors
    /// As [`Node::push`].
    pub fn push_index(&self, path: &str, index: &Index) -> Result<Published> {
        let native = index.children.first().ok_or("an index without children")?.clone();
        self.publish(path, Published { name: in_registry(path), image: native, index: Some(index.clone()) })
    }

    fn publish(&self, path: &str, published: Published) -> Result<Published> {
        let archive = format!("/var/tmp/push-{}.tar", published.digest().replace(':', "-"));
        self.write(&archive, published.archive()?)?;
        let (from, to) = (format!("oci-archive:{archive}"), format!("docker://{}", published.name));
        self.run(&[
            "skopeo",
            "copy",
            "--quiet",
            "--insecure-policy",
            "--all",
            "--preserve-digests",
            PLAIN_TO,
            &from,
            &to,
        ])?
        .ok()?;
        self.run(&["rm", &archive])?.ok()?;
        let found = self.digest_of(path)?;
        if found != published.digest() {
            return Err(format!("{path} is {found} in the registry, not {}", published.digest()).into());
        }
        Ok(published)
    }

    /// Puts `image` into a repository, without a tag, by writing the registry's storage: for images by the hundred.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn plant(&self, repository: &str, image: &Image) -> Result<Published> {
        let links = format!("{STORAGE}/repositories/{repository}");
        for blob in image.blobs() {
            let digest = digest(blob);
            self.write(&blob_file(&digest)?, blob)?;
            let hex = digest.trim_start_matches("sha256:");
            self.write(&format!("{links}/_layers/sha256/{hex}/link"), &digest)?;
        }
        let name = self.plant_manifest(repository, &image.manifest)?;
        Ok(Published { name, image: image.clone(), index: None })
    }

    /// As [`Node::plant`], for an index with any children at all; `native` is what this node runs of it.
    ///
    /// # Errors
    /// As [`Node::plant`].
    pub fn plant_index(&self, repository: &str, index: Index, native: Image) -> Result<Published> {
        let name = self.plant_manifest(repository, &index.bytes)?;
        Ok(Published { name, image: native, index: Some(index) })
    }

    /// As [`Node::plant`], for any manifest or index with its blobs, under `tag`; returns its name.
    ///
    /// # Errors
    /// As [`Node::plant`].
    pub fn plant_tagged(&self, repository: &str, tag: &str, bytes: &[u8], blobs: &[Vec<u8>]) -> Result<String> {
        let links = format!("{STORAGE}/repositories/{repository}");
        for blob in blobs {
            let digest = digest(blob);
            self.write(&blob_file(&digest)?, blob)?;
            let hex = digest.trim_start_matches("sha256:");
            self.write(&format!("{links}/_layers/sha256/{hex}/link"), &digest)?;
        }
        let digest = digest(bytes);
        self.write(&format!("{links}/_manifests/tags/{tag}/current/link"), &digest)?;
        self.plant_manifest(repository, bytes)
    }

    /// Plants a referrer of `image`, a manifest with its blobs, and lists it under the fallback tag: the registry has no API
    /// for that. `descriptor` says which it is.
    ///
    /// # Errors
    /// As [`Node::plant`].
    pub fn plant_referrer(
        &self,
        repository: &str,
        image: &Published,
        artifact_type: &str,
        mut descriptor: Value,
        (manifest, blobs): (&[u8], &[Vec<u8>]),
    ) -> Result<()> {
        let tag = image.digest().replace(':', "-");
        self.plant_tagged(repository, &format!("{tag}.bundle"), manifest, blobs)?;
        descriptor["artifactType"] = artifact_type.into();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let list = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor] });
        self.plant_tagged(repository, &tag, list.to_string().as_bytes(), &[])?;
        Ok(())
    }

    /// Returns the name of what it planted.
    fn plant_manifest(&self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        self.write(&blob_file(&digest)?, bytes)?;
        let hex = digest.trim_start_matches("sha256:");
        self.write(&format!("{STORAGE}/repositories/{repository}/_manifests/revisions/sha256/{hex}/link"), &digest)?;
        Ok(in_registry(&format!("{repository}@{digest}")))
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
        let (from, to) = (format!("docker://{REGISTRY}/{from}"), format!("docker://{REGISTRY}/{to}"));
        let plain_from = "--src-tls-verify=false";
        self.run(&["skopeo", "copy", "--quiet", "--insecure-policy", "--all", plain_from, PLAIN_TO, &from, &to])?
            .ok()?;
        Ok(())
    }

    /// The manifest at `path:tag` or `path@digest`, as JSON.
    ///
    /// # Errors
    /// Where there is none.
    pub fn manifest(&self, repository: &str, reference: &str) -> Result<Value> {
        let url = format!("http://{REGISTRY}/v2/{repository}/manifests/{reference}");
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        Ok(serde_json::from_str(&self.run(&["curl", "-sf", "-H", accept, &url])?.ok()?)?)
    }

    /// A blob or manifest as it lies in the registry's storage.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        self.read(&blob_file(digest)?)
    }

    /// Overwrites a blob in the registry's storage, so that it serves other bytes under that digest.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn corrupt(&self, digest: &str, content: &[u8]) -> Result<()> {
        self.write(&blob_file(digest)?, content)
    }
}

fn blob_file(digest: &str) -> Result<String> {
    let hex = digest.strip_prefix("sha256:").ok_or("not a sha256 digest")?;
    let two = hex.get(..2).ok_or("a short digest")?;
    Ok(format!("{STORAGE}/blobs/sha256/{two}/{hex}/data"))
}
