//! The sandbox image: without it no pod starts, static pods included. Whether it is in the boot list is looked at when
//! the daemon starts, whenever the files are read, after each restart of containerd, and when somebody asks for the status.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};
use tonic::Code;

use super::{
    essentials::resolve,
    process::{CONFIG_OPTIONS, argument},
    program::printed,
};
use crate::{boot::BootList, containerd::Containerd, cri::Cri, image::Digest, limits};

/// What is known about the sandbox image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Sandbox {
    /// This containerd serves no pods.
    NoPods,
    /// It is in the boot list.
    Listed {
        /// Its name.
        image: String,
    },
    /// It is not: an alarm.
    NotListed {
        /// Its name.
        image: String,
        /// Its digest on this node.
        digest: Digest,
    },
    /// It is not on the node, so its digest is not known yet.
    NotHere {
        /// Its name.
        image: String,
    },
    /// containerd could not be asked.
    Unknown {
        /// Why.
        why: String,
    },
}

impl Sandbox {
    /// Whether a broken policy would keep every pod from starting.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::NotListed { .. })
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = |image: &str| crate::image::sanitize(image, limits::AUDIT_WORD_CHARS);
        match self {
            Self::NoPods => f.write_str("containerd serves no pods"),
            Self::Listed { image: name } => write!(f, "sandbox image {} is in the boot list", image(name)),
            Self::NotListed { image: name, digest } => write!(
                f,
                "sandbox image {} is not in the boot list: after a broken policy no pod would start; run `pullgate \
                 boot-list --write` or add {digest} to /etc/pullgate/boot.d, then `systemctl reload pullgate`",
                image(name)
            ),
            Self::NotHere { image: name } => write!(
                f,
                "sandbox image {} is not on the node yet, hence not in the boot list; once it is, run `pullgate \
                 boot-list --write`",
                image(name)
            ),
            Self::Unknown { why } => {
                write!(f, "the sandbox image is not known: {}", crate::image::sanitize(why, limits::AUDIT_WORD_CHARS))
            }
        }
    }
}

/// Keeps an eye on the sandbox image, and logs whatever changes about it once.
pub struct SandboxWatch {
    containerd: Arc<Containerd>,
    last: Mutex<Option<Sandbox>>,
}

impl SandboxWatch {
    /// A watch on what `containerd` starts pods with. Looks at nothing yet.
    pub fn new(containerd: Arc<Containerd>) -> Self {
        Self { containerd, last: Mutex::default() }
    }

    /// What was seen last.
    pub fn last(&self) -> Option<Sandbox> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again, for [`limits::SANDBOX_LOOK`] at most, and says whether anything changed.
    pub async fn look(&self, boot: &BootList) -> (Sandbox, bool) {
        let late = || Sandbox::Unknown { why: "containerd does not answer".to_owned() };
        let now = timeout(limits::SANDBOX_LOOK, state(&self.containerd, boot)).await.unwrap_or_else(|_| late());
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(now.clone());
        let changed = before.as_ref() != Some(&now);
        if changed {
            match &now {
                Sandbox::NotListed { .. } | Sandbox::NotHere { .. } => tracing::warn!("{now}"),
                _ => tracing::info!("{now}"),
            }
        }
        (now, changed)
    }
}

async fn state(containerd: &Containerd, boot: &BootList) -> Sandbox {
    let image = match configured(containerd).await {
        Ok(Some(image)) => image,
        Ok(None) => return Sandbox::NoPods,
        Err(why) => return Sandbox::Unknown { why },
    };
    match resolve(containerd, &image).await {
        Ok(Some(digest)) if boot.contains(&digest) => Sandbox::Listed { image },
        Ok(Some(digest)) => Sandbox::NotListed { image, digest },
        Ok(None) => Sandbox::NotHere { image },
        Err(why) => Sandbox::Unknown { why },
    }
}

/// Why no pod can be started without fetching anything; none when the sandbox image is on the node.
pub async fn missing(containerd: &Containerd) -> Option<String> {
    match configured(containerd).await {
        Ok(Some(image)) => match resolve(containerd, &image).await {
            Ok(Some(_)) => None,
            Ok(None) => Some(Sandbox::NotHere { image }.to_string()),
            Err(why) => Some(why),
        },
        Ok(None) => Some(Sandbox::NoPods.to_string()),
        Err(why) => Some(why),
    }
}

