//! `pullgate enable`.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use super::{boot_list::Proposal, change, complain, paths};
use crate::{
    config::{Config, NodeMode},
    containerd::Containerd,
    node::{
        Obstacle,
        connection::Connection,
        enable::{Found, Plan},
        live::{self, Before},
        record::{Record, Written},
    },
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    change: change::Arguments,
    /// Connect the start gate too: containers of pods then start only if pullgate says so.
    #[arg(long)]
    start: bool,
    /// Leave the boot list alone.
    #[arg(long)]
    no_boot_list: bool,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> ExitCode {
    let config = match change::configuration(path) {
        Ok(config) => config,
        Err(why) => return complain(why),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error),
    };
    match runtime.block_on(enable(path, &config, arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(obstacle) => {
            change::complain(&obstacle);
            ExitCode::from(1)
        }
    }
}

async fn enable(path: &Path, config: &Config, arguments: &Arguments) -> Result<(), Obstacle> {
    let Arguments { change: arguments, start, no_boot_list } = arguments;
    let socket = &config.containerd;
    change::root()?;
    let _alone = change::alone(&arguments.state)?;
    let containerd = Arc::new(Containerd::new(socket));
    let found = Found::look(&containerd, socket).await?;
    let unreadable =
        |why: String| Obstacle::new(why, "Take the file away; `disable` then removes only pullgate's lines");
    let record = Record::load(&arguments.state).map_err(unreadable)?;
    let plan = found.plan(record.as_ref(), &arguments.state, *start)?;
    change::note(&plan.notes);
    let boot_list = match no_boot_list {
        true => None,
        false => Some(Proposal::look(&containerd, paths(path, None).boot).await),
    };
    let told = |why: String| Obstacle::new(why, "Run as root");
    let connection = Connection::look(&containerd, &arguments.state).await.map_err(told)?;
    let live = connection.is_live() && (!plan.start || connection.start.is_live());
    if plan.edits.is_empty() && live {
        say!("Already connected: containerd {} asks pullgate. Nothing to do.", found.version);
        start_gate(&plan);
        if let Some(boot_list) = boot_list.filter(|boot_list| !boot_list.is_empty()) {
            boot_list.show();
            say!("Nothing was written. Next: pullgate boot-list --write");
        }
        return Ok(());
    }
    if arguments.check {
        return Err(match connection.is_live() {
            false => Obstacle::new(format!("not all gates are live: {connection}"), "Run: pullgate enable --restart"),
            true => Obstacle::new(
                format!("the start gate is not live: {}", connection.start),
                "Run: pullgate enable --start --restart",
            ),
        });
    }
    show(&plan);
    boot_list.iter().for_each(Proposal::show);
    if !arguments.restart && !arguments.write {
        match plan.edits.is_empty() {
            true => {
                say!("The configuration is written, and containerd runs without it. Next: pullgate enable --restart")
            }
            false => say!(
                "\nNothing was written. Next: pullgate enable {}--restart (running containers live on; what does not come up is put back)",
                if *start { "--start " } else { "" }
            ),
        }
        start_gate(&plan);
        return Ok(());
    }
    change::daemon()?;
    if plan.start {
        change::listens_to_starts()?;
    }
    let before = match arguments.restart {
        true => {
            let unit = live::unit_of(&found.process)?;
            Some(Before::look(&containerd, &found.process, unit).await.map_err(told)?)
        }
        false => None,
    };
    let fresh = plan.record(&found, record.as_ref());
    let written = Written::write(&arguments.state, &plan.edits, record, Some(fresh))
        .map_err(|why| Obstacle::new(why, "Nothing was changed"))?;
    change::verify(&written, &found.process, &found.dump)?;
    let list = || {
        if let Some(Err(error)) = boot_list.as_ref().map(Proposal::write) {
            warn!("pullgate: the boot list: {error}. Look at: pullgate boot-list --write");
        }
    };
    let Some(before) = before else {
        list();
        say!("Written. containerd asks pullgate once you have restarted it; then look at: pullgate status");
        start_gate(&plan);
        return Ok(());
    };
    let watch = Duration::from_secs(arguments.watch);
    let process = change::restart(&containerd, &written, &before, true, watch).await?;
    written.live(&process).map_err(|why| Obstacle::new(why, "containerd is connected all the same"))?;
    list();
    if let Ok(connection) = Connection::look(&containerd, &arguments.state).await
        && plan.start
        && !connection.start.is_live()
    {
        warn!("pullgate: containerd runs, and not every handler asks: start gate {}", connection.start);
    }
    say!(
        "Connected: containerd {} asks pullgate, and lived for {} s with it. See: pullgate status",
        found.version,
        arguments.watch
    );
    start_gate(&plan);
    if config.mode == NodeMode::Audit {
        say!("This node is in audit mode: nothing is refused. Next: pullgate mode enforce");
    }
    Ok(())
}

/// The difference; of a base spec that is new, the one to what it is made from.
fn show(plan: &Plan) {
    for edit in &plan.edits {
        let source = plan.sources.iter().find(|(path, ..)| *path == edit.path && edit.before.is_none());
        match (source, &edit.after) {
            (Some((path, from, text)), Some(made)) => change::show_made(path, from, text, made.text()),
            _ => change::show(std::slice::from_ref(edit)),
        }
    }
}

fn start_gate(plan: &Plan) {
    if !plan.start {
        say!(
            "The start gate is not connected: containers of images already here start unasked. See: pullgate enable --start"
        );
    }
}
