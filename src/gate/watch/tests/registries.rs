//! What only a registry can tell.

use super::*;

const ASKS: &str = "schema = 1\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\n\
    keys = [{ file = \"a.pub\", algorithm = \"ed25519\" }]\n[default]\nrequire = { all = [\"a\"] }\n";

#[tokio::test]
async fn what_only_a_registry_can_tell_is_asked_once_and_told_when_it_is_known() {
    let node = Node::new(ENFORCE).await;
    node.file("a.pub", KEY);
    node.configure(ENFORCE, ASKS).await;
    node.bring("asked", "127.0.0.1:1/asked");
    node.run("c", "asked", true, true);
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    let asked = || async { node.activation.current().await.registry.requests() };
    node.watch.verify(&node.activation).await;
    let news = node.news();
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(news.iter().all(|entry| entry.contains("RETRY PG306")), "{news:?}");
    let requests = asked().await;
    for _ in 0..3 {
        node.walk().await;
        node.watch.verify(&node.activation).await;
    }
    assert_eq!((node.news(), asked().await), (Vec::new(), requests));
}

/// A registry that asks everybody for less, and the most images that it was asked about at the same time.
async fn throttling() -> (u16, Arc<Mutex<(BTreeMap<String, usize>, usize)>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new((BTreeMap::<String, usize>::new(), 0)));
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 14];
                while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    let image = text.split('/').nth(2).unwrap_or_default().to_owned();
                    {
                        let mut seen = seen.lock().unwrap();
                        *seen.0.entry(image.clone()).or_default() += 1;
                        seen.1 = seen.1.max(seen.0.values().filter(|count| **count > 0).count());
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    *seen.lock().unwrap().0.entry(image).or_default() -= 1;
                    let answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, asked)
}

#[tokio::test]
async fn registries_are_asked_little_at_a_time_and_left_in_peace_when_they_ask_for_it() {
    let (port, asked) = throttling().await;
    let config = format!("{ENFORCE}[registry.\"127.0.0.1:{port}\"]\ninsecure-plain-http = true\n");
    let node = Node::new(&config).await;
    node.file("a.pub", KEY);
    node.configure(&config, ASKS).await;
    for number in 0..=verifying::SLICE {
        node.bring(&format!("image-{number}"), &format!("127.0.0.1:{port}/image-{number}"));
    }
    node.walk().await;
    let left = || node.watch.state().pending.len();
    assert_eq!(left(), verifying::SLICE + 1);
    let verifying = node.watch.verify(&node.activation);
    tokio::pin!(verifying);
    let paused = async {
        while left() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::select! {
        () = &mut verifying => panic!("nothing was left in peace"),
        () = paused => {}
    }
    assert_eq!((left(), asked.lock().unwrap().1), (1, limits::PARALLEL_VERIFICATIONS));
    let news = node.news();
    assert_eq!(news.iter().filter(|entry| entry.contains("RETRY PG303")).count(), verifying::SLICE, "{news:?}");
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    verifying.await;
    assert_eq!(left(), 0);
    assert!(begun.elapsed() > limits::VERIFY_PAUSE - Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_many_containers_are_made_of_is_asked_once_and_told_of_each() {
    let node = Node::new(ENFORCE).await;
    node.file("a.pub", KEY);
    node.configure(ENFORCE, ASKS).await;
    node.bring("asked", "127.0.0.1:1/asked");
    for id in ["c1", "c2", "c3", "other"] {
        node.run(id, "asked", true, true);
    }
    // Another name is another question.
    node.noted("other", |noted| {
        noted["Metadata"]["Config"]["image"]["user_specified_image"] = "127.0.0.1:1/other".into();
    });
    node.walk().await;
    assert_eq!(node.watch.state().pending.len(), 3);
    // What nobody can be asked about any more is not asked for ever.
    node.content().containers.retain(|container| container.id != "c1");
    node.watch.verify(&node.activation).await;
    let mut news = node.news();
    news.retain(|entry| entry.starts_with("container "));
    news.sort();
    assert_eq!(news.len(), 3, "{news:?}");
    assert!(news.iter().all(|entry| entry.contains("RETRY PG306")), "{news:?}");
    let state = node.watch.state();
    assert!(state.pending.is_empty() && state.waiting.is_empty());
}
