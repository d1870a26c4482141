//! A registry on loopback that keeps the rules until a test tells it otherwise.
//!
//! Used by several test crates: `#[path = "registry/hostile.rs"] mod hostile;`. It ends with its value.

#![allow(dead_code, reason = "each test crate uses a part of it")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "content.rs"]
mod content;
#[path = "tls.rs"]
mod tls;
#[path = "wire.rs"]
mod wire;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::evidence::Place;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

#[allow(unused_imports, reason = "each test crate uses a part of it")]
pub(crate) use content::{Content, EMPTY_CONFIG, INDEX, MANIFEST, SIMPLE_SIGNING};
#[allow(unused_imports, reason = "each test crate uses a part of it")]
pub(crate) use tls::{Authority, Issued};
#[allow(unused_imports, reason = "each test crate uses a part of it")]
pub(crate) use wire::{Body, Reply, Request};

/// The registry. Everything may be changed while it serves.
pub(crate) struct HostileRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

type Behaviour = Arc<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

#[derive(Default)]
struct Shared {
    content: Mutex<Content>,
    behaviours: Mutex<Vec<(String, Behaviour)>>,
    token: Mutex<Option<Token>>,
    login: Mutex<Option<String>>,
    seen: Mutex<Vec<Request>>,
    connections: AtomicUsize,
}

#[derive(Clone)]
struct Token {
    realm: String,
    text: String,
}

impl HostileRegistry {
    /// Starts to serve on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same with TLS: its certificate is for `127.0.0.1` and `localhost`, by `authority`, and it takes only clients
    /// with a certificate of `clients` where there is one.
    pub(crate) async fn start_tls(authority: &Authority, clients: Option<&Authority>) -> Self {
        Self::start_with(Some(authority.acceptor(clients))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let server = tokio::spawn(serve(listener, tls, shared.clone()));
        Self { address, shared, server }
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The repository `path`, as a place that containerd itself fetched from.
    pub(crate) fn place(&self, path: &str) -> Place {
        Place { repository: format!("{}/{path}", self.host()).parse().expect("a repository"), proven: true }
    }

    /// What is stored: to be changed, at any time.
    pub(crate) fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.shared.content.lock().expect("no test panics while it holds this")
    }

    /// From now on, the replies to requests whose path and query contain `part` are what `behaviour` makes of
    /// the reply that would be right. The newest one that fits counts.
    pub(crate) fn on(&self, part: &str, behaviour: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) {
        self.shared.behaviours.lock().unwrap().insert(0, (part.to_owned(), Arc::new(behaviour)));
    }

    /// Like [`on`](Self::on), for the first `times` requests only.
    pub(crate) fn first(
        &self,
        times: usize,
        part: &str,
        behaviour: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) {
        let left = AtomicUsize::new(times);
        self.on(part, move |request, right| {
            let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
            if spent { right } else { behaviour(request, right) }
        });
    }

    /// Asks for a bearer token from now on, to be had at `realm`; every hostile registry issues `text` at `/token`.
    pub(crate) fn require_token(&self, realm: &str, text: &str) {
        *self.shared.token.lock().unwrap() = Some(Token { realm: realm.to_owned(), text: text.to_owned() });
    }

    /// Asks for a name and a password from now on: for a token where one is required, or for everything.
    pub(crate) fn require_login(&self, user: &str, password: &str) {
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        *self.shared.login.lock().unwrap() = Some(basic);
    }

    /// The requests so far, in the order of their arrival.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Method and path of each request so far; digests are shortened to eight digits.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.seen().iter().map(Request::short).collect()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for HostileRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // The connections end with the server: a set aborts its tasks when it is dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            let reply = move |request: &Request| shared.reply(request);
            match tls {
                None => wire::serve(stream, reply).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        wire::serve(stream, reply).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Shared {
    fn reply(&self, request: &Request) -> Reply {
        self.seen.lock().unwrap().push(request.clone());
        let right = self.right(request);
        let fitting = {
            let behaviours = self.behaviours.lock().unwrap();
            behaviours.iter().find(|(part, _)| request.target.contains(part)).map(|(_, behaviour)| behaviour.clone())
        };
        match fitting {
            Some(behaviour) => behaviour(request, right),
            None => right,
        }
    }

    fn right(&self, request: &Request) -> Reply {
        let token = self.token.lock().unwrap().clone();
        let login = self.login.lock().unwrap().clone();
        let refreshes = request.method == "POST" && request.body.contains("refresh_token=refresh");
        let is_known = login.is_none() || request.header("authorization") == login.as_deref() || refreshes;
        let asked_here = token.is_none() || request.path() == "/token";
        if asked_here && !is_known {
            return Reply::status(401).with("WWW-Authenticate", r#"Basic realm="hostile""#);
        }
        if request.path() == "/token" {
            let text = token.map_or_else(|| "t".to_owned(), |token| token.text);
            return Reply::json(200, &format!(r#"{{"token":"{text}","expires_in":300}}"#));
        }
        if let Some(token) = token
            && request.header("authorization") != Some(&format!("Bearer {}", token.text))
        {
            let name = request.path().trim_start_matches("/v2/").split("/manifests/").next().unwrap_or_default();
            let challenge =
                format!(r#"Bearer realm="{}",service="hostile",scope="repository:{name}:pull""#, token.realm);
            return Reply::json(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#).with("WWW-Authenticate", &challenge);
        }
        self.content.lock().unwrap().reply(request)
    }
}
