//! Layouts on disk as tools saved them: each is decided as its image is in a registry, and all that is in it is found.

use pullgate::evidence::{Elsewhere, Formats, layout::OciLayout, sources::Wanted};

use super::*;

#[tokio::test]
async fn every_image_is_decided_on_disk_as_in_a_registry() {
    let Some(samples) = vectors("samples") else { return };
    let mut run = 0;
    for case in std::fs::read_dir(samples.join("keyed")).unwrap() {
        let folder = case.unwrap().path();
        let (case, layout) = (read_json(&folder.join("case.json")), folder.join("layout"));
        let (image, attestor) = (text(&case, "image_digest").parse().unwrap(), keyed::attestor(&samples, &case));
        let name: Repository = "reg.invalid/vectors/app".parse().unwrap();
        let sources = || Sources::new(Kept::default());
        let by_layout = sources().with_layout(OciLayout::new(&layout));
        let named = format!("[[evidence]]\nimages = [\"**\"]\ndirectory = \"{}\"\nonly = true\n", layout.display());
        for (sources, more) in [(by_layout, ""), (sources(), named.as_str())] {
            let decision = decide_from(sources, more, name.clone(), image, ("", &attestor)).await;
            assert_eq!(decision.verdict, expected(&case), "{}, {more:?}: {decision:?}", text(&case, "id"));
        }
        run += 1;
    }
    assert_eq!(run, keyed::CASES);
}

#[tokio::test]
async fn what_cosign_saved_is_found() {
    let Some(folder) = vectors("slsa-verifier") else { return };
    let cases = read_json(&folder.join("cases_gha_container.json"));
    for case in cases.as_array().unwrap() {
        let layout = OciLayout::new(&folder.join(text(case, "layout")));
        let sources = Sources::new(Kept::default()).with_layout(layout);
        let digest = text(case, "digest").parse().unwrap();
        let wanted = Wanted { digest, place: None, formats: Formats::ALL, offline: false };
        let registry = Registry::new(Default::default());
        let mut search = sources.search(&registry, wanted, Elsewhere::default());
        let mut found = 0;
        while let Some(item) = search.next().await {
            let item = item.unwrap_or_else(|gap| panic!("{}: {gap:?}", text(case, "id")));
            found += usize::from(matches!(item.0.material, pullgate::evidence::Material::Envelope { .. }));
        }
        assert!(found >= 1, "{}", text(case, "id"));
    }
    assert_eq!(cases.as_array().unwrap().len(), 15);
}
