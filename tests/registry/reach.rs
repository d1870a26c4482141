//! How a node reaches registries: what its files say, for the tests.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use pullgate::evidence::{
    CredentialSources, RegistryOptions,
    registry::{Bounds, Registry},
};

use super::hostile::Authority;

/// A node's files about registries.
pub(super) struct Files {
    folder: tempfile::TempDir,
    pub(super) options: RegistryOptions,
}

impl Files {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host_directories = vec![folder.path().join("certs.d")];
        Self { options: RegistryOptions { host_directories, ..RegistryOptions::default() }, folder }
    }

    /// With the certificate of `authority` in `ca.pem`.
    pub(super) fn trusting(authority: &Authority) -> Self {
        let files = Self::new();
        files.write("ca.pem", authority.pem(), 0o644);
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// The `hosts.toml` of `host`, in which `{ca}` is the authority's file.
    pub(super) fn hosts(&self, host: &str, text: &str) {
        let (name, port) = host.rsplit_once(':').unwrap();
        let ca = self.path("ca.pem").display().to_string();
        self.write(&format!("certs.d/{name}_{port}_/hosts.toml"), &text.replace("{ca}", &ca), 0o644);
    }

    /// A `config.json` like docker's.
    pub(super) fn docker(&mut self, text: &str) {
        let file = self.write("config.json", text, 0o600);
        let helpers = Some(self.folder.path().to_owned());
        self.options.credentials = CredentialSources { docker: vec![file], helpers, kubelet: None };
    }

    /// The password `hunter2` of `user` for `hosts`.
    pub(super) fn logins(&mut self, hosts: &[&str]) {
        let entry = |host: &&str| format!(r#""{host}":{{"username":"user","password":"hunter2"}}"#);
        let entries: Vec<String> = hosts.iter().map(entry).collect();
        self.docker(&format!(r#"{{"auths":{{{}}}}}"#, entries.join(",")));
    }

    pub(super) fn client(&self, bounds: Bounds) -> Registry {
        Registry::with_bounds(self.options.clone(), bounds)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}
