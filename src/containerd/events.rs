//! What containerd tells as it happens: one subscription for all who listen.
//!
//! containerd repeats nothing. Whoever must not miss anything looks for itself after each change of
//! [`Events::connections`].

use std::sync::Arc;

use containerd_client::{
    events::{ContainerCreate, ContainerDelete, ContainerUpdate, SnapshotPrepare, TaskExit, TaskStart},
    services::v1::{ImageCreate, ImageDelete, ImageUpdate, SubscribeRequest, events_client::EventsClient},
    types::Envelope,
};
use prost::Message;
use tokio::{sync::watch, time::sleep};
use tonic::{Code, Request, Status};

use super::{Containerd, ExtractSnapshot};
use crate::limits;

/// Something that happened in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// containerd's namespace.
    pub namespace: String,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An unpack begins to fill a snapshot of this snapshotter.
    Extract(String, ExtractSnapshot),
    /// The image record of this name was made or changed. containerd 1.7 does not tell of every one.
    Image(String),
    /// The image record of this name is gone.
    ImageGone(String),
    /// The container with this id was made or changed.
    Container(String),
    /// The container with this id is gone.
    ContainerGone(String),
    /// The first process of this container was started.
    Started(String),
    /// The first process of this container has ended.
    Ended(String),
}

impl Told {
    /// What `envelope` says; none for what nobody here listens to, and for what cannot be read.
    fn of(envelope: Envelope) -> Option<Self> {
        let bytes = envelope.event?.value;
        let event = match envelope.topic.as_str() {
            "/snapshot/prepare" => {
                let SnapshotPrepare { key, snapshotter, .. } = read(&bytes)?;
                Event::Extract(snapshotter, ExtractSnapshot::of(key)?)
            }
            "/images/create" => Event::Image(read::<ImageCreate>(&bytes)?.name),
            "/images/update" => Event::Image(read::<ImageUpdate>(&bytes)?.name),
            "/images/delete" => Event::ImageGone(read::<ImageDelete>(&bytes)?.name),
            "/containers/create" => Event::Container(read::<ContainerCreate>(&bytes)?.id),
            "/containers/update" => Event::Container(read::<ContainerUpdate>(&bytes)?.id),
            "/containers/delete" => Event::ContainerGone(read::<ContainerDelete>(&bytes)?.id),
            "/tasks/start" => Event::Started(read::<TaskStart>(&bytes)?.container_id),
            "/tasks/exit" => {
                let TaskExit { container_id, id, .. } = read(&bytes)?;
                // The end of what `exec` started is not the container's.
                (id == container_id).then_some(Event::Ended(container_id))?
            }
            _ => return None,
        };
        Some(Self { namespace: envelope.namespace, event })
    }
}

const TOPICS: [&str; 9] = [
    "/snapshot/prepare",
    "/images/create",
    "/images/update",
    "/images/delete",
    "/containers/create",
    "/containers/update",
    "/containers/delete",
    "/tasks/start",
    "/tasks/exit",
];

fn read<T: Message + Default>(bytes: &[u8]) -> Option<T> {
    T::decode(bytes).ok()
}

/// The subscription to containerd's events.
pub struct Events {
    containerd: Arc<Containerd>,
    connections: watch::Sender<u64>,
}

impl Events {
    /// The events of `containerd`. Connects to nothing before [`Self::follow`].
    pub fn new(containerd: Arc<Containerd>) -> Self {
        Self { containerd, connections: watch::Sender::new(0) }
    }

    /// How often containerd began to tell. It changes at the first connection, and each time that containerd was restarted:
    /// then what was told before has a gap, and what was known of containerd may not hold any more.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// Tells `hear` whatever happens, and connects again whenever containerd has gone. Does not end. containerd queues what
    /// is not taken, so `hear` must not wait.
    pub async fn follow(&self, hear: impl Fn(&Told)) {
        loop {
            // Why it ended makes no difference: containerd has gone, or is about to.
            let _ = self.listen(&hear).await;
            sleep(limits::EVENTS_PAUSE).await;
        }
    }

    async fn listen(&self, hear: impl Fn(&Told)) -> Result<(), Status> {
        let filters = TOPICS.iter().map(|topic| format!("topic==\"{topic}\"")).collect();
        let mut client = EventsClient::new(self.containerd.channel());
        // No deadline: it lasts as long as containerd.
        let subscribing = client.subscribe(Request::new(SubscribeRequest { filters }));
        tokio::pin!(subscribing);
        // containerd answers with the first event only, which may take long: that it answers something that was asked
        // after it on the same connection says that it listens.
        let answer = tokio::select! {
            biased;
            answer = &mut subscribing => Some(answer?),
            answers = self.answers() => { answers?; None }
        };
        self.connections.send_modify(|count| *count += 1);
        let mut stream = match answer {
            Some(answer) => answer.into_inner(),
            None => subscribing.await?.into_inner(),
        };
        while let Some(envelope) = stream.message().await? {
            if let Some(told) = Told::of(envelope) {
                hear(&told);
            }
        }
        Ok(())
    }

