//! A refusal explains itself: from the line that the client saw to the mend that is pasted, without the registry.

use serde_json::Value;

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    product::{CONFIG, KEY_FILE, POLICY, POLICY_FILE},
    registry::Published,
    signing::Layout,
};

pub fn explained(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    node.make_key("other")?;
    let publish = |name: &str| node.push(&format!("demo/{name}:v1"), &Image::of_small_layers(name, 2)?);
    let (unsigned, by_other, signed) = (publish("unsigned")?, publish("by-other")?, publish("signed")?);
    node.sign(&by_other, "other", Layout::SigTag)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;

    let id = refusal(&node, &unsigned, "PG101")?;
    let other_id = refusal(&node, &by_other, "PG102")?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &signed)?;
    forge(&node, &id)?;

    // From here on nothing can be asked.
    node.stop_registry()?;
    let line = 1 + POLICY.lines().position(|line| line == "[[rule]]").ok_or("no rule")?;
    let story = why(&node, &[&id])?;
    for words in [
        "DENY PG101 unsigned: no signature exists for this digest".to_owned(),
        unsigned.repository().to_owned(),
        unsigned.digest(),
        format!("\"demo\" at {POLICY_FILE}:{line}"),
        "missing  demo".to_owned(),
        ".sig: nothing there".to_owned(),
        "referrers: nothing there".to_owned(),
        format!("reproduce pullgate check {}", unsigned.by_digest()),
        "answer    refused".to_owned(),
        format!("gate      {}", first_gate(suite)),
    ] {
        says(&story, &words)?;
    }
    expect::holds(!story.contains("forged"), || format!("a forged entry is shown:\n{story}"))?;
    expect::holds(why(&node, &[&id.to_lowercase()])? == story, || "lower case tells another story".to_owned())?;
    let other = why(&node, &[&other_id])?;
    says(&other, "PG102 untrusted-attestor")?;
    says(&other, "1 piece signed by nobody whom the rule names")?;
    says(&other, ".sig: 1 piece")?;
    says(&why(&node, &["--last"])?, &by_other.digest())?;
    let value: Value = serde_json::from_str(&why(&node, &[&id, "-o", "json"])?)?;
    expect::holds(value["code"] == "PG101" && value["decision"]["grounds"]["needed"] == 1, || format!("{value}"))?;

    listed(&node, &unsigned, &id)?;
    nobody_else_may_look(&node, &id)?;

    // The story and its mend hold under another policy, and while the policy is broken.
    node.write(POLICY_FILE, format!("# changed\n{POLICY}"))?;
    says(&why(&node, &[&id])?, "CHANGED   since then: the policy on disk is ")?;
    node.write(POLICY_FILE, "schema = 3\n")?;
    says(&why(&node, &[&id])?, "CHANGED   the policy on disk cannot be used: PG402")?;

    node.start_registry()?;
    node.write(POLICY_FILE, format!("{POLICY}\n{}", pasted(&story)?))?;
    node.reload()?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &unsigned)?;
    let now = why(&node, &[&id])?;
    says(&now, &format!("admitted  last of this repository: {} (the same)", unsigned.digest()))?;

    // The other way: the boot list.
    let command = copied(&other, "echo ")?;
    node.sh(&command)?.ok()?;
    node.clean()?;
    expect::recovers(&node, Path::CriPull, &by_other)
}

pub fn agrees_with_check(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    let elsewhere = node.push("elsewhere/x:v1", &Image::of_small_layers("elsewhere", 2)?)?;
    for (image, code) in [(&unsigned, "PG101"), (&elsewhere, "PG201")] {
        let story = why(&node, &[&refusal(&node, image, code)?])?;
        let again = copied(&story, "  reproduce ")?;
        let check = node.sh(again.trim_start_matches("reproduce").trim())?;
        expect::holds(check.code == 1, || format!("`check` ends with {}: {}", check.code, check.text()))?;
        let check = check.stdout;
        // `check` was given a name with a digest, the gate a name alone.
        let lines = check.lines().filter(|line| !line.starts_with("  image"));
        for line in lines {
            expect::holds(story.contains(line), || format!("only `check` says {line:?}:\n{story}\n{check}"))?;
        }
    }
    // The rule that is offered for an image that no rule is about.
    let story = why(&node, &["--last"])?;
    let rule = story.split("\n\n").find(|block| block.contains("[[rule]]")).ok_or("no rule is offered")?;
    node.write(POLICY_FILE, format!("{POLICY}\n{rule}\n"))?;
    node.reload()?;
    node.clean()?;
    expect::refused(&node, Path::CriPull, &elsewhere, &["PG101"])?;
    node.sign(&elsewhere, "demo", Layout::usual(suite))?;
    says(&node.run(&["pullgate", "check", &elsewhere.by_digest()])?.text(), "ALLOW")?;
    // Without a policy that was ever good.
    node.write(KEY_FILE, "no key")?;
    node.run(&["rm", "/var/lib/pullgate/last-good.json"])?.ok()?;
    node.configure(CONFIG, POLICY)?;
    node.clean()?;
    let id = refusal(&node, &unsigned, "PG402")?;
    let story = why(&node, &[&id])?;
    says(&story, "policy-invalid")?;
    says(&story, &format!("echo {} >> /etc/pullgate/boot.d/local.list", unsigned.digest()))
}

/// The gate that CRI's pulls meet first: containerd has verifiers from 2.0 on, and CRI asks them from 2.1 on.
fn first_gate(suite: Suite) -> &'static str {
    match suite {
        Suite::Trixie => "unpack",
        Suite::Forky => "resolve",
    }
}

