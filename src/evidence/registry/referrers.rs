//! Sigstore bundles as referrers (distribution specification 1.1, "Listing Referrers"): by the API, or
//! where a registry has none, by the fallback tag `sha256-<hex>`.

use std::{collections::HashSet, sync::Arc};

use reqwest::{Url, header::LINK};
use tokio::task::JoinSet;

use super::{
    http::Answer,
    pieces,
    search::{ACCEPT_INDEX, ACCEPT_MANIFEST, Answered, Search, Slots},
};
use crate::{
    evidence::{
        Cause, Layout,
        artifact::{self, Entry, Kind, Piece, is_bundle, not_sha256},
    },
    image::{Digest, media_type},
};

/// Hands out the bundles among the referrers.
pub(super) async fn bundles(search: &Arc<Search>, slots: &Slots, answered: Answered) {
    let mut reading = Reading { search, slots, seen: HashSet::new(), tasks: JoinSet::new(), answered: Some(answered) };
    let (registry, host) = (&search.registry, &search.place.repository.host);
    let memory = registry.http.bounds.referrers_api_memory;
    if registry.habits.lacks_referrers_api(host, memory) {
        // Remembered, hence only the order: where the tag has nothing, the API is asked before that counts.
        if !reading.fallback().await {
            reading.api().await;
        }
    } else if !reading.api().await && reading.fallback().await {
        // Only now is it certain: the repository exists, and has a list that the API did not know of.
        registry.habits.has_referrers_api(host, false);
    }
    reading.finish().await;
}

/// A list of referrers being read.
struct Reading<'a> {
    search: &'a Arc<Search>,
    slots: &'a Slots,
    seen: HashSet<Digest>,
    tasks: JoinSet<Vec<Piece>>,
    answered: Option<Answered>,
}

impl Reading<'_> {
    /// Asks the API, page by page. False if there is none.
    async fn api(&mut self) -> bool {
        let place = format!("{} (referrers)", self.search.place_of(self.search.digest));
        match self.pages(&place).await {
            Ok(there) => there,
            Err(cause) => {
                self.search.gap(Layout::Referrers, place, cause).await;
                true
            }
        }
    }

    async fn pages(&mut self, place: &str) -> Result<bool, Cause> {
        let search = self.search;
        let bounds = &search.registry.http.bounds;
        let mut next = Some(search.url(&["referrers", &search.digest.to_string()])?);
        let mut read = HashSet::new();
        while let Some(url) = next {
            if read.len() >= bounds.referrers_pages {
                search
                    .too_many(Layout::Referrers, place.to_owned(), bounds.referrers_pages, "pages of referrers")
                    .await;
                break;
            }
            if !read.insert(url.clone()) {
                return Err(Cause::Misbehaved("its pages lead in a circle".to_owned()));
            }
            let slot = self.slots.take().await;
            let answer = search.get(url.clone(), ACCEPT_INDEX, bounds.referrers_page_bytes, None).await?;
            drop(slot);
            match answer.status.as_u16() {
                200 => {}
                // No such interface, in the ways that registries say it.
                404 | 400 | 405 | 501 if read.len() == 1 => return Ok(false),
                status => return Err(Cause::Misbehaved(format!("it answered {status}"))),
            }
            search.registry.habits.has_referrers_api(&search.place.repository.host, true);
            let list = read_list(&answer)?;
            next = next_page(&url, &answer)?;
            if !self.start(place, list).await {
                break;
            }
        }
        Ok(true)
    }

    /// Reads the index under the fallback tag. False if there is none.
    async fn fallback(&mut self) -> bool {
        let search = self.search;
        let tag = format!("sha256-{}", search.digest.hex());
        let place = format!("{}:{tag}", search.place.repository);
        let slot = self.slots.take().await;
        let answer = search.tagged(&tag, ACCEPT_INDEX).await;
        drop(slot);
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return false,
            Err(cause) => {
                search.gap(Layout::Referrers, place, cause).await;
                return true;
            }
        };
        match read_list(&answer) {
            Err(cause) => search.gap(Layout::Referrers, place, cause).await,
            Ok(list) => {
                self.start(&place, list).await;
            }
        }
        true
    }

    /// Starts to read what may be a bundle in the `list` that lies at `place`. False if that is more than is read.
    async fn start(&mut self, place: &str, list: Vec<Entry>) -> bool {
        let limit = self.search.registry.http.bounds.referrers;
        let mut sound = true;
        for entry in list {
            if !media_type::is_manifest(&entry.media_type) || !entry.may_be_bundle() {
                continue;
            }
            let Some(digest) = entry.digest() else {
                sound = false;
                continue;
            };
            if self.seen.contains(&digest) {
                continue;
            }
            if self.seen.len() >= limit {
                self.search.too_many(Layout::Referrers, place.to_owned(), limit, "referrers that may be bundles").await;
                return false;
            }
            self.seen.insert(digest);
            if let Some(answered) = self.answered.take() {
                answered.yes();
            }
            let (search, slots) = (self.search.clone(), self.slots.clone());
            self.tasks.spawn(async move { read_referrer(&search, &slots, digest, entry.size).await });
        }
        if !sound {
            self.search.gap(Layout::Referrers, place.to_owned(), not_sha256()).await;
        }
        true
    }

    /// Waits for what was started, then reads the large pieces.
    async fn finish(mut self) {
        let mut large = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            large.extend(self.search.ended(ended).await.unwrap_or_default());
        }
        pieces::read_all(self.search, self.slots, Layout::Referrers, large).await;
    }
}

