//! Describes containerd's Diff service (containerd API v1, `services/diff/v1/diff.proto`) for the server side, which
//! containerd-client leaves out; the messages are containerd-client's. And notes when it was built: no clock is right that
//! shows a time before that.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    note_time_of_build();
    describe_diff_service();
}

/// Whoever builds the same bytes again says the time (reproducible-builds.org, `SOURCE_DATE_EPOCH`).
fn note_time_of_build() {
    let said = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=PULLGATE_BUILT={}", said.unwrap_or(now));
}

fn describe_diff_service() {
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
