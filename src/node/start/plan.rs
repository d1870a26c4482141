//! What `enable` writes so that no container of a pod starts without pullgate's leave.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    super::{
        Obstacle, base_spec,
        change::{Content, Edit},
        enable::Found,
        lines,
        record::{Made, Record},
        run,
        runtimes::Handler,
        version::{Editing, Version},
    },
    CRI,
};
use crate::image::{Digest, sanitize};

/// The base specs to write, and the handlers that are to name them.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct BaseSpecs {
    /// The handlers, each with the base spec that it is to have.
    pub(in crate::node) handlers: Vec<Handler>,
    /// The files to write.
    pub(in crate::node) edits: Vec<Edit>,
    /// What each was made from.
    pub(in crate::node) made: Vec<Made>,
    /// What each of them is, but for the hook and what CRI takes out: where it is from, and its text.
    pub(in crate::node) sources: Vec<(PathBuf, String, String)>,
    /// What an administrator should know.
    pub(in crate::node) notes: Vec<String>,
}

impl Found {
    /// What has to be written so that every handler asks pullgate.
    ///
    /// # Errors
    /// Where a handler cannot be made to ask, or no container could start any more.
    pub(in crate::node) fn base_specs(&self, record: Option<&Record>) -> Result<BaseSpecs, Obstacle> {
        let mut plan = BaseSpecs::default();
        program(Path::new(&base_spec::program())).map_err(|why| Obstacle::new(why, "Install the package again"))?;
        let mut default = None;
        let (mut asked, mut open) = (Vec::new(), Vec::new());
        for mut handler in self.dump.runtime_handlers() {
            let name = sanitize(&handler.name, 80);
            if !handler.runs_hooks() {
                open.push(format!("{name} ({})", sanitize(handler.runtime(), 80)));
                continue;
            }
            asked.push(name.clone());
            let own = self.own(&handler, record);
            let (path, text, like) = match &own {
                None => {
                    if default.is_none() {
                        default = Some(default_of(&self.process.program, self.version)?);
                    }
                    let text = default.as_deref().unwrap_or_default();
                    let made = base_spec::of_containerd(text).map_err(|why| {
                        Obstacle::new(format!("`ctr oci spec` cannot be read: {why}"), "Nothing was written")
                    })?;
                    plan.made.push(Made {
                        path: base_spec::OF_CONTAINERD.into(),
                        own: None,
                        of: Digest::of(text.as_bytes()),
                    });
                    (PathBuf::from(base_spec::OF_CONTAINERD), made, None)
                }
                Some(own) => {
                    let Some((theirs, path, made)) = beside(&name, &handler, own)? else { continue };
                    let of = Digest::of(theirs.text().as_bytes());
                    plan.made.push(Made { path: path.clone(), own: Some(own.clone()), of });
                    (path, made, Some(theirs))
                }
            };
            let source = match (&own, &like) {
                (Some(own), Some(theirs)) => (path.clone(), own.display().to_string(), theirs.text().to_owned()),
                _ => (
                    path.clone(),
                    "what containerd has itself (`ctr oci spec`)".to_owned(),
                    default.clone().unwrap_or_default(),
                ),
            };
            if !plan.sources.contains(&source) {
                plan.sources.push(source);
            }
            let before = Content::of_file(&path).map_err(|why| Obstacle::new(why, "Nothing was written"))?;
            let like = before.clone().or(like);
            let after = like.map_or_else(|| Content::new(text.clone()), |like| like.with_text(text.clone()));
            let edit = Edit { path: path.clone(), before, after: Some(after) };
            if edit.before != edit.after && !plan.edits.contains(&edit) {
                plan.edits.push(edit);
            }
            handler.base_spec = Some(path);
            plan.handlers.push(handler);
        }
        plan.made.dedup();
        if !asked.is_empty() {
            plan.notes.push(format!(
                "start gate: containers of the runtime handlers {} start only if pullgate says so; what is in the boot list \
                 always starts",
                asked.join(", ")
            ));
        }
        if !open.is_empty() {
            plan.notes.push(format!(
                "start gate: OPEN for {}: such a runtime is not known to run hooks on the host",
                open.join(", ")
            ));
        }
        Ok(plan)
    }

