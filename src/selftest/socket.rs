//! `selftest.sock`: whoever connects, and only root can, gets one run and its report as JSON.

use std::{
    io::{self, Read as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::timeout};

use super::{Report, SelfTest};
use crate::limits;

/// The name of the socket in the directory of the sockets.
pub const SOCKET: &str = "selftest.sock";
/// Time for a reader to take the report.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a report.
const REPORT_BYTES: u64 = 1 << 20;

impl SelfTest {
    /// Serves `listener`. Nothing is ever read from a connection.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("the socket of the self-test cannot be served: {error}"),
        };
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let this = self.clone();
                    tokio::spawn(async move {
                        let text = match this.request().await {
                            Ok(report) => serde_json::to_vec_pretty(&report).unwrap_or_default(),
                            // No report, hence no JSON.
                            Err(why) => why.as_bytes().to_vec(),
                        };
                        // A reader that went away or does not read has itself to blame.
                        let _ = timeout(PATIENCE, stream.write_all(&[&text[..], b"\n"].concat())).await;
                    });
                }
                Err(error) => {
                    tracing::warn!("a connection to the self-test failed: {error}");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        }
    }
}

/// Has the daemon whose sockets are in `runtime` run a self-test, and waits for its report.
///
/// # Errors
/// When it does not answer within [`limits::SELF_TEST`] and a little more, or cannot run one.
pub fn ask(runtime: &Path) -> Result<Report, String> {
    let told = |error: io::Error| error.to_string();
    let stream = UnixStream::connect(runtime.join(SOCKET)).map_err(told)?;
    // Another may be under way.
    stream.set_read_timeout(Some(2 * limits::SELF_TEST)).map_err(told)?;
    let mut text = String::new();
    stream.take(REPORT_BYTES).read_to_string(&mut text).map_err(told)?;
    serde_json::from_str(&text).map_err(|_| crate::image::sanitize(text.trim(), limits::MESSAGE_CHARS))
}
