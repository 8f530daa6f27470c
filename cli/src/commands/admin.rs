//! `farm admin`: the state folder of a scheduler that is not running.

use std::path::PathBuf;

use farm_client::exit_codes;
use farm_client::home::Home;
use farm_scheduler::admin;
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use super::{print, print_json, tell};
use crate::cli::{AdminArgs, AdminCommand, Output};
use crate::report::Report;

pub(crate) fn admin(args: AdminArgs, output: Output) -> Result<u8, Report> {
    let state = state(args.state)?;
    match args.command {
        AdminCommand::Check => check(&state, output),
        AdminCommand::Backup { to } => {
            admin::backup(&state, &to)?;
            match output {
                Output::Json => print_json(&json!({"state": state, "backup": to}))?,
                Output::Text => tell(&format!(
                    "{} is copied to {}; `farm scheduler --state FOLDER` starts from a copy",
                    state.display(),
                    to.display()
                )),
            }
            Ok(exit_codes::OK)
        }
        AdminCommand::Gc => {
            let report = admin::gc(&state)?;
            match output {
                Output::Json => print_json(&json!({"removed": report.removed, "bytes": report.bytes}))?,
                Output::Text => tell(&format!(
                    "removed {} blobs that no job needs, {}",
                    HumanCount(report.removed),
                    HumanBytes(report.bytes)
                )),
            }
            Ok(exit_codes::OK)
        }
    }
}

/// The folder that is meant.
fn state(named: Option<PathBuf>) -> Result<PathBuf, Report> {
    if let Some(named) = named {
        return if named.is_dir() {
            Ok(named)
        } else {
            Err(none_at(&format!("there is no folder {}", named.display())))
        };
    }
    let home = Home::from_env();
    let known = [home.scheduler(), home.standing_state()];
    known.into_iter().find(|folder| folder.is_dir()).ok_or_else(|| none_at("no scheduler has left its state here"))
}

fn none_at(message: &str) -> Report {
    Report::new(exit_codes::NOT_FOUND, message).hint("--state names the folder that `farm scheduler --state` was given")
}

fn check(state: &std::path::Path, output: Output) -> Result<u8, Report> {
    let report = admin::check(state)?;
    let is_good = report.faults.is_empty();
    match output {
        Output::Json => print_json(&json!({
            "state": state,
            "jobs": report.jobs,
            "batches": report.batches,
            "tasks": report.tasks,
            "blobs": report.blobs,
            "bytes": report.bytes,
            "faults": report.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))?,
        Output::Text => {
            for fault in &report.faults {
                print(&format!("{fault}\n"))?;
            }
            tell(&format!(
                "{}: {} jobs, {} outcomes in {} batches, {} blobs of {}: {}",
                state.display(),
                HumanCount(report.jobs),
                HumanCount(report.tasks),
                HumanCount(report.batches),
                HumanCount(report.blobs),
                HumanBytes(report.bytes),
                match report.faults.len() {
                    0 => "all is well".to_owned(),
                    1 => "1 fault".to_owned(),
                    faults => format!("{faults} faults"),
                },
            ));
        }
    }
    Ok(if is_good { exit_codes::OK } else { exit_codes::INTERNAL })
}
