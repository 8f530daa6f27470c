//! `farm jobs` and `farm job`.

use farm_client::exit_codes;
use farm_proto::ids::JobId;
use indicatif::HumanCount;
use serde_json::json;

use super::submit::{detached, finish, interrupt, interrupted};
use super::watch::{Delivery, follow};
use super::{connect, print, print_json, show, tell};
use crate::cli::{FarmArgs, Output, ResultArgs, RetryArgs};
use crate::report::Report;

pub(crate) async fn list(farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let jobs = client.jobs().await?;
    client.close().await;
    match output {
        Output::Json => print_json(&jobs.iter().map(show::JobJson::from).collect::<Vec<_>>())?,
        Output::Text => print(&show::jobs(&jobs))?,
    }
    Ok(exit_codes::OK)
}

pub(crate) async fn show(job: JobId, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let status = client.job(job).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&show::JobJson::from(&status))?,
        Output::Text => print(&show::job(&status))?,
    }
    Ok(exit_codes::OK)
}

pub(crate) async fn results(
    job: JobId,
    wait: bool,
    results: ResultArgs,
    farm: FarmArgs,
    output: Output,
) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let status = client.job(job).await?;
    let mut delivery = Delivery::new(&results, status.result, output, (status.counts.total(), false))?;
    let mut watch = client.watch(job, 0, wait).await?;
    let jobs = [job];
    let status = tokio::select! {
        status = follow(&client, &mut watch, &mut delivery, &jobs) => status?,
        () = interrupted() => {
            // The job is not this command's: it goes on.
            delivery.bar.clear();
            tell(&format!("interrupted: job {job} goes on"));
            return Err(Report::silent(exit_codes::INTERRUPTED));
        }
    };
    finish(&client, delivery, &status).await
}

pub(crate) async fn cancel(job: JobId, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let status = client.cancel(job).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&show::JobJson::from(&status))?,
        Output::Text => tell(&format!("job {job} is {}", show::state(status.state))),
    }
    Ok(exit_codes::OK)
}

pub(crate) async fn retry(args: RetryArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&args.farm).await?;
    let job = client.retry(args.job, args.failed).await?;
    if args.detach {
        client.close().await;
        return detached(job, output);
    }
    let status = client.job(job).await?;
    if output == Output::Text {
        let tasks = HumanCount(status.counts.total());
        tell(&format!("job {job} runs {tasks} tasks of job {} again; its results are numbered from 0", args.job));
    }
    let mut delivery = Delivery::new(&args.results, status.result, output, (status.counts.total(), false))?;
    let mut watch = client.watch(job, 0, true).await?;
    let jobs = [job];
    tokio::select! {
        status = follow(&client, &mut watch, &mut delivery, &jobs) => finish(&client, delivery, &status?).await,
        () = interrupted() => interrupt(&client, &jobs, &delivery).await,
    }
}

pub(crate) async fn delete(job: JobId, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    client.delete(job).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&json!({"deleted": job.0}))?,
        Output::Text => tell(&format!("job {job} is deleted, with its results")),
    }
    Ok(exit_codes::OK)
}
