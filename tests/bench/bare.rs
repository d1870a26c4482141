//! `bench bare`: the requests of a keyed check, over one connection and in the same order, and nothing else. No
//! signature is verified and no byte hashed: this is what the questions alone cost.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use crate::node::Result;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// `sig HOST/PATH:TAG`, `bundle …` or `sig-then-bundle …`.
///
/// # Errors
/// Where the registry does not have what it is asked for.
pub fn run(arguments: &[&str]) -> Result<bool> {
    let [layout, reference] = arguments else { return Err("usage: bench bare LAYOUT REFERENCE".into()) };
    let (host, path) = reference.split_once('/').ok_or("no host")?;
    let (repository, tag) = path.rsplit_once(':').ok_or("no tag")?;
    let mut registry = Registry::connect(host, repository)?;
    let digest = registry.ask("HEAD", &format!("manifests/{tag}"))?.ok_or("no such image")?.digest;
    let marker = digest.replace(':', "-");
    if layout.starts_with("sig") {
        let signatures = registry.get(&format!("manifests/{marker}.sig"))?;
        if let Some(signatures) = signatures {
            registry.get(&format!("blobs/{}", first(&signatures, "layers")?))?;
            return Ok(*layout == "sig");
        }
    }
    let referrers = match registry.get(&format!("referrers/{digest}"))? {
        Some(referrers) => referrers,
        None => registry.get(&format!("manifests/{marker}"))?.ok_or("no referrers")?,
    };
    let bundle = registry.get(&format!("manifests/{}", first(&referrers, "manifests")?))?.ok_or("no bundle")?;
    registry.get(&format!("blobs/{}", first(&bundle, "layers")?))?;
    Ok(layout.ends_with("bundle"))
}

/// The digest of the first thing that a document lists.
fn first(document: &[u8], list: &str) -> Result<String> {
    let document: Value = serde_json::from_slice(document)?;
    Ok(document[list][0]["digest"].as_str().ok_or("it lists nothing")?.to_owned())
}

struct Registry {
    host: String,
    repository: String,
    stream: BufReader<TcpStream>,
}

struct Answer {
    digest: String,
    body: Vec<u8>,
}

impl Registry {
    fn connect(host: &str, repository: &str) -> Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), stream: BufReader::new(stream) })
    }

    fn get(&mut self, what: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.ask("GET", what)?.map(|answer| answer.body))
    }

    /// The answer; none for 404.
    fn ask(&mut self, method: &str, what: &str) -> Result<Option<Answer>> {
        let (host, repository) = (&self.host, &self.repository);
        let request = format!("{method} /v2/{repository}/{what} HTTP/1.1\r\nHost: {host}\r\nAccept: {ACCEPT}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let (mut length, mut digest) = (0, String::new());
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse()?,
                "docker-content-digest" => value.trim().clone_into(&mut digest),
                _ => {}
            }
        }
        let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
        self.stream.read_exact(&mut body)?;
        match status.split(' ').nth(1) {
            Some("200") => Ok(Some(Answer { digest, body })),
            Some("404") => Ok(None),
            _ => Err(format!("{what}: {status}").into()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}
