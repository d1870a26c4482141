//! Three hundred bogus bundles around the good one.

use pullgate::image::Digest;

use crate::{
    check,
    child::{self, Took},
    evidence::Signer,
    hostile::{Content, HostileRegistry, Reply},
    node::Result,
    report::{Row, Section, mebibytes, spread, time},
    statistics::{Ratio, median},
};

pub const BOGUS: usize = 300;
const ROUNDS: usize = 11;
/// cosign takes seconds for each.
const COSIGN_ROUNDS: usize = 3;

pub fn measure() -> Result<Vec<Section>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let registry = HostileRegistry::start().await;
        let signer = Signer::new("/var/tmp/bench-flood.pub")?;
        fill(&registry, &signer)?;
        let image = format!("{}/bench/app:flooded", registry.host());
        let ours = check::pullgate(&registry.host(), &[], &signer.public, &image)?;
        let cosigns = check::cosign(true, &signer.public, &image);
        let (mut our, mut their) = (Vec::new(), Vec::new());
        let mut requests = (0, 0);
        for round in 0..ROUNDS {
            registry.forget();
            our.push(ended(ours.clone()).await?);
            requests.0 = registry.asked().len();
            if round < COSIGN_ROUNDS {
                registry.forget();
                their.push(ended(cosigns.clone()).await?);
                requests.1 = registry.asked().len();
            }
        }
        Ok(vec![section(&our, &their, requests)])
    })
}

fn section(our: &[Took], their: &[Took], requests: (usize, usize)) -> Section {
    let of = |took: &[Took], figure: fn(&Took) -> f64| took.iter().map(figure).collect::<Vec<f64>>();
    let (walls, their_walls) = (of(our, |took| took.wall), of(their, |took| took.wall));
    let (peak, their_peak) = (median(&of(our, |took| took.peak)), median(&of(their, |took| took.peak)));
    let title = format!("One-shot check, {BOGUS} bogus bundles around the good one ({ROUNDS} rounds; by API)");
    let mut section = Section::new(title);
    section.rows.push(
        Row::new("wall", spread(&walls))
            .beside("cosign", &time(median(&their_walls)))
            .ratio(&Ratio::of(&walls, &their_walls))
            .target("0.5 s", median(&walls) < 0.5),
    );
    section.rows.push(
        Row::new("memory at its peak", mebibytes(peak))
            .beside("cosign", &mebibytes(their_peak))
            .target("64 MiB", peak < 64.0 * 1024.0),
    );
    section.rows.push(Row::new("requests", requests.0.to_string()).beside("cosign", &requests.1.to_string()));
    section
}

/// Puts an image into the registry, with its evidence.
fn fill(registry: &HostileRegistry, signer: &Signer) -> Result<()> {
    // A client may ask whether anybody is there before it asks for anything.
    registry.on("/v2/", |request, right| if request.target == "/v2/" { Reply::json(200, "{}") } else { right });
    let mut content = registry.content();
    content.referrers_api = true;
    let image = content.image("bench/app", "flooded", "flooded");
    bogus_around_good(&mut content, image, signer)
}

/// Bundles about `image` that somebody else signed, and among them the one of `signer`: the last but one, since a
/// client may well begin with the last.
///
/// # Errors
/// Where they cannot be signed.
pub fn bogus_around_good(content: &mut Content, image: Digest, signer: &Signer) -> Result<()> {
    let stranger = Signer::new("/var/tmp/bench-stranger.pub")?;
    for signer in std::iter::repeat_n(&stranger, BOGUS - 1).chain([signer, &stranger]) {
        content.bundle("bench/app", image, signer.bundle(&image)?.as_bytes());
    }
    Ok(())
}

async fn ended(command: Vec<String>) -> Result<Took> {
    tokio::task::spawn_blocking(move || child::measure_ending(0, &command)).await?
}
