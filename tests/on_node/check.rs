//! `pullgate check oci:…` as a person runs it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use pullgate::image::Digest;
use serde_json::Value;

use super::{saved::Saved, signer::Signer};

/// A folder with a configuration, a policy and a layout.
struct Desk {
    folder: tempfile::TempDir,
    image: Digest,
    unsigned: Digest,
    index: Digest,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (signer, mut saved) = (Signer::new(), Saved::default());
        let (image, unsigned) = (saved.image("v1"), saved.image("v2"));
        let index = saved.index("all", image);
        saved.signature(&signer, image);
        saved.write(&folder.path().join("layout"));
        fs::write(folder.path().join("config.toml"), "mode = \"enforce\"\n").unwrap();
        let policy = format!(
            "schema = 1\n{}[[rule]]\nname = \"prod\"\nimages = [\"reg.invalid/prod/**\"]\nrequire = {{ all = [\"ci\"] }}\n\
             [[rule]]\nname = \"open\"\nimages = [\"reg.invalid/open/**\"]\nrequire = \"insecure-accept-anything\"\n\
             [default]\nrequire = \"deny\"\n",
            signer.attestor("ci"),
        );
        fs::write(folder.path().join("policy.toml"), policy).unwrap();
        Self { folder, image, unsigned, index }
    }

    fn check(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
        command.args(["check", "--config", "config.toml", "--state", "state"]).args(arguments);
        command.current_dir(self.path()).output().unwrap()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// How it ends, and the code of the first violation or the rule that admits.
    fn told(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.check(&[&["-o", "json"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let Ok(json) = serde_json::from_slice::<Value>(&output.stdout) else { return (output.status.code(), text) };
        let decision = &json["decision"];
        let told = decision["violations"][0]["code"].as_str().or(decision["rule"].as_str()).unwrap_or_default();
        (output.status.code(), told.to_owned())
    }
}

#[test]
fn an_image_in_a_layout_is_decided_without_a_registry_by_the_name_that_the_person_gives_it() {
    let desk = Desk::new();
    let by_digest = |digest: &Digest| format!("oci:layout@{digest}");
    let (signed, unsigned, index) = (by_digest(&desk.image), by_digest(&desk.unsigned), by_digest(&desk.index));
    let absolute = format!("oci:{}:v1", desk.path().join("layout").display());
    let prod = ["--as", "reg.invalid/prod/app:v1"];
    for (reference, expected) in [
        (signed.as_str(), (0, "prod")),
        ("oci:layout:v1", (0, "prod")),
        (&absolute, (0, "prod")),
        (&unsigned, (1, "PG101")),
        ("oci:layout:v2", (1, "PG101")),
        // The index is not signed, all that this node can choose of it is.
        (&index, (0, "prod")),
        ("oci:layout:v3", (1, "PG105")),
        (&by_digest(&Digest::of(b"other")), (1, "PG105")),
        ("oci:nowhere:v1", (3, "PG315")),
    ] {
        let told = desk.told(&[&[reference], &prod[..]].concat());
        assert_eq!(told, (Some(expected.0), expected.1.to_owned()), "{reference}");
    }
    // Which name it bears itself does not matter, and a rule that admits by the name alone asks for more than a word.
    assert_eq!(desk.told(&[&signed]), (Some(1), "PG201".to_owned()));
    let output = desk.check(&[&signed]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--as NAME"), "{output:?}");
    assert_eq!(desk.told(&[&signed, "--as", "reg.invalid/open/app"]), (Some(1), "PG203".to_owned()));
}

#[test]
fn what_names_no_image_is_said_in_one_line() {
    let desk = Desk::new();
    let other = format!("reg.invalid/prod/app@{}", desk.unsigned);
    let signed = format!("oci:layout@{}", desk.image);
    for (arguments, why) in [
        (&["oci:layout"][..], "which image? write oci:PATH@sha256"),
        (&["oci:"], "which image?"),
        (&["oci:/a:b/c"], "which image?"),
        (&["oci:layout@sha256:00"], "sha256:<64"),
        (&[&signed, "--as", "A"], "A: "),
        (&[&signed, "--as", &other], "another image"),
        (&["reg.invalid/app:v1", "--as", "reg.invalid/app"], "--as is for an image in a layout"),
    ] {
        let (code, text) = desk.told(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(why) && text.lines().count() == 1, "{arguments:?}: {text}");
    }
}

#[test]
fn it_says_where_it_looked() {
    let desk = Desk::new();
    let output = desk.check(&["oci:layout:v2", "--as", "reg.invalid/prod/app"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("layout layout") && text.contains("nothing there"), "{text}");
}
