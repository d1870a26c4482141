//! The bounds of the registry client, gathered so that a test can make them small.

use std::time::Duration;

use crate::limits;

/// What the client reads, asks and waits for at most. The defaults are those of [`crate::limits`].
#[derive(Clone, Debug)]
pub struct Bounds {
    /// [`limits::MANIFEST_BYTES`]
    pub manifest_bytes: u64,
    /// [`limits::EVIDENCE_BYTES`]
    pub evidence_bytes: u64,
    /// [`limits::EVIDENCE_TOTAL_BYTES`]
    pub evidence_total_bytes: u64,
    /// [`limits::EVIDENCE_HELD_BYTES`]
    pub evidence_held_bytes: u64,
    /// [`limits::TOKEN_BYTES`]
    pub token_bytes: u64,
    /// [`limits::REFERRERS_PAGE_BYTES`]
    pub referrers_page_bytes: u64,
    /// [`limits::REFERRERS_PAGES`]
    pub referrers_pages: usize,
    /// [`limits::REFERRERS`]
    pub referrers: usize,
    /// [`limits::EVIDENCE_ITEMS`]
    pub evidence_items: usize,
    /// [`limits::PARALLEL_FETCHES`]; at least 4, so that no layout waits for another.
    pub parallel_fetches: usize,
    /// [`limits::REDIRECTS`]
    pub redirects: usize,
    /// [`limits::REGISTRY_TRIES`]
    pub tries: usize,
    /// [`limits::REGISTRY_CONNECT`]
    pub connect: Duration,
    /// [`limits::REGISTRY_IDLE`]
    pub idle: Duration,
    /// [`limits::REGISTRY_REQUEST`]
    pub request: Duration,
    /// [`limits::EVIDENCE_DEADLINE`]
    pub deadline: Duration,
    /// [`limits::LAYOUT_HEDGE`]
    pub hedge: Duration,
    /// [`limits::LAYOUT_PATIENCE`]
    pub patience: Duration,
    /// [`limits::LAYOUT_GRACE`]
    pub grace: Duration,
    /// [`limits::MIRROR_HEDGE`]
    pub mirror_hedge: Duration,
    /// [`limits::MIRROR_PATIENCE`]
    pub mirror_patience: Duration,
    /// [`limits::HELPER`]
    pub helper: Duration,
    /// [`limits::REFERRERS_API_MEMORY`]
    pub referrers_api_memory: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            manifest_bytes: limits::MANIFEST_BYTES,
            evidence_bytes: limits::EVIDENCE_BYTES,
            evidence_total_bytes: limits::EVIDENCE_TOTAL_BYTES,
            evidence_held_bytes: limits::EVIDENCE_HELD_BYTES,
            token_bytes: limits::TOKEN_BYTES,
            referrers_page_bytes: limits::REFERRERS_PAGE_BYTES,
            referrers_pages: limits::REFERRERS_PAGES,
            referrers: limits::REFERRERS,
            evidence_items: limits::EVIDENCE_ITEMS,
            parallel_fetches: limits::PARALLEL_FETCHES,
            redirects: limits::REDIRECTS,
            tries: limits::REGISTRY_TRIES,
            connect: limits::REGISTRY_CONNECT,
            idle: limits::REGISTRY_IDLE,
            request: limits::REGISTRY_REQUEST,
            deadline: limits::EVIDENCE_DEADLINE,
            hedge: limits::LAYOUT_HEDGE,
            patience: limits::LAYOUT_PATIENCE,
            grace: limits::LAYOUT_GRACE,
            mirror_hedge: limits::MIRROR_HEDGE,
            mirror_patience: limits::MIRROR_PATIENCE,
            helper: limits::HELPER,
            referrers_api_memory: limits::REFERRERS_API_MEMORY,
        }
    }
}
