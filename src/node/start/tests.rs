use super::*;

const OURS: &str = base_spec::OF_CONTAINERD;

fn handler(name: &str, kind: &str, base_spec: Option<&str>) -> Handler {
    let keys = format!("runtime_type = '{kind}'\n").parse().unwrap();
    Handler { name: name.into(), section: Vec::new(), keys, base_spec: base_spec.map(PathBuf::from) }
}

/// A node with the start gate on `runc`, whose base spec is `spec`.
fn facts(spec: &str) -> Facts {
    let text = base_spec::of_administrator("{}").unwrap();
    Facts {
        running: Some([("runc".to_owned(), spec.into())].into()),
        files: [(spec.into(), Ok(Some(text.clone())))].into(),
        made: vec![(Made { path: spec.into(), own: None, of: Digest::of(b"1") }, Some(Digest::of(b"1")))],
        written: [(spec.into(), text)].into(),
        enabled: true,
        ..Facts::default()
    }
}

fn runc(facts: &Facts, base_spec: Option<&str>) -> String {
    Start::judge(&[handler("runc", "io.containerd.runc.v2", base_spec)], facts).to_string()
}

#[test]
fn a_handler_asks_once_containerd_runs_with_its_base_spec() {
    let live = facts(OURS);
    let handlers = [
        handler("gpu", "io.containerd.runc.v2", Some(OURS)),
        handler("kata", "io.containerd.kata.v2", None),
        handler("runc", "io.containerd.runc.v2", Some(OURS)),
    ];
    let mut with_gpu = live.clone();
    with_gpu.running.as_mut().unwrap().insert("gpu".into(), OURS.into());
    let start = Start::judge(&handlers, &with_gpu);
    assert_eq!(start.to_string(), "live on gpu, runc; open (its runtime runs no hooks on the host) on kata");
    assert!(
        start.is_live() && !start.is_closed() && !start.has_drifted() && start.is_anywhere() && start.is_configured()
    );
    assert_eq!(runc(&live, Some(OURS)), "live on runc");

    let with = |change: fn(&mut Facts)| {
        let mut facts = live.clone();
        change(&mut facts);
        runc(&facts, Some(OURS))
    };
    for not_yet in [
        with(|facts| facts.running = Some(BTreeMap::new())),
        with(|facts| facts.running = None),
        with(|facts| facts.stale.push(OURS.into())),
        with(|facts| facts.running = Some([("runc".to_owned(), "/etc/other.json".into())].into())),
    ] {
        assert_eq!(not_yet, "CONFIGURED, NOT LIVE on runc; restart containerd");
    }
    let none = Facts { running: Some(BTreeMap::new()), ..Facts::default() };
    assert_eq!(runc(&none, None), "NOT CONNECTED on runc; run: pullgate enable --start");
    assert_eq!(Start::default().to_string(), "containerd serves no pods");
    assert!(Start::default().is_live() && !Start::default().is_anywhere());
}

#[test]
fn what_undoes_the_gate_is_drift() {
    let live = facts(OURS);
    let with = |change: fn(&mut Facts)| {
        let mut facts = live.clone();
        change(&mut facts);
        runc(&facts, Some(OURS))
    };
    for (said, words) in [
        (runc(&live, Some("/etc/own.json")), "/etc/own.json is missing"),
        (with(|facts| drop(facts.files.insert(OURS.into(), Ok(None)))), "serves no pod at all"),
        (with(|facts| drop(facts.files.insert(OURS.into(), Ok(Some("{}".into()))))), "no hook in /etc/pullgate"),
        (with(|facts| drop(facts.files.insert(OURS.into(), Ok(Some("{".into()))))), "/etc/pullgate/base-spec.json: "),
        (with(|facts| drop(facts.files.insert(OURS.into(), Err("no permission".into())))), "no permission"),
        (with(|facts| facts.program = Some("x cannot be executed".into())), "no container starts"),
        (with(|facts| facts.made[0].1 = Some(Digest::of(b"2"))), "another default"),
        (with(|facts| drop(facts.written.insert(OURS.into(), "{}".into()))), "was edited"),
        (with(|facts| drop(facts.own.insert("runc".into(), "/etc/new.json".into()))), "named another"),
    ] {
        assert!(
            said.contains(words) && said.contains("DRIFTED") && said.contains("enable --start --restart"),
            "{said}"
        );
    }
    // Taken out of the configuration, or a handler that came later.
    let mut later = live.clone();
    later.running = Some(BTreeMap::new());
    assert!(runc(&later, None).starts_with("DRIFTED: no hook on runc"), "{}", runc(&later, None));
    assert!(runc(&live, None).starts_with("taken out, still asked on runc"));
    // What cannot be compared now did not change.
    let mut unknown = live.clone();
    unknown.made[0].1 = None;
    assert_eq!(runc(&unknown, Some(OURS)), "live on runc");
    unknown.made[0].0.own = Some("/etc/own.json".into());
    assert!(runc(&unknown, Some(OURS)).contains("older than /etc/own.json"));
}

#[test]
fn a_hook_that_an_administrator_wrote_counts_and_an_own_spec_without_it_is_no_drift() {
    let own = "/etc/own.json";
    let mut back = facts(OURS);
    back.enabled = false;
    back.files = [(own.into(), Ok(Some("{}".into()))), (OURS.into(), Ok(None))].into();
    assert_eq!(runc(&back, Some(own)), "taken out, still asked on runc; restart containerd");
    let mut by_hand = facts(own);
    (by_hand.enabled, by_hand.made, by_hand.written) = (false, Vec::new(), BTreeMap::new());
    assert_eq!(runc(&by_hand, Some(own)), "live on runc");
    for other in [Ok(Some("{}".to_owned())), Ok(None), Ok(Some("{".to_owned()))] {
        by_hand.files.insert(own.into(), other);
        by_hand.running = Some([("runc".to_owned(), own.into())].into());
        assert_eq!(runc(&by_hand, Some(own)), "NOT CONNECTED on runc; run: pullgate enable --start");
    }
}

#[test]
fn containerd_tells_the_base_specs_that_it_runs_with() {
    let json =
        r#"{"containerd":{"runtimes":{"runc":{"baseRuntimeSpec":"/a"},"b":{"baseRuntimeSpec":""},"c":{}}},"x":1}"#;
    assert_eq!(base_specs_of(json), Some([("runc".to_owned(), "/a".into())].into()));
    for json in ["", "{}", r#"{"containerd":{}}"#, r#"{"containerd":{"runtimes":{"a":1}}}"#] {
        assert_eq!(base_specs_of(json), None, "{json}");
    }
}
