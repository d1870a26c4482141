use super::*;
use crate::policy::{
    decision::{Code, Violation},
    evaluate::Origin,
};

pub(in crate::break_glass) const HOUR: u64 = 3600;
const MADE: i64 = 1_800_000_000;

/// So many seconds after the start of `boot`, when the clock shows `wall` seconds after the pass was made.
pub(in crate::break_glass) fn at(boot: &str, up: u64, wall: Option<i64>) -> Moment {
    let wall = wall.map(|wall| Timestamp::from_second(MADE + wall).unwrap());
    Moment { wall, boot: boot.to_owned(), up: Duration::from_secs(up), machine: Digest::of(b"machine") }
}

fn pass_at(now: &Moment, seconds: u64) -> Pass {
    let scope = Scope::Digest(Digest::of(b"image"));
    Pass::new(scope, "why".to_owned(), Who { uid: 0, login: None }, Duration::from_secs(seconds), now)
}

fn in_force(seconds: u64) -> Standing {
    Standing::InForce(Duration::from_secs(seconds))
}

fn waiting(seconds: u64) -> Standing {
    Standing::Waiting(Duration::from_secs(seconds))
}

#[test]
fn it_ends_by_boot_time_or_by_the_wall_clock_whichever_comes_first() {
    let time = Standing::Over(Over::Time);
    let pass = pass_at(&at("one", 500, Some(0)), HOUR);
    for (now, standing) in [
        (at("one", 500, Some(0)), in_force(HOUR)),
        (at("one", 600, Some(100)), in_force(HOUR - 100)),
        // The clock was set back, or forward.
        (at("one", 600, Some(-100_000)), in_force(HOUR - 100)),
        (at("one", 600, Some(3000)), in_force(600)),
        (at("one", 600, None), in_force(HOUR - 100)),
        (at("one", 500 + HOUR - 1, Some(0)), in_force(1)),
        (at("one", 500 + HOUR, Some(0)), time),
        (at("one", 500 + HOUR, None), time),
        (at("one", 501, Some(3600)), time),
        (at("one", 501, Some(3599)), in_force(1)),
        // No clock that runs goes back.
        (at("one", 499, Some(0)), time),
        // The machine was started anew.
        (at("two", 10, Some(100)), in_force(HOUR - 100)),
        (at("two", 1000, Some(100)), in_force(HOUR - 1000)),
        (at("two", HOUR, Some(100)), time),
        (at("two", 10, Some(3600)), time),
        // There no clock, or one that was set back, says nothing about what is left.
        (at("two", 10, None), waiting(HOUR - 10)),
        (at("two", 10, Some(-1)), waiting(HOUR - 10)),
        (at("two", HOUR, None), time),
    ] {
        assert_eq!(pass.standing(&now), standing, "{now:?}");
    }
}

#[test]
fn what_has_passed_counts_in_the_next_boot() {
    let mut pass = pass_at(&at("one", 500, Some(0)), HOUR);
    pass.note(&at("one", 500 + 3000, Some(0)));
    assert_eq!(pass.standing(&at("one", 500 + 3100, Some(0))), in_force(500));
    assert_eq!(pass.standing(&at("two", 100, Some(0))), in_force(500));
    assert_eq!(pass.standing(&at("two", 600, Some(0))), Standing::Over(Over::Time));
    pass.note(&at("two", 100, Some(0)));
    assert_eq!(pass.standing(&at("two", 100, Some(0))), in_force(500));
    // Noted or not, it is another boot than the one that it was made in.
    assert_eq!(pass.standing(&at("two", 100, None)), waiting(500));
    assert_eq!(pass.standing(&at("three", 500, Some(0))), Standing::Over(Over::Time));
}

#[test]
fn without_a_clock_it_lasts_no_longer_than_the_boot() {
    let pass = pass_at(&at("one", 5, None), HOUR);
    assert_eq!((pass.begins, pass.ends), (None, None));
    assert_eq!(pass.standing(&at("one", 65, None)), in_force(HOUR - 60));
    assert_eq!(pass.standing(&at("one", 65, Some(0))), in_force(HOUR - 60));
    assert_eq!(pass.standing(&at("one", 5 + HOUR, Some(0))), Standing::Over(Over::Time));
    for wall in [None, Some(0)] {
        assert_eq!(pass.standing(&at("two", 1, wall)), Standing::Over(Over::Boot));
    }
}

