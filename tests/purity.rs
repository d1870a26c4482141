//! The modules that decide have no way to look at the world: no files, network, environment, clock or threads.
//!
//! Clippy denies the calls that it knows (`clippy.toml`); this looks at every path that the code names.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Below `src`: files, and folders with all that is in them.
const PURE: &[&str] = &[
    "image",
    "verify",
    "policy",
    "trust",
    "config.rs",
    "document.rs",
    "go_duration.rs",
    "audit/chain.rs",
    "audit/entry.rs",
    "audit/told.rs",
    "break_glass/pass.rs",
    "node/doctor/check",
    "node/doctor/place.rs",
    "node/doctor/settings.rs",
    "node/base_spec.rs",
    "node/dump.rs",
    "node/lines",
    "node/mode.rs",
    "node/runtimes.rs",
    "node/unified.rs",
    "node/version.rs",
    "node/wanted.rs",
    "selftest/judge.rs",
    "selftest/report.rs",
];

/// What reaches the world.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_stream",
    "tonic",
    "tower",
    "hyper_util",
    "reqwest",
    "nix",
    "containerd_client",
    "moka",
    "sd_notify",
    "tracing_journald",
    "std::env",
    "std::fs",
    "std::io::stdin",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned",
    "Timestamp::now",
    "Instant::now",
    "SystemTime::now",
    "crate::audit::Journal",
    "crate::break_glass::Passes",
    "crate::break_glass::machine",
    "crate::break_glass::passes",
    "crate::break_glass::socket",
    "crate::evidence::content",
    "crate::evidence::directory",
    "crate::evidence::layout",
    "crate::evidence::registry",
    "crate::evidence::sources",
];

/// Values that live beside what reaches the world.
const HARMLESS: &[&str] = &["std::env::consts", "std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];

/// The modules of this crate that pure ones may know: each other, and plain values.
const KNOWN: &[&str] = &[
    "image",
    "verify",
    "policy",
    "trust",
    "config",
    "document",
    "go_duration",
    "limits",
    "evidence",
    "audit",
    "break_glass",
    "self",
];

#[test]
fn pure_modules_name_nothing_that_reaches_the_world() {
    let mut wrong = Vec::new();
    for file in pure_files() {
        let text = fs::read_to_string(&file).unwrap();
        wrong.extend(impure_paths(&text).into_iter().map(|path| format!("{}: {path}", file.display())));
    }
    assert!(wrong.is_empty(), "pure modules take time and evidence as arguments:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_deny_the_calls_that_clippy_knows() {
    for module in PURE {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
        let root = if source.is_dir() { source.join("mod.rs") } else { source };
        let text = fs::read_to_string(&root).unwrap();
        assert!(text.contains("\n#![deny(clippy::disallowed_methods)]\n"), "{} does not deny them", root.display());
    }
}

#[test]
fn every_way_to_reach_the_world_is_seen() {
    for code in [
        "use tokio::fs;",
        "use std::fs;",
        "use std::{collections::BTreeMap, fs};",
        "use std::{collections::BTreeMap, time::{Duration, SystemTime}};",
        "use std::fs as files;",
        "use ::std::net::TcpStream;",
        "use std::net::{IpAddr, TcpStream};",
        "pub use std::env::*;",
        "fn f() { std::fs::read(\"x\"); }",
        "fn f() { std :: env\n:: var(\"x\"); }",
        "use jiff::Timestamp; fn f() { Timestamp::now(); }",
        "use crate::gate::Gate;",
        "use crate::{image::Digest, admission};",
        "use crate::evidence::{Found, registry::Client};",
        "#[cfg(test)] mod tests { } use std::fs;",
        "const A: char = '\"'; use std::fs;",
        "fn f<'a>(x: &'a str) { std::process::exit(1) }",
        "const A: &str = r#\"\"#; use std::fs;",
    ] {
        assert_ne!(impure_paths(code), Vec::<String>::new(), "{code}");
    }
    for code in [
        "use std::{collections::BTreeMap, fmt, net::Ipv6Addr, time::Duration};",
        "use jiff::Timestamp; // std::fs would be wrong",
        "/* use std::fs; /* nested */ use std::env; */",
        "const A: &str = \"use std::fs;\"; const B: &str = r##\"std::fs \"# \"##;",
        "#[cfg(test)]\nmod tests { use std::fs; fn f() { { std::env::var(\"}\"); } } }",
        "fn f() { std::env::consts::ARCH; }",
        "use crate::{image::{Digest, sanitize}, limits};",
    ] {
        assert_eq!(impure_paths(code), Vec::<String>::new(), "{code}");
    }
}

/// The sources of the pure modules. Files of tests alone are named `tests.rs` or lie in a folder `tests`.
fn pure_files() -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for module in PURE {
        let before = files.len();
        collect(&source.join(module), &mut files);
        assert!(files.len() > before, "{module} is gone: take it out of the list");
    }
    files
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.file_stem().is_some_and(|name| name == "tests") {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.for_each(|entry| collect(&entry.unwrap().path(), files)),
        Err(_) if path.extension().is_some_and(|extension| extension == "rs") => files.push(path.to_owned()),
        Err(_) => {}
    }
}

fn impure_paths(text: &str) -> Vec<String> {
    let tokens = without_tests(tokens(text));
    let mut paths = Vec::new();
    let mut place = 0;
    while place < tokens.len() {
        if tokens[place] == "use" {
            place = tree(&tokens, place + 1, "", &mut paths);
        } else if is_word(&tokens[place]) {
            let (path, after) = path(&tokens, place);
            paths.push(path);
            place = after;
        } else {
            place += 1;
        }
    }
    paths.retain(|path| is_impure(path));
    paths
}

fn is_impure(path: &str) -> bool {
    let within =
        |module: &&str| path == *module || path.strip_prefix(*module).is_some_and(|rest| rest.starts_with("::"));
    if let Some(inside) = path.strip_prefix("crate::") {
        let module = inside.split("::").next().unwrap_or_default();
        if module.starts_with(|letter: char| letter.is_lowercase()) && !KNOWN.contains(&module) {
            return true;
        }
    }
    IMPURE.iter().any(&within) && !HARMLESS.iter().any(within)
}

/// The leaves of a `use` tree that begins at `place`, each with its whole path. Returns where it ends.
fn tree(tokens: &[String], mut place: usize, before: &str, paths: &mut Vec<String>) -> usize {
    let mut prefix = before.to_owned();
    while place < tokens.len() {
        match tokens[place].as_str() {
            "::" => place += 1,
            "{" => {
                place += 1;
                while place < tokens.len() && tokens[place] != "}" {
                    place = tree(tokens, place, &prefix, paths);
                    if tokens.get(place).is_some_and(|token| token == ",") {
                        place += 1;
                    }
                }
                return place + 1;
            }
            "as" => place += 2,
            word if is_word(word) || word == "*" => {
                prefix = if prefix.is_empty() { word.to_owned() } else { format!("{prefix}::{word}") };
                place += 1;
            }
            _ => break,
        }
    }
    paths.push(prefix);
    place
}

fn path(tokens: &[String], mut place: usize) -> (String, usize) {
    let mut path = tokens[place].clone();
    while tokens.get(place + 1).is_some_and(|token| token == "::") && tokens.get(place + 2).is_some_and(|t| is_word(t))
    {
        path.push_str("::");
        path.push_str(&tokens[place + 2]);
        place += 2;
    }
    (path, place + 1)
}

fn is_word(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// The tokens outside `#[cfg(test)] mod … { … }`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    const MARK: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut place = 0;
    while place < tokens.len() {
        if !tokens[place..].iter().map(String::as_str).take(MARK.len()).eq(MARK) {
            kept.push(tokens[place].clone());
            place += 1;
            continue;
        }
        let mut depth = 0;
        for token in &tokens[place..] {
            place += 1;
            match token.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => continue,
            }
            if depth == 0 {
                break;
            }
        }
    }
    kept
}

