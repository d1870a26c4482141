//! The kubelet's image credential providers: the same configuration, and the same exchange with the same programs
//! (Kubernetes, `kubelet.config.k8s.io/v1` and `credentialprovider.kubelet.k8s.io/v1`).
//!
//! A provider that needs a pod's service account is passed over: pullgate asks for the node.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Credential,
    pattern::{Pattern, closest},
    program::{Programs, Run},
    read,
};
use crate::{evidence::KubeletProviders, go_duration, image::Host, limits};

/// The providers, and what they answered.
pub(super) struct Kubelet {
    from: KubeletProviders,
    answers: Mutex<HashMap<Question, Held>>,
    /// One run for one question at a time.
    turns: moka::sync::Cache<Question, Arc<tokio::sync::Mutex<()>>>,
}

/// What an answer is kept under: the provider, and the image, the registry, or the empty text for any.
type Question = (String, String);

#[derive(Clone)]
struct Held {
    answer: Result<Arc<Answer>, String>,
    until: Instant,
}

/// By pattern.
type Answer = BTreeMap<String, Login>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<TokenAttributes>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenAttributes {
    #[serde(default)]
    require_service_account: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
}

// No `Debug` on what has secrets as they were written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<Answer>,
}

#[derive(Clone, Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Kubelet {
    pub(super) fn new(from: KubeletProviders) -> Self {
        Self { from, answers: Mutex::default(), turns: moka::sync::Cache::new(limits::CREDENTIALS as u64) }
    }

    /// The credential for the repository `path` at `host`, of the first provider that has one.
    pub(super) async fn credential(
        &self,
        programs: &Programs,
        host: &Host,
        path: &str,
    ) -> Result<Option<Credential>, String> {
        let document = read(&self.from.config).await.and_then(|text| Document::parse(&text));
        let document = document.map_err(|why| format!("{}: {why}", self.from.config.display()))?;
        for provider in document.providers.iter().filter(|provider| provider.is_about(host, path)) {
            let answer = self.answer(programs, provider, host, path).await?;
            let login = closest(answer.iter(), host, path).map(|(_, login)| login.clone());
            if let Some(found) = login.and_then(|login| Credential::of_user(login.username, login.password)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn answer(
        &self,
        programs: &Programs,
        provider: &Provider,
        host: &Host,
        path: &str,
    ) -> Result<Arc<Answer>, String> {
        let image = format!("{host}/{path}");
        if let Some(held) = self.held(provider, host, &image) {
            return held;
        }
        let turn = self.turns.get_with((provider.name.clone(), image.clone()), Arc::default);
        let _turn = turn.lock().await;
        // Somebody may have asked meanwhile.
        if let Some(held) = self.held(provider, host, &image) {
            return held;
        }
        let asked = provider.ask(&self.from.programs, programs, &image).await;
        let (key, life, answer) = match asked {
            Ok(told) => {
                let key = match told.key {
                    CacheKey::Image => image,
                    CacheKey::Registry => host.to_string(),
                    CacheKey::Global => String::new(),
                };
                (key, told.life, Ok(Arc::new(told.answer)))
            }
            Err(why) => (image, limits::HELPER_FAILED, Err(why)),
        };
        self.keep((provider.name.clone(), key), Held { answer: answer.clone(), until: Instant::now() + life });
        answer
    }

    fn held(&self, provider: &Provider, host: &Host, image: &str) -> Option<Result<Arc<Answer>, String>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        [image, host.as_str(), ""].into_iter().find_map(|key| {
            let held = answers.get(&(provider.name.clone(), key.to_owned()))?;
            (held.until > Instant::now()).then(|| held.answer.clone())
        })
    }

    fn keep(&self, question: Question, held: Held) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= limits::CREDENTIALS {
            let now = Instant::now();
            answers.retain(|_, held| held.until > now);
        }
        // What has no room is asked again.
        if answers.len() < limits::CREDENTIALS {
            answers.insert(question, held);
        }
    }
}

/// What one run said.
struct Told {
    key: CacheKey,
    life: Duration,
    answer: Answer,
}

