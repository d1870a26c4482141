//! `pullgate policy explain`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use jiff::Timestamp;
use serde_json::json;

use super::{
    super::{INCONCLUSIVE, exit_code},
    Output, complain, load, page, refuse, show,
};
use crate::{
    cli::page::Page,
    config::Config,
    files,
    image::{Digest, Reference, sanitize},
    limits,
    policy::{
        Policy, Requirement, Rule,
        decision::Decision,
        evaluate::{Answer, Namespace, Origin, Subject},
        governing::Governing,
        scope::Account,
    },
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The image: a name with a tag, a digest or both.
    reference: String,
    /// The policy. Where none is given, the one of this node.
    file: Option<PathBuf>,
    /// A label of the node, as in config.toml; those of this node where neither a label nor a policy is given.
    #[arg(long = "node", value_name = "LABEL=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The Kubernetes namespace; without one what the gates before the start say.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The Kubernetes service account, as if its token proved it; with a namespace alone no account is proven.
    #[arg(long, value_name = "NAMESPACE:NAME", conflicts_with = "namespace")]
    service_account: Option<Account>,
    /// As if only an archive said the name.
    #[arg(long)]
    claimed: bool,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (label, value) = text.split_once('=').ok_or("a label is LABEL=VALUE")?;
    Ok((label.to_owned(), value.to_owned()))
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let reference: Reference = match arguments.reference.parse() {
        Ok(reference) => reference,
        Err(error) => return complain(format!("{}: {error}", sanitize(&arguments.reference, 200))),
    };
    let policy = match load(config, arguments.file.as_deref()) {
        Ok(policy) => policy,
        Err(problems) => return refuse(&problems, arguments.output),
    };
    let mut labels: BTreeMap<String, String> = arguments.labels.iter().cloned().collect();
    if labels.is_empty() && arguments.file.is_none() {
        let text = files::read(config, limits::DOCUMENT_BYTES).unwrap_or_default();
        labels = Config::parse(config, &text).map(|config| config.labels).unwrap_or_default();
    }
    let origin = if arguments.claimed { Origin::Claimed } else { Origin::Fetched };
    let digest = reference.digest.unwrap_or_else(|| Digest::of(b"a digest that no policy pins"));
    let subject = Subject::new(digest, Some(reference.repository.clone()), origin)
        .tagged((&reference).into())
        .in_namespace(match &arguments.service_account {
            Some(account) => Namespace::Of(account.clone()),
            None => arguments.namespace.clone().into(),
        });
    let about = About { policy: &policy, subject: &subject, labels: &labels };
    let answer = policy.ask(&subject, &labels, Timestamp::now());
    let code = match &answer {
        Answer::Settled(decision) => exit_code(decision.verdict),
        Answer::NeedsEvidence(_) => ExitCode::from(INCONCLUSIVE),
    };
    let text = match arguments.output {
        Output::Json => about.in_json(&reference, &answer),
        Output::Text => about.in_text(&reference, &answer),
    };
    page::print(&text, code)
}

struct About<'a> {
    policy: &'a Policy,
    subject: &'a Subject,
    labels: &'a BTreeMap<String, String>,
}

