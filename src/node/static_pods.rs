//! The images of static pods: what the kubelet runs from files, before there is a control plane to ask.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{files, limits};

/// Where kubeadm and most others put them.
const DIRECTORY: &str = "/etc/kubernetes/manifests";
/// Where the kubelet may be told another directory.
const KUBELET: &str = "/var/lib/kubelet/config.yaml";

/// The images that static pods name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticPods {
    /// Each name as written, with the file that names it.
    pub images: Vec<(String, PathBuf)>,
    /// Files that could not be read: their images are not in `images`.
    pub problems: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kubelet {
    #[serde(default)]
    static_pod_path: Option<PathBuf>,
}

/// A pod, or a list of them.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    items: Option<Vec<Manifest>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
    #[serde(default)]
    containers: Option<Vec<Container>>,
    #[serde(default)]
    volumes: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    image: Option<String>,
}

#[derive(Deserialize)]
struct Volume {
    #[serde(default)]
    image: Option<ImageVolume>,
}

#[derive(Deserialize)]
struct ImageVolume {
    #[serde(default)]
    reference: Option<String>,
}

impl StaticPods {
    /// Reads the directory that the kubelet of this node reads.
    pub fn of_this_node() -> Self {
        Self::of_kubelet(Path::new(KUBELET), Path::new(DIRECTORY))
    }

    /// Reads the directory that the kubelet's configuration `kubelet` names, else `usual`.
    pub fn of_kubelet(kubelet: &Path, usual: &Path) -> Self {
        let told = match kubelet.symlink_metadata() {
            Err(_) => Ok(None),
            Ok(_) => files::read_trusted(kubelet, limits::POD_BYTES).and_then(|text| directory(&text)),
        };
        match told {
            Ok(directory) => Self::of_directory(&directory.unwrap_or_else(|| usual.to_owned())),
            Err(why) => {
                let mut pods = Self::of_directory(usual);
                pods.problems.push(format!("{}: {why}: looked in {}", kubelet.display(), usual.display()));
                pods
            }
        }
    }

    /// Reads every file in `directory` that the kubelet would: plain ones, whatever their extension, whose name does
    /// not begin with a dot. It follows symbolic links.
    pub fn of_directory(directory: &Path) -> Self {
        let mut pods = Self::default();
        // No directory is no static pod: most nodes have none.
        let Ok(entries) = fs::read_dir(directory) else { return pods };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
            .filter(|path| !path.is_dir())
            .take(limits::POD_FILES + 1)
            .collect();
        paths.sort();
        if paths.len() > limits::POD_FILES {
            paths.truncate(limits::POD_FILES);
            pods.problems.push(format!("{}: more than {} files", directory.display(), limits::POD_FILES));
        }
        for path in paths {
            match files::read_trusted(&path, limits::POD_BYTES).and_then(|text| images(&text)) {
                Ok(images) => pods.add(images, &path),
                Err(why) => pods.problems.push(format!("{}: {why}", path.display())),
            }
        }
        pods
    }

    fn add(&mut self, images: Vec<String>, path: &Path) {
        for image in images {
            if self.images.iter().any(|(other, _)| *other == image) {
                continue;
            }
            if self.images.len() == limits::ESSENTIAL_IMAGES {
                self.problems.push(format!("{}: more than {} images", path.display(), limits::ESSENTIAL_IMAGES));
                return;
            }
            self.images.push((image, path.to_owned()));
        }
    }
}

/// Where the kubelet's configuration says that static pods are.
fn directory(text: &str) -> Result<Option<PathBuf>, String> {
    let kubelet: Kubelet = serde_saphyr::from_str(text).map_err(|error| first_line(&error))?;
    Ok(kubelet.static_pod_path.filter(|path| path.is_absolute()))
}

/// The images that the pod or list of pods `text` names, as YAML or JSON (which is YAML).
fn images(text: &str) -> Result<Vec<String>, String> {
    let manifest: Manifest = serde_saphyr::from_str(text).map_err(|error| first_line(&error))?;
    let is_list = manifest.kind.as_deref().is_some_and(|kind| kind == "PodList" || kind == "List");
    let pods = if is_list { manifest.items.unwrap_or_default() } else { vec![manifest] };
    let mut images = Vec::new();
    for pod in pods {
        let Some(spec) = pod.spec.filter(|_| pod.kind.as_deref().is_none_or(|kind| kind == "Pod")) else {
            return Err("not a pod".to_owned());
        };
        let containers = [spec.init_containers, spec.containers].into_iter().flatten().flatten();
        images.extend(containers.filter_map(|container| container.image));
        let volumes = spec.volumes.into_iter().flatten();
        images.extend(volumes.filter_map(|volume| volume.image?.reference));
    }
    images.retain(|image| !image.is_empty());
    Ok(images)
}

