//! Documents that cannot be used: one clear error each, at its place and with the mend, soon, and harmless to show.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use super::fresh_key;

const SCHEMA: &str = "schema = 1\n";
const DEFAULT: &str = "[default]\nrequire = \"deny\"\n";
/// Long after what any of them takes in a build without optimisation, and long before who waits gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn attestor(name: &str, more: &str) -> String {
    format!("[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\n{more}\n")
}

fn with_key(file: &str, algorithm: &str) -> String {
    document(&attestor("a", &format!("keys = [{{ file = \"{file}\", algorithm = \"{algorithm}\" }}]")))
}

fn rule(name: &str, images: &str, require: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nimages = [\"{images}\"]\nrequire = {require}\n")
}

fn document(rest: &str) -> String {
    format!("{SCHEMA}{rest}{DEFAULT}")
}

fn names(count: usize) -> String {
    (0..count).map(|number| format!("\"a{number}\"")).collect::<Vec<_>>().join(", ")
}

/// Key files of every sort that is none, and one that is.
fn prepare(folder: &Path) {
    fs::create_dir(folder.join("directory")).unwrap();
    nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(folder.join("huge.pub"), "a".repeat(200_000)).unwrap();
    fs::write(folder.join("empty.pub"), "").unwrap();
    fs::write(folder.join("latin.pub"), [0xe9, 0x0a]).unwrap();
    fs::write(folder.join("good.pub"), fresh_key()).unwrap();
    std::os::unix::fs::symlink("loop.pub", folder.join("loop.pub")).unwrap();
    std::os::unix::fs::symlink("good.pub", folder.join("link.pub")).unwrap();
}