    /// Whether the kubelet is served, or would be if nothing were wrong.
    pub(in crate::node) fn serves_pods(&self) -> bool {
        self.loaded.iter().any(|plugin| (plugin.kind.as_str(), plugin.id.as_str()) == CRI)
    }

    /// The administrator's base spec of a handler.
    fn own(&self, handler: &Handler, record: Option<&Record>) -> Option<PathBuf> {
        let said = handler.base_spec.clone()?;
        let recorded = record.and_then(|record| record.base_specs.iter().find(|made| made.path == said));
        if recorded.is_none() && !base_spec::is_ours(&said) {
            return Some(said);
        }
        let recorded = recorded.and_then(|made| made.own.clone());
        match self.version.editing() {
            // The key lies over what the administrator's files say, and they may say something else by now.
            Ok(Editing::DropIn) => {
                let texts = self.files.iter().map(|file| file.text.as_str());
                let mut said = texts.filter_map(|text| lines::base_spec_of(text, &handler.name));
                said.rfind(|path| !base_spec::is_ours(path))
            }
            _ => recorded,
        }
    }
}

/// The administrator's file, ours beside it, and its text; none where theirs has the hook.
fn beside(name: &str, handler: &Handler, own: &Path) -> Result<Option<(Content, PathBuf, String)>, Obstacle> {
    let written = "Nothing was written";
    if !own.is_absolute() {
        let what = format!("base_runtime_spec of {name} is the relative path {}", own.display());
        return Err(Obstacle::new(what, "Write it with a / in front first"));
    }
    let unread = |why: String| Obstacle::new(format!("base_runtime_spec of {name}: {why}"), written);
    let theirs = Content::of_file(own).map_err(unread)?;
    let theirs = theirs.ok_or_else(|| unread(format!("{} is not there", own.display())))?;
    let malformed = |why: String| unread(format!("{}: {}", own.display(), sanitize(&why, 200)));
    if base_spec::has_hook(theirs.text()).map_err(malformed)? {
        return Ok(None);
    }
    let made = base_spec::of_administrator(theirs.text()).map_err(malformed)?;
    let path = base_spec::beside(&handler.name).ok_or_else(|| {
        Obstacle::new(
            format!("the runtime handler {name} has a base spec, and a name that is none for a file"),
            "Give it a name of letters, digits, `-`, `_` and `.`",
        )
    })?;
    Ok(Some((theirs, path.into(), made)))
}

/// Whether the hook can be run, and only root can change it.
///
/// # Errors
/// What is the matter with it: no container would start.
pub(super) fn program(path: &Path) -> Result<(), String> {
    let meta = path.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = meta.permissions().mode();
    if !meta.is_file() || mode & 0o111 != 0o111 {
        return Err(format!("{} cannot be executed", path.display()));
    }
    if meta.uid() != 0 || mode & 0o022 != 0 {
        return Err(format!("{} could be replaced by somebody else than root", path.display()));
    }
    Ok(())
}

/// What containerd starts from where no base spec is set, as the `ctr` beside it prints it.
///
/// # Errors
/// Where there is none of the same version, or it does not say.
pub(super) fn default_of(containerd: &Path, version: Version) -> Result<String, Obstacle> {
    let ctr = containerd.with_file_name("ctr");
    let told = |why: String| {
        Obstacle::new(
            format!("containerd's own base for containers is not known: {why}"),
            format!("{} has to be the one of containerd {version}. Nothing was written", ctr.display()),
        )
    };
    let found: Version = run(&ctr, &["--version"]).and_then(|text| text.parse()).map_err(told)?;
    if found != version {
        return Err(told(format!("{} is of version {found}", ctr.display())));
    }
    // The namespace is in it, and may not depend on the environment.
    run(&ctr, &["--namespace", "k8s.io", "oci", "spec"]).map_err(told)
}

/// What each of pullgate's base specs stands for.
pub(in crate::node) fn stand_for<'a>(made: impl Iterator<Item = &'a Made>) -> BTreeMap<PathBuf, Option<PathBuf>> {
    made.map(|made| (made.path.clone(), made.own.clone())).collect()
}