#[test]
fn on_another_machine_and_once_it_is_over_it_admits_nothing() {
    let mut pass = pass_at(&at("one", 5, Some(0)), HOUR);
    let copy = Moment { machine: Digest::of(b"copy"), ..at("one", 6, Some(1)) };
    assert_eq!(pass.standing(&copy), Standing::Over(Over::Machine));
    pass.over = Some(Over::Time);
    assert_eq!(pass.standing(&at("one", 5, Some(0))), Standing::Over(Over::Time));
}

#[test]
fn what_a_pass_is_about_is_a_digest_or_a_pattern_and_never_a_tag_or_everything() {
    let digest = Digest::of(b"image").to_string();
    for text in [&digest, "reg.io/app", "reg.io/prod/**", "reg.io:5000/prod/app*", "docker.io/library/busybox"] {
        let scope = Scope::parse(text).unwrap();
        assert_eq!(scope.to_string(), *text);
        let kept = serde_json::to_string(&scope).unwrap();
        assert_eq!(serde_json::from_str::<Scope>(&kept).unwrap(), scope);
    }
    for (text, why) in [
        ("**", "`**` would admit every image"),
        ("", "a pattern begins with a registry host"),
        ("*", "a pattern begins with a registry host"),
        ("reg.io/app:v1", "a tag can point to another image"),
        ("reg.io:5000/app:v1", "a tag can point to another image"),
        ("busybox:1.36", "a tag can point to another image"),
        ("sha256:12", "not a digest"),
        ("SHA256:12", "a tag can point"),
        (&digest.to_uppercase(), "a tag can point"),
        (&digest.replace("sha256", "sha512"), "not a digest"),
        (&format!("reg.io/app@{digest}"), "a digest says it all"),
        ("reg.io/*/app", "a `*` stands only at the end"),
        ("busybox", "no repository after the registry host"),
        ("reg.io/app\n", "`app"),
    ] {
        let found = Scope::parse(text).unwrap_err();
        assert!(found.contains(why), "{text}: {found}");
    }
}

#[test]
fn a_name_counts_only_where_containerd_proved_it_and_a_digest_always() {
    let subject = |origin| Subject::new(Digest::of(b"image"), Some("reg.io/prod/app".parse().unwrap()), origin);
    let [by_name, by_digest, other] =
        ["reg.io/prod/**", &Digest::of(b"image").to_string(), &Digest::of(b"x").to_string()]
            .map(|text| Scope::parse(text).unwrap());
    for (origin, named) in [(Origin::Fetched, true), (Origin::FetchedFromHost, false), (Origin::Claimed, false)] {
        assert_eq!(by_name.covers(&subject(origin)), named, "{origin:?}");
        assert!(by_digest.covers(&subject(origin)) && !other.covers(&subject(origin)));
    }
    let elsewhere = Subject::new(Digest::of(b"image"), Some("reg.io/dev/app".parse().unwrap()), Origin::Fetched);
    let nameless = Subject::new(Digest::of(b"image"), None, Origin::Fetched);
    assert!(!by_name.covers(&elsewhere) && !by_name.covers(&nameless));
}

#[test]
fn a_reason_says_something_in_one_line() {
    assert_eq!(reason("  the fix for CVE-1\n").as_deref(), Ok("the fix for CVE-1"));
    assert_eq!(reason("a\nREADY=1\u{1b}[31m").as_deref(), Ok("a?READY=1?[31m"));
    for blank in ["", " ", "\n\t"] {
        assert!(reason(blank).unwrap_err().contains("say why"));
    }
    let long = |count: usize| "é".repeat(count);
    assert_eq!(reason(&long(limits::BREAK_GLASS_REASON)), Ok(long(limits::BREAK_GLASS_REASON)));
    assert!(reason(&long(limits::BREAK_GLASS_REASON + 1)).unwrap_err().contains("more than 200"));
}

