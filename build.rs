//! Describes containerd's Diff service (containerd API v1, `services/diff/v1/diff.proto`) for the server side, which
//! containerd-client leaves out; the messages are containerd-client's.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("containerd_client::services::v1::{input}"))
            .output_type(format!("containerd_client::services::v1::{output}"))
            .codec_path("tonic_prost::ProstCodec")
            .build()
    };
    let diff = Service::builder()
        .name("Diff")
        .package("containerd.services.diff.v1")
        .method(method("apply", "Apply", "ApplyRequest", "ApplyResponse"))
        .method(method("diff", "Diff", "DiffRequest", "DiffResponse"))
        .build();
    Builder::new().build_client(false).compile(&[diff]);
}
