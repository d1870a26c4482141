use super::*;

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(Path::new("/etc/pullgate/config.toml"), text)
}

#[test]
fn the_smallest_configuration_names_the_mode() {
    let config = parse("mode = \"audit\"").unwrap();
    assert_eq!(config.mode, NodeMode::Audit);
    assert_eq!(config.policy, Path::new("/etc/pullgate/policy.toml"));
    assert!(!config.insecure_skip_layer_rehash && !config.insecure_continue_without_audit);
    assert_eq!(parse("").unwrap_err().to_string(), "/etc/pullgate/config.toml:1:1: missing key `mode`");
}

#[test]
fn every_key_is_read() {
    let config = parse(
        "mode = \"enforce\"\npolicy = \"/p.toml\"\n[node]\nlabels = { env = \"prod\" }\n[containerd]\naddress = \"/c.sock\"\n\
         [registry.\"REG.io:5000\"]\ninsecure-plain-http = true\n[registry.\"127.0.0.1:5000\"]\n\
         [unpack]\ninsecure-skip-layer-rehash = true\n[audit]\ninsecure-continue-without-audit = true\n",
    )
    .unwrap();
    assert_eq!((config.policy.as_path(), config.containerd.as_path()), (Path::new("/p.toml"), Path::new("/c.sock")));
    assert_eq!(config.registries.plain_http, ["reg.io:5000".parse().unwrap()]);
    assert_eq!(config.registries.configured.len(), 2);
    assert_eq!(config.labels["env"], "prod");
    assert!(config.insecure_skip_layer_rehash && config.insecure_continue_without_audit);
}

#[test]
fn evidence_may_lie_elsewhere() {
    let config = parse(
        "mode = \"enforce\"\n[[evidence]]\nimages = [\"reg.io/private/**\"]\nrepository = \"sig.io:5000/all\"\n\
         [[evidence]]\nimages = [\"**\"]\nrepository = \"other.io/of/{path}\"\n\
         [[evidence]]\nimages = [\"**\"]\ndirectory = \"/evidence\"\n\
         [[evidence]]\nimages = [\"reg.io/air/*\"]\ndirectory = \"/air\"\nonly = true",
    )
    .unwrap();
    let of = |name: &str| config.evidence_for(Some(&name.parse().unwrap()));
    let found = |name: &str| -> Vec<String> {
        of(name).repositories.into_iter().map(|repository| repository.map_or_else(|e| e, |it| it.to_string())).collect()
    };
    assert_eq!(found("reg.io/private/app"), ["sig.io:5000/all", "other.io/of/private/app"]);
    assert_eq!(found("reg.io/app"), ["other.io/of/app"]);
    let long = format!("reg.io/{}", "a".repeat(255));
    assert!(found(&long)[0].contains("not a repository path"), "a name that makes no repository is told");
    assert_eq!((of("reg.io/app").directories, of("reg.io/app").own), (vec!["/evidence".into()], true));
    let air = of("reg.io/air/app");
    assert_eq!((air.directories, air.own), (vec!["/evidence".into(), "/air".into()], false));
    let nameless = config.evidence_for(None);
    assert_eq!(
        (nameless.directories, nameless.repositories),
        (vec!["/evidence".into()], vec![]),
        "** means it as well"
    );
}

#[test]
fn nothing_is_removed_unless_it_is_asked_for() {
    let config = parse("mode = \"enforce\"").unwrap();
    assert_eq!((config.watch, config.quarantine), (Watch::default(), None));
    let text = "mode = \"enforce\"\n[watch]\nwalk-every-minutes = 5\nexempt-namespaces = [\"buildkit\", \"a.b-c_d\"]\n\
                [quarantine]\npercent-an-hour = 100\nminutes-after-activation = 1\n";
    let config = parse(text).unwrap();
    assert_eq!(config.watch.every, Duration::from_secs(300));
    assert_eq!(config.watch.exempt, ["buildkit", "a.b-c_d"]);
    assert_eq!(config.quarantine, None);
    let config = parse(&text.replace("[quarantine]", "[quarantine]\nimages = true")).unwrap();
    let after_activation = Duration::from_secs(60);
    assert_eq!(config.quarantine, Some(Quarantine { percent_an_hour: 100, after_activation }));
    let config = parse("mode = \"enforce\"\n[quarantine]\nimages = true").unwrap();
    let after_activation = Duration::from_secs(3600);
    assert_eq!(config.quarantine, Some(Quarantine { percent_an_hour: 10, after_activation }));
}

#[test]
fn how_often_and_how_much_is_bounded() {
    for (line, why) in [
        ("[watch]\nwalk-every-minutes = 4", "3:22: from 5 to 1440"),
        ("[watch]\nwalk-every-minutes = 1441", "3:22: from 5 to 1440"),
        ("[watch]\nwalk-every-minutes = -1", "3:22: "),
        ("[watch]\nexempt-namespaces = [\"a b\"]", "3:22: not the name"),
        ("[watch]\nexempt-namespaces = [\"\"]", "3:22: not the name"),
        ("[quarantine]\npercent-an-hour = 0", "3:19: from 1 to 100"),
        ("[quarantine]\npercent-an-hour = 101", "3:19: from 1 to 100"),
        ("[quarantine]\nminutes-after-activation = 0", "3:28: from 1 to 10080"),
        ("[quarantine]\nimage = true", "3:1: unknown key `image`; did you mean `images`?"),
    ] {
        let found = parse(&format!("mode = \"audit\"\n{line}")).unwrap_err().to_string();
        assert!(found.contains(&format!("config.toml:{why}")), "{found}\n{why}");
    }
    let many = |count: usize| format!("mode = \"audit\"\n[watch]\nexempt-namespaces = {:?}", vec!["a"; count]);
    assert!(parse(&many(EXEMPT)).is_ok());
    assert!(parse(&many(EXEMPT + 1)).unwrap_err().to_string().contains("more than 64 namespaces"));
}

