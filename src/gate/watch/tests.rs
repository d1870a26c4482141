mod containers;
mod node;
mod quarantine;
mod registries;

use containerd_client::services::v1::{ListNamespacesResponse, Namespace};

use self::node::{DENY, ENFORCE, KEY, Node, chain, digest, image};
use super::*;
use crate::{
    containerd::fake::{Answer, FakeContainerd},
    evidence::{content::ContentStore, kept::Kept},
};

#[tokio::test]
async fn what_is_not_admitted_is_told_once_for_each_policy() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.bring("evil", "reg.io/evil");
    node.run("c1", "evil", true, true);
    node.run("c2", "good", true, true);
    node.walk().await;
    let entries = node.entries();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(
        entries[0].starts_with(&format!("reg.io/evil@{} is on this node: DENY PG201", digest("evil"))),
        "{entries:?}"
    );
    assert!(entries[1].starts_with("container c1 runs reg.io/evil@sha256:"), "{entries:?}");
    assert!(entries[2].contains("2 images on this node, 1 admitted; refused: 1 (reg.io/evil…)"), "{entries:?}");
    assert!(entries[2].ends_with("2 containers run, 1 of them without an allow"), "{entries:?}");
    for _ in 0..3 {
        node.walk().await;
        node.told(Event::Image("reg.io/evil".to_owned())).await;
        node.told(Event::Started("c1".to_owned())).await;
    }
    assert_eq!(node.entries(), [""; 0]);
    let report = node.watch.report();
    assert_eq!((report.images_without_allow, report.containers_without_allow), (1, 1));
    assert_eq!(report.last_walk.map(|last| (last.images, last.containers)), Some((2, 2)));
    let another = DENY.replace("DIGEST", &digest("evil").to_string());
    let snapshot = node.configure(ENFORCE, &another).await;
    node.watch.prepare(snapshot).await;
    node.walk().await;
    let entries = node.entries();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(entries[0].starts_with("reg.io/good@") && entries[1].starts_with("container c2 runs reg.io/good@"));
}

#[tokio::test]
async fn what_the_self_test_made_is_nobodys() {
    let node = Node::new(ENFORCE).await;
    node.content().connected = true;
    node.walk().await;
    let [config, manifest] = image("one-time");
    let listed = node.admission.one_time().list([Digest::of(&manifest), Digest::of(&config)], None);
    node.bring("one-time", "reg.io/one-time");
    node.run("c", "one-time", true, false);
    node.told(Event::Container("c".to_owned())).await;
    node.told(Event::Started("c".to_owned())).await;
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    drop(listed);
    node.walk().await;
    assert_eq!(node.news().len(), 3);
}

/// Runs the watch on what `events` tell until `entries` were written.
async fn watched(node: &Node, events: Vec<Told>, entries: usize) -> Vec<String> {
    let (connected, connections) = tokio::sync::watch::channel(0);
    let running = tokio::spawn(node.watch.clone().run(node.activation.clone(), connections));
    connected.send_modify(|count| *count += 1);
    while node.watch.report().last_walk.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    events.iter().for_each(|told| node.watch.hear(told));
    let mut found = Vec::new();
    while found.len() < entries {
        tokio::time::sleep(Duration::from_millis(1)).await;
        found.extend(node.news());
    }
    running.abort();
    found
}

