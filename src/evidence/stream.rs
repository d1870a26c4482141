//! What a source has to say, as it comes in.

use tokio::sync::mpsc;

use super::{Asked, Cause, Found, Gap, Layout, Material, Questions};

/// What a source has to say, as it comes in. Ends when everything was asked; dropping it stops the asking.
pub struct Stream {
    /// Pieces of evidence and gaps, in the order of their arrival.
    pub items: mpsc::Receiver<Result<Found, Gap>>,
    /// What was asked for them, also where nothing is.
    pub questions: Questions,
    task: tokio::task::JoinHandle<()>,
}

impl Stream {
    /// A stream fed by `task`, which ends with it, and notes in `questions` what it asks.
    pub fn new(
        items: mpsc::Receiver<Result<Found, Gap>>,
        questions: Questions,
        task: tokio::task::JoinHandle<()>,
    ) -> Self {
        Self { items, questions, task }
    }

    /// The answer of a source on this node, which is asked one question, which `answer` gives within a tokio runtime. One piece
    /// is read ahead.
    pub(super) fn of<F>(asked: Asked, answer: impl FnOnce(Out) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, items) = mpsc::channel(1);
        let (layout, questions) = (asked.layout, Questions::default());
        questions.ask(asked);
        let out = Out { layout, questions: questions.clone(), items: sender };
        let (ended, answer) = (out.clone(), answer(out));
        let task = tokio::spawn(async move {
            answer.await;
            ended.questions.note(layout, |asked| asked.ended = true);
        });
        Self { items, questions, task }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a source on this node puts its answer.
#[derive(Clone)]
pub(super) struct Out {
    layout: Layout,
    questions: Questions,
    items: mpsc::Sender<Result<Found, Gap>>,
}

impl Out {
    /// Hands out a piece of evidence.
    pub(super) async fn found(&self, material: Material, place: String) {
        self.questions.note(self.layout, |asked| asked.found = asked.found.saturating_add(1));
        // Nobody listens any more: see `is_over`.
        let _ = self.items.send(Ok(Found { material, place })).await;
    }

    /// Says what could not be told of `place`.
    pub(super) async fn gap(&self, place: String, cause: Cause) {
        let cause = cause.on_node();
        self.questions.note(self.layout, |asked| asked.broke(&cause));
        let _ = self.items.send(Err(Gap { place, cause })).await;
    }

    /// Whether nobody listens any more.
    pub(super) fn is_over(&self) -> bool {
        self.items.is_closed()
    }
}
