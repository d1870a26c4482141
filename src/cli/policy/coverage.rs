//! Which rules and which of their requirements the cases of a policy test are about.

use std::collections::BTreeMap;

use serde_json::json;

use super::{cases::Case, many, table};
use crate::{
    cli::page::Page,
    policy::{
        Policy, Rule,
        decision::{Decision, Verdict},
    },
};

/// What the cases had to do with each rule.
pub(super) struct Coverage<'p> {
    rows: Vec<Row<'p>>,
}

struct Row<'p> {
    name: &'p str,
    line: usize,
    cases: usize,
    admitted: usize,
    refused: usize,
    /// Each attestor that it names: whether some case lacked it alone, hence whether leaving it out would be noticed.
    attestors: BTreeMap<String, (bool, bool)>,
}

impl<'p> Coverage<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        let of_rule = |rule: &'p Rule| {
            let attestors = policy.attestors_of(rule).into_iter();
            let attestors = attestors.map(|attestor| (attestor.name.clone(), (false, false))).collect();
            Row { name: &rule.name, line: rule.line, cases: 0, admitted: 0, refused: 0, attestors }
        };
        let rules = policy.rules.iter().chain(&policy.floors).chain([&policy.default]).map(of_rule);
        let exempt = policy.exempt.iter().map(|exempt| Row {
            name: &exempt.name,
            line: exempt.line,
            cases: 0,
            admitted: 0,
            refused: 0,
            attestors: BTreeMap::new(),
        });
        Self { rows: rules.chain(exempt).collect() }
    }

    /// Counts what `case` came to.
    pub(super) fn count(&mut self, policy: &Policy, case: &Case, decision: &Decision) {
        let governing = policy.governing(&case.subject, &case.labels);
        let names: Vec<&str> = governing.rules().iter().map(|rule| rule.name.as_str()).collect();
        let exempt = governing.exempt().map(|exempt| exempt.name.as_str());
        for row in self.rows.iter_mut().filter(|row| names.contains(&row.name) || exempt == Some(row.name)) {
            row.cases += 1;
            let told = decision.rule.as_deref() == Some(row.name);
            row.admitted += usize::from(decision.verdict == Verdict::Allow);
            row.refused += usize::from(decision.verdict != Verdict::Allow && told);
            for required in &decision.grounds.required {
                if let Some((met, missing)) =
                    row.attestors.get_mut(&required.attestor).filter(|_| required.part.is_none())
                {
                    *met |= required.vouched.is_some();
                    *missing |= required.vouched.is_none();
                }
            }
        }
    }

    fn covered(&self) -> ([usize; 2], [usize; 2]) {
        let rules = self.rows.iter().filter(|row| row.cases > 0).count();
        let requirements = || self.rows.iter().flat_map(|row| row.attestors.values());
        let seen = requirements().filter(|(met, missing)| *met && *missing).count();
        ([rules, self.rows.len()], [seen, requirements().count()])
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let ([rules, all_rules], [seen, requirements]) = self.covered();
        page.line(format!(
            "Covered: {rules} of {}, {seen} of {} both met and missing",
            many(all_rules, "rule"),
            many(requirements, "requirement")
        ));
        let gaps = self.rows.iter().filter_map(|row| {
            let open: Vec<String> = row
                .attestors
                .iter()
                .filter_map(|(name, seen)| match seen {
                    (true, true) => None,
                    (false, true) => Some(format!("{name} never met")),
                    (true, false) => Some(format!("{name} never missing")),
                    (false, false) => Some(format!("{name} never asked")),
                })
                .collect();
            let open = if row.cases == 0 { "no case is about it".to_owned() } else { open.join(", ") };
            let numbers = [row.cases, row.admitted, row.refused].map(|number| number.to_string());
            let [cases, admitted, refused] = numbers;
            (!open.is_empty()).then(|| [format!("{}:{}", row.name, row.line), cases, admitted, refused, open])
        });
        let gaps: Vec<[String; 5]> = gaps.collect();
        if !gaps.is_empty() {
            page.gap();
            table::add(page, ["RULE:LINE", "CASES", "ADMITTED", "REFUSED", "NOT COVERED"], &gaps);
        }
    }

    pub(super) fn in_json(&self) -> serde_json::Value {
        let row = |row: &Row<'_>| {
            let requirements: BTreeMap<&str, _> = row
                .attestors
                .iter()
                .map(|(name, (met, missing))| (name.as_str(), json!({ "met": met, "missing": missing })))
                .collect();
            json!({
                "rule": row.name, "line": row.line, "cases": row.cases, "admitted": row.admitted, "refused": row.refused,
                "requirements": requirements,
            })
        };
        let ([rules, all_rules], [seen, requirements]) = self.covered();
        json!({
            "rules": { "covered": rules, "all": all_rules },
            "requirements": { "covered": seen, "all": requirements },
            "by-rule": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}