#[test]
fn what_is_admitted_says_by_what_and_what_the_policy_said() {
    let violation = Violation { code: Code::RegistryUnreachable, found: "silent".into(), fix: String::new() };
    let refusal = Decision { rule: Some("prod".into()), revision: "r1".into(), ..Decision::refused(violation) };
    let subject = Subject::new(Digest::of(b"image"), Some("reg.io/app".parse().unwrap()), Origin::Claimed);
    let pass = Pass { id: "1J4".into(), ..pass_at(&at("one", 5, Some(0)), HOUR) };
    let decision = pass.admit(&subject, refusal.clone());
    assert_eq!((decision.verdict, decision.rule.as_deref()), (Verdict::Allow, Some(RULE)));
    assert_eq!((decision.digest, decision.name.as_deref()), (Some(subject.digest), Some("reg.io/app")));
    assert_eq!((decision.valid_until, decision.revision.as_str()), (None, "r1"));
    let glass = decision.glass.as_deref().unwrap();
    assert_eq!((glass.pass.as_deref(), glass.reason.as_str(), glass.who.as_str()), (Some("1J4"), "why", "uid 0"));
    let said = glass.refusal(&decision);
    assert_eq!(said.message(None), refusal.message(None));
    let by_label = admit_by_label("kube-system", "dns\u{202e}", refusal);
    let glass = by_label.glass.unwrap();
    assert_eq!((glass.pass, glass.who.as_str()), (None, "pod kube-system/dns?"));
}

/// What may happen to a machine: time passes, somebody sets the clock or takes it away, it is started anew.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Set(Option<i64>),
    Restart,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let step = prop_oneof![
        4 => (0..2 * HOUR).prop_map(Step::Pass),
        2 => (-100_000i64..100_000).prop_map(|wall| Step::Set(Some(wall))),
        1 => Just(Step::Set(None)),
        2 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..30)
}

proptest::proptest! {
    #[test]
    fn no_movement_of_clocks_makes_it_longer_and_what_is_over_stays_over(
        steps in steps(),
        length in 1..4 * HOUR,
        has_clock: bool,
    ) {
        let (mut boot, mut up, mut wall, mut spent) = (0, 500, has_clock.then_some(0i64), 0);
        let mut pass = pass_at(&at("0", up, wall), length);
        for step in steps {
            match step {
                Step::Pass(seconds) => {
                    (up, spent) = (up + seconds, spent + seconds);
                    wall = wall.map(|wall| wall + i64::try_from(seconds).unwrap());
                }
                Step::Set(shown) => wall = shown,
                Step::Restart => (boot, up) = (boot + 1, 0),
            }
            let now = at(&boot.to_string(), up, wall);
            let standing = pass.standing(&now);
            if let Standing::InForce(left) | Standing::Waiting(left) = standing {
                proptest::prop_assert!(spent + left.as_secs() <= length, "{:?} after {} of {}", standing, spent, length);
                proptest::prop_assert!(!left.is_zero());
            }
            if let Standing::InForce(_) = standing {
                proptest::prop_assert!(pass.ends.zip(now.wall).is_none_or(|(ends, wall)| wall < ends));
                proptest::prop_assert!(boot == 0 || now.wall.is_some(), "without a clock only in the boot it was made in");
            }
            if let Standing::Over(over) = standing {
                pass.over = Some(pass.over.unwrap_or(over));
            }
            // As the daemon does now and then, and when it starts.
            pass.note(&now);
            proptest::prop_assert_eq!(matches!(pass.standing(&now), Standing::Over(_)), matches!(standing, Standing::Over(_)));
            let kept = serde_json::to_string(&pass).unwrap();
            proptest::prop_assert_eq!(&serde_json::from_str::<Pass>(&kept).unwrap(), &pass);
        }
    }

    #[test]
    fn whatever_is_written_for_a_scope_or_a_reason_nothing_breaks(text in r"(\PC|[\n\x1b\u{202e}:/@*.]){0,80}") {
        if let Ok(scope) = Scope::parse(&text) {
            proptest::prop_assert_eq!(Scope::parse(&scope.to_string()), Ok(scope));
        }
        if let Ok(reason) = reason(&text) {
            proptest::prop_assert!(!reason.trim().is_empty() && !reason.chars().any(char::is_control));
        }
    }
}
