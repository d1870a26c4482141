//! HTTP/1.1 by hand, so that every rule of it can be broken.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A connection, with or without TLS.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What goes back.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// An answer in HTTP.
    Http { status: u16, headers: Vec<(String, String)>, body: Body },
    /// Nothing; the connection stays open.
    Silence,
    /// One header after the other, without end.
    SlowHead,
    /// The connection is reset.
    Reset,
    /// The reply after a pause.
    Later(Duration, Box<Reply>),
}

/// The body of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// The bytes, with their length stated.
    Bytes(Vec<u8>),
    /// The bytes, but another length stated; the connection is closed after them.
    Stated(u64, Vec<u8>),
    /// The bytes in chunks, no length stated.
    Chunked(Vec<u8>),
    /// Chunks as fast as they are read, without end.
    Endless,
    /// A byte now and then, without end.
    Trickle,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of the parameter `name` in the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// The value of the header `name`, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Method and path, digests shortened to eight digits.
    pub(crate) fn short(&self) -> String {
        let mut text = format!("{} ", self.method);
        for part in self.path().split_inclusive(['/', ':', '-', '.']) {
            let bare = part.trim_end_matches(['/', ':', '-', '.']);
            if bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
                text += &bare[..8];
                text += &part[64..];
            } else {
                text += part;
            }
        }
        text
    }
}

impl Reply {
    pub(crate) fn new(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".to_owned(), media_type.to_owned())];
        Self::Http { status, headers, body: Body::Bytes(body.into()) }
    }

    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::json(status, r#"{"errors":[]}"#)
    }

    pub(crate) fn redirect(status: u16, to: &str) -> Self {
        Self::status(status).with("Location", to)
    }

    /// This reply with a header more, in place of one of the same name.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        match self {
            Self::Http { status, mut headers, body } => {
                headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
                headers.push((name.to_owned(), value.to_owned()));
                Self::Http { status, headers, body }
            }
            other => other,
        }
    }

    /// This reply without the headers called `name`.
    pub(crate) fn without(self, name: &str) -> Self {
        match self {
            Self::Http { status, mut headers, body } => {
                headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
                Self::Http { status, headers, body }
            }
            other => other,
        }
    }

    /// This reply with another body.
    pub(crate) fn body(self, body: Body) -> Self {
        match self {
            Self::Http { status, headers, .. } => Self::Http { status, headers, body },
            other => other,
        }
    }

    /// The bytes of the body, where they are few and known.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Http { body: Body::Bytes(bytes) | Body::Chunked(bytes) | Body::Stated(_, bytes), .. } => {
                bytes.clone()
            }
            _ => Vec::new(),
        }
    }
}

/// Serves one connection until either side ends it.
pub(crate) async fn serve(mut stream: impl Wire, reply: impl Fn(&Request) -> Reply) {
    let _ = stream.tcp().set_nodelay(true);
    let mut pending = Vec::new();
    while let Some(request) = receive(&mut stream, &mut pending).await {
        if send(&mut stream, &request, reply(&request)).await.is_none() {
            return;
        }
    }
}

async fn receive(stream: &mut impl Wire, pending: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if pending.len() > 1 << 20 || stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(pending.drain(..end + 4).collect()).ok()?;
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let mut request = Request { method, target, headers, body: String::new() };
    let length = request.header("content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or_default();
    while pending.len() < length.min(1 << 20) {
        if stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    }
    request.body = String::from_utf8(pending.drain(..length).collect()).ok()?;
    Some(request)
}

/// Sends `reply`; none when the connection is of no further use.
async fn send(stream: &mut impl Wire, request: &Request, reply: Reply) -> Option<()> {
    let (status, headers, body) = match reply {
        Reply::Http { status, headers, body } => (status, headers, body),
        Reply::Silence => return std::future::pending().await,
        Reply::Reset => {
            stream.tcp().set_zero_linger().ok();
            return None;
        }
        Reply::SlowHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok()?;
            loop {
                stream.write_all(b"X-Slow: x\r\n").await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Reply::Later(pause, reply) => {
            tokio::time::sleep(pause).await;
            return Box::pin(send(stream, request, *reply)).await;
        }
    };
    let mut head = format!("HTTP/1.1 {status} X\r\n");
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &match &body {
        Body::Bytes(bytes) => format!("Content-Length: {}\r\n\r\n", bytes.len()),
        Body::Stated(length, _) => format!("Content-Length: {length}\r\n\r\n"),
        Body::Chunked(_) | Body::Endless | Body::Trickle => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    };
    if request.method == "HEAD" {
        return stream.write_all(head.as_bytes()).await.ok();
    }
    match body {
        Body::Bytes(bytes) => {
            stream.write_all(&[head.as_bytes(), &bytes].concat()).await.ok()?;
            Some(())
        }
        Body::Stated(_, bytes) => {
            stream.write_all(&[head.as_bytes(), &bytes].concat()).await.ok()?;
            stream.shutdown().await.ok()?;
            None
        }
        Body::Chunked(bytes) => {
            stream.write_all(head.as_bytes()).await.ok()?;
            for chunk in bytes.chunks(1000) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.ok()?;
                stream.write_all(&[chunk, b"\r\n"].concat()).await.ok()?;
            }
            stream.write_all(b"0\r\n\r\n").await.ok()
        }
        Body::Endless => {
            stream.write_all(head.as_bytes()).await.ok()?;
            let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await.ok()?;
            }
        }
        Body::Trickle => {
            stream.write_all(head.as_bytes()).await.ok()?;
            loop {
                stream.write_all(b"1\r\n \r\n").await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
