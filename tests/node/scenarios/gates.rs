//! The sockets: whoever may ask them can have layers unpacked anywhere.

use containerd_client::{
    services::v1::{ApplyRequest, diff_client::DiffClient},
    types::{Descriptor, Mount},
};
use prost::Message;
use tonic::Status;

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    containerd::{DIFF_SOCKET, TRANSFER_SOCKET},
    registry::Published,
    signing::Layout,
    store::{wait, within},
};

const VICTIM: &str = "/var/tmp/victim";

/// Calls with mounts of a host path: on the gates' own sockets, on containerd's, and from a container that was given
/// pullgate's directory.
pub fn strangers(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = node.push("demo/good:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "good", 2)?)?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    expect::admitted(&node, Path::CtrPullLocal, &image)?;
    node.run(&["mkdir", VICTIM])?.ok()?;

    for (socket, code) in
        [(DIFF_SOCKET, "PG407"), (TRANSFER_SOCKET, "PG407"), ("/run/containerd/containerd.sock", "PG405")]
    {
        let answer = apply(&node, socket, &image)?;
        let refused = answer.as_ref().is_err_and(|status| status.message().contains(code));
        expect::holds(refused, || format!("Apply on {socket} must be refused with {code}, and is: {answer:?}"))?;
        untouched(&node)?;
    }

    node.write("/var/tmp/request", framed(&request(&image)))?;
    for socket in [DIFF_SOCKET, TRANSFER_SOCKET] {
        for answer in [node.run(&curl(socket))?, in_container(&node, &image, &curl(socket))?] {
            let text = answer.text();
            expect::holds(text.contains("PG407"), || format!("Apply by curl on {socket}: {text}"))?;
            untouched(&node)?;
        }
    }
    // None of that disturbed the gates.
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &image)
}

/// The delegating socket named in the diff service as well would ask itself for ever.
pub fn in_a_loop(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = node.push("demo/good:v1", &Image::of_small_layers("good", 2)?)?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    node.connect_gates_in_a_loop()?;
    for path in Path::of(suite) {
        expect::refused(&node, *path, &image, &["PG406"])?;
        node.clean()?;
    }
    node.connect_gates()?;
    for path in Path::of(suite) {
        expect::admitted(&node, *path, &image)?;
        node.clean()?;
    }
    Ok(())
}

fn request(image: &Published) -> ApplyRequest {
    let layer = image.image.layers.first();
    ApplyRequest {
        diff: layer.map(|layer| Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            digest: layer.digest.clone(),
            size: layer.tar.len() as i64,
            ..Descriptor::default()
        }),
        mounts: vec![Mount {
            r#type: "bind".to_owned(),
            source: VICTIM.to_owned(),
            options: vec!["rbind".to_owned(), "rw".to_owned()],
            ..Mount::default()
        }],
        ..ApplyRequest::default()
    }
}

pub fn apply(node: &Node, socket: &str, image: &Published) -> Result<std::result::Result<(), Status>> {
    wait(async {
        let channel = containerd_client::connect(node.outside(socket)).await?;
        let answer = DiffClient::new(channel).apply(within("default", request(image))?).await;
        Ok(answer.map(drop))
    })
}

fn untouched(node: &Node) -> Result<()> {
    let listed = node.run(&["find", VICTIM, "-mindepth", "1"])?.ok()?;
    expect::holds(listed.is_empty(), || format!("a layer was unpacked over the host: {listed}"))
}

/// A gRPC message as it goes over the wire: not compressed, its length, its bytes.
fn framed(request: &ApplyRequest) -> Vec<u8> {
    let message = request.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

fn curl(socket: &str) -> Vec<String> {
    let command = format!(
        "curl -sv --max-time 60 --http2-prior-knowledge --unix-socket {socket} -H content-type:application/grpc \
         -H te:trailers -H containerd-namespace:default --data-binary @/var/tmp/request -o /dev/null \
         http://localhost/containerd.services.diff.v1.Diff/Apply"
    );
    command.split_whitespace().map(str::to_owned).collect()
}

/// Root in a container with the node's programs, its /var/tmp and pullgate's directory.
fn in_container(node: &Node, image: &Published, command: &[String]) -> Result<crate::node::machine::Output> {
    let mut run: Vec<String> = ["ctr", "run", "--rm", "--net-host", "--cpu-shares=0"].map(str::to_owned).to_vec();
    for (from, to) in [
        ("/usr", "/usr"),
        ("/usr/lib", "/lib"),
        ("/usr/lib64", "/lib64"),
        ("/var/tmp", "/var/tmp"),
        ("/run/pullgate", "/run/pullgate"),
    ] {
        run.extend(["--mount".to_owned(), format!("type=bind,src={from},dst={to},options=rbind:rw")]);
    }
    run.extend([image.name.clone(), "stranger".to_owned()]);
    run.extend(command.iter().cloned());
    node.run(&run)
}
