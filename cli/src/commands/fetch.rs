//! `farm job fetch`: the files that tasks left.

use farm_client::client::{Client, Update};
use farm_client::exit_codes;
use farm_client::outputs::{Fetched, OutputFolder};
use farm_proto::message::RequestError;
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use super::progress::Bar;
use super::submit::interrupted;
use super::watch::{away, back};
use super::{connect, print_json, tell};
use crate::cli::{FetchArgs, Output};
use crate::report::Report;

pub(crate) async fn fetch(args: FetchArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&args.farm).await?;
    let fetched = tokio::select! {
        fetched = run(&client, &args) => fetched?,
        () = interrupted() => {
            tell("interrupted: the same command goes on where this one was");
            return Err(Report::silent(exit_codes::INTERRUPTED));
        }
    };
    client.close().await;
    match output {
        Output::Json => {
            let Fetched { files, size, present } = fetched;
            print_json(&json!({"job": args.job.0, "files": files, "bytes": size, "present": present}))?;
        }
        Output::Text => tell(&summary(&fetched, &args.to.display().to_string())),
    }
    Ok(exit_codes::OK)
}

/// What has come.
pub(super) fn summary(fetched: &Fetched, to: &str) -> String {
    let Fetched { files, size, present } = *fetched;
    let what = if files == 1 { "1 file".to_owned() } else { format!("{} files", HumanCount(files)) };
    let present = match present {
        0 => String::new(),
        present => format!(", of which {} were there already", HumanCount(present)),
    };
    format!("{what} ({}) in {to}{present}", HumanBytes(size))
}

async fn run(client: &Client, args: &FetchArgs) -> Result<Fetched, Report> {
    let status = client.job(args.job).await?;
    let tasks = status.counts.total();
    if let Some(task) = args.task.filter(|task| *task >= tasks) {
        return Err(
            farm_client::client::ClientError::from(RequestError::NoSuchTask { job: args.job, task, tasks }).into()
        );
    }
    let folder = OutputFolder::new(&args.to, args.force);
    let mut bar = Bar::new(tasks);
    let mut watch = client.watch(args.job, 0, !args.no_wait).await?;
    let mut sum = Fetched::default();
    while let Some(update) = watch.next().await? {
        match update {
            Update::Results { batch, .. } => {
                sum += folder.fetch(client, &batch, args.task).await?;
                bar.advance(batch.count.into(), batch.failures.len() as u64);
                let tasks = batch.first..batch.first.saturating_add(batch.count.into());
                if args.task.is_some_and(|task| tasks.contains(&task)) {
                    break;
                }
            }
            Update::Reconnecting { patience, .. } => bar.line(&away(patience)),
            Update::Reconnected { after } => bar.line(&back(after)),
            Update::Status(_) => {}
        }
    }
    Ok(sum)
}
