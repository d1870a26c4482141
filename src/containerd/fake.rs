//! A containerd whose every answer a test chooses. It serves on a socket of its own and ends with its value.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http,
    server::{Grpc, NamedService, ServerStreamingService},
};
use tower::Service;

/// What goes back for a call.
pub(crate) enum Answer {
    /// These messages, encoded.
    Messages(Vec<Vec<u8>>),
    /// This error.
    Error(Status),
    /// Nothing, ever.
    Silence,
    /// The answer after a pause.
    Later(std::time::Duration, Box<Answer>),
}

impl Answer {
    /// One message.
    pub(crate) fn message(message: &impl Message) -> Self {
        Self::Messages(vec![message.encode_to_vec()])
    }

    /// That there is no such thing.
    pub(crate) fn missing() -> Self {
        Self::Error(Status::not_found("no such thing"))
    }
}

type Answers = Arc<dyn Fn(&str, &[u8]) -> Answer + Send + Sync>;

/// A containerd.
pub(crate) struct FakeContainerd {
    socket: PathBuf,
    server: JoinHandle<()>,
    asked: Arc<Mutex<Vec<String>>>,
    _folder: Option<tempfile::TempDir>,
}

impl FakeContainerd {
    /// Serves; `answers` is given the method, such as `Content/List`, and the encoded message.
    pub(crate) fn start(answers: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fake = Self::start_at(&folder.path().join("containerd.sock"), answers);
        fake._folder = Some(folder);
        fake
    }

    /// As [`Self::start`], on a socket of the test's choice.
    pub(crate) fn start_at(socket: &Path, answers: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let answers: Answers = Arc::new(move |method, message| {
            seen.lock().unwrap().push(method.to_owned());
            answers(method, message)
        });
        let server = tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(Endpoint::<0>(answers.clone()))
                .add_service(Endpoint::<1>(answers.clone()))
                .add_service(Endpoint::<2>(answers.clone()))
                .add_service(Endpoint::<3>(answers.clone()))
                .add_service(Endpoint::<4>(answers.clone()))
                .add_service(Endpoint::<5>(answers.clone()))
                .add_service(Endpoint::<6>(answers.clone()))
                .add_service(Endpoint::<7>(answers.clone()))
                .add_service(Endpoint::<8>(answers.clone()))
                .add_service(Endpoint::<9>(answers.clone()))
                .add_service(Endpoint::<10>(answers.clone()))
                .add_service(Endpoint::<11>(answers))
                .serve_with_incoming(UnixListenerStream::new(listener));
            served.await.unwrap();
        });
        Self { socket: socket.to_owned(), server, asked, _folder: None }
    }

    /// The client for it.
    pub(crate) fn client(&self) -> Arc<super::Containerd> {
        Arc::new(super::Containerd::new(&self.socket))
    }

    /// The methods that were called so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeContainerd {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Endpoint<const SERVICE: usize>(Answers);

macro_rules! services {
    ($($number:literal $name:literal,)*) => {
        $(impl NamedService for Endpoint<$number> {
            const NAME: &'static str = $name;
        })*
    };
}

services! {
    0 "containerd.services.content.v1.Content",
    1 "containerd.services.images.v1.Images",
    2 "containerd.services.containers.v1.Containers",
    3 "containerd.services.introspection.v1.Introspection",
    4 "containerd.services.snapshots.v1.Snapshots",
    5 "runtime.v1.RuntimeService",
    6 "containerd.services.namespaces.v1.Namespaces",
    7 "containerd.services.events.v1.Events",
    8 "containerd.services.version.v1.Version",
    9 "containerd.services.tasks.v1.Tasks",
    10 "containerd.services.leases.v1.Leases",
    11 "runtime.v1.ImageService",
}

impl<const SERVICE: usize> Service<http::Request<Body>> for Endpoint<SERVICE> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let name = request.uri().path().rsplit_once('.').map_or("", |(_, method)| method).to_owned();
        let method = Method { name, answers: self.0.clone() };
        Box::pin(async move { Ok(Grpc::new(Raw).server_streaming(method, request).await) })
    }
}

struct Method {
    name: String,
    answers: Answers,
}

type Stream = tokio_stream::Iter<std::vec::IntoIter<Result<Vec<u8>, Status>>>;

impl ServerStreamingService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type ResponseStream = Stream;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Stream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let mut answer = (self.answers)(&self.name, request.get_ref());
        Box::pin(async move {
            loop {
                answer = match answer {
                    Answer::Messages(messages) => {
                        let messages: Vec<_> = messages.into_iter().map(Ok).collect();
                        return Ok(Response::new(tokio_stream::iter(messages)));
                    }
                    Answer::Error(status) => return Err(status),
                    Answer::Silence => std::future::pending().await,
                    Answer::Later(pause, answer) => {
                        tokio::time::sleep(pause).await;
                        *answer
                    }
                }
            }
        })
    }
}

/// Messages as bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
