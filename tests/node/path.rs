//! Every way by which an image reaches a node, and what became of it.

use std::fmt;

use super::{
    Image, Node, Result, Suite,
    cri::{self, AuthConfig},
    registry::Published,
};

/// A way to bring an image onto a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    CriPull,
    /// By containerd's transfer service.
    CtrPull,
    /// By the client itself, with the diff service.
    CtrPullLocal,
    /// By containerd's transfer service.
    CtrImport,
    /// By the client itself, with the diff service.
    CtrImportLocal,
    DockerPull,
    DockerLoad,
}

impl Path {
    /// The ways that a suite's node has. The transfer service of containerd 1.7 pulls over HTTPS only.
    pub fn of(suite: Suite) -> &'static [Self] {
        match suite {
            Suite::Trixie => &[Self::CriPull, Self::CtrPullLocal, Self::CtrImport, Self::CtrImportLocal],
            Suite::Forky => &[
                Self::CriPull,
                Self::CtrPull,
                Self::CtrPullLocal,
                Self::CtrImport,
                Self::CtrImportLocal,
                Self::DockerPull,
                Self::DockerLoad,
            ],
        }
    }

    /// The ways on which containerd asks an image verifier first: from 2.0 on.
    pub fn verified(suite: Suite) -> &'static [Self] {
        match suite {
            Suite::Trixie => &[],
            Suite::Forky => &[Self::CriPull, Self::CtrPull],
        }
    }

    /// As a person types it on a node of that suite.
    pub fn name(self, suite: Suite) -> &'static str {
        match (self, suite) {
            (Self::CriPull, _) => "CRI PullImage",
            (Self::CtrPull, _) | (Self::CtrPullLocal, Suite::Trixie) => "ctr pull",
            (Self::CtrPullLocal, Suite::Forky) => "ctr pull --local",
            (Self::CtrImport, Suite::Forky) | (Self::CtrImportLocal, Suite::Trixie) => "ctr import",
            (Self::CtrImport, Suite::Trixie) => "ctr import --local=false",
            (Self::CtrImportLocal, Suite::Forky) => "ctr import --local",
            (Self::DockerPull, _) => "docker pull",
            (Self::DockerLoad, _) => "docker load",
        }
    }

    /// The containerd namespace that it brings the image into.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::CriPull => "k8s.io",
            Self::CtrPull | Self::CtrPullLocal | Self::CtrImport | Self::CtrImportLocal => "default",
            Self::DockerPull | Self::DockerLoad => "moby",
        }
    }

    /// Whether the image comes in an archive, which chooses its own name.
    pub fn is_archive(self) -> bool {
        matches!(self, Self::CtrImport | Self::CtrImportLocal | Self::DockerLoad)
    }
}

/// What became of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client succeeded, and the image is unpacked.
    Admitted,
    /// The client failed with pullgate's message, and nothing of the image is unpacked.
    Refused {
        /// `DENY` or `RETRY`.
        word: String,
        /// `PGnnn`.
        code: String,
        message: String,
    },
    /// The client failed with words that are not pullgate's, and nothing of the image is unpacked.
    Failed(String),
    /// The client succeeded, and the image is not unpacked.
    NotUnpacked,
    /// The client failed, and the image is unpacked.
    Broken(String),
}

const ARCHIVE: &str = "/var/tmp/image.tar";

impl Outcome {
    pub fn is_admitted(&self) -> bool {
        *self == Self::Admitted
    }

    /// What the client said, where that is known.
    pub fn told(&self) -> String {
        match self {
            Self::Refused { message, .. } | Self::Failed(message) | Self::Broken(message) => message.clone(),
            other => other.to_string(),
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("admitted"),
            Self::Refused { word, code, .. } => write!(f, "{word} {code}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::NotUnpacked => f.write_str("called a success, and not unpacked"),
            Self::Broken(why) => write!(f, "unpacked, though the client failed: {why}"),
        }
    }
}

impl Node {
    /// Brings `image` onto the node by `path`, and says what became of it. What is there already (see
    /// [`Node::clean`]) is not unpacked again, and no gate is asked.
    ///
    /// # Errors
    /// Where the harness itself fails; a client that fails is an [`Outcome`].
    pub fn bring(&self, path: Path, image: &Published) -> Result<Outcome> {
        let answer = self.ask(path, image)?;
        let unpacked = self.unpacked(path.namespace(), &image.image.chain())?;
        Ok(judge(answer, unpacked))
    }

