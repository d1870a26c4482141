//! `break-glass.sock`: root on this node makes, lists and ends passes. One question as JSON, one answer.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    Report, Shown, Who, machine,
    passes::{Passes, Refused, Wanted},
};
use crate::{activation::Activation, audit::Journal, limits};

/// The name of the socket in the directory of the sockets.
pub const SOCKET: &str = "break-glass.sock";
/// Time for the daemon to answer, which may just be starting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES: u64 = 1 << 20;

/// What root asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Question {
    /// A pass.
    Make {
        /// A digest or a pattern.
        scope: String,
        /// For how many seconds.
        seconds: u64,
        /// Why.
        reason: String,
    },
    /// The end of one.
    End {
        /// Its number.
        id: String,
    },
    /// Those in force.
    List,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is in force.
    Made(Shown),
    /// It is over.
    Ended(Shown),
    /// What there is.
    List(Report),
    /// It was asked for wrongly.
    Usage(String),
    /// It could not be done.
    Trouble(String),
}

/// Who serves the socket.
pub struct Service {
    /// The passes.
    pub passes: Arc<Passes>,
    /// What says how long one may be.
    pub activation: Arc<Activation>,
    /// The configuration, as a person is told where that stands.
    pub config: PathBuf,
    /// The audit.
    pub journal: Arc<Journal>,
}

impl Service {
    /// Serves `listener`, one question at a time.
    pub async fn serve(self, listener: UnixListener) {
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("the socket of break-glass cannot be served: {error}"),
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.attend(stream).await,
                Err(error) => {
                    tracing::warn!("a connection to break-glass failed: {error}");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn attend(&self, mut stream: tokio::net::UnixStream) {
        let answer = match who(&stream) {
            Some(who) if who.uid == 0 => match receive(&mut stream).await {
                Ok(question) => self.answer(question, who).await,
                Err(why) => Answer::Usage(why),
            },
            _ => Answer::Trouble("only root on this node breaks the glass".to_owned()),
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        // Who went away or does not read has itself to blame.
        let _ = timeout(limits::VERIFIER_PATIENCE, stream.write_all(&text)).await;
    }

    async fn answer(&self, question: Question, who: Who) -> Answer {
        let outcome = match question {
            Question::List => return Answer::List(self.passes.report()),
            Question::End { id } => self.passes.end(&id, who, &self.journal).await.map(Answer::Ended),
            Question::Make { scope, seconds, reason } => {
                let snapshot = self.activation.current().await;
                let wanted = Wanted { scope: &scope, length: Duration::from_secs(seconds), reason: &reason, who };
                let config = &snapshot.config.break_glass;
                self.passes.make(wanted, config, &self.config, &self.journal).await.map(Answer::Made)
            }
        };
        outcome.unwrap_or_else(|refused| match refused {
            Refused::Usage(why) => Answer::Usage(why),
            Refused::Trouble(why) => Answer::Trouble(why),
        })
    }
}

/// Who is on the other end of `stream`, as the kernel says (unix(7), SO_PEERCRED).
fn who(stream: &tokio::net::UnixStream) -> Option<Who> {
    let credentials = stream.peer_cred().ok()?;
    let process = getsockopt(stream, sockopt::PeerPidfd).ok();
    let login = credentials.pid().and_then(machine::login);
    // While it runs nobody else has its number. A process that has ended is readable (pidfd_open(2)).
    let runs = process
        .is_none_or(|process| poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0));
    Some(Who { uid: credentials.uid(), login: login.filter(|_| runs) })
}

async fn receive(stream: &mut tokio::net::UnixStream) -> Result<Question, String> {
    let mut bytes = Vec::new();
    let mut bounded = stream.take(limits::BREAK_GLASS_QUESTION + 1);
    match timeout(limits::VERIFIER_PATIENCE, bounded.read_to_end(&mut bytes)).await {
        Ok(Ok(_)) if bytes.len() as u64 > limits::BREAK_GLASS_QUESTION => {
            Err(format!("the question has more than {} bytes", limits::BREAK_GLASS_QUESTION))
        }
        Ok(Ok(_)) => serde_json::from_slice(&bytes).map_err(|error| format!("the question cannot be read: {error}")),
        Ok(Err(error)) => Err(format!("the question did not arrive: {error}")),
        Err(_) => Err("the question did not arrive in time".to_owned()),
    }
}

/// Asks the daemon whose sockets are in `runtime`.
///
/// # Errors
/// When it does not answer, or in a way that is not known.
pub fn ask(runtime: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(runtime.join(SOCKET))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let text = serde_json::to_vec(question)?;
    // The daemon may have said why it does not read on.
    let _ = stream.write_all(&text).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(io::Error::from)
}
