//! The operational log: what the daemon does, apart from what it decides (that is [`crate::audit`]).
//!
//! Lines go through a bounded queue to a thread of their own, because journald can make a writer wait.
//! What does not fit is dropped and counted; the daemon never waits for its log.

use std::{
    fmt::{self, Write as _},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use tracing::{
    Dispatch, Event, Metadata, Subscriber,
    field::{Field, Visit},
    subscriber::SetGlobalDefaultError,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
};

use crate::limits;

/// The running log. Dropping it waits a moment for the lines that are still queued.
pub struct Log {
    dropped: Arc<AtomicU64>,
    lines: mpsc::SyncSender<Order>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// No thread could be started.
    #[error("log thread: {0}")]
    Thread(#[from] io::Error),
    /// The process has a log already.
    #[error(transparent)]
    Twice(#[from] SetGlobalDefaultError),
}

impl Log {
    /// Starts the log of this process: to journald where systemd connected standard error to it, else
    /// to standard error. `filter` is in the form of `tracing_subscriber::EnvFilter`, such as `info`.
    ///
    /// # Errors
    /// When the filter cannot be read, or the process has a log already.
    pub fn start(filter: &str) -> Result<Self, LogError> {
        let (queue, log) = Queue::to(sink())?;
        let filter = EnvFilter::builder().parse(filter)?;
        tracing::subscriber::set_global_default(Registry::default().with(queue.with_filter(filter)))?;
        Ok(log)
    }

    /// Lines that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.lines.try_send(Order::Flush(done)).is_ok() {
            // Whether in time or not, the process goes on to its end.
            let _ = flushed.recv_timeout(limits::LOG_FLUSH);
        }
    }
}

enum Order {
    Line { metadata: &'static Metadata<'static>, text: String },
    Flush(mpsc::SyncSender<()>),
}

/// The layer that every event of the process goes through.
struct Queue {
    lines: mpsc::SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn to(sink: Dispatch) -> io::Result<(Self, Log)> {
        let (lines, orders) = mpsc::sync_channel(limits::LOG_QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || tracing::dispatcher::with_default(&sink, || write(&orders, &lost)))?;
        Ok((Self { lines: lines.clone(), dropped: Arc::clone(&dropped) }, Log { dropped, lines }))
    }
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let line = Order::Line { metadata: event.metadata(), text: text.0 };
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(orders: &mpsc::Receiver<Order>, dropped: &AtomicU64) {
    let mut said = 0;
    for order in orders {
        match order {
            Order::Line { metadata, text } => say(metadata, &text),
            Order::Flush(done) => {
                // Nobody waits any more: nothing to do.
                let _ = done.try_send(());
            }
        }
        let now = dropped.load(Ordering::Relaxed);
        if now > said {
            tracing::warn!("{} log lines were dropped: journald was slow", now - said);
            said = now;
        }
    }
}

/// Sends the line on under the place in the source where it was written.
fn say(metadata: &'static Metadata<'static>, text: &str) {
    let fields = metadata.fields();
    let Some(field) = fields.field("message").or_else(|| fields.iter().next()) else { return };
    // An event without a message is said under its first field, which the sink names again.
    let text = match field.name() {
        "message" => text,
        name => text.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).unwrap_or(text),
    };
    Event::dispatch(metadata, &fields.value_set(&[(&field, Some(&format_args!("{text}") as &dyn tracing::Value))]));
}

/// `message key=value key=value`, clipped.
struct Text(String);

impl Text {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.0.len() >= limits::LOG_LINE_BYTES {
            return;
        }
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value}"),
            name => write!(self.0, "{separator}{name}={value}"),
        };
        self.0.truncate(self.0.floor_char_boundary(limits::LOG_LINE_BYTES));
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

