//! Figures out of repeated measurements.

use sha2::{Digest, Sha256};

/// Resamples for an interval.
const RESAMPLES: usize = 2000;

/// The `p` quantile of `values`, 0 for none: between two ranks what lies between them in proportion.
pub fn quantile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = p * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The median of ratios, each of two measurements made one beside the other.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    pub median: f64,
    /// The 95 % interval of the median, by the bootstrap.
    pub interval: (f64, f64),
}

impl Ratio {
    /// Of `ours` over `theirs`, pair by pair.
    pub fn of(ours: &[f64], theirs: &[f64]) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let medians: Vec<f64> = (0..RESAMPLES).map(|round| median(&resample(&ratios, round))).collect();
        Self { median: median(&ratios), interval: (quantile(&medians, 0.025), quantile(&medians, 0.975)) }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.median, self.interval.0, self.interval.1)
    }
}

/// As many of `values`, drawn with replacement; the same on every run.
fn resample(values: &[f64], round: usize) -> Vec<f64> {
    let mut draws = Draws::new(round as u64);
    values.iter().map(|_| values[draws.below(values.len())]).collect()
}

/// Numbers without a pattern (xorshift64*), the same on every run.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        let digest = Sha256::digest(seed.to_le_bytes());
        Self(digest.iter().take(8).fold(1, |state, byte| state << 8 | u64::from(*byte)) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}