/// The image that containerd is configured to start every pod with, as it is written there. None when containerd serves
/// no pods.
///
/// containerd 1.7 tells it by its API; 2.x only by `containerd config dump`, hence as the files say now, which is what
/// holds after its next restart.
///
/// # Errors
/// When containerd did not say.
pub async fn configured(containerd: &Containerd) -> Result<Option<String>, String> {
    match Cri::of(containerd).info().await {
        Err(status) if status.code() == Code::Unimplemented => return Ok(None),
        Err(status) => return Err(format!("containerd: {}", status.message())),
        Ok(info) => {
            if let Some(image) = info.get("config").and_then(|config| of_runtime_config(config)) {
                return Ok(Some(image));
            }
        }
    }
    of_configuration(&configuration(containerd).await?).map(Some)
}

fn of_runtime_config(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RuntimeConfig {
        sandbox_image: Option<String>,
    }
    serde_json::from_str::<RuntimeConfig>(json).ok()?.sandbox_image.filter(|image| !image.is_empty())
}

/// containerd's configuration with all its defaults and drop-ins, as containerd's own program prints it.
async fn configuration(containerd: &Containerd) -> Result<String, String> {
    let process = containerd.process().await.map_err(|error| format!("containerd: {error}"))?;
    let process = process.ok_or("containerd's process is not known")?;
    let (program, file) = started_as(process)?;
    dumped(&program, file).await
}

/// What `PROGRAM config dump` prints.
async fn dumped(program: &Path, file: Option<String>) -> Result<String, String> {
    let mut command = Command::new(program);
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    command.args(["config", "dump"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let said = |why: &dyn fmt::Display| format!("{} config dump: {why}", program.display());
    let (bytes, ended) = printed(&mut command, limits::CONTAINERD_CONFIG_BYTES).await.map_err(|why| said(&why))?;
    match ended.success() {
        true => String::from_utf8(bytes).map_err(|error| said(&error)),
        false => Err(said(&ended)),
    }
}

/// The program and the configuration file that the process was started with.
fn started_as(process: i32) -> Result<(PathBuf, Option<String>), String> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).map_err(|error| format!("containerd: {error}"))?;
    let words: Vec<String> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into()).collect();
    // The link needs more rights than the daemon has, and names a file that an upgrade took away.
    let link = std::fs::read_link(format!("/proc/{process}/exe")).ok();
    let written = words.first().map(PathBuf::from);
    let program = [written, link].into_iter().flatten().find(|path| path.is_absolute() && path.is_file());
    Ok((program.ok_or("containerd's program is not known")?, argument(&words, &CONFIG_OPTIONS).map(str::to_owned)))
}

/// The sandbox image of a complete configuration, of version 2 or later.
fn of_configuration(text: &str) -> Result<String, String> {
    let table: toml::Table = text.parse().map_err(|_| "containerd's configuration is not TOML")?;
    let at = |path: &[&str]| {
        let first = table.get(*path.first()?)?;
        path.iter().skip(1).try_fold(first, |value, key| value.get(*key))?.as_str().map(str::to_owned)
    };
    at(&["plugins", "io.containerd.cri.v1.images", "pinned_images", "sandbox"])
        .or_else(|| at(&["plugins", "io.containerd.grpc.v1.cri", "sandbox_image"]))
        .filter(|image| !image.is_empty())
        .ok_or_else(|| "containerd's configuration names no sandbox image".to_owned())
}

#[cfg(test)]
mod tests {
    use containerd_client::{
        services::v1::{GetImageResponse, Image},
        types::Descriptor,
    };

    use super::*;
    use crate::{
        containerd::fake::{Answer, FakeContainerd},
        cri::StatusResponse,
    };

    /// A containerd 1.7 that starts pods with `reg.io/pause:3`, which is on the node if `here`.
    fn containerd(here: bool) -> FakeContainerd {
        FakeContainerd::start(move |method, _| match method {
            "RuntimeService/Status" => {
                let config = r#"{"sandboxImage":"reg.io/pause:3"}"#.to_owned();
                Answer::message(&StatusResponse { info: [("config".to_owned(), config)].into() })
            }
            "Images/Get" if here => {
                let target = Descriptor { digest: Digest::of(b"pause").to_string(), ..Descriptor::default() };
                Answer::message(&GetImageResponse { image: Some(Image { target: Some(target), ..Image::default() }) })
            }
            _ => Answer::missing(),
        })
    }

