use containerd_client::services::v1::{GetContainerResponse, ListContainerMessage, container::Runtime};
use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::containerd::fake::{Answer, FakeContainerd};

fn noted() -> Value {
    json!({
        "Version": "v1",
        "Metadata": {
            "ID": "c1",
            "Name": "app_pod_shop_uid_0",
            "SandboxID": "s1",
            "Config": {
                "metadata": { "name": "app" },
                "image": { "image": "sha256:aa", "user_specified_image": "reg.io/prod/app:1" },
                "mounts": [
                    { "container_path": "/data", "host_path": "/var/lib/kubelet/x" },
                    {
                        "container_path": "/vol",
                        "host_path": "/run/volumes/s1/bb",
                        "image": { "image": "reg.io/vol:1" }
                    },
                ],
                "annotations": { "io.kubernetes.container.hash": "1" },
                "linux": null,
            },
            "ImageRef": Digest::of(b"config").to_string(),
            "LogPath": "/x",
        }
    })
}

fn noted_of_sandbox() -> Value {
    json!({
        "Version": "v1",
        "Metadata": {
            "ID": "s1",
            "Config": { "metadata": { "name": "pod", "uid": "u", "namespace": "shop" }, "annotations": null },
            "RuntimeHandler": "gpu",
        }
    })
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hooks": { "createRuntime": [{ "path": "/x/hook", "args": ["hook", "create-runtime"], "timeout": 10 }] },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] },
            { "destination": "/run/x", "source": "/run/containerd", "options": null },
        ],
    })
}

fn any(value: &Value) -> Any {
    Any { type_url: String::new(), value: value.to_string().into_bytes() }
}

fn record(spec: &Value, extensions: &[(&str, &Value)]) -> Record {
    Record {
        id: "c1".to_owned(),
        image: "reg.io/dev/app:1".to_owned(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
        spec: Some(any(spec)),
        snapshotter: "overlayfs".to_owned(),
        snapshot_key: "c1".to_owned(),
        created_at: Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 5 }),
        extensions: extensions.iter().map(|(key, value)| ((*key).to_owned(), any(value))).collect(),
        ..Record::default()
    }
}

fn cri_of(value: &Value) -> Result<CriContainer, Unreadable> {
    match Container::of(record(&spec(), &[(CONTAINER, value)])).cri? {
        Some(Cri::Container(container)) => Ok(container),
        other => panic!("{other:?}"),
    }
}

/// `value` with the member at `path` (JSON pointer) replaced.
fn with(mut value: Value, path: &str, member: Value) -> Value {
    *value.pointer_mut(path).unwrap() = member;
    value
}

#[test]
fn a_record_says_what_the_container_was_made_from() {
    let container = Container::of(record(&spec(), &[(CONTAINER, &noted())]));
    assert_eq!((container.snapshotter.as_str(), container.runtime.as_str()), ("overlayfs", "io.containerd.runc.v2"));
    assert_eq!(container.created.unwrap().as_second(), 1_790_000_000);
    let spec = container.spec.unwrap();
    let hook = Hook { path: "/x/hook".into(), args: vec!["hook".into(), "create-runtime".into()], timeout: Some(10) };
    assert_eq!(spec.create_runtime, [hook]);
    assert_eq!(spec.mounts[1].source, "/run/containerd");
    let Ok(Some(Cri::Container(cri))) = container.cri else { panic!() };
    let volume =
        ImageVolume { image: None, requested: "reg.io/vol:1".to_owned(), host_path: "/run/volumes/s1/bb".to_owned() };
    let expected = CriContainer {
        name: "app".to_owned(),
        sandbox: "s1".to_owned(),
        config: Digest::of(b"config"),
        image: Some("reg.io/prod/app:1".to_owned()),
        requested: "sha256:aa".to_owned(),
        image_volumes: vec![volume],
        restored: false,
    };
    assert_eq!(cri, expected);
}

