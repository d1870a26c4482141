use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> BootList {
    let mut list = BootList::default();
    list.parse(Path::new("a.list"), text);
    list
}

fn digests(list: &BootList) -> BTreeSet<Digest> {
    list.entries().map(|(digest, _)| *digest).collect()
}

fn entry(name: &str) -> Entry {
    Entry { digest: Digest::of(name.as_bytes()), comment: format!("{name} (sandbox image)") }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn a_line_that_is_no_digest_costs_only_itself() {
    let good = Digest::of(b"pause");
    let list = parsed(&format!("# sandbox\n{good}  # pause:3.9\n\nnonsense\nsha256:12\n{good}\n"));
    assert_eq!(digests(&list), [good].into());
    let (_, origin) = list.entries().next().unwrap();
    assert_eq!((origin.to_string().as_str(), origin.comment.as_str()), ("a.list:2", "pause:3.9"));
    assert_eq!(list.problems.len(), 2);
    assert!(list.problems[0].starts_with("a.list:4: not a digest"));
}

#[test]
fn the_list_is_bounded() {
    let text: String = (0..=limits::BOOT_DIGESTS).map(|i| format!("{}\n", Digest::of(&i.to_le_bytes()))).collect();
    let list = parsed(&text);
    assert_eq!((list.len(), list.problems.len()), (limits::BOOT_DIGESTS, 1));
    let again = parsed(&format!("{}{0}", text.split_inclusive('\n').take(limits::BOOT_DIGESTS).collect::<String>()));
    assert_eq!((again.len(), again.problems.len()), (limits::BOOT_DIGESTS, 0), "what is said twice takes no room");
}

#[test]
fn a_file_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("{}\n", Digest::of(b"pause"));
    let comment = "#".repeat(usize::try_from(limits::BOOT_FILE_BYTES).unwrap() - line.len());
    for (more, listed) in [("", 1), ("#", 0)] {
        write(&folder.path().join("a.list"), &format!("{line}{comment}{more}"));
        let list = BootList::read(folder.path());
        assert_eq!((list.len(), list.problems.len()), (listed, 1 - listed));
    }
}

#[test]
fn no_directory_is_an_empty_list() {
    assert_eq!(BootList::read(Path::new("/nonexistent")), BootList::default());
}

#[test]
fn what_is_added_is_listed_beside_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join(OWN_FILE);
    write(&folder.path().join("mine.list"), &format!("{}", entry("cni").digest));
    assert_eq!(add(folder.path(), &[entry("pause"), entry("cni"), entry("pause")]).unwrap(), [entry("pause")]);
    let first = fs::read_to_string(&own).unwrap();
    assert_eq!(first, format!("{BEGINNING}{}  # pause (sandbox image)\n", entry("pause").digest));
    write(&own, &format!("{}# no end of line", first));
    assert_eq!(add(folder.path(), &[entry("pause"), entry("proxy")]).unwrap(), [entry("proxy")]);
    let list = BootList::read(folder.path());
    assert_eq!((list.len(), list.problems.len()), (3, 0));
    let files: Vec<_> = list.by_file().into_iter().map(|(file, count)| (file.to_owned(), count)).collect();
    assert_eq!(files, [(folder.path().join("mine.list"), 1), (own.clone(), 2)]);
    let before = files::fingerprint(&own);
    assert_eq!(add(folder.path(), &[entry("pause"), entry("proxy")]).unwrap(), []);
    assert_eq!(files::fingerprint(&own), before, "nothing new: not written");
}

#[test]
fn a_list_that_cannot_be_read_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join(OWN_FILE);
    let full: String = (0..limits::BOOT_DIGESTS).map(|i| format!("{}\n", Digest::of(&i.to_le_bytes()))).collect();
    let large = "#".repeat(usize::try_from(limits::BOOT_FILE_BYTES).unwrap());
    for (text, mode) in [("text", 0o666), ("\u{fffd}", 0o602), (&full, 0o644), (&large, 0o644)] {
        write(&own, text);
        fs::set_permissions(&own, fs::Permissions::from_mode(mode)).unwrap();
        assert!(add(folder.path(), &[entry("pause")]).is_err());
        assert_eq!(fs::read_to_string(&own).unwrap(), text);
    }
    fs::remove_file(&own).unwrap();
    std::os::unix::fs::symlink("/nonexistent", &own).unwrap();
    assert!(add(folder.path(), &[entry("pause")]).is_err());
}

#[test]
fn a_comment_cannot_list_anything() {
    let folder = tempfile::tempdir().unwrap();
    let evil = Digest::of(b"evil");
    for end in ["\n", "\r", "\u{2028}", "\u{85}"] {
        let _ = fs::remove_file(folder.path().join(OWN_FILE));
        let comment = format!("pause{end}{evil}{end}");
        add(folder.path(), &[Entry { digest: Digest::of(b"good"), comment }]).unwrap();
        let list = BootList::read(folder.path());
        assert_eq!((digests(&list), list.problems.len()), ([Digest::of(b"good")].into(), 0));
    }
}

proptest! {
    #[test]
    fn nothing_that_is_listed_is_lost(
        lines in prop::collection::vec(prop_oneof!["[0-9a-f]{64}", "sha256:[0-9a-f]{64} *(#.{0,20})?", ".{0,80}"], 0..40),
        end in prop_oneof!["", "\n", "\r\n"],
        names in prop::collection::vec(".{0,40}", 0..10),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let before = format!("{}{end}", lines.join("\n"));
        write(&folder.path().join(OWN_FILE), &before);
        let listed = digests(&BootList::read(folder.path()));
        let entries: Vec<Entry> =
            names.iter().map(|name| Entry { digest: Digest::of(name.as_bytes()), comment: name.clone() }).collect();
        add(folder.path(), &entries).unwrap();
        let after = digests(&BootList::read(folder.path()));
        let expected: BTreeSet<Digest> = listed.into_iter().chain(entries.iter().map(|entry| entry.digest)).collect();
        prop_assert_eq!(after, expected);
        prop_assert!(fs::read_to_string(folder.path().join(OWN_FILE)).unwrap().starts_with(&before));
    }
}