    #[tokio::test]
    async fn what_is_not_listed_is_an_alarm_and_each_change_is_told() {
        let image = || "reg.io/pause:3".to_owned();
        let digest = Digest::of(b"pause");
        let fake = containerd(true);
        let watch = SandboxWatch::new(fake.client());
        for (boot, expected, changes) in [
            (BootList::default(), Sandbox::NotListed { image: image(), digest }, true),
            ([Digest::of(b"other")].into(), Sandbox::NotListed { image: image(), digest }, false),
            ([digest].into(), Sandbox::Listed { image: image() }, true),
            (BootList::default(), Sandbox::NotListed { image: image(), digest }, true),
        ] {
            assert_eq!(watch.look(&boot).await, (expected, changes));
        }
        let fake = containerd(false);
        let (seen, _) = SandboxWatch::new(fake.client()).look(&[digest].into()).await;
        assert_eq!(seen, Sandbox::NotHere { image: image() });
        let unknown = FakeContainerd::start(|_, _| Answer::Error(tonic::Status::unimplemented("no such service")));
        let (seen, _) = SandboxWatch::new(unknown.client()).look(&BootList::default()).await;
        assert_eq!(seen, Sandbox::NoPods);
    }

    #[tokio::test]
    async fn a_configuration_of_any_size_is_bounded() {
        let dumped =
            async |program: &str, file: Option<&str>| dumped(Path::new(program), file.map(str::to_owned)).await;
        assert_eq!(dumped("/bin/echo", None).await.unwrap(), "config dump\n");
        assert_eq!(dumped("/bin/echo", Some("/a")).await.unwrap(), "--config /a config dump\n");
        let limit = limits::CONTAINERD_CONFIG_BYTES;
        assert!(dumped("/usr/bin/yes", None).await.unwrap_err().contains(&format!("more than {limit} bytes")));
        assert!(dumped("/bin/false", None).await.unwrap_err().contains("exit status"));
        assert!(dumped("/nonexistent", None).await.is_err());
    }

    #[test]
    fn containerd_tells_it_in_one_place_or_another() {
        let old = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"reg.io/pause:3.8\"\n";
        let new = "version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'reg.io/pause:3.10'\n";
        assert_eq!(of_configuration(old).unwrap(), "reg.io/pause:3.8");
        assert_eq!(of_configuration(&format!("{new}{}", &old[12..])).unwrap(), "reg.io/pause:3.10");
        let empty = new.replace("reg.io/pause:3.10", "");
        for text in ["", "version = 3", "plugins = 1", "[plugins]\n\"io.containerd.cri.v1.images\" = []", "x", &empty] {
            assert!(of_configuration(text).is_err(), "{text}");
        }
        assert_eq!(of_runtime_config("{\"a\":[],\"sandboxImage\":\"reg.io/pause:3.8\"}").unwrap(), "reg.io/pause:3.8");
        for json in ["", "null", "{}", "{\"sandboxImage\":\"\"}", "{\"sandboxImage\":1}"] {
            assert_eq!(of_runtime_config(json), None, "{json}");
        }
    }

    #[test]
    fn the_configuration_file_is_the_one_that_containerd_was_started_with() {
        let (program, file) = started_as(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(program.is_file() && file.is_none());
        assert!(started_as(-1).is_err());
    }

    #[tokio::test]
    async fn without_containerd_nothing_is_known_and_that_is_no_alarm() {
        let watch = SandboxWatch::new(Arc::new(Containerd::new(Path::new("/nonexistent/containerd.sock"))));
        assert_eq!(watch.last(), None);
        let (seen, changed) = watch.look(&BootList::default()).await;
        assert!(matches!(seen, Sandbox::Unknown { .. }) && changed && !seen.is_alarm(), "{seen}");
        assert!(!watch.look(&BootList::default()).await.1);
        assert_eq!(watch.last(), Some(seen));
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_does_not_answer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("containerd.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let (seen, _) = SandboxWatch::new(Arc::new(Containerd::new(&socket))).look(&BootList::default()).await;
        assert_eq!(seen, Sandbox::Unknown { why: "containerd does not answer".to_owned() });
    }

    #[test]
    fn an_alarm_says_what_to_do() {
        let digest = Digest::of(b"pause");
        let alarm = Sandbox::NotListed { image: "reg.io/pause:3.10\n".to_owned(), digest };
        let text = alarm.to_string();
        assert!(alarm.is_alarm() && text.contains(&digest.to_string()) && !text.contains('\n'), "{text}");
        assert!(text.starts_with("sandbox image reg.io/pause:3.10? is not in the boot list"), "{text}");
        assert!(!Sandbox::NotHere { image: String::new() }.is_alarm());
    }
}