#[test]
fn a_sandbox_says_which_pod_it_is() {
    let container = Container::of(record(&spec(), &[(SANDBOX, &noted_of_sandbox())]));
    let Ok(Some(Cri::Sandbox(sandbox))) = container.cri else { panic!() };
    assert_eq!((sandbox.namespace.as_str(), sandbox.name.as_str(), sandbox.handler.as_str()), ("shop", "pod", "gpu"));
    assert!(!sandbox.breaks_glass);
    for (value, expected) in [("true", true), ("yes", false), ("", false), ("True", false)] {
        let labels = json!({ "image-policy.k8s.io/break-glass": value });
        let mut noted = noted_of_sandbox();
        noted["Metadata"]["Config"]["labels"] = labels;
        let Ok(Some(Cri::Sandbox(sandbox))) = Container::of(record(&spec(), &[(SANDBOX, &noted)])).cri else {
            panic!()
        };
        assert_eq!(sandbox.breaks_glass, expected, "{value}");
    }
    for (path, member) in [
        ("/Version", json!("v2")),
        ("/Metadata/Config/metadata/namespace", json!("")),
        ("/Metadata/Config/metadata/name", json!(null)),
        ("/Metadata/Config/metadata", json!(null)),
        ("/Metadata/Config", json!([])),
    ] {
        let container = Container::of(record(&spec(), &[(SANDBOX, &with(noted_of_sandbox(), path, member))]));
        assert!(container.cri.is_err(), "{path}");
    }
}

#[test]
fn a_container_of_another_client_is_none_of_a_pod() {
    let container = Container::of(record(&spec(), &[("other", &noted())]));
    assert_eq!(container.cri, Ok(None));
    let both = Container::of(record(&spec(), &[(CONTAINER, &noted()), (SANDBOX, &noted_of_sandbox())]));
    assert!(both.cri.is_err());
}

#[test]
fn what_is_restored_from_a_checkpoint_shows() {
    for key in RESTORED {
        let restored = with(noted(), "/Metadata/Config/annotations", json!({ key: "" }));
        assert!(cri_of(&restored).unwrap().restored, "{key}");
    }
}

#[test]
fn what_cannot_be_read_is_not_absent() {
    let good = noted();
    assert!(cri_of(&good).is_ok());
    for (path, member) in [
        ("/Version", json!("v2")),
        ("/Version", json!(1)),
        ("/Metadata", json!(null)),
        ("/Metadata/SandboxID", json!(null)),
        ("/Metadata/ImageRef", json!("")),
        ("/Metadata/ImageRef", json!("reg.io/x:1")),
        ("/Metadata/ImageRef", json!("sha512:00")),
        ("/Metadata/Config", json!(null)),
        ("/Metadata/Config/image", json!("x")),
        ("/Metadata/Config/mounts", json!({})),
        ("/Metadata/Config/mounts/1/image", json!([1])),
        ("/Metadata/Config/annotations", json!({ "restored": true })),
    ] {
        assert!(cri_of(&with(noted(), path, member.clone())).is_err(), "{path} {member}");
    }
    let twice = noted().to_string().replacen("{", &format!("{{\"Version\":\"v1\",\"Metadata\":{},", json!({})), 1);
    let mut record = record(&spec(), &[(CONTAINER, &good)]);
    for json in [twice.as_bytes(), b"", b"null", b"\xff", &vec![b'['; 1 << 20]] {
        let value = Any { type_url: String::new(), value: json.to_vec() };
        record.extensions = [(CONTAINER.to_owned(), value)].into();
        assert!(Container::of(record.clone()).cri.is_err(), "{}", json.len());
    }
    for (path, member) in [
        ("/hooks", json!("x")),
        ("/hooks/createRuntime", json!({})),
        ("/hooks/createRuntime/0/path", json!(null)),
        ("/hooks/createRuntime/0/args", json!("hook")),
        ("/mounts", json!("x")),
        ("/mounts/0/destination", json!(null)),
    ] {
        assert!(Container::of(self::record(&with(spec(), path, member), &[])).spec.is_err(), "{path}");
    }
    assert!(Container::of(Record::default()).spec.is_err());
}

