//! Evidence on the node's own disk: directories that the configuration names, and layouts that a person does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "on_node/check.rs"]
mod check;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "on_node/saved.rs"]
mod saved;
#[path = "on_node/signer.rs"]
mod signer;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use hostile::HostileRegistry;
use pullgate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    decisions::Asking,
    evidence::{Layout, kept::Kept},
    image::Digest,
    limits,
    policy::{
        Policy,
        decision::{Code, Decision, Verdict},
        evaluate::{Origin, Subject},
    },
    snapshot::Snapshot,
};
use saved::Saved;
use signer::Signer;

/// A node with a directory of evidence, and a registry that counts who asks it.
struct Node {
    directory: tempfile::TempDir,
    registry: HostileRegistry,
    signer: Signer,
    image: Digest,
}

impl Node {
    async fn new() -> Self {
        let registry = HostileRegistry::start().await;
        let image = registry.content().image("prod/app", "v1", "app");
        Self { directory: tempfile::tempdir().unwrap(), registry, signer: Signer::new(), image }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What is decided with the directory asked, `more` in its table.
    async fn decide_asking(&self, more: &str, asking: Asking, origin: Origin) -> Decision {
        let config = format!(
            "mode = \"enforce\"\n[[evidence]]\nimages = [\"**\"]\ndirectory = \"{}\"\n{more}\n",
            self.path().display()
        );
        let config = Config::parse(Path::new("config.toml"), &config).unwrap_or_else(|e| panic!("{e}"));
        let policy = format!(
            "schema = 1\n{}[[rule]]\nname = \"prod\"\nimages = [\"{}/prod/**\"]\nrequire = {{ all = [\"ci\"] }}\n\
             [default]\nrequire = \"deny\"\n",
            self.signer.attestor("ci"),
            self.registry.host(),
        );
        let policy = Policy::parse("policy.toml", &policy, &|_| Err("no file".to_owned())).unwrap();
        let snapshot = Snapshot::new(config, Some(policy));
        let subject = Subject::new(self.image, Some(self.registry.place("prod/app").repository), origin);
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        admission.decide(&Arc::new(snapshot), vec![subject], asking).await
    }

    async fn decide(&self) -> Decision {
        self.decide_asking("only = true", Asking::Usual, Origin::Fetched).await
    }

    /// That the image is not admitted, for this reason first, and nobody was asked.
    async fn refused(&self, code: Code, found: &str) {
        let decision = self.decide().await;
        let first = &decision.violations[0];
        assert_eq!((decision.verdict, first.code), (code.verdict(), code), "{decision:?}");
        assert!(first.found.contains(found), "{found}: {first:?}");
        assert_eq!(self.registry.asked(), [""; 0]);
    }

    fn clean(&self) {
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
}

#[tokio::test]
async fn each_form_of_evidence_in_a_directory_admits_without_a_registry() {
    let node = Node::new().await;
    let (signer, image, hex) = (&node.signer, node.image, node.image.hex());
    let bundle = signer.bundle(&image);
    type Put<'a> = Box<dyn Fn(&Path) + 'a>;
    let layout = |fill: fn(&mut Saved, &Signer, Digest)| -> Put<'_> {
        Box::new(move |path| {
            let mut saved = Saved::default();
            fill(&mut saved, signer, image);
            saved.write(path);
        })
    };
    let file = |name: String| -> Put<'_> {
        let bundle = &bundle;
        Box::new(move |path| fs::write(path.join(&name), bundle).unwrap())
    };
    let forms: Vec<(&str, Put<'_>)> = vec![
        ("a bundle", file(format!("sha256-{hex}.sigstore.json"))),
        ("a bundle of several", file(format!("sha256-{hex}.release-2.sigstore.json"))),
        ("a layout", layout(|saved, signer, image| saved.signature(signer, image))),
        ("a layout with a referrer", layout(|saved, signer, image| saved.referrer(signer, image))),
    ];
    for (form, put) in &forms {
        for below in [None, Some("any name"), Some(&*format!("sha256-{hex}"))] {
            let is_file = form.starts_with("a bundle");
            if is_file && below.is_some() {
                continue;
            }
            node.clean();
            assert_eq!(node.decide().await.code(), Some(Code::Unsigned), "{form}");
            put(&below.map_or(node.path().to_owned(), |name| node.path().join(name)));
            let decision = node.decide().await;
            assert_eq!(decision.verdict, Verdict::Allow, "{form} in {below:?}: {decision:?}");
            assert_eq!(decision.grounds.asked.len(), 1);
            assert_eq!((decision.grounds.asked[0].layout, decision.grounds.asked[0].found), (Layout::Directory, 1));
            let offline = node.decide_asking("", Asking::Offline, Origin::Fetched).await;
            assert_eq!(offline.verdict, Verdict::Allow, "{form}: a start needs no registry for it");
        }
    }
    assert_eq!(node.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn evidence_about_another_image_or_by_somebody_else_admits_nothing() {
    let node = Node::new().await;
    let file = node.path().join(format!("sha256-{}.sigstore.json", node.image.hex()));
    fs::write(&file, node.signer.bundle(&Digest::of(b"other"))).unwrap();
    node.refused(Code::OtherDigest, "").await;
    fs::write(&file, Signer::new().bundle(&node.image)).unwrap();
    node.refused(Code::UntrustedAttestor, "").await;
    // A good one beside it counts, and hides nothing.
    fs::write(file.with_extension("x.sigstore.json"), "{}").unwrap();
    fs::write(
        node.path().join(format!("sha256-{}.b.sigstore.json", node.image.hex())),
        node.signer.bundle(&node.image),
    )
    .unwrap();
    assert_eq!(node.decide().await.verdict, Verdict::Allow);
    // What is called after another image is not this image's.
    node.clean();
    let other = Digest::of(b"other").hex();
    fs::write(node.path().join(format!("sha256-{other}.sigstore.json")), node.signer.bundle(&node.image)).unwrap();
    let mut saved = Saved::default();
    saved.signature(&node.signer, node.image);
    saved.write(&node.path().join(format!("sha256-{other}")));
    node.refused(Code::Unsigned, "").await;
}

#[tokio::test]
async fn the_registry_is_asked_as_well_unless_the_directory_is_the_only_place() {
    let node = Node::new().await;
    assert_eq!(node.decide_asking("", Asking::Usual, Origin::Fetched).await.code(), Some(Code::Unsigned));
    assert!(!node.registry.asked().is_empty());
    node.registry.forget();
    let offline = async |more| node.decide_asking(more, Asking::Offline, Origin::Fetched).await.verdict;
    assert_eq!(offline("").await, Verdict::Inconclusive, "the registry may know more");
    assert_eq!(offline("only = true").await, Verdict::Deny, "nobody knows more");
    node.refused(Code::Unsigned, "no signature").await;
}

#[tokio::test]
async fn what_cannot_be_read_is_could_not_tell_by_its_name() {
    let node = Node::new().await;
    let hex = node.image.hex();
    let name = format!("sha256-{hex}.sigstore.json");
    let file = node.path().join(&name);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    fs::write(&file, node.signer.bundle(&node.image)).unwrap();
    mode(&file, 0o664);
    node.refused(Code::EvidenceUnreadable, "chmod go-w").await;
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    node.refused(Code::EvidenceUnreadable, "symbolic link").await;
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    node.refused(Code::EvidenceUnreadable, "not a plain file").await;
    fs::remove_dir(&file).unwrap();
    let large = fs::File::create(&file).unwrap();
    large.set_len(limits::EVIDENCE_BYTES + 1).unwrap();
    node.refused(Code::EvidenceTooLarge, "larger than").await;
    large.set_len(limits::EVIDENCE_BYTES).unwrap();
    assert_eq!(node.decide().await.verdict, Verdict::Deny, "read to its end, and no bundle");
    node.clean();

    let layout = node.path().join("layout");
    let write = |change: &dyn Fn(&Path)| {
        node.clean();
        let mut saved = Saved::default();
        saved.signature(&node.signer, node.image);
        saved.write(&layout);
        change(&layout);
    };
    type Change<'a> = &'a dyn Fn(&Path);
    let blobs = |path: &Path| {
        fs::read_dir(path.join("blobs/sha256")).unwrap().map(|blob| blob.unwrap().path()).collect::<Vec<_>>()
    };
    let changes: [(Change<'_>, &str); 9] = [
        (&|path| fs::write(path.join("index.json"), "").unwrap(), "not a list of manifests"),
        (&|path| fs::write(path.join("index.json"), r#"{"manifests":1}"#).unwrap(), "not a list of manifests"),
        (&|path| mode(&path.join("index.json"), 0o666), "index.json: others can write"),
        (&|path| mode(&path.join("blobs"), 0o777), "blobs/sha256: others can write"),
        (&|path| mode(path, 0o777), "others can write"),
        (&|path| fs::remove_dir_all(path.join("blobs")).unwrap(), "blobs/sha256: it is not there"),
        (&|path| blobs(path).into_iter().for_each(|blob| fs::remove_file(blob).unwrap()), "listed, but not there"),
        (&|path| blobs(path).into_iter().for_each(|blob| fs::write(blob, "{}").unwrap()), "do not have the digest"),
        (
            &|path| {
                fs::rename(path, path.with_extension("moved")).unwrap();
                symlink(path.with_extension("moved"), path).unwrap();
                fs::remove_file(path.with_extension("moved").join("index.json")).unwrap();
            },
            "symbolic link",
        ),
    ];
    for (change, found) in changes {
        write(change);
        node.refused(Code::EvidenceUnreadable, found).await;
    }
    node.clean();
    mode(node.path(), 0o777);
    node.refused(Code::EvidenceUnreadable, "chmod go-w").await;
    mode(node.path(), 0o700);
    fs::remove_dir(node.path()).unwrap();
    node.refused(Code::EvidenceUnreadable, "it is not there").await;
    fs::create_dir(node.path()).unwrap();
}

#[tokio::test]
async fn the_names_in_a_directory_are_bounded() {
    let node = Node::new().await;
    for number in 0..limits::DIRECTORY_NAMES {
        fs::write(node.path().join(number.to_string()), "").unwrap();
    }
    node.refused(Code::Unsigned, "no signature").await;
    fs::write(node.path().join("one more"), "").unwrap();
    node.refused(Code::EvidenceTooLarge, "more than 65536 names").await;
}

#[tokio::test]
async fn a_name_that_only_an_archive_claims_finds_evidence_here_too() {
    let node = Node::new().await;
    let mut saved = Saved::default();
    saved.signature(&node.signer, node.image);
    saved.write(node.path());
    let decision = node.decide_asking("only = true", Asking::Usual, Origin::Claimed).await;
    assert_eq!((decision.verdict, node.registry.asked().len()), (Verdict::Allow, 0));
}