#[derive(Clone, Copy)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const PROTOCOL: &str = "credentialprovider.kubelet.k8s.io/v1";

impl Document {
    fn parse(text: &str) -> Result<Self, String> {
        let document: Self = serde_saphyr::from_str(text).map_err(|error| {
            // The first line says where; those after it show the text around it.
            error.to_string().lines().next().unwrap_or_default().to_owned()
        })?;
        if document.kind != "CredentialProviderConfig" || !CONFIG_VERSIONS.contains(&document.api_version.as_str()) {
            return Err("no CredentialProviderConfig of kubelet.config.k8s.io/v1".to_owned());
        }
        let mut names = Vec::new();
        for provider in &document.providers {
            provider.check().map_err(|why| format!("provider `{}`: {why}", provider.name.escape_debug()))?;
            if names.contains(&&provider.name) {
                return Err(format!("two providers are called `{}`", provider.name));
            }
            names.push(&provider.name);
        }
        Ok(document)
    }
}

impl Provider {
    fn check(&self) -> Result<(), String> {
        let name = self.name.as_str();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.len() > limits::HELPER_CHARS || matches!(name, "" | "." | "..") || !name.bytes().all(plain) {
            return Err("`name` is the name of a program".to_owned());
        }
        if self.api_version != PROTOCOL {
            return Err(format!("`apiVersion` is not {PROTOCOL}"));
        }
        if self.match_images.is_empty() {
            return Err("`matchImages` is empty".to_owned());
        }
        if let Some(bad) = self.match_images.iter().find(|pattern| Pattern::parse(pattern).is_none()) {
            return Err(format!("`matchImages` has `{}`, which is no pattern", bad.escape_debug()));
        }
        if go_duration::parse(&self.default_cache_duration).is_none() {
            return Err("`defaultCacheDuration` is no duration, such as 12h".to_owned());
        }
        let mut variables = self.env.iter().flatten();
        match variables.any(|variable| variable.name.is_empty() || variable.name.contains(['=', '\0'])) {
            true => Err("`env` has a name that is none".to_owned()),
            false => Ok(()),
        }
    }

    fn is_about(&self, host: &Host, path: &str) -> bool {
        let needs_account = self.token_attributes.as_ref().and_then(|token| token.require_service_account);
        let mut patterns = self.match_images.iter().filter_map(|pattern| Pattern::parse(pattern));
        needs_account != Some(true) && patterns.any(|pattern| pattern.matches(host, path))
    }

    async fn ask(&self, directory: &Path, programs: &Programs, image: &str) -> Result<Told, String> {
        let request = Request { kind: "CredentialProviderRequest", api_version: PROTOCOL, image };
        let environment: Vec<(String, String)> =
            self.env.iter().flatten().map(|variable| (variable.name.clone(), variable.value.clone())).collect();
        let said = programs
            .run(Run {
                directory,
                name: &self.name,
                arguments: self.args.as_deref().unwrap_or_default(),
                environment: &environment,
                input: serde_json::to_vec(&request).map_err(|error| error.to_string())?,
            })
            .await?;
        let broken = |why: String| format!("{}: {why}", directory.join(&self.name).display());
        if !said.status.success() {
            return Err(broken(said.status.to_string()));
        }
        let unlike = || broken(format!("its answer is no CredentialProviderResponse of {PROTOCOL}"));
        let response: Response = serde_json::from_slice(&said.output).map_err(|_| unlike())?;
        if response.kind != "CredentialProviderResponse" || response.api_version != PROTOCOL {
            return Err(unlike());
        }
        let key = match response.cache_key_type.as_str() {
            "Image" => CacheKey::Image,
            "Registry" => CacheKey::Registry,
            "Global" => CacheKey::Global,
            _ => return Err(broken("`cacheKeyType` of its answer is not Image, Registry or Global".to_owned())),
        };
        let stated = response.cache_duration.as_deref().unwrap_or(&self.default_cache_duration);
        let stated = go_duration::parse(stated)
            .ok_or_else(|| broken("`cacheDuration` of its answer is no duration".to_owned()))?;
        let stated = stated.min(limits::CREDENTIAL_LIFE);
        // Asked again before it ends, not when somebody was refused with it.
        let life = stated.saturating_sub(limits::CREDENTIAL_SLACK.min(stated / 10));
        Ok(Told { key, life, answer: response.auth.unwrap_or_default() })
    }
}

