//! Containers: by what they are judged, and when they are told.

use containerd_client::services::v1::Image;

use super::*;

#[tokio::test]
async fn a_container_that_ended_is_forgotten_and_another_start_is_told_again() {
    let node = Node::new(ENFORCE).await;
    node.bring("evil", "reg.io/evil");
    node.run("c1", "evil", false, false);
    node.told(Event::Started("c1".to_owned())).await;
    let told = |entries: Vec<String>| {
        let expected = "container c1 started without the start gate (by no pod), runs reg.io/evil@";
        assert!(entries.len() == 1 && entries[0].starts_with(expected), "{entries:?}");
    };
    told(node.entries());
    node.told(Event::Started("c1".to_owned())).await;
    assert_eq!(node.entries(), [""; 0]);
    node.told(Event::Ended("c1".to_owned())).await;
    assert_eq!(node.watch.report().containers_without_allow, 0);
    node.told(Event::Started("c1".to_owned())).await;
    told(node.entries());
    node.content().running.clear();
    tokio::time::sleep(Duration::from_millis(1)).await;
    node.walk().await;
    assert_eq!(node.watch.report().containers_without_allow, 0);
}

#[tokio::test]
async fn a_container_is_judged_by_what_it_runs_though_its_record_is_gone_or_leads_elsewhere() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.bring("evil", "reg.io/evil");
    for (id, pod) in [("pod", true), ("docker", false)] {
        node.run(id, "evil", pod, true);
    }
    let target = node.content().images[0].target.clone();
    node.content().images[1].target = target;
    node.walk().await;
    let mut news = node.news();
    news.sort();
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(news.iter().all(|entry| entry.contains(&digest("evil").to_string())), "{news:?}");
    node.content().images.clear();
    let snapshot = node.configure(ENFORCE, &(DENY.replace("DIGEST", &digest("good").to_string()) + "\n")).await;
    node.watch.prepare(snapshot).await;
    let news = node.news();
    assert!(news.len() == 2 && news.iter().all(|entry| entry.contains(&digest("evil").to_string())), "{news:?}");
    // Nothing of it is left to judge.
    node.content().blobs.clear();
    node.walk().await;
    let news = node.news();
    assert!(news.len() == 2 && news.iter().all(|entry| entry.contains("RETRY PG307")), "{news:?}");
}

#[tokio::test]
async fn a_name_alone_vouches_for_no_container() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    for id in ["gone", "directory", "unnamed", "there"] {
        node.run(id, "good", false, false);
    }
    {
        let mut content = node.content();
        content.parents.remove("gone");
        content.containers[1].snapshot_key.clear();
        content.containers[2].snapshot_key.clear();
        content.containers[2].image.clear();
    }
    node.walk().await;
    let mut news = node.news();
    news.sort();
    assert_eq!(news.len(), 3, "{news:?}");
    for (entry, id) in news.iter().zip(["directory", "gone", "unnamed"]) {
        let begins = entry.starts_with(&format!("container {id} started without the start gate (by no pod), runs "));
        assert!(begins && entry.contains("RETRY PG307: its files are in no snapshot"), "{news:?}");
    }
}

#[tokio::test]
async fn a_container_of_a_pod_without_the_hook_is_a_way_around_where_others_have_it() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.content().connected = true;
    node.run("old", "good", true, false);
    node.content().containers[0].created_at = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    for (id, pod, hooked) in [("pod", true, true), ("docker", false, false), ("around", true, false)] {
        node.run(id, "good", pod, hooked);
        node.told(Event::Container(id.to_owned())).await;
    }
    let news = node.news();
    assert!(
        news.len() == 1 && news[0].starts_with("container around (reg.io/good) of a pod was made without"),
        "{news:?}"
    );
    assert_eq!(node.watch.report().bypasses, 1);
    node.told(Event::Container("around".to_owned())).await;
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    // A walk finds what nobody told of.
    node.run("unheard", "good", true, false);
    node.walk().await;
    assert_eq!(node.news().len(), 1);
    // What cannot be read is no way out.
    node.run("garbled", "good", true, false);
    for container in &mut node.content().containers {
        container.extensions.values_mut().for_each(|value| value.value = b"{".to_vec());
    }
    node.told(Event::Container("garbled".to_owned())).await;
    let news = node.news();
    assert!(news.len() == 2 && news[1].contains("RETRY PG413"), "{news:?}");
    node.content().connected = false;
    node.walk().await;
    node.news();
    node.run("later", "good", true, false);
    node.told(Event::Container("later".to_owned())).await;
    assert_eq!(node.news(), [""; 0]);
}

