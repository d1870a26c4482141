//! How registries are reached: `[registry]`, `[registry-hosts]` and `[credentials]`. Pure.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    document::{Places, Problem},
    evidence::{CredentialSources, KubeletProviders, RegistryOptions},
    image::Host,
};

/// Where containerd looks unless it is told otherwise.
const DIRECTORIES: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];
/// Directories, and files with credentials, at most.
const PATHS: usize = 8;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct RegistryTable {
    insecure_plain_http: bool,
    insecure_skip_verify: bool,
    token_service: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct HostsTable {
    directories: Option<Vec<Spanned<PathBuf>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct CredentialsTable {
    docker_configs: Vec<Spanned<PathBuf>>,
    docker_helpers: Option<Spanned<PathBuf>>,
    kubelet_providers: Option<Spanned<PathBuf>>,
    kubelet_programs: Option<Spanned<PathBuf>>,
}

pub(super) fn read(
    registries: BTreeMap<Spanned<String>, RegistryTable>,
    hosts: HostsTable,
    credentials: CredentialsTable,
    places: &Places,
    problems: &mut Vec<Problem>,
) -> RegistryOptions {
    let mut options = RegistryOptions::default();
    for (name, table) in registries {
        let host = match name.get_ref().parse::<Host>() {
            Ok(host) => host,
            Err(why) => {
                problems.push(places.problem(name.span(), why.to_string()));
                continue;
            }
        };
        if table.insecure_plain_http {
            options.plain_http.push(host.clone());
        }
        if table.insecure_skip_verify {
            options.skip_verify.push(host.clone());
        }
        if let Some(service) = table.token_service {
            match service.get_ref().parse::<Host>() {
                Ok(service) => options.token_services.push((host.clone(), service)),
                Err(_) => {
                    problems.push(places.problem(service.span(), "a token service is a host: no scheme, no path"))
                }
            }
        }
        options.configured.push(host);
    }
    options.host_directories = match hosts.directories {
        Some(directories) => paths(directories, "a directory with hosts.toml files", places, problems),
        None => DIRECTORIES.map(PathBuf::from).into(),
    };
    options.credentials = credentials.read(places, problems);
    options
}

impl CredentialsTable {
    fn read(self, places: &Places, problems: &mut Vec<Problem>) -> CredentialSources {
        let docker = paths(self.docker_configs, "a file with credentials", places, problems);
        let helpers =
            self.docker_helpers.and_then(|path| absolute(path, "the directory of the helpers", places, problems));
        if let (Some(given), None) | (None, Some(given)) = (&self.kubelet_providers, &self.kubelet_programs) {
            let why = "`kubelet-providers` (a file) and `kubelet-programs` (a directory) need each other";
            problems.push(places.problem(given.span(), why));
        }
        let mut one = |path: Option<Spanned<PathBuf>>, what| absolute(path?, what, places, problems);
        let config = one(self.kubelet_providers, "the configuration of the providers");
        let programs = one(self.kubelet_programs, "the directory of the providers");
        let kubelet = config.zip(programs).map(|(config, programs)| KubeletProviders { config, programs });
        CredentialSources { docker, helpers, kubelet }
    }
}

fn paths(all: Vec<Spanned<PathBuf>>, what: &str, places: &Places, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    if let Some(beyond) = all.get(PATHS) {
        problems.push(places.problem(beyond.span(), format!("more than {PATHS} paths")));
    }
    all.into_iter().filter_map(|path| absolute(path, what, places, problems)).collect()
}

/// A path that does not depend on where the daemon was started.
fn absolute(path: Spanned<PathBuf>, what: &str, places: &Places, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    if !path.get_ref().is_absolute() {
        problems.push(places.problem(path.span(), format!("{what} is an absolute path")));
        return None;
    }
    Some(path.into_inner())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    fn parse(text: &str) -> Result<Config, String> {
        let text = format!("mode = \"audit\"\n{text}");
        Config::parse(Path::new("/etc/pullgate/config.toml"), &text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn unless_it_is_said_containerds_directories_are_read_and_no_credentials() {
        let registries = parse("").unwrap().registries;
        assert_eq!(registries.host_directories, super::DIRECTORIES.map(Path::new));
        assert_eq!(registries.credentials, Default::default());
        let registries = parse("[registry-hosts]\ndirectories = []").unwrap().registries;
        assert!(registries.host_directories.is_empty());
    }

    #[test]
    fn every_key_is_read() {
        let registries = parse(
            "[registry.\"Reg.io:5000\"]\ninsecure-skip-verify = true\ntoken-service = \"auth.io\"\n\
             [registry-hosts]\ndirectories = [\"/a\", \"/b\"]\n[credentials]\ndocker-configs = [\"/c.json\"]\n\
             docker-helpers = \"/bin\"\nkubelet-providers = \"/p.yaml\"\nkubelet-programs = \"/p\"\n",
        )
        .unwrap()
        .registries;
        let host = || "reg.io:5000".parse().unwrap();
        assert_eq!((registries.configured, registries.skip_verify), (vec![host()], vec![host()]));
        assert_eq!(registries.token_services, [(host(), "auth.io".parse().unwrap())]);
        assert_eq!(registries.host_directories, ["/a", "/b"].map(Path::new));
        let credentials = registries.credentials;
        assert_eq!(credentials.docker, [Path::new("/c.json")]);
        assert_eq!(credentials.helpers.unwrap(), Path::new("/bin"));
        let kubelet = credentials.kubelet.unwrap();
        assert_eq!((kubelet.config.as_path(), kubelet.programs.as_path()), (Path::new("/p.yaml"), Path::new("/p")));
    }

    #[test]
    fn mistakes_name_the_place() {
        let many = format!("[credentials]\ndocker-configs = {:?}", vec!["/a"; super::PATHS + 1]);
        for (text, why) in [
            ("[registry.\"reg.io\"]\ntoken-service = \"https://auth.io/token\"", "3:17: a token service is a host"),
            ("[registry.\"reg.io\"]\nskip-verify = true", "3:1: unknown key `skip-verify`"),
            ("[registry-hosts]\ndirectories = [\"certs.d\"]", "3:16: a directory with hosts.toml files is an absolute"),
            ("[credentials]\ndocker-configs = [\"config.json\"]", "3:19: a file with credentials is an absolute path"),
            ("[credentials]\ndocker-helpers = \"bin\"", "3:18: the directory of the helpers is an absolute path"),
            ("[credentials]\nkubelet-providers = \"/p.yaml\"", "3:21: `kubelet-providers` (a file) and"),
            ("[credentials]\nkubelet-programs = \"/p\"", "3:20: `kubelet-providers` (a file) and"),
            ("[credentials]\npassword = \"x\"", "3:1: unknown key `password`"),
            (many.as_str(), "more than 8 paths"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(why), "{told}\n{why}");
        }
    }
}
