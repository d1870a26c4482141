//! The one call of the Kubernetes runtime interface (CRI v1, `api.proto`) that pulls an image.

use std::path::Path;

use tonic::{
    Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use super::{Result, store::wait};

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// What the kubelet makes of a pod's `imagePullSecrets`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AuthConfig {
    #[prost(string, tag = "1")]
    pub username: String,
    #[prost(string, tag = "2")]
    pub password: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// Pulls `image` as the kubelet does. Returns the identifier of the image's configuration, or what containerd
/// answered instead.
///
/// # Errors
/// Where containerd cannot be reached.
pub fn pull_image(socket: &Path, image: &str, auth: Option<AuthConfig>) -> Result<std::result::Result<String, Status>> {
    let request = PullImageRequest { image: Some(ImageSpec { image: image.to_owned() }), auth };
    wait(async {
        let mut client = Grpc::new(connect(socket).await?);
        client.ready().await?;
        let path = PathAndQuery::from_static("/runtime.v1.ImageService/PullImage");
        let codec = tonic_prost::ProstCodec::<PullImageRequest, PullImageResponse>::default();
        let answer = client.unary(tonic::Request::new(request), path, codec).await;
        Ok(answer.map(|answer| answer.into_inner().image_ref))
    })
}

/// containerd answers only those who call it `localhost`.
async fn connect(socket: &Path) -> Result<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}
