//! The boot list: digests that are admitted whatever else is broken, so that a node always boots.
//!
//! `/etc/pullgate/boot.d/*.list` hold one digest a line; `#` begins a comment. The list is read apart from
//! configuration and policy, and a line that is no digest costs only itself.

use std::{collections::BTreeSet, path::Path};

use crate::{files, image::Digest, limits};

/// The digests of the files in `directory`, and what could not be read. A missing directory is an empty list.
pub fn read(directory: &Path) -> (BTreeSet<Digest>, Vec<String>) {
    let (mut digests, mut problems) = (BTreeSet::new(), Vec::new());
    for path in files::in_directory(directory, "list") {
        let file = path.display().to_string();
        match files::read_trusted(&path, limits::BOOT_FILE_BYTES) {
            Ok(text) => parse(&file, &text, &mut digests, &mut problems),
            Err(why) => problems.push(format!("{file}: {why}")),
        }
    }
    (digests, problems)
}

fn parse(file: &str, text: &str, digests: &mut BTreeSet<Digest>, problems: &mut Vec<String>) {
    for (i, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        match entry.parse() {
            Ok(digest) if digests.len() < limits::BOOT_DIGESTS => {
                digests.insert(digest);
            }
            Ok(_) => {
                problems.push(format!("{file}:{}: more than {} digests", i + 1, limits::BOOT_DIGESTS));
                return;
            }
            Err(why) => problems.push(format!("{file}:{}: {why}", i + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_digest_costs_only_itself() {
        let good = Digest::of(b"pause");
        let text = format!("# sandbox\n{good}  # pause:3.9\n\nnonsense\nsha256:12\n{good}\n");
        let (mut digests, mut problems) = Default::default();
        parse("a.list", &text, &mut digests, &mut problems);
        assert_eq!(digests, [good].into());
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("a.list:4: not a digest"));
    }

    #[test]
    fn the_list_is_bounded() {
        let text: String = (0..=limits::BOOT_DIGESTS).map(|i| format!("{}\n", Digest::of(&i.to_le_bytes()))).collect();
        let (mut digests, mut problems) = Default::default();
        parse("a.list", &text, &mut digests, &mut problems);
        assert_eq!((digests.len(), problems.len()), (limits::BOOT_DIGESTS, 1));
    }

    #[test]
    fn no_directory_is_an_empty_list() {
        assert_eq!(read(Path::new("/nonexistent")), Default::default());
    }
}
