//! A registry on loopback for the time of one run, with the images of that run and nothing else (distribution
//! specification, "Pull"). Whoever on this node asks it gets what anybody may have.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::image::Image;
use crate::image::Digest;

/// Connections that are answered at the same time; others wait.
const PARALLEL: usize = 16;
/// Bytes of a request up to its empty line.
const REQUEST_BYTES: u64 = 8 << 10;
/// Time for a request to arrive, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// A registry that ends with its value.
pub(super) struct Registry {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

type Blobs = HashMap<String, (&'static str, Vec<u8>)>;

impl Registry {
    /// Serves `images` on a port of the kernel's choice.
    ///
    /// # Errors
    /// When there is no such port.
    pub(super) async fn serve<'a>(images: impl IntoIterator<Item = &'a Image>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let blobs = images.into_iter().flat_map(Image::blobs);
        let blobs: Blobs = blobs.map(|(kind, bytes)| (Digest::of(bytes).to_string(), (kind, bytes.to_vec()))).collect();
        let serving = tokio::spawn(accept(listener, Arc::new(blobs)));
        Ok(Self { address, serving })
    }

    /// Its host, with the port.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, blobs: Arc<Blobs>) {
    let turns = Arc::new(Semaphore::new(PARALLEL));
    // Its tasks end with it.
    let mut answering = JoinSet::new();
    // Never closed.
    while let Ok(turn) = turns.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let blobs = blobs.clone();
                answering.spawn(async move {
                    // A client that goes away has itself to blame.
                    let _ = attend(stream, &blobs).await;
                    drop(turn);
                });
            }
            Err(_) => tokio::time::sleep(PATIENCE).await,
        }
        while answering.try_join_next().is_some() {}
    }
}

/// One request, one answer.
async fn attend(mut stream: TcpStream, blobs: &Blobs) -> io::Result<()> {
    let request = timeout(PATIENCE, request(&mut stream)).await.unwrap_or_default();
    let answer = answer(request.as_deref(), blobs);
    timeout(PATIENCE, async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    })
    .await?
}

/// The first line of a request, once all its headers are there; none for what is no HTTP.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut bounded = stream.take(REQUEST_BYTES);
    loop {
        // containerd tries TLS first, and goes on without it once it is told something else at once.
        if bytes.first().is_some_and(|first: &u8| !first.is_ascii_uppercase()) {
            return None;
        }
        if bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            return String::from_utf8_lossy(&bytes).lines().next().map(str::to_owned);
        }
        if bounded.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn answer(request: Option<&str>, blobs: &Blobs) -> Vec<u8> {
    let mut words = request.unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let head = |status: &str, headers: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n").into_bytes()
    };
    if !matches!(method, "GET" | "HEAD") {
        return head("400 Bad Request", "", 0);
    }
    let mut parts = path.trim_start_matches('/').split('/').rev();
    let (digest, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let found = blobs.get(digest).filter(|_| matches!(kind, "manifests" | "blobs") && path.starts_with("/v2/"));
    let Some((media_type, bytes)) = found else { return head("404 Not Found", "", 0) };
    let headers = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n");
    let mut answer = head("200 OK", &headers, bytes.len());
    if method == "GET" {
        answer.extend_from_slice(bytes);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is reset has said what it had to say.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn it_has_the_images_of_the_run_and_nothing_else() {
        let [ours, other] = [Image::new("x").unwrap(), Image::new("x").unwrap()];
        let registry = Registry::serve([&ours]).await.unwrap();
        assert!(registry.host().starts_with("127.0.0.1:"));
        let get = async |method: &str, path: String| {
            ask(registry.address, format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
        };
        for (kind, bytes) in ours.blobs() {
            let path = format!("/v2/pullgate-self-test/x/blobs/{}", Digest::of(bytes));
            let (head, whole) = (get("HEAD", path.clone()).await, get("GET", path).await);
            let text = String::from_utf8_lossy(&head);
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains(kind), "{text}");
            assert!(text.contains(&format!("Content-Length: {}\r\n", bytes.len())) && text.ends_with("\r\n\r\n"));
            assert_eq!(whole, [&head, bytes].concat());
        }
        let manifest = Digest::of(&ours.manifest);
        assert!(get("GET", format!("/v2/a/manifests/{manifest}")).await.starts_with(b"HTTP/1.1 200"));
        for path in [
            format!("/v2/a/manifests/{}", Digest::of(&other.manifest)),
            format!("/v1/a/manifests/{manifest}"),
            format!("/v2/a/referrers/{manifest}"),
            format!("/v2/a/manifests/{manifest}/"),
            "/v2/a/manifests/latest".to_owned(),
            "/v2/".to_owned(),
            "/".to_owned(),
            String::new(),
        ] {
            assert!(get("GET", path.clone()).await.starts_with(b"HTTP/1.1 404"), "{path}");
        }
        assert!(get("PUT", format!("/v2/a/manifests/{manifest}")).await.starts_with(b"HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn what_is_no_http_is_told_so_at_once() {
        let registry = Registry::serve([]).await.unwrap();
        let begun = std::time::Instant::now();
        assert!(ask(registry.address, b"\x16\x03\x01\x00\x05hello").await.starts_with(b"HTTP/1.1 400"));
        assert!(begun.elapsed() < PATIENCE, "containerd would wait for it");
        let endless = vec![b'A'; usize::try_from(REQUEST_BYTES).unwrap() + 1];
        let answer = ask(registry.address, &endless).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn it_ends_with_the_run() {
        let registry = Registry::serve([]).await.unwrap();
        let address = registry.address;
        let _open = TcpStream::connect(address).await.unwrap();
        drop(registry);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_who_say_nothing_keep_nobody_out_for_long() {
        let image = Image::new("x").unwrap();
        let registry = Registry::serve([&image]).await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..PARALLEL {
            silent.push(TcpStream::connect(registry.address).await.unwrap());
        }
        let path = format!("/v2/a/blobs/{}", Digest::of(&image.config));
        let answer = ask(registry.address, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}