#[cfg(test)]
impl Kubelet {
    pub(super) fn keep_for_test(&self, image: String) {
        let until = Instant::now() + Duration::from_secs(60);
        self.keep(("plugin".to_owned(), image), Held { answer: Ok(Arc::default()), until });
    }

    pub(super) fn kept(&self) -> usize {
        self.answers.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kubelet_refuses_is_refused() {
        let good = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: ecr\n  \
                    matchImages: [\"*.amazonaws.com\"]\n  defaultCacheDuration: 12h\n  apiVersion: \
                    credentialprovider.kubelet.k8s.io/v1\n  args: [get]\n  env: [{name: A, value: b}]\n";
        assert!(Document::parse(good).is_ok());
        for (from, to, why) in [
            ("kind: Cred", "kind: Xred", "no CredentialProviderConfig"),
            ("config.k8s.io/v1", "config.k8s.io/v9", "no CredentialProviderConfig"),
            ("name: ecr", "name: ../ecr", "`name`"),
            ("name: ecr", "name: \"\"", "`name`"),
            ("name: ecr", "name: a/b", "`name`"),
            ("provider.kubelet.k8s.io/v1", "provider.kubelet.k8s.io/v1alpha1", "`apiVersion`"),
            ("[\"*.amazonaws.com\"]", "[]", "`matchImages`"),
            ("[\"*.amazonaws.com\"]", "[\"a b\"]", "`matchImages`"),
            ("12h", "soon", "`defaultCacheDuration`"),
            ("12h", "-1h", "`defaultCacheDuration`"),
            ("name: A", "name: A=", "`env`"),
            ("kind:", "kind: [", "line"),
        ] {
            let told = Document::parse(&good.replacen(from, to, 1)).err().unwrap_or_default();
            assert!(told.contains(why), "{to}: {told}");
        }
        for bad in [
            "env: hunter2",
            "env: [hunter2]",
            "env: [{name: A, value: [hunter2]}]",
            "env: {hunter2: hunter2}",
            "env: [{name: A, value: hunter2, value: hunter2}]",
            "env: [{name: A, value: \"hunter2]",
            "env: *hunter2",
            "env: !!int hunter2",
        ] {
            let told = Document::parse(&good.replace("env: [{name: A, value: b}]", bad)).err().unwrap_or_default();
            assert!(!told.contains("hunter2"), "{told}");
        }
        let twice = format!("{good}{}", good.split_once("providers:\n").unwrap().1);
        assert!(Document::parse(&twice).err().unwrap().contains("two providers"));
        assert!(
            !Document::parse(&format!("{good}  tokenAttributes: {{requireServiceAccount: true}}\n")).unwrap().providers
                [0]
            .is_about(&"a.amazonaws.com".parse().unwrap(), "x")
        );
    }

    #[test]
    fn no_mistake_is_told_with_what_may_be_a_secret() {
        let provider = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  \
                        matchImages: [reg.io]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";
        for more in [
            "  env: hunter2",
            "  env: [hunter2]",
            "  env:\n  - name: TOKEN\n    value: hunter2\n    value: hunter2",
            "  env:\n  - name: TOKEN\n    value: [hunter2]",
            "  env:\n  - name: TOKEN\n    value: *hunter2",
            "  env:\n  - name: TOKEN\n    value: \"hunter2",
            "  env:\n  - name: TOKEN\n    value: !!int hunter2",
            "  args: hunter2",
            "  args: [hunter2",
            "  tokenAttributes: hunter2",
            "  env:\n  - name: TOKEN=hunter2\n    value: x",
        ] {
            let told = Document::parse(&format!("{provider}{more}\n")).err().expect(more);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