#[test]
fn the_glass_is_broken_by_root_for_hours_and_by_pods_only_where_it_is_said() {
    let usual = BreakGlass { longest: Duration::from_secs(4 * 3600), pods_of: Vec::new() };
    assert_eq!(parse("mode = \"audit\"").unwrap().break_glass, usual);
    assert_eq!(BreakGlass::default(), usual);
    let config =
        parse("mode = \"audit\"\n[break-glass]\nlongest-minutes = 0\npods-of = [\"kube-system\", \"a\"]").unwrap();
    let pods_of = vec!["kube-system".to_owned(), "a".to_owned()];
    assert_eq!(config.break_glass, BreakGlass { longest: Duration::ZERO, pods_of });
    let long = "a".repeat(LABEL_CHARS + 1);
    for (line, why) in [
        ("longest-minutes = 10081", "3:19: from 0 to 10080"),
        ("longest-minutes = -1", "3:19: "),
        ("longest-minutes = \"4h\"", "3:19: "),
        ("pods-of = \"kube-system\"", "3:11: "),
        ("pods-of = [\"*\"]", "3:12: not the name of a Kubernetes namespace"),
        ("pods-of = [\"a\", \"\"]", "3:17: not the name of a Kubernetes namespace"),
        ("pods-of = [\"Kube\"]", "3:12: not the name of a Kubernetes namespace"),
        ("pods-of = [\"-a\"]", "3:12: not the name of a Kubernetes namespace"),
        (&format!("pods-of = [\"{long}\"]"), "3:12: not the name of a Kubernetes namespace"),
        (&format!("pods-of = {:?}", vec!["a"; PODS_OF + 1]), "more than 64 namespaces"),
    ] {
        let found = parse(&format!("mode = \"audit\"\n[break-glass]\n{line}")).unwrap_err().to_string();
        assert!(found.contains(why), "{found}\n{why}");
    }
}

#[test]
fn a_document_of_any_size_is_bounded() {
    let text = "mode = \"audit\"\n";
    let padded = |bytes: u64| text.to_owned() + &"#".repeat(usize::try_from(bytes).unwrap() - text.len());
    assert!(parse(&padded(limits::DOCUMENT_BYTES)).is_ok());
    assert!(parse(&padded(limits::DOCUMENT_BYTES + 1)).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn mistakes_name_the_place_and_the_mend() {
    for (text, expected) in [
        ("mode = \"enforced\"", "config.toml:1:8: unknown value `enforced`; did you mean `enforce`?"),
        ("mode = \"audit\"\nmodes = 1", "config.toml:2:1: unknown key `modes`; did you mean `mode`?"),
        (
            "mode = \"audit\"\n[containerd]\naddres = \"/x\"",
            "config.toml:3:1: unknown key `addres`; did you mean `address`?",
        ),
        ("mode = \"audit\"\n[containerd]\naddress = \"x\"", "config.toml:3:11: the address of containerd is"),
        ("mode = \"audit\"\n[registry.\"a b\"]", "config.toml:2:11: not a registry host"),
        ("mode = ", "config.toml:1:"),
        ("mode = \"audit\"\n[[evidence]]\nimages = []\nrepository = \"a.io/b\"", "config.toml:3:10: no images"),
        ("mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]\nrepository = \"b\"", "config.toml:4:14: not a repository"),
        ("mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]\nrepository = \"a.io/{host}/b\"", "config.toml:4:14: "),
        (
            "mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]\nrepository = \"{path}/b\"",
            "only the path may have {path}",
        ),
        ("mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]\nrepository = \"a.io/b:{path}\"", "config.toml:4:14: "),
        (
            "mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]\ndirectory = \"evidence\"",
            "config.toml:4:13: a directory",
        ),
        ("mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]", "config.toml:3:10: where is"),
        (
            "mode = \"audit\"\n[[evidence]]\nimages = [\"**\"]\nrepository = \"a.io/b\"\ndirectory = \"/b\"",
            "config.toml:5:13: `repository` or `directory`",
        ),
        ("mode = \"audit\"\n[[evidence]]\nimages = [\"*x\"]\nrepository = \"a.io/b\"", "config.toml:3:11: "),
    ] {
        let found = parse(text).unwrap_err().to_string();
        assert!(found.contains(expected), "{found}\n{expected}");
        assert_eq!(found.lines().count(), 1);
    }
}

#[test]
fn whose_tokens_count_is_said_in_full_or_nobodys_do() {
    assert_eq!(parse("mode = \"enforce\"").unwrap().service_accounts, None);
    let text = "mode = \"enforce\"\n[service-accounts]\nkeys = \"jwks.json\"\nissuer = \"https://k8s.example\"\n";
    let accounts = parse(text).unwrap().service_accounts.unwrap();
    assert_eq!(accounts.kubelet, Path::new("/var/lib/kubelet"));
    assert!(accounts.keys.is_absolute() && accounts.keys.ends_with("jwks.json"));
    assert_eq!((accounts.issuer.name.as_str(), accounts.issuer.keys), ("https://k8s.example", KeySet::default()));
    for (text, why) in [
        (text.replace("keys", "#"), "missing key `keys`"),
        (text.replace("issuer", "#"), "missing key `issuer`"),
        (text.replace("https://k8s.example", ""), "calls itself something"),
        (format!("{text}audiences = []"), "for nobody"),
        (format!("{text}kubelet = \"var\""), "absolute path"),
        (format!("{text}audience = \"x\""), "audience"),
    ] {
        let told = parse(&text).unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
}
