//! What was measured, as a table with the target beside each figure.

use serde::{Deserialize, Serialize};

use crate::{
    node::{Node, Result},
    statistics::{Ratio, median, quantile},
};

/// What belongs together.
#[derive(Debug, Serialize, Deserialize)]
pub struct Section {
    pub title: String,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

/// One figure.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Row {
    what: String,
    ours: String,
    theirs: String,
    ratio: String,
    target: String,
    met: Option<bool>,
}

impl Section {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: Vec::new(), notes: Vec::new() }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Row {
    pub fn new(what: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { what: what.into(), ours: ours.into(), ..Self::default() }
    }

    /// Beside whose figure it stands.
    pub fn beside(self, whose: &str, theirs: &str) -> Self {
        Self { theirs: format!("{whose} {theirs}"), ..self }
    }

    pub fn ratio(self, ratio: &Ratio) -> Self {
        Self { ratio: ratio.to_string(), ..self }
    }

    /// What it has to be, and whether it is.
    pub fn target(self, target: impl Into<String>, met: bool) -> Self {
        Self { target: target.into(), met: Some(met), ..self }
    }

    fn cells(&self) -> [&str; 6] {
        let met = match self.met {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "",
        };
        [&self.what, &self.ours, &self.theirs, &self.ratio, &self.target, met]
    }
}

/// A time in seconds as a person reads it.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-5 => format!("{:.2} µs", s * 1e6),
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1e-1 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// Median and quartiles of times in seconds.
pub fn spread(seconds: &[f64]) -> String {
    format!("{} [{}, {}]", time(median(seconds)), time(quantile(seconds, 0.25)), time(quantile(seconds, 0.75)))
}

/// Median and 99th percentile of times in seconds.
pub fn tail(seconds: &[f64]) -> String {
    format!("p50 {}, p99 {}", time(median(seconds)), time(quantile(seconds, 0.99)))
}

/// A size in KiB as a person reads it.
pub fn mebibytes(kibibytes: f64) -> String {
    format!("{:.1} MiB", kibibytes / 1024.0)
}

/// What was measured, and on what.
///
/// # Errors
/// Where the node does not say.
pub fn machine(node: &Node) -> Result<String> {
    let versions = node.sh("dpkg-query --show --showformat '${Package} ${Version}\\n' pullgate containerd cosign; \
         docker-registry --version | cut -d' ' -f1,3")?;
    let versions: Vec<_> = versions.stdout.lines().map(str::trim).collect();
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let models: Vec<_> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let model = models.first().map_or("", |model| model.trim_start_matches([':', ' ', '\t']));
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("{}\n{} cores, {model}; load {load} at the start", versions.join(", "), models.len()))
}

pub fn print(sections: &[Section]) {
    const HEAD: [&str; 6] = ["", "pullgate", "beside it", "ratio [95 %]", "target", ""];
    let rows = || sections.iter().flat_map(|section| &section.rows);
    let widths: [usize; 6] = std::array::from_fn(|column| {
        rows().map(|row| row.cells()[column].chars().count()).chain([HEAD[column].len()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; 6]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(HEAD);
    for section in sections {
        println!("{}", section.title);
        section.rows.iter().for_each(|row| line(row.cells()));
        section.notes.iter().for_each(|note| println!("      {note}"));
    }
    let missed: Vec<_> = rows().filter(|row| row.met == Some(false)).collect();
    let judged = rows().filter(|row| row.met.is_some()).count();
    println!("\n{} of {judged} targets are met", judged - missed.len());
    for row in missed {
        let ratio = if row.ratio.is_empty() { String::new() } else { format!(", ratio {}", row.ratio) };
        println!("MISS  {}: {}{ratio}; target {}", row.what, row.ours, row.target);
    }
}