#[tokio::test]
async fn the_containers_of_a_namespace_are_bounded() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.run("c", "good", true, true);
    let one = node.content().containers[0].clone();
    node.content().containers = vec![one.clone(); limits::NODE_CONTAINERS];
    node.walk().await;
    node.content().containers.push(one);
    let snapshot = node.activation.current().await;
    let trouble = node.watch.walk_over(&snapshot).await.unwrap_err();
    assert!(trouble.to_string().contains("more than 4096 containers"), "{trouble}");
}

const BY_NAME: &str = "schema = 1\n[[rule]]\nname = \"open\"\nimages = [\"reg.io/open/**\"]\n\
    require = \"insecure-accept-anything\"\n[default]\nrequire = \"deny\"\n";

#[tokio::test]
async fn a_container_of_a_pod_is_judged_by_the_name_that_it_was_made_with() {
    let node = Node::new(ENFORCE).await;
    node.configure(ENFORCE, BY_NAME).await;
    node.bring("open/a", "reg.io/open/a");
    for (id, called) in
        [("same", "reg.io/open/a:1"), ("other", "reg.io/prod/a:1"), ("nonsense", "reg.io/open/a@sha512:0")]
    {
        node.run(id, "open/a", true, true);
        node.noted(id, |noted| noted["Metadata"]["Config"]["image"]["user_specified_image"] = called.into());
    }
    node.run("client", "open/a", false, false);
    node.run("identifier", "open/a", true, true);
    let config = Digest::of(&image("open/a")[0]).to_string();
    node.noted("identifier", |noted| noted["Metadata"]["Config"]["image"] = serde_json::json!({ "image": config }));
    let told = |expected: &[&str]| {
        let mut news = node.news();
        news.retain(|entry| entry.starts_with("container "));
        news.sort();
        let ids: Vec<&str> = news.iter().filter_map(|entry| entry.split(' ').nth(1)).collect();
        assert_eq!(ids, expected, "{news:?}");
        news
    };
    node.walk().await;
    let news = told(&["nonsense", "other"]);
    assert!(news[1].contains("reg.io/prod/a") && news[1].contains("DENY PG201"), "{news:?}");
    // By an identifier it has to be admitted under every name that it has, by its name under that one.
    let retagged = Image { name: "reg.io/prod/a:1".to_owned(), ..node.content().images[0].clone() };
    node.content().images.push(retagged);
    node.walk().await;
    let news = told(&["identifier"]);
    assert!(news[0].contains("DENY PG201"), "{news:?}");
}

