//! Decisions, counted.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{audit::Told, cli::page::Page, limits};

/// How often each value was met. Whoever chooses names can choose many: those beyond the bound are counted together.
#[derive(Default)]
struct Counts {
    of: HashMap<String, u64>,
    others: u64,
}

/// Counts by what decisions say.
#[derive(Default)]
pub(super) struct Summary {
    decisions: u64,
    verdicts: Counts,
    codes: Counts,
    rules: Counts,
    images: Counts,
}

impl Summary {
    /// Counts `told`, if it is a decision.
    pub(super) fn add(&mut self, told: &Told) {
        let Some(decided) = &told.decided else { return };
        let decision = &decided.decision;
        self.decisions += 1;
        let verdict = match decided.enforced {
            true => decision.verdict.word().to_owned(),
            false => format!("{}, admitted by audit", decision.verdict.word()),
        };
        self.verdicts.add(&verdict);
        if let Some(code) = &told.code {
            self.codes.add(code);
        }
        self.rules.add(decision.rule.as_deref().unwrap_or("none"));
        self.images.add(decided.image.as_deref().or(decision.name.as_deref()).unwrap_or("without a name"));
    }

    fn sections(&self) -> [(&'static str, &Counts); 4] {
        [("verdict", &self.verdicts), ("code", &self.codes), ("rule", &self.rules), ("image", &self.images)]
    }

    /// For a person: the most frequent first.
    pub(super) fn text(&self) -> String {
        let mut page = Page::default();
        page.line(format!("{} decisions", self.decisions));
        for (name, counts) in self.sections().into_iter().filter(|(_, counts)| !counts.of.is_empty()) {
            page.gap();
            page.line(format!("by {name}"));
            let sorted = counts.sorted();
            for (value, count) in sorted.iter().take(limits::SUMMARY_ROWS) {
                page.line(format!("{count:>9}  {value}"));
            }
            let rest = sorted.iter().skip(limits::SUMMARY_ROWS).map(|(_, count)| count).sum::<u64>() + counts.others;
            if rest > 0 {
                page.line(format!("{rest:>9}  all others"));
            }
        }
        page.text()
    }

    /// For a program.
    pub(super) fn json(&self) -> Value {
        let mut value = json!({ "decisions": self.decisions });
        for (name, counts) in self.sections() {
            let sorted: Vec<Value> =
                counts.sorted().iter().map(|(value, count)| json!({ name: value, "count": count })).collect();
            value[name] = json!(sorted);
            value[format!("other-{name}s")] = json!(counts.others);
        }
        value
    }
}

impl Counts {
    fn add(&mut self, value: &str) {
        if let Some(count) = self.of.get_mut(value) {
            *count += 1;
        } else if self.of.len() < limits::SUMMARY_VALUES {
            self.of.insert(value.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    fn sorted(&self) -> Vec<(&str, u64)> {
        let mut sorted: Vec<(&str, u64)> = self.of.iter().map(|(value, count)| (value.as_str(), *count)).collect();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        sorted
    }
}
