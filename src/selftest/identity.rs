//! Which containerd runs: what was seen of one process says nothing about another.

use std::{io::ErrorKind, time::Duration};

use tokio::time::sleep;

use super::Process;
use crate::{containerd::Containerd, node::process};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The process that listens on containerd's socket now; none when nobody does.
///
/// # Errors
/// When it cannot be told.
pub(super) async fn of(containerd: &Containerd) -> Result<Option<Process>, String> {
    match containerd.process().await {
        Ok(Some(pid)) => {
            let ticks = process::ticks(pid).ok_or_else(|| format!("process {pid} cannot be looked at"))?;
            Ok(Some(Process { pid, ticks }))
        }
        Ok(None) => Err("the kernel does not say who listens on containerd's socket".to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until containerd is another than `last`, or is gone: which it is now.
pub(super) async fn changed(containerd: &Containerd, last: Option<Process>) -> Option<Process> {
    loop {
        // What cannot be told is no change; whoever asks about a gate then looks again.
        match of(containerd).await {
            Ok(now) if now != last => return now,
            _ => sleep(LOOK).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::fake::{Answer, FakeContainerd};

    #[tokio::test]
    async fn it_is_noticed_when_containerd_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("containerd.sock");
        let containerd = Containerd::new(&socket);
        assert_eq!(of(&containerd).await, Ok(None));
        let fake = FakeContainerd::start_at(&socket, |_, _| Answer::missing());
        let here = changed(&containerd, None).await.unwrap();
        assert_eq!(here.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(of(&containerd).await, Ok(Some(here)));
        let other = Process { ticks: here.ticks + 1, ..here };
        assert_eq!(changed(&containerd, Some(other)).await, Some(here));
        drop(fake);
        assert_eq!(changed(&containerd, Some(here)).await, None);
    }
}