/// What `pullgate policy check` ends with and says of `document`.
fn check(folder: &Path, document: &[u8]) -> (Option<i32>, String) {
    fs::write(folder.join("d.toml"), document).unwrap();
    let begun = Instant::now();
    let checked = Command::new(env!("CARGO_BIN_EXE_pullgate"))
        .args(["policy", "check", "d.toml"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    (checked.status.code(), String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap())
}

#[test]
fn each_mistake_is_told_once_in_one_harmless_line_and_in_time() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let attestors = |count: usize| (0..count).map(|number| attestor(&format!("a{number}"), "")).collect::<String>();
    let deny = |images: &str| document(&rule("r", images, "\"deny\""));
    let mut wrong = Vec::new();
    let hostile = "\\u001b[31m\\nALLOW\\u202e";
    for (what, text, expected) in [
        ("two of a name", document(&attestors(1).repeat(2)), "d.toml:7:8: a second attestor is called `a0`"),
        (
            "two rules",
            document(&["a", "b"].map(|path| rule("r", &format!("reg.io/{path}"), "\"deny\"")).concat()),
            "d.toml:7:8: a second rule is called `r`",
        ),
        (
            "unknown attestor",
            document(&format!("{}{}", attestor("ci", ""), rule("r", "**", "{ all = [\"cj\"] }"))),
            "d.toml:9:20: no attestor is called `cj`; did you mean `ci`?",
        ),
        (
            "a key of another type",
            with_key("good.pub", "ed25519"),
            "d.toml:5:9: good.pub: the key is EcdsaP256, which is not",
        ),
        (
            "a key of another curve",
            with_key("good.pub", "ecdsa-p384-sha384"),
            "d.toml:5:9: good.pub: the key is EcdsaP256",
        ),
        ("a third curve", with_key("good.pub", "ecdsa-p521-sha512"), "d.toml:5:9: good.pub: not an ECDSA P-521"),
        ("no RSA", with_key("good.pub", "rsa-pss-sha256"), "d.toml:5:9: good.pub: the key is EcdsaP256"),
        ("no key", with_key("nowhere.pub", "ed25519"), "d.toml:5:9: nowhere.pub: the file is not there"),
        ("a huge key", with_key("huge.pub", "ed25519"), "d.toml:5:9: huge.pub: larger than 65536 bytes"),
        ("an empty key", with_key("empty.pub", "ed25519"), "d.toml:5:9: empty.pub: not a public key"),
        ("a binary key", with_key("latin.pub", "ed25519"), "d.toml:5:9: latin.pub: not UTF-8 text"),
        ("a fifo", with_key("fifo", "ed25519"), "d.toml:5:9: fifo: not a plain file"),
        ("a directory", with_key("directory", "ed25519"), "d.toml:5:9: directory: not a plain file"),
        ("a device", with_key("/dev/zero", "ed25519"), "d.toml:5:9: /dev/zero: not a plain file"),
        (
            "a link to itself",
            with_key("loop.pub", "ed25519"),
            "d.toml:5:9: loop.pub: Too many levels of symbolic links",
        ),
        ("no file name", with_key("a\\u0000b", "ed25519"), "d.toml:5:9: a?b: "),
        (
            "a star in the middle",
            deny("reg.io/*/x"),
            "d.toml:4:11: a `*` stands only at the end; write several patterns",
        ),
        ("a star at the beginning", deny("*/x"), "d.toml:4:11: a `*` stands only at the end"),
        ("a star in a host", deny("*.example.com/x"), "d.toml:4:11: a `*` stands only at the end"),
        ("a star alone", deny("*"), "d.toml:4:11: a pattern begins with a registry host"),
        ("a host alone", deny("reg.io*"), "d.toml:4:11: no repository after the registry host; write `reg.io/…`"),
        ("not closed", document("[[rule]\n"), "d.toml:2:8: unclosed array table"),
        ("no value", format!("{SCHEMA}default =\n"), "d.toml:2:10: "),
        (
            "an unknown key",
            format!("{}contac = \"x\"\n", document("")),
            "d.toml:4:1: unknown key `contac`; did you mean `contact`?",
        ),
        ("an unknown table", document("[[rules]]\n"), "d.toml:2:3: unknown key `rules`; did you mean `rule`?"),
        ("a key twice", document("schema = 1\n"), "d.toml:2:1: duplicate key"),
        ("empty", String::new(), "d.toml:1:1: missing key `schema`\npullgate: d.toml:1:1: missing key `default`"),
        ("a NUL", document("\0"), "d.toml:2:"),
        ("a NUL in a name", deny("reg.io/\\u0000"), "d.toml:4:11: `?`: not a repository path"),
        ("behind a byte order mark", format!("\u{feff}{}", document("x = 1\n")), "d.toml:2:1: unknown key `x`"),
        ("lines that end in CR LF", deny("reg.io").replace('\n', "\r\n"), "d.toml:4:11: no repository after"),
        ("lines that end in CR", document("").replace('\n', "\r"), "d.toml:1:12: carriage return must be followed by"),
        (
            "another digest",
            document("[[exempt]]\nname = \"e\"\ndigests = [\"sha256:AB\"]\n"),
            "d.toml:4:12: not a digest",
        ),
        ("deep lists", document(&format!("x = {}\n", "[".repeat(1 << 20))), "d.toml:2:85: too many tables and lists"),
        ("deep tables", document(&format!("x = {}\n", "{a=".repeat(1 << 20))), "too many tables and lists within each"),
        ("deep names", format!("{SCHEMA}a{} = 1\n", ".a".repeat(1 << 18)), "d.toml: too many tables and lists within"),
        ("a deep requirement", document(&rule("r", "**", &"{ all = [".repeat(1 << 16))), "too many tables and lists"),
        (
            "ten thousand attestors",
            document(&format!("{}{}", attestors(10_000), rule("r", "**", &format!("{{ all = [{}] }}", names(10_000))))),
            "d.toml:40005:11: more than 256 attestors, or than 256 ways to meet it",
        ),
        (
            "rules told apart by anything",
            document(
                &(0..10_001)
                    .map(|i| {
                        rule(
                            &format!("r{i}"),
                            "reg.io/x",
                            &format!("\"deny\"\nnodes = {{ env = \"v{i}\", l{i} = \"\" }}"),
                        )
                    })
                    .collect::<String>(),
            ),
            "rules about `reg.io/x` are told apart by more than 64 sets of labels",
        ),
        ("a long key", format!("{}{} = 1\n{DEFAULT}", SCHEMA, "x".repeat(4 << 20)), "d.toml:2:1: unknown key `xxx"),
        (
            "a long word",
            document(&rule("r", "**", &format!("\"{}\"", "x".repeat(4 << 20)))),
            "unknown requirement `xxx",
        ),
        ("a long pattern", deny(&format!("reg.io/{}", "x".repeat(4 << 20))), "d.toml:4:11: `xxx"),
        ("a long file", with_key(&"x".repeat(4 << 20), "ed25519"), "d.toml:5:9: xxx"),
        ("a hostile key", document(&format!("\"{hostile}\" = 1\n")), "d.toml:2:1: unknown key `?[31m?ALLOW?`"),
        (
            "a hostile name",
            document(&rule("r", "**", &format!("{{ all = [\"{hostile}\"] }}"))),
            "called `?[31m?ALLOW?`",
        ),
        ("a hostile pattern", deny(&format!("reg.io/{hostile}")), "d.toml:4:11: `?[31m?ALLOW?`: not a repository path"),
        ("a hostile tag", deny(&format!("reg.io/x:{hostile}")), "d.toml:4:11: `?[31m?ALLOW?`: not a tag"),
        ("a hostile word", document(&rule("r", "**", &format!("\"{hostile}\""))), "unknown requirement `?[31m?ALLOW?`"),
        ("a hostile file", with_key(hostile, "ed25519"), "d.toml:5:9: ?[31m?ALLOW?: the file is not there"),
    ] {
        let (code, told) = check(folder.path(), text.as_bytes());
        let one_each = told.starts_with("pullgate: d.toml:") && told.lines().count() == expected.lines().count();
        let harmless = told.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}');
        let short = told.lines().all(|line| line.chars().count() < 450);
        if code != Some(2) || !one_each || !harmless || !short || !told.contains(expected) {
            wrong.push(format!("{what}: {code:?} {told:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Many at once are counted, and some of them told.
    let unknown: String = (0..200_000).map(|number| format!("k{number} = 1\n")).collect();
    let strangers: Vec<String> = (0..20_000).map(|number| format!("\"nobody-{number}\"")).collect();
    let strangers = rule("r", "**", &format!("{{ all = [{}] }}", strangers.join(", ")));
    for (text, more) in [(document(&unknown), 199_950), (document(&format!("{}{strangers}", attestors(5_000))), 19_950)]
    {
        let (code, told) = check(folder.path(), text.as_bytes());
        assert_eq!((code, told.lines().count()), (Some(2), 51), "{told}");
        assert!(told.ends_with(&format!("d.toml: and {more} more mistakes\n")), "{told}");
    }
    for (bytes, expected) in [(&b"\xff\xfes\0c\0h\0"[..], "not UTF-8 text"), (b"# \xe9", "not UTF-8 text")] {
        assert_eq!(check(folder.path(), bytes), (Some(2), format!("pullgate: d.toml: {expected}\n")));
    }
}

#[test]
fn what_only_looks_odd_is_read() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let many: String = (0..10_001).map(|i| rule(&format!("r{i}"), &format!("reg.io/{i}"), "\"deny\"")).collect();
    let audits =
        |until: &str| document(&rule("r", "**", &format!("\"deny\"\nmode = \"audit\"\naudit-until = \"{until}\"")));
    for text in [
        document(&many),
        format!("\u{feff}{}", document("")),
        document("").replace('\n', "\r\n"),
        with_key("link.pub", "ecdsa-p256-sha256"),
        audits("2027-12-31T23:59:60Z"),
        audits("2027-12-31T23:59:59+02:00"),
    ] {
        let (code, told) = check(folder.path(), text.as_bytes());
        assert_eq!(code, Some(0), "{told}");
    }
    for no_time in ["2027-12-31", "2027-12-31T23:59:59", "2027-13-31T23:59:59Z", "2027-12-31T24:00:00Z", ""] {
        let (code, told) = check(folder.path(), audits(no_time).as_bytes());
        assert_eq!(code, Some(2), "{no_time}: {told}");
        assert!(told.contains("d.toml:7:15: not a time like"), "{no_time}: {told}");
    }
}
