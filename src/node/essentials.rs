//! What a node cannot do without, as it is now: proposed for the boot list.
//!
//! Only what lies on the node is asked. Whatever runs here now is proposed, whoever brought it: an administrator sees
//! each digest with its name before it is written, and from then on no policy is asked about it.

use std::{fmt::Write, path::Path, sync::Arc};

use serde::Serialize;

use super::{sandbox, static_pods::StaticPods};
use crate::{
    boot::Entry,
    containerd::Containerd,
    evidence::{
        content::{ContentStore, Trouble},
        kept::Kept,
    },
    image::{Digest, Document, NodePlatform, Reference, media_type},
    limits,
};

/// The containerd namespace of the kubelet.
const KUBERNETES: &str = "k8s.io";
/// The containers of the pods that make a cluster work.
const KUBE_SYSTEM: &str = "labels.\"io.kubernetes.pod.namespace\"==kube-system";

/// What this node cannot do without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seeded {
    /// The digests of it: manifests for this node's platform, and the indexes that list them. Of the images that the
    /// documents are about, nothing else: the gates are asked about manifests and indexes, and a configuration's or a
    /// layer's digest in the boot list would admit nothing.
    pub entries: Vec<Entry>,
    /// What could not be read or is not on the node, and what to do about it.
    pub problems: Vec<String>,
    /// Whether containerd was not there to be asked, so that there may be more.
    pub incomplete: bool,
}

/// Looks for the sandbox image, static pods, and what runs in kube-system.
pub async fn seed(containerd: &Arc<Containerd>) -> Seeded {
    seed_with(containerd, StaticPods::of_this_node()).await
}

async fn seed_with(containerd: &Arc<Containerd>, pods: StaticPods) -> Seeded {
    let mut essentials = Essentials::default();
    let mut seeded = Seeded { entries: Vec::new(), problems: pods.problems, incomplete: false };
    match sandbox::configured(containerd).await {
        Ok(Some(image)) => essentials.add(image, "sandbox image".to_owned()),
        Ok(None) => {}
        Err(why) => {
            seeded.problems.push(format!("the sandbox image is not known: {why}; run this again"));
            seeded.incomplete = true;
        }
    }
    for (image, file) in pods.images {
        essentials.add(image, format!("static pod {}", file_name(&file)));
    }
    match containerd.images_in_use(KUBERNETES, KUBE_SYSTEM.to_owned(), limits::ESSENTIAL_IMAGES).await {
        Ok((images, more)) => {
            images.into_iter().for_each(|image| essentials.add(image, "kube-system".to_owned()));
            if more {
                seeded.problems.push(format!("kube-system: more than {} images", limits::ESSENTIAL_IMAGES));
            }
        }
        Err(status) => {
            seeded.problems.push(format!("kube-system: containerd: {}; run this again", status.message()));
            seeded.incomplete = true;
        }
    }
    let content = ContentStore::new(containerd.clone(), Kept::default());
    for Essential { image, why } in essentials.0 {
        let why = why.join(", ");
        match documents(containerd, &content, &image).await {
            Ok(documents) => {
                for (digest, what) in documents {
                    seeded.add(Entry { digest, comment: format!("{what}{image} ({why})") });
                }
            }
            Err(problem) => seeded.problems.push(format!("{image} ({why}): {problem}")),
        }
    }
    for problem in &mut seeded.problems {
        *problem = crate::image::sanitize(problem, limits::REFERENCE_CHARS);
    }
    seeded
}

impl Seeded {
    fn add(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|other| other.digest == entry.digest) {
            Some(known) if known.comment.split("; ").all(|said| said != entry.comment) => {
                let _ = write!(known.comment, "; {}", entry.comment);
            }
            Some(_) => {}
            None => self.entries.push(entry),
        }
    }
}

/// Each image once, with every reason for it.
#[derive(Default)]
struct Essentials(Vec<Essential>);

struct Essential {
    image: String,
    why: Vec<String>,
}