impl About<'_> {
    fn governing(&self) -> Governing<'_> {
        self.policy.governing(self.subject, self.labels)
    }

    /// Rules about the image that do not govern it here, and why not.
    fn passed_over(&self) -> Vec<(&Rule, String)> {
        let governing = self.governing().rules();
        let Some(name) = &self.subject.name else { return Vec::new() };
        let about = self.policy.in_order().into_iter().filter(|(_, pattern)| pattern.matches(name));
        let others = about.filter(|(rule, _)| !governing.iter().any(|known| std::ptr::eq(*known, *rule)));
        let why = |rule: &Rule| {
            if !rule.nodes.selects(self.labels) {
                return format!("only on nodes {}", rule.nodes);
            }
            match (self.subject.namespace.name(), self.subject.namespace.account()) {
                (Some(namespace), _)
                    if !rule.namespaces.is_empty() && !rule.namespaces.iter().any(|known| known == namespace) =>
                {
                    format!("only in ns {}", rule.namespaces.join(","))
                }
                (Some(_), account)
                    if !rule.accounts.is_empty() && account.is_none_or(|account| !rule.accounts.contains(account)) =>
                {
                    format!("only for {}", show::accounts(rule).join(","))
                }
                _ => "wider than what governs".to_owned(),
            }
        };
        others.map(|(rule, _)| (rule, why(rule))).collect()
    }

    fn in_text(&self, reference: &Reference, answer: &Answer<'_>) -> String {
        let mut page = Page::default();
        let labels: Vec<String> = self.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        page.line(match answer {
            Answer::Settled(decision) => headline(decision),
            Answer::NeedsEvidence(_) => "Admitted if it is signed as below".to_owned(),
        });
        page.gap();
        page.row("image", reference.to_string());
        page.row("node", if labels.is_empty() { "no labels".to_owned() } else { labels.join(" ") });
        let namespace = self.subject.namespace.name();
        page.row("namespace", namespace.unwrap_or("not known, as before the start: one that admits is enough"));
        if let Some(account) = self.subject.namespace.account() {
            page.row("account", format!("{}, proven", account.name));
        } else if namespace.is_some_and(|namespace| self.policy.asks_for_accounts_of(namespace)) {
            page.row("account", "not proven: what is said for any account here must be met");
        }
        if let Answer::Settled(Decision { violations, .. }) = answer {
            for violation in violations {
                page.row("found", format!("{} {}: {}", violation.code, violation.code.name(), violation.found));
                page.row("", format!("fix: {}", violation.fix));
            }
        }
        let governing = self.governing();
        if let Some(exempt) = governing.exempt() {
            page.row("exempt", format!("\"{}\" at {}:{}", exempt.name, self.policy.file, exempt.line));
        }
        for rule in governing.rules() {
            let is_floor = self.policy.floors.iter().any(|floor| std::ptr::eq(floor, rule));
            let title = if is_floor { "and floor" } else { "rule" };
            page.row(
                title,
                format!("\"{}\" at {}:{}, {}", rule.name, self.policy.file, rule.line, show::whereabouts(rule)),
            );
            page.row(
                "",
                match rule.require {
                    Requirement::Deny => show::needs(self.policy, rule),
                    _ => format!("needs {}", show::needs(self.policy, rule)),
                },
            );
            let told = rule.contact.iter().map(|contact| format!("ask {contact}")).chain(rule.message.clone());
            told.for_each(|told| page.row("", told));
        }
        let mut title = "not";
        for (rule, why) in self.passed_over() {
            page.row(title, format!("\"{}\" at {}:{}: {why}", rule.name, self.policy.file, rule.line));
            title = "";
        }
        page.text()
    }

    fn in_json(&self, reference: &Reference, answer: &Answer<'_>) -> String {
        let governing = self.governing();
        let rules = governing
            .rules()
            .into_iter()
            .map(|rule| json!({ "name": rule.name, "line": rule.line, "needs": show::needs(self.policy, rule) }));
        let not = self
            .passed_over()
            .into_iter()
            .map(|(rule, why)| json!({ "name": rule.name, "line": rule.line, "why": why }));
        let decision = match answer {
            Answer::Settled(decision) => Some(decision),
            Answer::NeedsEvidence(_) => None,
        };
        page::json(&json!({
            "image": reference.to_string(), "node": self.labels, "namespace": self.subject.namespace.name(),
            "service-account": self.subject.namespace.account().map(ToString::to_string),
            "exempt": governing.exempt().map(|exempt| &exempt.name), "rules": rules.collect::<Vec<_>>(),
            "not": not.collect::<Vec<_>>(), "decision": decision,
        }))
    }
}

fn headline(decision: &Decision) -> String {
    match decision.code() {
        None => "Admitted without a signature".to_owned(),
        Some(code) => format!("Refused whatever is signed: {code} {}", code.name()),
    }
}
