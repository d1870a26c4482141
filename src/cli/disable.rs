//! `pullgate disable`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{change, change::Arguments, complain};
use crate::{
    containerd::Containerd,
    node::{
        Obstacle,
        connection::Connection,
        disable, dump, enable, imports, lines,
        live::{self, Before},
        process::{CONFIG, Process},
        record::{Record, Written},
        start,
    },
};

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    // To get rid of pullgate must not take a good configuration of it.
    let socket = match change::configuration(config) {
        Ok(config) => config.containerd,
        Err(why) => {
            warn!("pullgate: {why}; taking containerd's usual socket");
            PathBuf::from("/run/containerd/containerd.sock")
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error),
    };
    match runtime.block_on(disable(&socket, arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(obstacle) => {
            change::complain(&obstacle);
            ExitCode::from(1)
        }
    }
}

/// Whether the files name pullgate: what a containerd that does not run asks once it is started.
fn written() -> bool {
    let files = imports::read(Path::new(CONFIG)).unwrap_or_default();
    files.iter().any(|file| {
        let text = &file.text;
        text.contains(dump::DIFF_PROXY.1)
            || text.contains(dump::TRANSFER_PROXY.1)
            || lines::base_specs_of(text).iter().any(|path| start::asks(path))
    })
}

async fn disable(socket: &Path, arguments: &Arguments) -> Result<(), Obstacle> {
    change::root()?;
    let _alone = change::alone(&arguments.state)?;
    let containerd = Containerd::new(socket);
    let told = |why: String| Obstacle::new(why, "Mend that first; nothing was written");
    let record = Record::load(&arguments.state).map_err(told)?;
    let connection = Connection::look(&containerd, &arguments.state).await;
    if arguments.check {
        // Where containerd does not run, its files tell what its next start asks.
        let asks = record.is_some() || connection.as_ref().map_or_else(|_| written(), Connection::is_anywhere);
        let starts = match &connection {
            Ok(connection) => connection.start.is_anywhere(),
            Err(_) => record.as_ref().is_none_or(|record| record.start),
        };
        return match (asks, starts) {
            (false, _) => Ok(()),
            (true, false) => {
                Err(Obstacle::new("containerd asks pullgate about every layer", "Run: pullgate disable --restart"))
            }
            (true, true) => Err(Obstacle::new(
                "containerd asks pullgate about every layer, and before it starts a container",
                "Run: pullgate disable --restart",
            )),
        };
    }
    let plan = match &record {
        Some(record) => disable::plan(record, &imports::read(&record.config).unwrap_or_default()).map_err(told)?,
        None => match &connection {
            Ok(connection) if !connection.is_anywhere() => {
                say!("Not connected: containerd does not ask pullgate. Nothing to do.");
                return Ok(());
            }
            Ok(connection) if connection.is_configured() || connection.start.is_configured() => {
                return Err(Obstacle::new(
                    "containerd's configuration has pullgate's lines, and `pullgate enable` did not write them",
                    "Take them out by hand, and restart containerd (/usr/share/doc/pullgate/containerd.md)",
                ));
            }
            Ok(_) => enable::Plan::default(),
            Err(why) => return Err(told(format!("containerd cannot be looked at: {why}"))),
        },
    };
    change::note(&plan.notes);
    change::show(&plan.edits);
    if !arguments.restart && !arguments.write {
        say!("\nNothing was written. Next: pullgate disable --restart (running containers live on)");
        return Ok(());
    }
    let process = match containerd.process().await {
        Ok(Some(pid)) => Process::of(pid).ok(),
        _ => None,
    };
    let before = match (arguments.restart, &process) {
        (false, _) => None,
        (true, None) => {
            let what = format!("containerd does not answer on {}", socket.display());
            return Err(Obstacle::new(what, "Start it first, or run: pullgate disable --write"));
        }
        (true, Some(process)) => {
            let unit = live::unit_of(process)?;
            Some(Before::look(&containerd, process, unit).await.map_err(told)?)
        }
    };
    let dump = process
        .as_ref()
        .map(|process| enable::dump(&process.program, process.config.exists().then_some(&process.config)));
    let written = Written::write(&arguments.state, &plan.edits, record, None)
        .map_err(|why| Obstacle::new(why, "Nothing was changed"))?;
    if let (Some(process), Some(Ok(dump))) = (&process, &dump) {
        change::verify(&written, process, dump)?;
    }
    let Some(before) = before else {
        say!("Written. containerd asks pullgate until you have restarted it: keep pullgate until then.");
        return Ok(());
    };
    change::restart(&containerd, &written, &before, false, Duration::from_secs(arguments.watch)).await?;
    say!("Disconnected: containerd does not ask pullgate any more.");
    Ok(())
}
