//! What was admitted stays so without a registry: under another policy, and after a restart.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    product::{POLICY, POLICY_FILE, SERVICE, policy_with},
    signing::Layout,
};

const ANOTHER_RULE: &str =
    "[[rule]]\nname = \"another\"\nimages = [\"127.0.0.1:5000/another/**\"]\nrequire = \"deny\"\n";

pub fn without_a_registry(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    expect::admitted(&node, Path::CriPull, &signed)?;
    node.wait_until("the evidence is on the disk", || {
        Ok(node.sh("grep -l demo/signed /var/lib/pullgate/evidence-2/*.json")?.success())
    })?;
    node.stop_registry()?;
    let renamed = POLICY.replace("[[rule]]\nname = \"demo\"", "[[rule]]\nname = \"renamed\"");
    for policy in [policy_with(ANOTHER_RULE), renamed] {
        let cursor = node.cursor()?;
        node.write(POLICY_FILE, &policy)?;
        node.reload()?;
        judged(&node, &cursor, "1 admitted; refused: none")?;
        for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
            node.clean()?;
            expect::refused(&node, *path, &unsigned, &["PG302"])?;
            expect::admitted(&node, *path, &signed)?;
        }
    }
    let cursor = node.cursor()?;
    node.systemctl(&["restart", SERVICE])?;
    judged(&node, &cursor, "1 admitted; refused: none")?;
    node.restart_containerd()?;
    node.clean()?;
    expect::admitted(&node, Path::CtrImport, &signed)?;
    node.systemctl(&["stop", SERVICE])?;
    node.sh("for file in /var/lib/pullgate/evidence-2/*.json; do truncate -s 100 $file; done")?.ok()?;
    node.systemctl(&["start", SERVICE])?;
    node.clean()?;
    expect::refused(&node, Path::CtrImport, &signed, &["PG302"])?;
    Ok(())
}

/// The newest time that was seen outlives a restart: what has ended by then stays so, and an administrator is told.
pub fn time(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    let until = "require = { all = [\"demo\"] }\nmode = \"audit\"\naudit-until = \"2200-01-01T00:00:00Z\"";
    node.write(POLICY_FILE, POLICY.replace("require = { all = [\"demo\"] }", until))?;
    node.systemctl(&["restart", SERVICE])?;
    expect::admitted(&node, Path::CriPull, &unsigned)?;
    node.systemctl(&["stop", SERVICE])?;
    let seen = String::from_utf8(node.read("/var/lib/pullgate/newest-time")?)?;
    expect::holds(seen.starts_with("20"), || format!("the time was not noted: {seen}"))?;
    node.write("/var/lib/pullgate/newest-time", "2200-01-01T00:00:01Z\n")?;
    node.systemctl(&["start", SERVICE])?;
    node.clean()?;
    expect::refused(&node, Path::CriPull, &unsigned, &["PG101"])?;
    expect::admitted(&node, Path::CriPull, &signed)?;
    let status = node.run(&["pullgate", "status"])?;
    let words = "behind the newest time seen, 2200-01-01";
    expect::holds(!status.success() && status.text().contains(words), || format!("no word of it: {}", status.text()))?;
    node.systemctl(&["stop", SERVICE])?;
    node.run(&["rm", "/var/lib/pullgate/newest-time"])?.ok()?;
    node.systemctl(&["start", SERVICE])?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &unsigned)
}

/// A disk that takes nothing costs what would be remembered, and nothing else.
pub fn full_disk(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    node.systemctl(&["stop", SERVICE])?;
    node.run(&["busybox", "mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", "/var/lib/pullgate"])?.ok()?;
    node.sh("! head -c 1M /dev/zero > /var/lib/pullgate/full")?.ok()?;
    node.systemctl(&["start", SERVICE])?;
    for path in Path::of(suite) {
        node.clean()?;
        expect::admitted(&node, *path, &signed)?;
        node.clean()?;
        expect::refused(&node, *path, &unsigned, &["PG101"])?;
    }
    let cursor = node.cursor()?;
    node.write(POLICY_FILE, policy_with(ANOTHER_RULE))?;
    node.reload()?;
    judged(&node, &cursor, "is in force")?;
    let kept = node.sh("find /var/lib/pullgate -name '*.json' -size +0")?.text();
    expect::holds(kept.trim().is_empty(), || format!("the disk was not full: {kept}"))?;
    node.sh("rm /var/lib/pullgate/full")?.ok()?;
    node.systemctl(&["restart", SERVICE])?;
    expect::admitted(&node, Path::CriPull, &signed)?;
    node.wait_until("evidence is kept again", || {
        Ok(node.sh("grep -l demo/signed /var/lib/pullgate/evidence-2/*.json")?.success())
    })
}

/// The images on the node were judged since `cursor`, and the entry says `words`.
fn judged(node: &Node, cursor: &str, words: &str) -> Result<()> {
    let mut journal = String::new();
    let judged = node.wait_until(&format!("an entry says that {words}"), || {
        journal =
            node.run(&["journalctl", "--no-pager", "-u", SERVICE, "-o", "cat", "--after-cursor", cursor])?.ok()?;
        Ok(journal.contains(words))
    });
    judged.map_err(|error| format!("{error}: {journal}").into())
}