#[tokio::test]
async fn what_is_mounted_into_a_container_is_judged_as_well() {
    let node = Node::new(ENFORCE).await;
    for name in ["good", "evil", "kept"] {
        node.bring(name, &format!("reg.io/{name}"));
    }
    node.content().images.retain(|image| !image.name.ends_with("evil"));
    let digests = ["good", "kept"].map(|name| format!("\"{}\"", digest(name))).join(", ");
    node.configure(ENFORCE, &DENY.replace("\"DIGEST\"", &digests)).await;
    let place = |name: &str| format!("/run/image-volumes/s/{}", digest(name).hex());
    for (id, path, stands_on) in [
        ("kept", place("kept"), Some("kept")),
        ("evil", place("evil"), Some("evil")),
        ("swapped", format!("{}/below", place("good")), Some("evil")),
        ("gone", format!("/run/image-volumes/s/{}", "0".repeat(64)), Some("kept")),
        ("no-snapshot", format!("/run/image-volumes/s/{}", "1".repeat(64)), None),
        ("elsewhere", "/data".to_owned(), None),
    ] {
        node.run(id, "good", true, true);
        let mount = serde_json::json!({ "host_path": path, "image": { "image": format!("reg.io/{id}:1") } });
        node.noted(id, |noted| {
            noted["Metadata"]["Config"]["mounts"] = serde_json::json!([{ "host_path": "/x" }, mount])
        });
        let key = path.trim_end_matches("/below").to_owned();
        node.content().parents.extend(stands_on.map(|name| (key, chain(name).to_string())));
    }
    node.walk().await;
    let mut news = node.news();
    news.sort();
    let expected = [
        ("elsewhere", "reg.io/good", "RETRY PG413"),
        ("evil", "reg.io/evil", "DENY PG201"),
        ("gone", "reg.io/gone", "RETRY PG307"),
        ("no-snapshot", "reg.io/no-snapshot", "RETRY PG307"),
        ("swapped", "reg.io/swapped", "DENY PG109"),
    ];
    assert_eq!(news.len(), expected.len(), "{news:?}");
    for (entry, (id, image, code)) in news.iter().zip(expected) {
        assert!(entry.starts_with(&format!("container {id} runs {image}")) && entry.contains(code), "{id}: {news:?}");
    }
}

#[tokio::test]
async fn a_container_of_a_pod_is_nothing_but_its_image() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    for id in ["good", "other", "restored", "vanished"] {
        node.run(id, "good", true, true);
    }
    node.noted("restored", |noted| {
        noted["Metadata"]["Config"]["annotations"] = serde_json::json!({ "checkpointImage": "x" });
    });
    {
        let mut content = node.content();
        content.parents.insert("other".to_owned(), chain("evil").to_string());
        content.parents.remove("vanished");
    }
    node.walk().await;
    let mut news = node.news();
    news.sort();
    assert_eq!(news.len(), 3, "{news:?}");
    for (entry, (id, code)) in
        news.iter().zip([("other", "DENY PG109"), ("restored", "DENY PG110"), ("vanished", "RETRY PG307")])
    {
        assert!(entry.starts_with(&format!("container {id} runs")) && entry.contains(code), "{news:?}");
    }
}

#[tokio::test]
async fn a_container_of_a_pod_is_judged_for_the_namespace_of_its_pod() {
    let node = Node::new(ENFORCE).await;
    let policy = BY_NAME.replace("[default]", "[[rule]]\nname = \"shop\"\nimages = [\"reg.io/open/**\"]\nnamespaces = [\"shop\"]\nrequire = \"deny\"\n[default]");
    node.configure(ENFORCE, &policy).await;
    node.bring("open/a", "reg.io/open/a");
    for (id, sandbox, namespace) in
        [("in-shop", "s1", Some("shop")), ("in-dev", "s2", Some("dev")), ("lost", "s3", None)]
    {
        node.run(id, "open/a", true, true);
        node.noted(id, |noted| noted["Metadata"]["SandboxID"] = sandbox.into());
        let noted = |namespace| {
            serde_json::json!({ "Version": "v1", "Metadata": { "Config": {
                "metadata": { "name": "pod", "uid": "u", "namespace": namespace } } } })
        };
        let value =
            |namespace| prost_types::Any { type_url: String::new(), value: noted(namespace).to_string().into_bytes() };
        let sandbox = |namespace| containerd_client::services::v1::Container {
            id: sandbox.to_owned(),
            extensions: [("io.cri-containerd.sandbox.metadata".to_owned(), value(namespace))].into(),
            ..Default::default()
        };
        node.content().containers.extend(namespace.map(sandbox));
    }
    node.walk().await;
    let mut news = node.news();
    news.sort();
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(news[0].starts_with("container in-shop runs") && news[0].contains("DENY PG202 rule \"shop\""), "{news:?}");
    assert!(news[1].starts_with("container lost runs") && news[1].contains("RETRY PG413"), "{news:?}");
}