    /// As [`Node::bring`] by CRI, with a pod's secret for the registry.
    ///
    /// # Errors
    /// As [`Node::bring`].
    pub fn bring_with_secret(&self, image: &Published, secret: AuthConfig) -> Result<Outcome> {
        let answer = cri::pull_image(&self.containerd_socket(), &image.name, Some(secret))?;
        let unpacked = self.unpacked(Path::CriPull.namespace(), &image.image.chain())?;
        Ok(judge(answer.map(drop).map_err(|status| status.to_string()), unpacked))
    }

    fn ask(&self, path: Path, image: &Published) -> Result<std::result::Result<(), String>> {
        let name = image.name.as_str();
        let output = match path {
            Path::CriPull => {
                let answer = cri::pull_image(&self.containerd_socket(), name, None)?;
                return Ok(answer.map(drop).map_err(|status| status.to_string()));
            }
            Path::CtrPull => self.run(&["ctr", "images", "pull", "--plain-http", name])?,
            Path::CtrPullLocal => self.run(&["ctr", "images", "pull", "--local", "--plain-http", name])?,
            Path::DockerPull => self.run(&["docker", "pull", "--quiet", name])?,
            Path::CtrImport | Path::CtrImportLocal | Path::DockerLoad => {
                self.write(ARCHIVE, image.archive()?)?;
                return self.import_archive(path);
            }
        };
        Ok(if output.success() { Ok(()) } else { Err(output.text()) })
    }

    /// Imports an archive that lies on the node by a path for archives, and says what became of `image`.
    ///
    /// # Errors
    /// As [`Node::bring`].
    pub fn import(&self, path: Path, archive: &[u8], image: &Image) -> Result<Outcome> {
        self.write(ARCHIVE, archive)?;
        let answer = self.import_archive(path)?;
        Ok(judge(answer, self.unpacked(path.namespace(), &image.chain())?))
    }

    fn import_archive(&self, path: Path) -> Result<std::result::Result<(), String>> {
        let output = match path {
            Path::CtrImport => self.run(&["ctr", "images", "import", "--local=false", ARCHIVE])?,
            Path::CtrImportLocal => self.run(&["ctr", "images", "import", "--local", ARCHIVE])?,
            Path::DockerLoad => return self.docker_load(),
            other => return Err(format!("{other:?} takes no archive").into()),
        };
        Ok(if output.success() { Ok(()) } else { Err(output.text()) })
    }

    /// `docker load` keeps the name of an image that it could not unpack, says so, and calls that a success.
    fn docker_load(&self) -> Result<std::result::Result<(), String>> {
        let output = self.run(&["docker", "load", "--quiet", "--input", ARCHIVE])?;
        let unpacked = !output.text().contains("Error unpacking image");
        Ok(if output.success() && unpacked { Ok(()) } else { Err(output.text()) })
    }

    /// Starts docker with containerd's image store.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start_docker(&self) -> Result<()> {
        self.write("/etc/docker/daemon.json", DOCKER)?;
        self.run(&["systemctl", "start", "docker.service"])?.ok()?;
        Ok(())
    }
}

/// Neither a bridge nor packet filters: the node has only loopback.
const DOCKER: &str =
    r#"{"features":{"containerd-snapshotter":true},"iptables":false,"ip6tables":false,"bridge":"none"}"#;

/// What became of an image of which a client said this.
pub fn judge(answer: std::result::Result<(), String>, unpacked: bool) -> Outcome {
    match (answer, unpacked) {
        (Ok(()), true) => Outcome::Admitted,
        (Ok(()), false) => Outcome::NotUnpacked,
        (Err(message), true) => Outcome::Broken(message),
        (Err(message), false) => match refusal(&message) {
            Some((word, code)) => Outcome::Refused { word, code, message },
            None => Outcome::Failed(message),
        },
    }
}

/// The verdict and the code in a client's error text.
fn refusal(message: &str) -> Option<(String, String)> {
    let words: Vec<&str> = message.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    words.windows(2).find_map(|pair| match pair {
        [word @ ("DENY" | "RETRY"), code] if code.starts_with("PG") => Some(((*word).to_owned(), (*code).to_owned())),
        _ => None,
    })
}
