//! `[[evidence]]`: where the evidence of images is, beside their own repositories.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::{
    document::{Places, Problem},
    evidence::Elsewhere,
    image::{Host, Repository},
    policy::scope::Pattern,
};

/// What stands for the path of the image's repository.
const PATH: &str = "{path}";

/// Where the evidence of some images is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceSource {
    /// Which images.
    images: Vec<Pattern>,
    at: At,
    /// Whether the images' own repositories are not asked.
    only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    /// A repository, under the tags or referrers of the images' digests. In its path, [`PATH`] is the image's.
    Repository(Host, String),
    /// A directory on this node.
    Directory(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct EvidenceTable {
    images: Spanned<Vec<Spanned<String>>>,
    repository: Option<Spanned<String>>,
    directory: Option<Spanned<PathBuf>>,
    #[serde(default)]
    only: bool,
}

impl EvidenceSource {
    /// Adds what this says about an image of `repository`. One without a name is meant by `**` alone, and no repository can
    /// be told for it.
    pub(super) fn add_to(&self, elsewhere: &mut Elsewhere, repository: Option<&Repository>) {
        let is_meant =
            |pattern: &Pattern| repository.map_or(pattern.is_everything(), |repository| pattern.matches(repository));
        if !self.images.iter().any(is_meant) {
            return;
        }
        elsewhere.own &= !self.only;
        match (&self.at, repository) {
            (At::Directory(path), _) => elsewhere.directories.push(path.clone()),
            (At::Repository(host, path), Some(image)) => elsewhere.repositories.push(repository_of(host, path, image)),
            (At::Repository(..), None) => {}
        }
    }
}

/// The repository at `host` for the evidence of the images in `image`.
fn repository_of(host: &Host, path: &str, image: &Repository) -> Result<Repository, String> {
    let path = path.replace(PATH, &image.path);
    Repository::new(host.clone(), &path).map_err(|why| format!("{host}/{path}: {why}"))
}

impl EvidenceTable {
    pub(super) fn read(&self, places: &Places, problems: &mut Vec<Problem>) -> Option<EvidenceSource> {
        let before = problems.len();
        let mut images = Vec::new();
        for text in self.images.get_ref() {
            match Pattern::parse(text.get_ref()) {
                Ok(pattern) => images.push(pattern),
                Err(why) => problems.push(places.problem(text.span(), why)),
            }
        }
        let mut problem = |span, why: &str| problems.push(places.problem(span, why));
        if self.images.get_ref().is_empty() {
            problem(self.images.span(), "no images have their evidence here: name some");
        }
        let at = match (&self.repository, &self.directory) {
            (Some(repository), None) => match at_repository(repository.get_ref()) {
                Ok(at) => Some(at),
                Err(why) => {
                    problem(repository.span(), &why);
                    None
                }
            },
            (None, Some(directory)) => {
                if !directory.get_ref().is_absolute() {
                    problem(directory.span(), "a directory of evidence is an absolute path");
                }
                Some(At::Directory(directory.get_ref().clone()))
            }
            (Some(_), Some(directory)) => {
                problem(directory.span(), "`repository` or `directory`: write two tables to look in both");
                None
            }
            (None, None) => {
                problem(self.images.span(), "where is their evidence? write a `repository` or a `directory`");
                None
            }
        };
        at.filter(|_| problems.len() == before).map(|at| EvidenceSource { images, at, only: self.only })
    }
}

fn at_repository(text: &str) -> Result<At, String> {
    let (host, path) = text.split_once('/').ok_or("not a repository (host/path)")?;
    let host: Host = host.parse().map_err(|why| format!("{why}; only the path may have {PATH} in it"))?;
    let sample = Repository { host: host.clone(), path: "a/b".to_owned() };
    repository_of(&host, path, &sample)
        .map_err(|why| format!("{why}; what stands in braces is {PATH}, the path of the image's repository"))?;
    Ok(At::Repository(host, path.to_owned()))
}