fn told(namespace: &str, event: Event) -> Told {
    Told { namespace: namespace.to_owned(), event }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_exempt_is_silent() {
    let exempt = format!("{ENFORCE}[watch]\nexempt-namespaces = [\"k8s.io\"]\n");
    let node = Node::new(&exempt).await;
    node.bring("evil", "reg.io/evil");
    node.run("c", "evil", false, false);
    node.walk().await;
    assert_eq!(node.entries(), [""; 0]);
    let events = |namespace: &str| {
        vec![told(namespace, Event::Image("reg.io/evil".into())), told(namespace, Event::Started("c".into()))]
    };
    let both = [events("k8s.io"), events("moby")].concat();
    let found = watched(&node, both, 2).await;
    assert!(found.len() == 2 && found.iter().all(|entry| entry.contains("reg.io/evil")), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_room_for_leads_to_a_walk() {
    let node = Node::new(ENFORCE).await;
    for _ in 0..limits::TOLD_WAITING {
        node.watch.hear(&told("k8s.io", Event::ImageGone("x".into())));
    }
    node.bring("evil", "reg.io/evil");
    let overflow = tokio::time::timeout(Duration::from_millis(1), node.watch.overflow.notified());
    assert!(overflow.await.is_err(), "there is room for as many");
    node.watch.hear(&told("k8s.io", Event::Image("reg.io/evil".into())));
    node.watch.overflow.notified().await;
    let node = Node::new(ENFORCE).await;
    let before = watched(&node, Vec::new(), 0).await;
    assert_eq!(before, [""; 0]);
    let (connected, connections) = tokio::sync::watch::channel(0);
    *node.watch.hearing.lock().unwrap() = Some(mpsc::channel(1).1);
    let snapshot = node.activation.current().await;
    node.bring("evil", "reg.io/evil");
    tokio::select! {
        () = node.watch.walks(&node.activation, connections) => {}
        () = async {
            connected.send_modify(|count| *count += 1);
            tokio::time::sleep(snapshot.config.watch.every / 2).await;
            node.news();
            node.bring("worse", "reg.io/worse");
            node.watch.overflow.notify_one();
            tokio::time::sleep(limits::EVENTS_PAUSE * 4).await;
        } => {}
    }
    let news = node.news();
    assert!(news.len() == 1 && news[0].starts_with("reg.io/worse"), "{news:?}");
}

#[tokio::test(start_paused = true)]
async fn several_records_of_one_image_are_looked_at_together_and_what_happens_meanwhile_too() {
    let node = Node::new(ENFORCE).await;
    node.bring("evil", "reg.io/later");
    node.content().images.clear();
    watched(&node, Vec::new(), 0).await;
    let (told, hearing) = mpsc::channel(8);
    let sent = async {
        for name in ["reg.io/a", "reg.io/b"] {
            node.bring("evil", name);
            told.send(Told { namespace: "k8s.io".into(), event: Event::Image(name.into()) }).await.unwrap();
        }
        tokio::time::sleep(limits::TOLD_PAUSE / 2).await;
        let early = node.news();
        tokio::time::sleep(limits::TOLD_PAUSE * 2).await;
        (early, node.news())
    };
    let (early, late) = tokio::select! {
        () = node.watch.listen(&node.activation, hearing) => panic!("it ended"),
        found = sent => found,
    };
    assert_eq!((early.len(), late.len()), (0, 1), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_fails_is_tried_again_ever_later_and_one_that_hangs_ends() {
    let node = Node::new(ENFORCE).await;
    let fails = FakeContainerd::start(|_, _| Answer::Error(tonic::Status::unavailable("no")));
    let namespace = |number: usize| Namespace { name: format!("n{number}"), ..Namespace::default() };
    let many = ListNamespacesResponse { namespaces: (0..1000).map(namespace).collect() };
    let hangs = FakeContainerd::start(move |method, _| match method {
        "Namespaces/List" => Answer::message(&many),
        "Introspection/Plugins" => Answer::Messages(vec![Vec::new()]),
        _ => Answer::Later(limits::CONTAINERD_CALL / 2, Box::new(Answer::Messages(Vec::new()))),
    });
    let fail = limits::WALK_RETRY * 100;
    for (containerd, long, walks) in [(&fails, fail, 4..=8), (&hangs, limits::WALK_LONGEST * 3, 2..=6)] {
        let store = Arc::new(ContentStore::new(containerd.client(), Kept::default()));
        let walk = Arc::new(Walk::new(containerd.client(), store, node.admission.clone()));
        let watch = Watch::new(containerd.client(), walk, node.watch.journal.clone());
        let (connected, connections) = tokio::sync::watch::channel(0);
        connected.send_modify(|count| *count += 1);
        assert!(tokio::time::timeout(long, watch.walks(&node.activation, connections)).await.is_err());
        let asked = containerd.asked();
        let begun = asked.iter().filter(|method| *method == "Namespaces/List").count();
        assert!(walks.contains(&begun), "{begun}");
    }
}