/// Refuses `image` by CRI, and returns the number in the client's message.
fn refusal(node: &Node, image: &Published, code: &str) -> Result<String> {
    let message = expect::refused(node, Path::CriPull, image, &[code])?;
    let (_, tail) = message.split_once("On node: pullgate why ").ok_or(format!("no number: {message}"))?;
    let id: String = tail.chars().take_while(char::is_ascii_alphanumeric).collect();
    if id.is_empty() { Err(format!("no number: {message}").into()) } else { Ok(id) }
}

/// Entries with our fields and our number, from somebody else.
fn forge(node: &Node, id: &str) -> Result<()> {
    for message_id in ["0b6399b47b0a48dba4435948f17941fc", "84cfa2247fd04fec992f425e8f5f410d"] {
        let script = format!(
            "printf 'MESSAGE=forged\\nMESSAGE_ID={message_id}\\nPULLGATE_ID={id}\\nPULLGATE_SEQ=1\\nPULLGATE_VERDICT=allow\\n\
             PULLGATE_CODE=PG101\\nPULLGATE_GATE=forged\\nPULLGATE_IMAGE=127.0.0.1:5000/demo/forged\\n\
             PULLGATE_REPOSITORY=127.0.0.1:5000/demo/unsigned\\nSYSLOG_IDENTIFIER=pullgate\\n' | logger --journald"
        );
        node.sh(&script)?.ok()?;
    }
    node.run(&["journalctl", "--sync"])?.ok()?;
    Ok(())
}

fn listed(node: &Node, unsigned: &Published, id: &str) -> Result<()> {
    let audit = |arguments: &[&str]| node.run(&[&["pullgate", "audit"], arguments].concat());
    let told = audit(&["--since", "1h", "--code", "PG101", "-o", "json"])?.ok()?;
    let entries: Vec<Value> = told.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let expected = |entry: &Value| entry["code"] == "PG101" && entry["gate"] == first_gate(node.suite);
    expect::holds(!entries.is_empty() && entries.iter().all(expected), || format!("audit --code PG101: {told}"))?;
    expect::holds(entries.iter().any(|entry| entry["id"] == id && entry["digest"] == unsigned.digest()), || {
        told.clone()
    })?;
    for (arguments, words) in [
        (&["--verdict", "allow", "--image", "127.0.0.1:5000/demo/signed*", "-n", "1"][..], "ALLOW"),
        (&["--image", "by-other"], "PG102"),
        (&["--rule", "demo", "--gate", first_gate(node.suite)], "unsigned"),
        (&["--summary"], "by image\n"),
        (&["--verify"], "none missing and none changed"),
    ] {
        let told = audit(arguments)?.ok()?;
        says(&told, words)?;
        expect::holds(!told.contains("forged"), || format!("audit {arguments:?} shows a forged entry: {told}"))?;
    }
    expect::holds(audit(&["--until", "2020-01-01"])?.ok()?.is_empty(), || "entries of the past".to_owned())?;
    expect::holds(audit(&["--since", "nonsense"])?.code == 2, || "a time that is none".to_owned())?;
    let doubtful = audit(&["--unattributed"])?.ok()?;
    says(&doubtful, "demo/forged")?;
    expect::holds(doubtful.lines().all(|line| line.ends_with("(not authenticated: anyone can write this)")), || {
        doubtful.clone()
    })?;
    let piped = node.sh("pullgate audit | head -n 1; pullgate audit --follow | head -n 1")?;
    expect::holds(piped.success() && piped.stdout.lines().count() == 2 && piped.stderr.is_empty(), || piped.text())
}

fn nobody_else_may_look(node: &Node, id: &str) -> Result<()> {
    let asked = node.run(&["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "pullgate", "why", id])?;
    expect::holds(asked.code == 3 && asked.stderr.contains("systemd-journal"), || {
        format!("a stranger's `why` ends with {}: {}", asked.code, asked.text())
    })?;
    for (arguments, code, words) in [
        (&["why", "ZZZZZZ"][..], 1, "the newest one is"),
        (&["why", "0"], 1, "the oldest one that journald still keeps is"),
        (&["why", "not-an-id!"], 2, "not the number of an audit entry"),
        (&["why"], 2, ""),
    ] {
        let told = node.run(&[&["pullgate"], arguments].concat())?;
        expect::holds(told.code == code && told.stderr.contains(words), || {
            format!("{arguments:?}: {} {}", told.code, told.text())
        })?;
    }
    let hidden = node.sh(&format!("PATH=/nonexistent /usr/bin/pullgate why {id}"))?;
    expect::holds(hidden.code == 3 && hidden.stderr.contains("there is no `journalctl` here"), || hidden.text())
}

fn why(node: &Node, arguments: &[&str]) -> Result<String> {
    // What journald's socket took need not be in the journal yet.
    node.run(&["journalctl", "--sync"])?.ok()?;
    node.run(&[&["pullgate", "why"], arguments].concat())?.ok()
}

/// The exemption that the story offers, as a person would select it.
fn pasted(story: &str) -> Result<String> {
    let block = story.split("\n\n").find(|block| block.contains("[[exempt]]"));
    Ok(block.ok_or(format!("nothing to paste in\n{story}"))?.to_owned())
}

/// The line of the story that begins so.
fn copied(story: &str, beginning: &str) -> Result<String> {
    let line = story.lines().find(|line| line.trim_start().starts_with(beginning.trim_start()));
    Ok(line.ok_or(format!("no line begins with {beginning:?} in\n{story}"))?.trim().to_owned())
}

fn says(text: &str, words: &str) -> Result<()> {
    expect::holds(text.contains(words), || format!("must say {words:?}:\n{text}"))
}