/// Words, `::` and single signs; comments, strings, characters and lifetimes left out.
fn tokens(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let at = |place: usize| letters.get(place).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut place = 0;
    while place < letters.len() {
        let letter = at(place);
        if letter == '/' && at(place + 1) == '/' {
            while place < letters.len() && at(place) != '\n' {
                place += 1;
            }
        } else if letter == '/' && at(place + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(place), at(place + 1)) {
                    ('/', '*') => (depth, place) = (depth + 1, place + 2),
                    ('*', '/') => (depth, place) = (depth - 1, place + 2),
                    _ => place += 1,
                }
                if depth == 0 || place >= letters.len() {
                    break;
                }
            }
        } else if letter == '"' {
            place = string_end(&letters, place);
        } else if letter == '\'' {
            place += match (at(place + 1), at(place + 2)) {
                ('\\', _) => 2 + letters[place + 2..].iter().skip(1).position(|l| *l == '\'').map_or(1, |end| end + 2),
                (_, '\'') => 3,
                _ => 1,
            };
        } else if letter.is_alphanumeric() || letter == '_' {
            let begin = place;
            while at(place).is_alphanumeric() || at(place) == '_' {
                place += 1;
            }
            let word: String = letters[begin..place].iter().collect();
            match raw_hashes(&letters, place) {
                Some(hashes) if matches!(word.as_str(), "r" | "br" | "cr") => {
                    place = raw_string_end(&letters, place, hashes);
                }
                _ => tokens.push(word),
            }
        } else if letter == ':' && at(place + 1) == ':' {
            tokens.push("::".to_owned());
            place += 2;
        } else {
            if !letter.is_whitespace() {
                tokens.push(letter.to_string());
            }
            place += 1;
        }
    }
    tokens
}

fn string_end(letters: &[char], begin: usize) -> usize {
    let mut place = begin + 1;
    while place < letters.len() {
        match letters[place] {
            '\\' => place += 2,
            '"' => return place + 1,
            _ => place += 1,
        }
    }
    place
}

/// How many `#` stand before the quote that comes next, if one does.
fn raw_hashes(letters: &[char], place: usize) -> Option<usize> {
    let hashes = letters[place..].iter().take_while(|letter| **letter == '#').count();
    (letters.get(place + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_string_end(letters: &[char], begin: usize, hashes: usize) -> usize {
    let mut place = begin + hashes + 1;
    while place < letters.len() {
        let closed =
            letters[place] == '"' && letters[place + 1..].iter().take(hashes).filter(|l| **l == '#').count() == hashes;
        if closed {
            return place + 1 + hashes;
        }
        place += 1;
    }
    place
}
