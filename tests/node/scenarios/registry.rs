//! "There is no signature" and "the registry did not answer" stay apart.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    cri::AuthConfig,
    path::Outcome,
    product::{CONFIG, POLICY},
    registry::{Published, SECRET},
    signing::Layout,
};

pub fn trouble(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        // Its own for each path: what was decided once is remembered.
        let name = format!("asked-by-{path:?}").to_lowercase();
        let image = node.push(&format!("demo/{name}:v1"), &Image::of_small_layers(&name, 2)?)?;
        node.sign(&image, "demo", Layout::SigTag)?;
        node.stop_registry()?;
        retry(&node, *path, &image, "PG302")?;

        node.start_registry()?;
        node.systemctl(&["kill", "--signal=SIGSTOP", "registry"])?;
        let slow = retry(&node, *path, &image, "PG312");
        node.systemctl(&["kill", "--signal=SIGCONT", "registry"])?;
        slow?;

        // Could not tell is not remembered.
        node.clean()?;
        expect::admitted(&node, *path, &image)?;
        node.clean()?;
    }
    let lied_about = node.push("demo/lied-about:v1", &Image::of_small_layers("lied-about", 2)?)?;
    node.sign(&lied_about, "demo", Layout::SigTag)?;
    let signature = format!("{}.sig", lied_about.digest().replace(':', "-"));
    let manifest = node.manifest("demo/lied-about", &signature)?;
    let payload = manifest["layers"][0]["digest"].as_str().ok_or("no payload")?;
    node.corrupt(payload, br#"{"critical":{"identity":{},"image":{},"type":""},"optional":{}}"#)?;
    for path in Path::of(suite) {
        node.clean()?;
        expect::refused(&node, *path, &lied_about, &["PG304"])?;
    }
    Ok(())
}

/// containerd hands over no secret of a pod: the node cannot read what the pod may, until it is told where else to look.
pub fn private(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let public = node.push("private/app:v1", &Image::of_small_layers("private", 2)?)?;
    node.sign(&public, "demo", Layout::usual(suite))?;
    node.start_private_registry_on(5001)?;
    let private = Published { name: "127.0.0.1:5001/private/app:v1".to_owned(), ..public };
    let policy = POLICY.replace("127.0.0.1:5000/demo/**", "127.0.0.1:5001/private/**");
    let secret = || AuthConfig { username: SECRET.0.to_owned(), password: SECRET.1.to_owned() };
    node.configure(CONFIG, &policy)?;
    let outcome = node.bring_with_secret(&private, secret())?;
    let message = expect::refusal(&node, Path::CriPull, &private.name, outcome, &["PG301"])?;
    for words in ["RETRY PG301", "credentials", "give the node read access, or put signatures where it has"] {
        expect::holds(message.contains(words), || format!("no `{words}` in: {message}"))?;
    }
    let elsewhere =
        "[[evidence]]\nimages = [\"127.0.0.1:5001/private/**\"]\nrepository = \"127.0.0.1:5000/private/app\"\n";
    node.configure(&format!("{CONFIG}\n{elsewhere}"), &policy)?;
    node.clean()?;
    let outcome = node.bring_with_secret(&private, secret())?;
    expect::holds(outcome == Outcome::Admitted, || format!("with an evidence repository: {outcome}"))
}

fn retry(node: &Node, path: Path, image: &Published, code: &str) -> Result<()> {
    let message = expect::refused(node, path, image, &[code])?;
    expect::holds(message.contains(&format!("RETRY {code}")), || format!("not a RETRY: {message}"))
}
