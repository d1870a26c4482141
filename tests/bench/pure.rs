//! What deciding costs with everything at hand: no network, no disk, one core.

use std::{collections::BTreeMap, hint::black_box, time::Instant};

use jiff::Timestamp;
use pullgate::{
    evidence::{Attached, Found, Material},
    image::{Digest, Repository},
    policy::{
        Policy,
        decision::Verdict,
        evaluate::{Answer, Findings, Origin, Subject},
    },
    verify::{Seen, verify},
};

use crate::{
    evidence::Signer,
    keyless,
    node::Result,
    policy,
    report::{Row, Section, spread, time},
    statistics::{Ratio, median},
};

/// Batches that are timed.
pub const BATCHES: usize = 101;
/// The registry of the images.
pub const HOST: &str = "reg.example.com";

pub fn measure() -> Result<Vec<Section>> {
    let mut section = Section::new("Deciding with the evidence at hand (one core)");
    section.rows.extend(signatures()?);
    section.rows.extend(keyless::signatures()?);
    section.rows.extend(policy::many_rules()?);
    Ok(vec![section])
}

fn signatures() -> Result<Vec<Row>> {
    let signer = Signer::new("/var/tmp/bench-pure.pub")?;
    let repository: Repository = format!("{HOST}/bench/app").parse()?;
    let subject = Subject::new(Digest::of(b"image"), Some(repository), Origin::Fetched);
    let written = policy::Policy { host: HOST, key: &signer.public, formats: &[] }.document();
    let policy =
        Policy::parse("policy.toml", &written, &|file| std::fs::read_to_string(file).map_err(|e| e.to_string()))?;
    let key = policy.attestors.first().and_then(|attestor| attestor.keys.first()).ok_or("no key")?;
    let (payload, signature) = signer.simple(&subject.digest)?;
    let simple =
        Material::SimpleSigning { payload: payload.clone().into_bytes(), signature, attached: Attached::default() };
    let bundle = Material::Bundle(signer.bundle(&subject.digest)?.into_bytes());
    let raw = signer.signature(payload.as_bytes())?;

    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..BATCHES {
        times[0].push(each(50, || key.key.verifies(payload.as_bytes(), &raw)));
        for (material, times) in [&simple, &bundle].into_iter().zip(&mut times[1..]) {
            let found = Found { material: material.clone(), place: String::new() };
            times.push(each(50, || decide(&policy, &subject, &found) == Verdict::Allow));
        }
    }
    let [check, simple, bundle] = times;
    let beside = |what: &str, ours: &[f64]| {
        let ratio = Ratio::of(ours, &check);
        Row::new(what, spread(ours))
            .beside("signature check", &time(median(&check)))
            .ratio(&ratio)
            .target("2", ratio.median <= 2.0)
    };
    Ok(vec![
        Row::new("P-256 signature check", format!("{}: {:.0} a second", spread(&check), 1.0 / median(&check))),
        beside("decision by a .sig signature", &simple),
        beside("decision by a bundle", &bundle),
    ])
}

/// What `policy` decides about `subject` by `found`.
pub fn decide(policy: &Policy, subject: &Subject, found: &Found) -> Verdict {
    let now = Timestamp::now();
    let Answer::NeedsEvidence(governing) = policy.ask(subject, &BTreeMap::new(), now) else { return Verdict::Deny };
    let findings = verify(found, &subject.digest, &governing.attestors(policy), Seen::at_first(now));
    let vouched = findings.into_iter().filter_map(std::result::Result::ok);
    let findings = Findings { vouched: vouched.collect(), ..Findings::default() };
    policy.evaluate(&governing, subject, &findings, now).verdict
}

/// Seconds for one of `calls` calls, each of which has to succeed.
pub fn each(calls: u32, mut call: impl FnMut() -> bool) -> f64 {
    let begun = Instant::now();
    let all = (0..calls).all(|_| black_box(call()));
    let took = begun.elapsed().as_secs_f64() / f64::from(calls);
    if all { took } else { f64::INFINITY }
}
