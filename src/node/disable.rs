//! The plan that disconnects containerd: back to what was there, or only without pullgate's lines where somebody else
//! wrote since.

use super::{
    base_spec,
    change::{Content, Edit},
    enable::Plan,
    imports::Read,
    lines::{self, Since},
    record::Record,
    start::plan::stand_for,
};

/// What to write so that nothing of `record` is left, in containerd's `files` either: a base spec goes once nothing names
/// it any more, for with one that is not there containerd serves no pods.
///
/// # Errors
/// Where a file cannot be read.
pub fn plan(record: &Record, files: &[Read]) -> Result<Plan, String> {
    let mut plan = Plan::default();
    let base_specs = stand_for(record.base_specs.iter());
    // Others copy the sections of handlers.
    for file in files.iter().filter(|file| record.edits.iter().all(|edit| edit.path != file.path)) {
        let text = lines::without_base_specs(&file.text, &base_specs);
        let text = text.map_err(|why| format!("{}: {why}", file.path.display()))?;
        if text != file.text
            && let Some(now) = Content::of_file(&file.path)?
        {
            plan.notes.push(format!("{} names pullgate's base spec: that line is taken out", file.path.display()));
            let after = Some(now.with_text(text));
            plan.edits.push(Edit { path: file.path.clone(), before: Some(now), after });
        }
    }
    for edit in record.edits.iter().rev() {
        let was_link = matches!(edit.after, Some(Content::Link { .. }));
        let now = if was_link { Content::at(&edit.path)? } else { Content::of_file(&edit.path)? };
        let Some(now) = now else { continue };
        let after = if Some(&now) == edit.after.as_ref() {
            edit.before.clone()
        } else if was_link {
            plan.notes.push(format!("{} is not pullgate's any more, and stays", edit.path.display()));
            continue;
        } else if base_spec::is_ours(&edit.path) {
            plan.notes
                .push(format!("{} was edited since `pullgate enable`, and goes all the same", edit.path.display()));
            edit.before.clone()
        } else if edit.after.as_ref().is_some_and(|after| after.text() == now.text()) {
            // Others gave it another owner or other permissions: those stay.
            edit.before.as_ref().map(|before| now.with_text(before.text().to_owned()))
        } else {
            let original = edit.before.as_ref().map(Content::text);
            let written = edit.after.as_ref().map(Content::text);
            let since = Since { original, written, pattern: record.import.as_deref() };
            let left = lines::take_out(now.text(), since, &base_specs)
                .map_err(|why| format!("{}: {why}", edit.path.display()))?;
            plan.notes.push(format!(
                "{} was changed since `pullgate enable`: only pullgate's lines are taken out",
                edit.path.display()
            ));
            left.map(|text| now.with_text(text))
        };
        if after.as_ref() != Some(&now) {
            plan.edits.push(Edit { path: edit.path.clone(), before: Some(now), after });
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        image::Digest,
        node::{change, record::Made},
    };

    const MAIN: &str = "version = 2 # as ever\n\n[debug]\n  level = \"info\"\n";

    fn enabled(folder: &Path) -> Record {
        let (main, drop_in) = (folder.join("config.toml"), folder.join("conf.d/99-pullgate.toml"));
        fs::write(&main, MAIN).unwrap();
        let before = Content::of_file(&main).unwrap();
        let import = "conf.d/99-pullgate*.toml".to_owned();
        let imported = before.as_ref().map(|before| before.with_text(lines::import(MAIN, &import).unwrap()));
        let ours = before.as_ref().map(|before| before.with_text("version = 2\n[proxy_plugins.pullgate]\n".into()));
        let edits =
            vec![Edit { path: drop_in, before: None, after: ours }, Edit { path: main, before, after: imported }];
        let directories = change::make(&edits).unwrap();
        Record { edits, directories, import: Some(import), ..Record::default() }
    }

    fn disable(record: &Record) -> Vec<String> {
        let plan = plan(record, &[]).unwrap();
        change::make(&plan.edits).unwrap();
        plan.notes
    }

    #[test]
    fn untouched_files_come_back_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let record = enabled(folder.path());
        assert_eq!(disable(&record), Vec::<String>::new());
        assert_eq!(fs::read_to_string(folder.path().join("config.toml")).unwrap(), MAIN);
        assert!(!folder.path().join("conf.d/99-pullgate.toml").exists());
        assert!(
            plan(&record, &[])
                .unwrap()
                .edits
                .iter()
                .all(|edit| edit.path.ends_with("config.toml") && edit.after == edit.before)
                || plan(&record, &[]).unwrap().edits.is_empty()
        );
    }

    #[test]
    fn what_others_wrote_since_stays() {
        let folder = tempfile::tempdir().unwrap();
        let record = enabled(folder.path());
        let main = folder.path().join("config.toml");
        let text = fs::read_to_string(&main).unwrap();
        fs::write(&main, text.replace("info", "debug") + "[metrics]\n  address = \"x\"\n").unwrap();
        let drop_in = folder.path().join("conf.d/99-pullgate.toml");
        fs::write(&drop_in, fs::read_to_string(&drop_in).unwrap() + "[timeouts]\n  x = \"1s\"\n").unwrap();
        assert_eq!(disable(&record).len(), 2);
        let expected = MAIN.replace("info", "debug") + "[metrics]\n  address = \"x\"\n";
        assert_eq!(fs::read_to_string(&main).unwrap(), expected);
        assert_eq!(fs::read_to_string(&drop_in).unwrap(), "version = 2\n[timeouts]\n  x = \"1s\"\n");
        // Once more there is nothing to do.
        assert!(plan(&record, &[]).unwrap().edits.is_empty());
    }

    #[test]
    fn what_others_took_away_stays_away() {
        let folder = tempfile::tempdir().unwrap();
        let record = enabled(folder.path());
        fs::remove_file(folder.path().join("conf.d/99-pullgate.toml")).unwrap();
        fs::remove_file(folder.path().join("config.toml")).unwrap();
        assert_eq!(disable(&record), Vec::<String>::new());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_toml_any_more_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let record = enabled(folder.path());
        let main = folder.path().join("config.toml");
        fs::write(&main, "version = \n").unwrap();
        assert!(plan(&record, &[]).unwrap_err().contains("config.toml: line 1"));
        assert_eq!(fs::read_to_string(&main).unwrap(), "version = \n");
    }

    const SPEC: &str = "/etc/pullgate/base-spec.json";

    #[test]
    fn a_base_spec_goes_last_and_from_every_file_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = enabled(folder.path());
        let made = Made { path: SPEC.into(), own: None, of: Digest::of(b"") };
        record.base_specs.push(made.clone());
        let copied = folder.path().join("gpu.toml");
        let section = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.gpu]\nruntime_type = \"x\"\n";
        fs::write(&copied, format!("{section}base_runtime_spec = \"{SPEC}\" # copied\n")).unwrap();
        let text = fs::read_to_string(&copied).unwrap();
        let other = folder.path().join("other.toml");
        fs::write(&other, MAIN).unwrap();
        let file = |path: &Path, text: &str| Read {
            path: path.to_owned(),
            text: text.to_owned(),
            imports: Vec::new(),
            version: None,
        };
        let files = [file(&copied, &text), file(&other, MAIN), file(&folder.path().join("config.toml"), "")];
        let plan = super::plan(&record, &files).unwrap();
        assert_eq!(plan.edits[0].path, copied);
        assert_eq!(plan.edits[0].after.as_ref().map(Content::text), Some(section));
        assert!(plan.edits.iter().all(|edit| edit.path != other) && plan.notes[0].contains("gpu.toml"));
        // One that was made later is in front of the record, hence the last to go.
        let edit = Edit { path: SPEC.into(), before: None, after: Some(Content::new("{}".into())) };
        let fresh = Plan { edits: vec![edit], start: true, base_specs: vec![made], ..Plan::default() };
        let later = fresh.record_over(Path::new("/c"), Some(&record));
        assert!(later.start && later.base_specs.len() == 1);
        assert_eq!(later.edits[0].path, Path::new(SPEC));
        assert!(super::plan(&record, &[file(&copied, "= 1")]).unwrap_err().contains("gpu.toml"));
    }
}