impl Essentials {
    fn add(&mut self, image: String, why: String) {
        match self.0.iter_mut().find(|known| known.image == image) {
            Some(known) if !known.why.contains(&why) => known.why.push(why),
            Some(_) => {}
            None => self.0.push(Essential { image, why: vec![why] }),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The manifests and indexes by which this node knows `image`, each with what it is.
async fn documents(
    containerd: &Containerd,
    content: &ContentStore,
    image: &str,
) -> Result<Vec<(Digest, &'static str)>, String> {
    let pull = || "it is not on the node; pull it, then run this again".to_owned();
    let digest = resolve(containerd, image).await?.ok_or_else(pull)?;
    let index = match content.document(KUBERNETES, &digest).await {
        Ok(document) => match &*document {
            Document::Manifest(_) => return Ok(vec![(digest, "")]),
            Document::Index(index) => index.clone(),
        },
        Err(Trouble::Missing(_)) => return Err(pull()),
        Err(trouble) => return Err(trouble.to_string()),
    };
    let mut documents = vec![(digest, "index of ")];
    for child in NodePlatform::here().choices(&index) {
        if !media_type::is_manifest(&child.descriptor.media_type) {
            continue;
        }
        match content.document(KUBERNETES, &child.descriptor.digest).await {
            Ok(_) => documents.push((child.descriptor.digest, "")),
            // containerd fetches one of those that it could choose.
            Err(Trouble::Missing(_)) => {}
            Err(trouble) => return Err(trouble.to_string()),
        }
    }
    // An index alone would admit whatever it lists, of which nothing was ever here.
    if documents.len() == 1 { Err(pull()) } else { Ok(documents) }
}

/// The digest that `image`, as a configuration, a pod or a container calls it, has on this node. None when it is not
/// there.
///
/// # Errors
/// When it is no name of an image, its digest is another than it says, or containerd did not answer.
pub(super) async fn resolve(containerd: &Containerd, image: &str) -> Result<Option<Digest>, String> {
    for name in records(image)? {
        let found = containerd.target(KUBERNETES, &name).await;
        if let Some(found) = found.map_err(|status| format!("containerd: {}", status.message()))? {
            return match stated(image) {
                Some(digest) if digest != found => Err(format!("the node calls {found} by this name")),
                _ => Ok(Some(found)),
            };
        }
    }
    Ok(None)
}

/// The names under which containerd may know `image`: as it is written, and as the runtime interface spells it, which
/// drops a tag beside a digest.
fn records(image: &str) -> Result<Vec<String>, String> {
    // A container can be of an image that only has its configuration's digest for a name.
    if image.parse::<Digest>().is_ok() {
        return Ok(vec![image.to_owned()]);
    }
    let reference: Reference = image.parse().map_err(|error| format!("{error}"))?;
    let spelled = match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.repository),
        None => format!("{}:{}", reference.repository, reference.tag.as_deref().unwrap_or("latest")),
    };
    let mut names = vec![image.to_owned()];
    if spelled != image {
        names.push(spelled);
    }
    Ok(names)
}

fn stated(image: &str) -> Option<Digest> {
    image.split_once('@')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use containerd_client::{
        services::v1::{GetImageRequest, GetImageResponse, Image, ReadContentRequest, ReadContentResponse},
        types::Descriptor,
    };
    use prost::Message;

    use super::*;
    use crate::containerd::fake::{Answer, FakeContainerd};

    #[test]
    fn an_image_is_looked_for_by_the_names_that_containerd_gives_it() {
        let digest = Digest::of(b"x");
        for (image, expected) in [
            ("pause", vec!["pause", "docker.io/library/pause:latest"]),
            ("library/pause:3", vec!["library/pause:3", "docker.io/library/pause:3"]),
            ("index.docker.io/x/y:1", vec!["index.docker.io/x/y:1", "docker.io/x/y:1"]),
            ("registry.k8s.io/pause:3.10", vec!["registry.k8s.io/pause:3.10"]),
            ("reg.io:443/a", vec!["reg.io:443/a", "reg.io/a:latest"]),
        ] {
            assert_eq!(records(image).unwrap(), expected);
        }
        let both = format!("pause:3@{digest}");
        assert_eq!(records(&both).unwrap(), [both.clone(), format!("docker.io/library/pause@{digest}")]);
        assert_eq!(stated(&both), Some(digest));
        assert_eq!(records(&digest.to_string()).unwrap(), [digest.to_string()]);
        for image in ["", "a b", "UPPER/case", "x@sha512:00", "x:\n"] {
            assert!(records(image).is_err(), "{image}");
        }
    }

    #[tokio::test]
    async fn an_image_is_known_by_its_documents_that_are_on_the_node() {
        let manifest = |name: &str| {
            let config =
                format!(r#"{{"mediaType":"{}","digest":"{}","size":1}}"#, media_type::CONFIG, Digest::of(b"c"));
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"annotations":{{"a":"{name}"}}}}"#)
                .into_bytes()
        };
        let child = |bytes: &[u8], kind: &str, architecture: &str| {
            let digest = Digest::of(bytes);
            format!(
                r#"{{"mediaType":"{kind}","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
            )
        };
        let index = |children: &[String]| {
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media_type::INDEX, children.join(","))
                .into_bytes()
        };
        let here = NodePlatform::here().architecture;
        let (native, foreign, absent) = (manifest("native"), manifest("foreign"), manifest("absent"));
        let usual = index(&[
            child(&native, media_type::MANIFEST, here),
            child(&foreign, media_type::MANIFEST, "s390x"),
            child(&absent, media_type::MANIFEST, here),
            child(&native, media_type::INDEX, here),
        ]);
        let empty = index(&[child(&absent, media_type::MANIFEST, here)]);
        let digests = [&native, &usual, &empty, &absent].map(|bytes| Digest::of(bytes));
        let blobs = [native.clone(), foreign, usual.clone(), empty, b"{}".to_vec()];
        let fake = FakeContainerd::start(move |method, message| match method {
            "Images/Get" => {
                let name = GetImageRequest::decode(message).unwrap().name;
                let digest = match name.as_str() {
                    "reg.io/native:1" => digests[0],
                    "reg.io/usual:1" => digests[1],
                    "reg.io/empty:1" => digests[2],
                    "reg.io/absent:1" => digests[3],
                    "reg.io/junk:1" => Digest::of(b"{}"),
                    _ => return Answer::missing(),
                };
                let target = Descriptor { digest: digest.to_string(), ..Descriptor::default() };
                Answer::message(&GetImageResponse { image: Some(Image { target: Some(target), ..Image::default() }) })
            }
            "Content/Read" => {
                let digest = ReadContentRequest::decode(message).unwrap().digest;
                match blobs.iter().find(|blob| Digest::of(blob).to_string() == digest) {
                    Some(blob) => Answer::message(&ReadContentResponse { offset: 0, data: blob.clone() }),
                    None => Answer::missing(),
                }
            }
            _ => Answer::missing(),
        });
        let containerd = fake.client();
        let content = ContentStore::new(containerd.clone(), Kept::default());
        let documents = async |image: &str| documents(&containerd, &content, image).await;
        assert_eq!(documents("reg.io/native:1").await.unwrap(), [(digests[0], "")]);
        assert_eq!(documents("reg.io/usual:1").await.unwrap(), [(digests[1], "index of "), (digests[0], "")]);
        for absent in ["reg.io/absent:1", "reg.io/empty:1", "reg.io/nowhere:1"] {
            assert!(documents(absent).await.unwrap_err().contains("not on the node; pull it"), "{absent}");
        }
        assert!(documents("reg.io/junk:1").await.is_err());
        let moved = format!("reg.io/native:1@{}", Digest::of(b"another"));
        assert!(documents(&moved).await.unwrap_err().contains("not on the node"));
    }

    #[test]
    fn an_image_is_proposed_once_with_every_reason() {
        let mut essentials = Essentials::default();
        for (image, why) in [("a", "sandbox image"), ("b", "static pod"), ("a", "kube-system"), ("a", "kube-system")] {
            essentials.add(image.to_owned(), why.to_owned());
        }
        let found: Vec<_> = essentials.0.iter().map(|it| (it.image.as_str(), it.why.join(", "))).collect();
        assert_eq!(found, [("a", "sandbox image, kube-system".to_owned()), ("b", "static pod".to_owned())]);
        let mut seeded = Seeded::default();
        for comment in ["a", "b", "b"] {
            seeded.add(Entry { digest: Digest::of(b"x"), comment: comment.to_owned() });
        }
        assert_eq!(seeded.entries, [Entry { digest: Digest::of(b"x"), comment: "a; b".to_owned() }]);
    }

    #[tokio::test]
    async fn without_containerd_there_are_problems_and_nothing_to_add() {
        let containerd = Arc::new(Containerd::new(Path::new("/nonexistent/containerd.sock")));
        let images = vec![("reg.io/apiserver:1".to_owned(), "/etc/kubernetes/manifests/a.yaml".into())];
        let pods = StaticPods { images, problems: vec!["b.yaml: not YAML".to_owned()] };
        let seeded = seed_with(&containerd, pods).await;
        assert_eq!((seeded.entries.len(), seeded.problems.len()), (0, 4), "{:?}", seeded.problems);
        assert!(seeded.incomplete);
        assert!(seeded.problems[3].starts_with("reg.io/apiserver:1 (static pod a.yaml): containerd:"));
    }
}