#[test]
fn what_go_leaves_out_is_nothing() {
    let bare = Container::of(record(&json!({}), &[])).spec.unwrap();
    assert_eq!(bare, Spec::default());
    for hooks in [json!(null), json!({}), json!({ "createRuntime": null, "prestart": [] })] {
        let read = Container::of(record(&with(spec(), "/hooks", hooks), &[])).spec.unwrap();
        assert!(read.create_runtime.is_empty());
    }
    for (path, member) in [
        ("/Metadata/Config/mounts", json!(null)),
        ("/Metadata/Config/annotations", json!(null)),
        ("/Metadata/Config/image", json!(null)),
        ("/Metadata/Config/image", json!({ "image": "x", "user_specified_image": "" })),
        ("/Metadata/Config/metadata", json!(null)),
    ] {
        assert!(cri_of(&with(noted(), path, member)).is_ok(), "{path}");
    }
    let unsaid = with(noted(), "/Metadata/Config/image", json!({ "image": "reg.io/x:1" }));
    assert_eq!(cri_of(&unsaid).unwrap().image, None);
}

#[test]
fn the_parts_of_a_container_are_bounded() {
    for (count, fits) in [(limits::CONTAINER_PARTS, true), (limits::CONTAINER_PARTS + 1, false)] {
        let mounts = with(spec(), "/mounts", json!(vec![json!({ "destination": "/x" }); count]));
        assert_eq!(Container::of(record(&mounts, &[])).spec.is_ok(), fits);
        let hooks = with(spec(), "/hooks/createRuntime", json!(vec![json!({ "path": "/x" }); count]));
        assert_eq!(Container::of(record(&hooks, &[])).spec.is_ok(), fits);
        let mounted = with(noted(), "/Metadata/Config/mounts", json!(vec![json!({ "host_path": "/x" }); count]));
        assert_eq!(cri_of(&mounted).is_ok(), fits);
    }
}

#[tokio::test]
async fn a_container_is_there_or_not_and_its_record_is_bounded() {
    let get = async |answer: Answer| {
        let answer = std::sync::Mutex::new(Some(answer));
        let fake = FakeContainerd::start(move |_, _| answer.lock().unwrap().take().unwrap());
        fake.client().container("k8s.io", "c1").await.map(|found| found.map(|container| container.id))
    };
    let large = |bytes: usize| {
        let container = Record { image: "x".repeat(bytes), ..record(&spec(), &[]) };
        Answer::message(&GetContainerResponse { container: Some(container) })
    };
    assert_eq!(get(Answer::missing()).await.unwrap(), None);
    assert_eq!(get(Answer::message(&GetContainerResponse::default())).await.unwrap(), None);
    assert_eq!(get(large(limits::RECORD_BYTES - 4096)).await.unwrap().as_deref(), Some("c1"));
    assert_eq!(get(large(limits::RECORD_BYTES)).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(get(Answer::Error(Status::unavailable("no"))).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_list_is_as_long_as_was_asked_for_and_says_whether_there_is_more() {
    let message = |container| ListContainerMessage { container }.encode_to_vec();
    let messages = vec![
        message(Some(record(&spec(), &[]))),
        message(None),
        message(Some(record(&json!([]), &[(CONTAINER, &json!(1))]))),
        message(Some(record(&spec(), &[]))),
    ];
    let fake = FakeContainerd::start(move |_, _| Answer::Messages(messages.clone()));
    let list = async |limit| {
        let (found, more) = fake.client().containers("k8s.io", Vec::new(), limit).await.unwrap();
        (found.len(), more)
    };
    assert_eq!((list(3).await, list(2).await, list(0).await), ((3, false), (2, true), (0, true)));
    // One that cannot be read hides no other.
    let (found, _) = fake.client().containers("k8s.io", Vec::new(), 3).await.unwrap();
    assert_eq!(found.iter().filter(|container| container.spec.is_err() && container.cri.is_err()).count(), 1);
}