/// Reads one referrer and the small bundles in it; returns the large ones.
async fn read_referrer(search: &Arc<Search>, slots: &Slots, digest: Digest, size: u64) -> Vec<Piece> {
    let _slot = slots.take().await;
    let mut large = Vec::new();
    let place = search.place_of(digest);
    let layers = match bundle_layers(search, digest, size).await {
        Ok(layers) => layers,
        Err(cause) => {
            search.gap(Layout::Referrers, place, cause).await;
            return large;
        }
    };
    for layer in layers {
        if !search.counts() {
            let limit = search.registry.http.bounds.evidence_items;
            search.too_many(Layout::Referrers, place, limit, "bundles").await;
            break;
        }
        let Some(blob) = layer.digest() else {
            search.gap(Layout::Referrers, place, not_sha256()).await;
            break;
        };
        let piece = Piece { digest: blob, size: layer.size, kind: Kind::Bundle, manifest: digest };
        if piece.is_small() {
            pieces::read(search, Layout::Referrers, piece).await;
        } else {
            large.push(piece);
        }
    }
    large
}

/// The layers of a referrer that are bundles. Its `subject` is whatever the pusher wrote: what a bundle is about is
/// what was signed, and one that was made for another image is told as such.
async fn bundle_layers(search: &Search, digest: Digest, size: u64) -> Result<Vec<Entry>, Cause> {
    let answer = search.by_digest("manifests", digest, size, ACCEPT_MANIFEST).await?;
    let layers = artifact::layers(&answer.body, answer.media_type().unwrap_or_default())?;
    let mut bundles: Vec<Entry> = layers.into_iter().filter(|layer| is_bundle(&layer.media_type)).collect();
    // Held while they are read, the room for all other layers as well otherwise. One more than counts is too many.
    bundles.truncate(search.registry.http.bounds.evidence_items + 1);
    bundles.shrink_to_fit();
    Ok(bundles)
}

fn read_list(answer: &Answer) -> Result<Vec<Entry>, Cause> {
    let stated = Some(answer.media_type().unwrap_or_default());
    artifact::entries(&answer.body, stated, |media_type| media_type == media_type::INDEX)
}

/// The next page of a list (RFC 8288, as in the distribution specification), on the same host only.
fn next_page(from: &Url, answer: &Answer) -> Result<Option<Url>, Cause> {
    let links = answer.headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    let Some(target) = links.flat_map(|link| link.split(',')).find_map(next_target) else { return Ok(None) };
    match from.join(target) {
        Ok(url) if url.origin() == from.origin() => Ok(Some(url)),
        Ok(_) => Err(Cause::NotAllowed("its next page is on another host".to_owned())),
        Err(_) => Err(Cause::Misbehaved("its next page has no address".to_owned())),
    }
}

fn next_target(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    });
    is_next.then_some(target)
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    proptest::proptest! {
        #[test]
        fn no_link_leads_to_another_host(link in r#"(<|>|;|,|rel=|"|next|/|\\|:|@|https?:|evil\.example\.com|\PC){0,20}"#) {
            let from = Url::parse("https://reg.example.com/v2/a/referrers/x").unwrap();
            let Ok(value) = link.parse() else { return Ok(()) };
            let headers = [(LINK, value)].into_iter().collect();
            if let Ok(Some(next)) = next_page(&from, &Answer { status: StatusCode::OK, headers, body: Vec::new() }) {
                proptest::prop_assert_eq!(next.origin(), from.origin());
            }
        }
    }

    #[test]
    fn the_next_page_is_on_the_same_host() {
        let from = Url::parse("https://reg.example.com/v2/a/referrers/x?n=1").unwrap();
        let next = |link: &str| {
            let headers = [(LINK, link.parse().unwrap())].into_iter().collect();
            next_page(&from, &Answer { status: StatusCode::OK, headers, body: Vec::new() })
        };
        for (link, expected) in [
            ("</v2/a/referrers/x?n=2>; rel=\"next\"", Some("https://reg.example.com/v2/a/referrers/x?n=2")),
            ("<?n=2>; rel=next", Some("https://reg.example.com/v2/a/referrers/x?n=2")),
            ("</p>; rel=\"prev\", </n>; title=x; REL=Next", Some("https://reg.example.com/n")),
            ("<https://reg.example.com:443/n>; rel=next", Some("https://reg.example.com/n")),
            ("</p>; rel=\"prev\"", None),
            ("garbage", None),
            ("<unclosed; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next(link).unwrap().map(String::from).as_deref(), expected, "{link}");
        }
        for link in [
            "<https://evil.example.com/n>; rel=next",
            "<http://reg.example.com/n>; rel=next",
            "<//169.254.169.254/>; rel=next",
            "<https://reg.example.com:444/n>; rel=next",
            "<file:///etc/passwd>; rel=next",
        ] {
            assert!(matches!(next(link), Err(Cause::NotAllowed(_))), "{link}");
        }
    }
}