fn first_line(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    crate::image::sanitize(text.lines().next().unwrap_or("not YAML"), limits::MESSAGE_CHARS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: apiserver\n  annotations: {\"image\": \"no\"}\nspec:\n  hostNetwork: true\n  initContainers:\n  - image: reg.io/init:1 # image: no\n  containers:\n  - command: [\"x\", \"--image=no\"]\n    image: \"reg.io/apiserver:1\"\n    args:\n    - |\n      image: no\n  - {name: side, image: side}\n  volumes:\n  - name: v\n    image: {reference: reg.io/data:1}\n  - name: w\n    hostPath: {path: /}\n";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        }

        fn names(&self) -> Vec<String> {
            StaticPods::of_directory(self.0.path()).images.into_iter().map(|(name, _)| name).collect()
        }

        fn problems(&self) -> Vec<String> {
            StaticPods::of_directory(self.0.path()).problems
        }
    }

    fn pod(image: &str) -> String {
        format!("{{\"kind\": \"Pod\", \"spec\": {{\"containers\": [{{\"image\": \"{image}\"}}]}}}}")
    }

    #[test]
    fn every_image_of_a_pod_is_read_and_nothing_else() {
        assert_eq!(images(POD).unwrap(), ["reg.io/init:1", "reg.io/apiserver:1", "side", "reg.io/data:1"]);
        assert_eq!(images(&pod("a")).unwrap(), ["a"]);
        let list = format!("{{\"kind\": \"PodList\", \"items\": [{}, {}]}}", pod("a"), pod("b"));
        assert_eq!(images(&list).unwrap(), ["a", "b"]);
        assert_eq!(images("kind: Pod\nspec: {containers: }\n").unwrap(), [""; 0]);
        assert_eq!(images("kind: Pod\nspec: {containers: [{image: &a x}, {image: *a}]}\n").unwrap(), ["x", "x"]);
    }

    #[test]
    fn what_is_no_pod_is_a_problem_and_no_empty_list() {
        let bomb = "kind: Pod\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nspec: {}\n";
        let deep = format!("kind: Pod\nspec: {}", "[".repeat(100_000));
        for text in [
            "",
            "null",
            "[]",
            "image: x",
            "kind: Secret\nspec: {containers: [{image: x}]}",
            "kind: Pod\nspec: [x]",
            "kind: Pod\nspec: {containers: [{image: [x]}]}",
            "a: b: c",
            "\t",
            "kind: Pod\nspec:\n  containers: {image: x}",
            "kind: Pod\nspec: {containers: [{image: x}]}\n---\nkind: Pod\nspec: {containers: [{image: y}]}\n",
            bomb,
            &deep,
            "{\"kind\": \"PodList\", \"items\": [{\"kind\": \"Service\"}]}",
            "kind: Pod\nkind: Pod\nspec: {}",
        ] {
            assert!(images(text).is_err(), "{text:.100}");
        }
    }

    #[test]
    fn the_files_that_the_kubelet_reads_are_read() {
        let (folder, elsewhere) = (Folder::new(), Folder::new());
        folder.write("b.yaml~", &pod("b"));
        folder.write("a.json", &pod("a"));
        folder.write(".hidden.yaml", &pod("hidden"));
        fs::create_dir(folder.0.path().join("directory")).unwrap();
        symlink(elsewhere.write("c.yaml", &pod("c")), folder.0.path().join("link")).unwrap();
        symlink("/nonexistent", folder.0.path().join("nowhere")).unwrap();
        nix::unistd::mkfifo(&folder.0.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let open = folder.write("open.yaml", &pod("open"));
        fs::set_permissions(open, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(folder.names(), ["a", "b", "c"]);
        let problems = folder.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("not a plain file") && problems[2].contains("chmod go-w"), "{problems:?}");
        assert_eq!(StaticPods::of_directory(Path::new("/nonexistent")), StaticPods::default());
    }

    #[test]
    fn a_manifest_is_bounded() {
        let folder = Folder::new();
        let comment = |bytes: u64| " ".repeat(usize::try_from(bytes).unwrap() - pod("a").len());
        folder.write("a.json", &format!("{}{}", pod("a"), comment(limits::POD_BYTES)));
        assert_eq!((folder.names().len(), folder.problems().len()), (1, 0));
        folder.write("a.json", &format!("{}{}", pod("a"), comment(limits::POD_BYTES + 1)));
        assert_eq!((folder.names().len(), folder.problems().len()), (0, 1));
    }

    #[test]
    fn the_files_are_bounded() {
        let folder = Folder::new();
        (0..limits::POD_FILES).for_each(|i| drop(folder.write(&format!("{i:04}.json"), &pod("a"))));
        assert_eq!((folder.names().len(), folder.problems().len()), (1, 0));
        folder.write("more.json", &pod("b"));
        assert_eq!(folder.problems().len(), 1);
    }

    #[test]
    fn the_images_are_bounded() {
        let folder = Folder::new();
        let many = |count: usize| {
            let containers: Vec<String> = (0..count).map(|i| format!("{{\"image\": \"a{i}\"}}")).collect();
            format!("{{\"kind\": \"Pod\", \"spec\": {{\"containers\": [{}]}}}}", containers.join(","))
        };
        folder.write("a.json", &many(limits::ESSENTIAL_IMAGES));
        assert_eq!((folder.names().len(), folder.problems().len()), (limits::ESSENTIAL_IMAGES, 0));
        folder.write("a.json", &many(limits::ESSENTIAL_IMAGES + 1));
        assert_eq!((folder.names().len(), folder.problems().len()), (limits::ESSENTIAL_IMAGES, 1));
    }

    #[test]
    fn the_kubelet_says_where_they_are() {
        let (usual, told, etc) = (Folder::new(), Folder::new(), Folder::new());
        usual.write("a.json", &pod("usual"));
        told.write("a.json", &pod("told"));
        let image = |kubelet: &Path| {
            let pods = StaticPods::of_kubelet(kubelet, usual.0.path());
            (pods.images.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" "), pods.problems.len())
        };
        assert_eq!(image(Path::new("/nonexistent/config.yaml")), ("usual".to_owned(), 0));
        let head =
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication: {x509: {}}\n";
        let told = format!("{head}staticPodPath: {}\n", told.0.path().display());
        for (text, expected) in [
            (told.as_str(), ("told", 0)),
            (head, ("usual", 0)),
            (&format!("{head}staticPodPath: \"\"\n"), ("usual", 0)),
            ("staticPodPath: [", ("usual", 1)),
        ] {
            let kubelet = etc.write("config.yaml", text);
            assert_eq!(image(&kubelet), (expected.0.to_owned(), expected.1), "{text}");
        }
    }
}
