//! Registries as clusters have them: TLS by an authority of one's own, a password, a mirror; all of it as containerd has it.

use super::expect;
use crate::{
    node::{
        Image, Node, Path, Result, Suite,
        path::{Outcome, judge},
        product::{CONFIG, POLICY},
        registry::{Published, SECRET},
        signing::Layout,
    },
    tls::Authority,
};

const HOST: &str = "registry.test:5443";
const HOSTS_FILE: &str = "/etc/containerd/certs.d/registry.test:5443/hosts.toml";
const DOCKER_CONFIG: &str = "/etc/pullgate/docker-config.json";

/// The signature is behind TLS and a password; then the registry is gone, and a mirror has it.
pub fn secured(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let [signed, unsigned] = ["signed", "unsigned"].map(|name| {
        let image = node.push(&format!("secured/{name}:v1"), &Image::of_small_layers(name, 2)?)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(image)
    });
    let (signed, unsigned) = (signed?, unsigned?);
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let [signed, unsigned] =
        [signed, unsigned].map(|image| Published { name: image.name.replace("127.0.0.1:5000", HOST), ..image });
    start(&node)?;
    let policy = POLICY.replace("127.0.0.1:5000/demo/**", &format!("{HOST}/**"));

    node.configure(CONFIG, &policy)?;
    let told = expect::refusal(&node, Path::CtrPullLocal, &signed.name, pull(&node, &signed, true)?, &["PG301"])?;
    expect::holds(told.contains("RETRY PG301"), || told)?;

    let (user, password) = SECRET;
    let auth = format!("{{\"auths\":{{\"{HOST}\":{{\"username\":\"{user}\",\"password\":\"{password}\"}}}}}}");
    node.write(DOCKER_CONFIG, auth)?;
    node.run(&["chmod", "600", DOCKER_CONFIG])?.ok()?;
    let credentials = format!("{CONFIG}\n[credentials]\ndocker-configs = [\"{DOCKER_CONFIG}\"]\n");
    node.configure(&credentials, &policy)?;
    node.clean()?;
    admitted(pull(&node, &signed, true)?, "with TLS and a password")?;
    node.clean()?;
    expect::refusal(&node, Path::CtrPullLocal, &unsigned.name, pull(&node, &unsigned, true)?, &["PG101"])?;
    let checked = node.run(&["pullgate", "check", "-v", "--state", "/nowhere", &signed.name])?;
    let is_told = checked.success() && checked.text().contains(HOST) && !checked.text().contains(password);
    expect::holds(is_told, || checked.text())?;

    // The registry is gone; what containerd fetches from its mirror pullgate finds there too.
    node.systemctl(&["stop", "secured"])?;
    let without = node.run(&["pullgate", "check", "--state", "/nowhere", &signed.by_digest()])?;
    expect::holds(without.text().contains("RETRY PG302"), || without.text())?;
    node.write(HOSTS_FILE, hosts("[host.\"http://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n"))?;
    node.sh("rm -f /var/lib/pullgate/evidence-2/*")?.ok()?;
    node.configure(&credentials, &policy)?;
    node.clean()?;
    admitted(pull(&node, &signed, false)?, "by a mirror")?;
    // That there is no signature only the registry itself could say.
    node.clean()?;
    expect::refusal(&node, Path::CtrPullLocal, &unsigned.name, pull(&node, &unsigned, false)?, &["PG302"])?;

    // Nobody is asked with other trust than root wrote down.
    node.write(HOSTS_FILE, "server = \"https://registry.test:5443\"\n[host.\n")?;
    let broken = node.run(&["pullgate", "check", "--state", "/nowhere", &signed.by_digest()])?;
    let text = broken.text();
    expect::holds(text.contains("RETRY PG314") && text.contains("hosts.toml:2"), || text)
}

fn admitted(outcome: Outcome, how: &str) -> Result<()> {
    expect::holds(outcome == Outcome::Admitted, || format!("{how}: {}", outcome.told()))
}

/// Serves what the node's registry has by TLS as well, to who knows the secret, under a name of its own.
fn start(node: &Node) -> Result<()> {
    let authority = Authority::new();
    let issued = authority.issue(&["registry.test"]);
    node.write("/etc/secured/cert.pem", issued.certificate)?;
    node.write("/etc/secured/key.pem", issued.key)?;
    node.write("/etc/secured/ca.pem", authority.pem())?;
    node.start_secured_registry("secured", "127.0.0.1:5443", "/etc/secured/cert.pem", "/etc/secured/key.pem")?;
    node.sh("echo '127.0.0.1 registry.test' >> /etc/hosts")?.ok()?;
    node.write(HOSTS_FILE, hosts(""))
}

/// containerd's file about the registry, with `mirrors` before it.
fn hosts(mirrors: &str) -> String {
    format!("server = \"https://{HOST}\"\nca = \"/etc/secured/ca.pem\"\n{mirrors}")
}

/// Pulls as `ctr` does that is told where containerd's files about registries are.
fn pull(node: &Node, image: &Published, with_secret: bool) -> Result<Outcome> {
    let secret = format!("{}:{}", SECRET.0, SECRET.1);
    let mut command = vec!["ctr", "images", "pull", "--local", "--hosts-dir", "/etc/containerd/certs.d"];
    if with_secret {
        command.extend(["--user", &secret]);
    }
    command.push(&image.name);
    let output = node.run(&command)?;
    let answer = if output.success() { Ok(()) } else { Err(output.text()) };
    Ok(judge(answer, node.unpacked(Path::CtrPullLocal.namespace(), &image.image.chain())?))
}