fn sink() -> Dispatch {
    if connected_to_journald() {
        match tracing_journald::layer() {
            Ok(layer) => {
                let layer = layer.with_syslog_identifier("pullgate".to_owned());
                return Registry::default().with(layer).into();
            }
            // The one place where there is no log yet.
            Err(error) => eprintln!("pullgate: no journald ({error}), logging to standard error"),
        }
    }
    let color = io::IsTerminal::is_terminal(&io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(color).with_target(false);
    Registry::default().with(layer).into()
}

/// systemd.exec(5), `$JOURNAL_STREAM`: device and inode of the stream. Both must match, since children
/// inherit the variable and may write elsewhere.
fn connected_to_journald() -> bool {
    let Some((device, inode)) = std::env::var("JOURNAL_STREAM").ok().and_then(|stream| {
        let (device, inode) = stream.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    }) else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    stderr.and_then(|file| file.metadata()).is_ok_and(|file| file.dev() == device && file.ino() == inode)
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Mutex};

    use tracing::{Level, subscriber::with_default};

    use super::*;

    /// Keeps the lines that reach it, and can be made to stand still.
    #[derive(Clone, Default)]
    struct Kept {
        lines: Arc<Mutex<Vec<(Level, String)>>>,
        stall: Option<Arc<Barrier>>,
    }

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = Text(String::new());
            event.record(&mut text);
            let stall = text.0 == "stall";
            self.lines.lock().unwrap().push((*event.metadata().level(), text.0));
            if let (true, Some(barrier)) = (stall, &self.stall) {
                barrier.wait();
                barrier.wait();
            }
        }
    }

    #[test]
    fn lines_arrive_with_their_level_and_fields() {
        let kept = Kept::default();
        let (queue, log) = Queue::to(Registry::default().with(kept.clone()).into()).unwrap();
        with_default(Registry::default().with(queue), || {
            tracing::error!(code = 7, name = "x y", "it failed: {}", "why");
            tracing::info!(only = "a field");
            tracing::debug!("{}", "z".repeat(2 * limits::LOG_LINE_BYTES));
        });
        drop(log);
        let lines = kept.lines.lock().unwrap();
        assert_eq!(lines[0], (Level::ERROR, "it failed: why code=7 name=x y".to_owned()));
        assert_eq!(lines[1], (Level::INFO, "only=a field".to_owned()));
        assert_eq!(lines[2], (Level::DEBUG, "z".repeat(limits::LOG_LINE_BYTES)));
    }

    #[test]
    fn a_stalled_journal_does_not_keep_the_process_from_ending() {
        let barrier = Arc::new(Barrier::new(2));
        let kept = Kept { stall: Some(Arc::clone(&barrier)), ..Kept::default() };
        let (queue, log) = Queue::to(Registry::default().with(kept.clone()).into()).unwrap();
        with_default(Registry::default().with(queue), || {
            tracing::info!("stall");
            barrier.wait();
            tracing::info!("after");
        });
        // It ends though nobody writes, after limits::LOG_FLUSH; without a stall it waits for the last line.
        drop(log);
        assert_eq!(kept.lines.lock().unwrap().len(), 1);
        barrier.wait();
    }

    #[test]
    fn a_stalled_journal_costs_lines_and_no_time() {
        let barrier = Arc::new(Barrier::new(2));
        let kept = Kept { stall: Some(Arc::clone(&barrier)), ..Kept::default() };
        let (queue, log) = Queue::to(Registry::default().with(kept.clone()).into()).unwrap();
        with_default(Registry::default().with(queue), || {
            tracing::info!("stall");
            barrier.wait();
            for number in 0..limits::LOG_QUEUE + 100 {
                tracing::info!("{number}");
            }
        });
        assert_eq!(log.dropped(), 100);
        barrier.wait();
        while !kept.lines.lock().unwrap().iter().any(|(_, line)| line == &format!("{}", limits::LOG_QUEUE - 1)) {
            thread::yield_now();
        }
        drop(log);
        let lines = kept.lines.lock().unwrap();
        assert!(lines.iter().any(|(_, line)| line == "100 log lines were dropped: journald was slow"));
        assert_eq!(lines.len(), 1 + limits::LOG_QUEUE + 1);
    }
}
