//! What of the node containers see.

use std::{collections::HashMap, path::Path};

use super::super::{ContainerMounts, Known, Mount, Mounts};
use crate::{
    containerd::{
        Containerd,
        containers::{Container, Cri, Spec},
    },
    image::{Reference, sanitize},
    limits,
};

/// Characters of a container's identifier.
const ID: usize = 80;

/// The mounts of every container on record, in every namespace.
pub(super) async fn mounts(containerd: &Containerd) -> Known<Mounts> {
    let told = |status: tonic::Status| format!("the containers could not be listed: {}", status.message());
    let mut mounts = Mounts::default();
    for namespace in containerd.namespaces().await.map_err(told)? {
        let (containers, more) =
            containerd.containers(&namespace, Vec::new(), limits::DOCTOR_CONTAINERS).await.map_err(told)?;
        if more {
            return Err(format!("namespace {namespace} has more than {} containers", limits::DOCTOR_CONTAINERS));
        }
        mounts.add(&namespace, &containers);
    }
    Ok(mounts)
}

impl Mounts {
    fn add(&mut self, namespace: &str, containers: &[Container]) {
        let pods: HashMap<&str, String> = containers
            .iter()
            .filter_map(|container| match &container.cri {
                Ok(Some(Cri::Sandbox(sandbox))) => {
                    Some((container.id.as_str(), format!("{}/{}", sandbox.namespace, sandbox.name)))
                }
                _ => None,
            })
            .collect();
        for container in containers {
            if !container.snapshotter.is_empty() {
                *self.snapshotters.entry(container.snapshotter.clone()).or_default() += 1;
            }
            let spec = match &container.spec {
                Ok(spec) => spec,
                Err(why) => {
                    self.unreadable.push(format!("{namespace}/{}: {why}", sanitize(&container.id, ID)));
                    continue;
                }
            };
            let image = match &container.cri {
                Ok(Some(Cri::Container(cri))) => {
                    cri.image.as_deref().unwrap_or(&container.image).parse::<Reference>().ok()
                }
                _ => None,
            };
            let (name, pod) = match &container.cri {
                Ok(Some(Cri::Container(cri))) => (cri.name.clone(), pods.get(cri.sandbox.as_str()).cloned()),
                Ok(Some(Cri::Sandbox(_))) => ("sandbox".to_owned(), pods.get(container.id.as_str()).cloned()),
                _ => (container.id.clone(), None),
            };
            self.containers.push(ContainerMounts {
                namespace: namespace.to_owned(),
                pod,
                name,
                image: image.map(|image| image.repository),
                mounts: of_node(spec).collect(),
            });
        }
    }
}

/// The mounts that show a part of the node: those with a path for a source.
fn of_node(spec: &Spec) -> impl Iterator<Item = Mount> + '_ {
    spec.mounts.iter().filter(|mount| Path::new(&mount.source).is_absolute()).map(|mount| Mount {
        source: mount.source.clone().into(),
        canonical: Path::new(&mount.source).canonicalize().unwrap_or_else(|_| mount.source.clone().into()),
        read_only: mount.options.iter().any(|option| option == "ro"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use containerd_client::services::v1::{
        Container as Record, ListContainerMessage, ListNamespacesResponse, Namespace,
    };
    use prost::Message;
    use prost_types::Any;
    use serde_json::{Value, json};

    use super::*;
    use crate::containerd::fake::{Answer, FakeContainerd};

    fn record(id: &str, spec: &Value, extension: Option<(&str, Value)>) -> Vec<u8> {
        let any = |value: &Value| Any { type_url: String::new(), value: value.to_string().into_bytes() };
        let extensions = extension.iter().map(|(key, value)| ((*key).to_owned(), any(value))).collect();
        let container = Record {
            id: id.to_owned(),
            spec: Some(any(spec)),
            snapshotter: "overlayfs".to_owned(),
            extensions,
            ..Record::default()
        };
        ListContainerMessage { container: Some(container) }.encode_to_vec()
    }

    fn containerd(containers: Vec<Vec<u8>>) -> FakeContainerd {
        FakeContainerd::start(move |method, _| match method {
            "Namespaces/List" => {
                let namespace = Namespace { name: "k8s.io".to_owned(), ..Namespace::default() };
                Answer::message(&ListNamespacesResponse { namespaces: vec![namespace] })
            }
            "Containers/ListStream" => Answer::Messages(containers.clone()),
            _ => Answer::missing(),
        })
    }

    #[tokio::test]
    async fn each_container_is_named_with_its_pod_and_what_it_sees() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("/run", &link).unwrap();
        let source = link.display().to_string();
        let spec = json!({ "mounts": [
            { "destination": "/proc", "source": "proc" },
            { "destination": "/x", "source": source, "options": ["rbind", "ro"] },
        ] });
        let pod = json!({ "Version": "v1", "Metadata": {
            "Config": { "metadata": { "name": "web-0", "namespace": "shop", "uid": "u" } } } });
        let container = json!({ "Version": "v1", "Metadata": {
            "SandboxID": "s1", "ImageRef": crate::image::Digest::of(b"c").to_string(),
            "Config": { "metadata": { "name": "app" }, "image": { "user_specified_image": "reg.io/app:1" } } } });
        let fake = containerd(vec![
            record("c1", &spec, Some(("io.cri-containerd.container.metadata", container))),
            record("s1", &json!({}), Some(("io.cri-containerd.sandbox.metadata", pod))),
            record("plain", &json!({}), None),
            record("broken", &json!([]), None),
        ]);
        let found = mounts(&fake.client()).await.unwrap();
        let told: Vec<(&str, Option<&str>)> =
            found.containers.iter().map(|it| (it.name.as_str(), it.pod.as_deref())).collect();
        assert_eq!(told, [("app", Some("shop/web-0")), ("sandbox", Some("shop/web-0")), ("plain", None)]);
        let images: Vec<Option<String>> =
            found.containers.iter().map(|it| it.image.as_ref().map(ToString::to_string)).collect();
        assert_eq!(images, [Some("reg.io/app".to_owned()), None, None]);
        let [mount] = found.containers[0].mounts.as_slice() else { panic!("{:?}", found.containers[0]) };
        assert!(mount.read_only && mount.source == link && mount.canonical == Path::new("/run"), "{mount:?}");
        assert!(found.unreadable[0].starts_with("k8s.io/broken: "), "{:?}", found.unreadable);
        assert_eq!(found.snapshotters["overlayfs"], 4);
    }

    #[tokio::test]
    async fn more_containers_than_are_looked_at_are_not_taken_for_none() {
        let many = |count| containerd(vec![record("c", &json!({}), None); count]);
        let found = mounts(&many(limits::DOCTOR_CONTAINERS).client()).await.unwrap();
        assert_eq!(found.containers.len(), limits::DOCTOR_CONTAINERS);
        let why = mounts(&many(limits::DOCTOR_CONTAINERS + 1).client()).await.unwrap_err();
        assert!(why.contains("more than"), "{why}");
        let silent = FakeContainerd::start(|_, _| Answer::Error(tonic::Status::unavailable("gone")));
        assert!(mounts(&silent.client()).await.unwrap_err().contains("could not be listed"));
    }
}
