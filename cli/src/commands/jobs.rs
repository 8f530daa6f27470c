//! `farm jobs` and `farm job`.

use farm_client::exit_codes;
use farm_proto::ids::JobId;

use super::submit::interrupted;
use super::watch::{Delivery, follow};
use super::{connect, print, print_json, show, tell};
use crate::cli::{FarmArgs, Output, ResultArgs};
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
    let mut delivery = Delivery::new(&results, status.result, output, status.counts.total())?;
    let mut watch = client.watch(job, 0, wait).await?;
    let status = tokio::select! {
        status = follow(&client, &mut watch, &mut delivery) => status?,
        () = interrupted() => {
            // The job is not this command's: it goes on.
            delivery.bar.clear();
            tell(&format!("interrupted: job {job} goes on"));
            return Err(Report::silent(exit_codes::INTERRUPTED));
        }
    };
    let code = delivery.finish(&status);
    client.close().await;
    code
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