    async fn answers(&self) -> Result<(), Status> {
        match self.containerd.version().await {
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => {
                Err(status)
            }
            // Whatever it says.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        containerd::fake::{Answer, FakeContainerd},
        image::Digest,
    };

    /// `event` as containerd sends it.
    fn envelope(namespace: &str, topic: &str, event: &impl Message) -> Vec<u8> {
        let event = prost_types::Any { type_url: String::new(), value: event.encode_to_vec() };
        let (namespace, topic) = (namespace.to_owned(), topic.to_owned());
        Envelope { namespace, topic, event: Some(event), ..Envelope::default() }.encode_to_vec()
    }

    fn prepared(key: String) -> SnapshotPrepare {
        SnapshotPrepare { key, parent: String::new(), snapshotter: "overlayfs".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_is_told_in_order_and_what_cannot_be_read_is_passed_over() {
        let chain = Digest::of(b"chain");
        let key = format!("extract-1-x {chain}");
        let messages = {
            let (name, id) = (|| "reg.io/x:1".to_owned(), || "c".to_owned());
            let exit = |of: &str| TaskExit { container_id: id(), id: of.to_owned(), ..TaskExit::default() };
            vec![
                envelope("k8s.io", "/images/create", &ImageCreate { name: name(), ..ImageCreate::default() }),
                envelope("k8s.io", "/images/update", &ImageUpdate { name: name(), ..ImageUpdate::default() }),
                envelope("k8s.io", "/images/delete", &ImageDelete { name: name() }),
                envelope("moby", "/containers/create", &ContainerCreate { id: id(), ..ContainerCreate::default() }),
                envelope("moby", "/containers/update", &ContainerUpdate { id: id(), ..ContainerUpdate::default() }),
                envelope("moby", "/tasks/start", &TaskStart { container_id: id(), pid: 1 }),
                envelope("moby", "/tasks/exit", &exit("exec-1")),
                envelope("moby", "/tasks/exit", &exit("c")),
                envelope("moby", "/containers/delete", &ContainerDelete { id: id() }),
                envelope("default", "/snapshot/prepare", &prepared(key.clone())),
                envelope("default", "/snapshot/prepare", &prepared("c".to_owned())),
                envelope("default", "/namespaces/create", &ImageDelete { name: name() }),
                Envelope { topic: "/images/create".to_owned(), ..Envelope::default() }.encode_to_vec(),
            ]
        };
        let fake = FakeContainerd::start(move |method, _| match method {
            "Events/Subscribe" => Answer::Messages(messages.clone()),
            _ => Answer::missing(),
        });
        let heard = Mutex::new(Vec::new());
        let events = Events::new(fake.client());
        let half = limits::EVENTS_PAUSE / 2;
        let hear = |told: &Told| heard.lock().unwrap().push((told.namespace.clone(), told.event.clone()));
        assert!(tokio::time::timeout(half, events.follow(hear)).await.is_err());
        let (image, container) = ("reg.io/x:1".to_owned(), "c".to_owned());
        let expected = [
            ("k8s.io", Event::Image(image.clone())),
            ("k8s.io", Event::Image(image.clone())),
            ("k8s.io", Event::ImageGone(image)),
            ("moby", Event::Container(container.clone())),
            ("moby", Event::Container(container.clone())),
            ("moby", Event::Started(container.clone())),
            ("moby", Event::Ended(container.clone())),
            ("moby", Event::ContainerGone(container)),
            ("default", Event::Extract("overlayfs".to_owned(), ExtractSnapshot { key, chain })),
        ];
        assert_eq!(heard.into_inner().unwrap(), expected.map(|(namespace, event)| (namespace.to_owned(), event)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_telling_is_listened_to_again_after_a_pause_and_each_beginning_is_known() {
        let fake = FakeContainerd::start(|method, _| match method {
            "Events/Subscribe" => Answer::Messages(Vec::new()),
            _ => Answer::missing(),
        });
        let events = Events::new(fake.client());
        let connections = events.connections();
        let long = limits::EVENTS_PAUSE * 7 / 2;
        assert!(tokio::time::timeout(long, events.follow(|_| ())).await.is_err());
        let subscribed = fake.asked().iter().filter(|method| *method == "Events/Subscribe").count();
        assert_eq!((subscribed, *connections.borrow()), (4, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_to_tell_yet_is_known_to_listen() {
        let fake = FakeContainerd::start(|method, _| match method {
            "Events/Subscribe" => Answer::Silence,
            _ => Answer::missing(),
        });
        let events = Events::new(fake.client());
        let mut connections = events.connections();
        tokio::select! {
            () = events.follow(|_| ()) => {}
            changed = connections.changed() => changed.unwrap(),
        }
        assert_eq!(*connections.borrow(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_there_does_not_tell() {
        let events = Events::new(Arc::new(Containerd::new(std::path::Path::new("/nonexistent/containerd.sock"))));
        let connections = events.connections();
        assert!(tokio::time::timeout(limits::EVENTS_PAUSE * 3, events.follow(|_| ())).await.is_err());
        assert_eq!(*connections.borrow(), 0);
    }
}
