//! What lies on the disk.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use toml::Value;

use super::super::{
    super::{
        change::{Content, Edit},
        dump::Dump,
        imports,
        record::Record,
        verifiers::NAME,
    },
    Enabled, Known, Program, VerifierDirectory,
};

/// Entries of a directory that are looked at.
const ENTRIES: usize = 1000;

/// The directory of image verifiers that containerd reads; `own` is pullgate's.
pub(super) fn verifiers(own: &Path, path: &Path) -> Known<VerifierDirectory> {
    let mut directory = VerifierDirectory { path: path.to_owned(), ..VerifierDirectory::default() };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(directory),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    directory.exists = true;
    let ours = own.join(NAME).canonicalize().ok();
    for entry in entries.take(ENTRIES + 1) {
        let at = entry.map_err(|error| format!("{}: {error}", path.display()))?.path();
        let meta = fs::metadata(&at);
        directory.programs.push(Program {
            name: at.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ours: ours.is_some() && at.canonicalize().ok() == ours,
            runs: meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0),
        });
    }
    if directory.programs.len() > ENTRIES {
        return Err(format!("{}: more than {ENTRIES} entries", path.display()));
    }
    directory.programs.sort_by(|one, other| one.name.cmp(&other.name));
    let mut guarded: Vec<PathBuf> = Vec::new();
    for place in [path.canonicalize().ok(), ours].into_iter().flatten() {
        guarded.extend(place.ancestors().map(Path::to_owned));
    }
    guarded.sort();
    guarded.dedup();
    guarded.retain(|path| fs::metadata(path).is_ok_and(|meta| meta.uid() != 0 || meta.mode() & 0o022 != 0));
    directory.writable = guarded;
    Ok(directory)
}

/// What of it somebody took away or wrote over: files that `enable` made and that are others now, and a main file that
/// imports them no more. A file that was there before belongs to others as well, and may change.
pub(super) fn enabled(record: &Record) -> Enabled {
    let is_lost = |edit: &Edit| {
        let now = Content::at(&edit.path).ok().flatten();
        match (&edit.before, &edit.after) {
            (_, None) => false,
            (Some(_), Some(_)) if edit.path == record.config => {
                let imported = record
                    .import
                    .as_ref()
                    .is_none_or(|import| imports::read(&edit.path).is_ok_and(|files| imports(&files, import)));
                now.is_none() || !imported
            }
            (Some(_), Some(_)) => now.is_none(),
            (None, Some(Content::File { text, .. })) => now.is_none_or(|now| now.text() != text),
            (None, after @ Some(Content::Link { .. })) => now != *after,
        }
    };
    Enabled { changed: record.edits.iter().filter(|edit| is_lost(edit)).map(|edit| edit.path.clone()).collect() }
}

/// Whether the first of `files` imports what `enable` added.
fn imports(files: &[imports::Read], import: &str) -> bool {
    files.first().is_some_and(|main| main.imports.iter().any(|(pattern, _)| pattern == import))
}

/// The base specs that runtime handlers name.
pub(super) fn base_specs(dump: &Dump) -> BTreeMap<PathBuf, Known<Option<String>>> {
    let paths = dump.runtime_handlers().into_iter().filter_map(|handler| handler.base_spec);
    let read = |path: PathBuf| {
        let text = match imports::text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(|error| format!("{}: {error}", path.display())),
        };
        (path, text)
    };
    paths.map(read).collect()
}

