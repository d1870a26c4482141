//! The commands, on a node.

use super::expect;
use crate::node::{
    Image, Node, Result, Suite,
    product::{CONFIG, CONFIG_FILE, POLICY, POLICY_FILE},
    signing::Layout,
};

pub fn commands(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;

    says(&node, &["pullgate", "check", &signed.name], 0, "ALLOW")?;
    says(&node, &["pullgate", "check", &signed.by_digest()], 0, "ALLOW")?;
    says(&node, &["pullgate", "check", &unsigned.name], 1, "DENY PG101")?;
    let elsewhere = node.push("elsewhere/x:v1", &Image::of_small_layers("elsewhere", 2)?)?;
    says(&node, &["pullgate", "check", &elsewhere.name], 1, "DENY PG201")?;
    says(&node, &["pullgate", "check", "127.0.0.1:5000/demo/nowhere:v1"], 1, "DENY PG105")?;
    says(&node, &["pullgate", "check", "not a reference"], 2, "")?;
    let told = node.run(&["pullgate", "check", "-o", "json", &unsigned.name])?;
    let told: serde_json::Value = serde_json::from_str(&told.stdout)?;
    expect::holds(told.to_string().contains("PG101"), || format!("check -o json: {told}"))?;

    says(&node, &["pullgate", "status"], 0, "enforce")?;
    let status: serde_json::Value = serde_json::from_str(&node.run(&["pullgate", "status", "-o", "json"])?.ok()?)?;
    expect::holds(status.is_object(), || format!("status -o json: {status}"))?;

    says(&node, &["pullgate", "daemon", "--check"], 0, "")?;
    node.write(CONFIG_FILE, "mdoe = \"enforce\"\n")?;
    says(&node, &["pullgate", "daemon", "--check"], 2, "config.toml:1")?;
    node.write(CONFIG_FILE, CONFIG)?;
    node.write(POLICY_FILE, "schema = 1\n[default]\nrequire = \"maybe\"\n")?;
    says(&node, &["pullgate", "daemon", "--check"], 2, "policy.toml:3")?;
    node.write(POLICY_FILE, POLICY)?;

    node.stop_registry()?;
    node.reload()?;
    says(&node, &["pullgate", "check", &signed.by_digest()], 3, "RETRY PG302")
}

fn says(node: &Node, command: &[&str], code: i32, words: &str) -> Result<()> {
    let output = node.run(command)?;
    expect::holds(output.code == code && output.text().contains(words), || {
        format!(
            "`{}` must end with {code} and say `{words}`, and ended with {}: {}",
            command.join(" "),
            output.code,
            output.text()
        )
    })
}
