//! How many decisions ask registries at the same time, and for how long.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex},
};

use pullgate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    decisions::Asking,
    evidence::kept::Kept,
    gate,
    policy::{
        Policy,
        decision::{Code, Decision, Verdict},
        evaluate::{Origin, Subject},
    },
    snapshot::Snapshot,
};
use sigstore_crypto::KeyPair;

use super::{
    hostile::{INDEX, MANIFEST, Reply},
    *,
};

struct Node {
    server: HostileRegistry,
    /// Registries beside it that never answer either.
    others: Vec<HostileRegistry>,
    /// The images that were asked about.
    asked: Arc<Mutex<HashSet<String>>>,
    snapshot: Arc<Snapshot>,
    admission: Arc<Admission>,
}

impl Node {
    /// A node whose registry never answers.
    async fn new() -> Arc<Self> {
        Self::among(0).await
    }

    /// A node with so many registries more, none of which ever answers.
    async fn among(others: usize) -> Arc<Self> {
        let node = Self::answered_with(others).await;
        for server in node.others.iter().chain([&node.server]) {
            let seen = node.asked.clone();
            server.on("", move |request, _| {
                let image = request.path().rsplit('/').next().unwrap_or_default().to_owned();
                seen.lock().unwrap().insert(image);
                Reply::Silence
            });
        }
        node
    }

    /// A node whose registry answers.
    async fn answered() -> Arc<Self> {
        Self::answered_with(0).await
    }

    async fn answered_with(count: usize) -> Arc<Self> {
        let server = HostileRegistry::start().await;
        let mut others = Vec::new();
        for _ in 0..count {
            others.push(HostileRegistry::start().await);
        }
        let asked = Arc::default();
        let pem = KeyPair::generate_ecdsa_p256().unwrap().public_key_der().unwrap().to_pem();
        let policy = format!(
            "schema = 1\n[[attestor]]\nname = \"ci\"\nmay-sign = [\"signature\"]\n\
             keys = [{{ algorithm = \"ecdsa-p256-sha256\", pem = '''\n{pem}''' }}]\n[default]\nrequire = {{ all = [\"ci\"] }}\n"
        );
        let policy = Policy::parse("policy.toml", &policy, &|_| Err("no file".to_owned())).unwrap();
        let config = Config::parse(Path::new("config.toml"), "mode = \"enforce\"\n").unwrap();
        // One question for each image, for ever.
        let registry = client(Bounds { request: LONG, deadline: LONG, tries: 1, ..in_order() });
        let snapshot = Snapshot { registry, ..Snapshot::new(config, Some(policy)) };
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        Arc::new(Self { server, others, asked, snapshot: Arc::new(snapshot), admission })
    }

    /// An image; the registries have one after the other.
    fn subject(&self, number: usize) -> Subject {
        let server = match number % (self.others.len() + 1) {
            0 => &self.server,
            at => &self.others[at - 1],
        };
        Subject::new(Digest::of(&number.to_le_bytes()), Some(server.place("app").repository), Origin::Fetched)
    }

    /// How many images are asked about at once: waits until as many are, and then whether more follow.
    async fn at_once(&self, expected: usize) -> usize {
        let asked = || self.asked.lock().unwrap().len();
        while asked() < expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        asked()
    }

    async fn decide(&self, numbers: std::ops::Range<usize>) -> Decision {
        let subjects = numbers.map(|number| self.subject(number)).collect();
        self.admission.decide(&self.snapshot, subjects, Asking::Usual).await
    }
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn the_subjects_of_one_request_take_turns() {
    let node = Node::new().await;
    tokio::select! {
        decision = node.decide(0..3 * limits::PARALLEL_SUBJECTS) => panic!("{decision:?}"),
        at_once = node.at_once(limits::PARALLEL_SUBJECTS) => assert_eq!(at_once, limits::PARALLEL_SUBJECTS),
    }
}

#[tokio::test]
async fn decisions_that_gather_evidence_take_turns() {
    let registries = 2 * limits::PARALLEL_DECISIONS / limits::PARALLEL_OF_REGISTRY;
    let node = Node::among(registries - 1).await;
    let mut deciding = tokio::task::JoinSet::new();
    for number in 0..2 * limits::PARALLEL_DECISIONS {
        let node = node.clone();
        deciding.spawn(async move { node.decide(number..number + 1).await });
    }
    assert_eq!(node.at_once(limits::PARALLEL_DECISIONS).await, limits::PARALLEL_DECISIONS);
}

#[tokio::test]
async fn sixty_four_pulls_from_a_registry_that_does_not_answer_starve_no_pull_from_another() {
    let node = Node::among(0).await;
    let quick = HostileRegistry::start().await;
    let mut deciding = tokio::task::JoinSet::new();
    for number in 0..64 {
        let node = node.clone();
        deciding.spawn(async move { node.decide(number..number + 1).await });
    }
    assert_eq!(node.at_once(limits::PARALLEL_OF_REGISTRY).await, limits::PARALLEL_OF_REGISTRY);
    let begun = std::time::Instant::now();
    for number in 0..64_usize {
        let name = Some(quick.place("app").repository);
        let subject = Subject::new(Digest::of(&number.to_be_bytes()), name, Origin::Fetched);
        let decision = node.admission.decide(&node.snapshot, vec![subject], Asking::Usual).await;
        assert_eq!((decision.verdict, decision.code()), (Verdict::Deny, Some(Code::Unsigned)));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(node.asked.lock().unwrap().len() == limits::PARALLEL_OF_REGISTRY, "still the first of them");
}

#[tokio::test(start_paused = true)]
async fn evidence_is_waited_for_only_so_long() {
    let node = Node::new().await;
    let begun = tokio::time::Instant::now();
    let decision = node.decide(0..1).await;
    assert_eq!((decision.verdict, decision.code()), (Verdict::Inconclusive, Some(Code::RegistryTimeout)));
    assert!(decision.violations[0].found.contains("no complete answer in 8 s"), "{decision:?}");
    assert!((limits::EVIDENCE_DEADLINE..LONG).contains(&begun.elapsed()));
}

#[tokio::test]
async fn an_index_with_many_children_for_one_node_is_refused() {
    for (count, refused) in [(limits::INDEX_CHOICES, false), (limits::INDEX_CHOICES + 1, true)] {
        let node = Node::answered().await;
        let child = |number: usize| {
            let digest = Digest::of(&number.to_le_bytes());
            format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1}}"#)
        };
        let children: Vec<String> = (0..count).chain(0..1).map(child).collect();
        let list = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","));
        let index = node.server.content().manifest("app", INDEX, list);
        let place = node.server.place("app");
        let name = place.repository.clone();
        let home = gate::Home::Registry(place);
        let subjects = |digest| vec![Subject::new(digest, Some(name.clone()), Origin::Fetched)];
        let decided =
            gate::decide(&node.admission, &node.snapshot, &home, index, Some(INDEX), Asking::Usual, subjects).await;
        let codes: Vec<Code> = decided.decision.violations.iter().map(|violation| violation.code).collect();
        assert_eq!(codes.contains(&Code::MalformedImage), refused, "{count}: {decided:?}");
        assert_eq!(decided.children.len(), if refused { 0 } else { count });
    }
}