/// The directory of the NRI socket, where others than root can connect to it.
pub(super) fn nri_open(dump: &Dump) -> Option<PathBuf> {
    let nri = dump.at(&["plugins", "io.containerd.nri.v1.nri"])?;
    let is = |key: &str| nri.get(key).and_then(Value::as_bool) == Some(true);
    if is("disable") || is("disable_connections") {
        return None;
    }
    let socket = Path::new(nri.get("socket_path").and_then(Value::as_str)?);
    let directory = socket.parent()?.canonicalize().ok()?;
    let (around, meta) = (fs::metadata(&directory).ok()?, fs::metadata(socket).ok()?);
    let entered = around.mode() & 0o011 != 0 && meta.mode() & 0o022 != 0;
    (around.uid() != 0 || meta.uid() != 0 || entered).then_some(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_of_verifiers_is_read_in_containerds_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("own")).unwrap();
        fs::create_dir_all(at("others/folder")).unwrap();
        for (path, mode) in [("own/pullgate-verifier", 0o755), ("others/z", 0o755), ("others/data", 0o644)] {
            fs::write(at(path), "").unwrap();
            fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink(at("own/pullgate-verifier"), at("others/pullgate-verifier")).unwrap();
        symlink(at("nowhere"), at("others/dangling")).unwrap();
        let found = verifiers(&at("own"), &at("others")).unwrap();
        let told: Vec<(&str, bool, bool)> =
            found.programs.iter().map(|it| (it.name.as_str(), it.ours, it.runs)).collect();
        assert_eq!(
            told,
            [
                ("dangling", false, false),
                ("data", false, false),
                ("folder", false, false),
                ("pullgate-verifier", true, true),
                ("z", false, true)
            ]
        );
        assert!(found.exists);
        let absent = verifiers(&at("own"), &at("absent")).unwrap();
        assert!(!absent.exists && absent.programs.is_empty());
        assert!(verifiers(&at("own"), &at("own/pullgate-verifier")).is_err());
        fs::set_permissions(at("others"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(verifiers(&at("own"), &at("others")).unwrap().writable.contains(&at("others")));
        for number in 0..=ENTRIES {
            fs::write(at("others").join(number.to_string()), "").unwrap();
        }
        assert!(verifiers(&at("own"), &at("others")).unwrap_err().contains("more than"));
    }

    #[test]
    fn a_base_spec_that_cannot_be_read_is_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path).display().to_string();
        fs::write(at("good.json"), "{}").unwrap();
        fs::create_dir(at("folder.json")).unwrap();
        let handler = |name: &str| {
            format!(
                "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{name}]\nruntime_type = 'x'\n\
                 base_runtime_spec = '{}'\n",
                at(&format!("{name}.json"))
            )
        };
        let text = format!("{}{}{}", handler("good"), handler("folder"), handler("gone"));
        let specs = base_specs(&Dump::parse(&text).unwrap());
        let of = |name: &str| specs[&PathBuf::from(at(name))].clone();
        assert_eq!((specs.len(), of("good.json"), of("gone.json")), (3, Ok(Some("{}".to_owned())), Ok(None)));
        assert!(of("folder.json").is_err());
    }

    #[test]
    fn what_enable_wrote_is_compared_with_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::write(at("same.toml"), "a").unwrap();
        fs::write(at("other.toml"), "b").unwrap();
        let edit = |path: &str| Edit { path: at(path), before: None, after: Some(Content::new("a".to_owned())) };
        let link = Edit { path: at("link"), before: None, after: Some(Content::Link { target: "/x".into() }) };
        let theirs = |path: &str| Edit { before: Some(Content::new("b".to_owned())), ..edit(path) };
        let edits = vec![edit("same.toml"), edit("other.toml"), edit("gone.toml"), link];
        let changed = enabled(&Record { edits, ..Record::default() }).changed;
        assert_eq!(changed, [at("other.toml"), at("gone.toml"), at("link")]);

        // What was there before is others' as well; only the import in it is pullgate's.
        fs::write(at("main.toml"), "imports = [\"/etc/x/99-pullgate*.toml\"]\n[theirs]\n").unwrap();
        let edits = vec![theirs("main.toml"), theirs("other.toml"), theirs("gone.toml")];
        let import = |import: &str| {
            let import = Some(import.to_owned());
            enabled(&Record { edits: edits.clone(), config: at("main.toml"), import, ..Record::default() }).changed
        };
        assert_eq!(import("/etc/x/99-pullgate*.toml"), [at("gone.toml")]);
        assert_eq!(import("/etc/y/99-pullgate*.toml"), [at("main.toml"), at("gone.toml")]);
    }
}
