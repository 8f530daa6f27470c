//! `farm submit`.

use std::time::Duration;

use farm_client::client::{Client, ClientError};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::launch::{LocalFarm, StandingFarm, Workers, cores};
use farm_client::outputs::OutputFolder;
use farm_proto::ids::JobId;
use farm_proto::job::JobStatus;
use farm_proto::ticket::Ticket;
use serde_json::json;

use super::plan::{Plan, Started};
use super::watch::{Delivery, follow, tell_cause};
use super::{dial, exe, find_farm, job, print, print_json, tell};
use crate::cli::{Output, SubmitArgs};
use crate::report::Report;

/// How long Ctrl-C waits for the scheduler's word that a job is cancelled.
const CANCEL: Duration = Duration::from_secs(3);

pub(crate) async fn submit(args: SubmitArgs, output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    let plan = Plan::read(&args, &home)?;
    let files = job::output_folder(&args.task)?;
    let Some(dialer) = find_farm(&args.farm, &home)? else {
        if args.detach || plan.needs_a_job() {
            let what =
                if args.detach { "--detach needs a farm that stays" } else { "no farm is up that has earlier jobs" };
            return Err(Report::new(exit_codes::UNREACHABLE, what).hint("`farm up` starts one here"));
        }
        return on_own_farm(plan, files, &args, output, &home).await;
    };
    if args.workers.is_some() {
        tell("note: --workers is for a farm that is made for one job; this job goes to the one that is there");
    }
    let client = dial(dialer).await?;
    let started = plan.start(&client, !args.detach).await?;
    if args.detach {
        let job = started.watch.job();
        if let Some(files) = files.filter(|_| output == Output::Text) {
            let folder = files.path().display();
            tell(&format!("note: `farm job fetch {job} --to {folder}` fetches what its tasks leave in /out"));
        }
        return detached(job, output);
    }
    let Started { jobs, mut watch, encoding, tasks, is_reduced } = started;
    let mut delivery = Delivery::new(&args.results, encoding, output, (tasks, is_reduced))?.with_files(files);
    tokio::select! {
        status = follow(&client, &mut watch, &mut delivery, &jobs) => finish(&client, delivery, &status?).await,
        () = interrupted() => interrupt(&client, &jobs, &delivery).await,
    }
}

/// Says which job goes on without its client.
pub(super) fn detached(job: JobId, output: Output) -> Result<u8, Report> {
    match output {
        Output::Json => print_json(&json!({"job": job.0}))?,
        Output::Text => print(&format!("{job}\n"))?,
    }
    Ok(exit_codes::OK)
}

/// Runs the job on a farm that is made for it and goes with it.
async fn on_own_farm(
    plan: Plan,
    files: Option<OutputFolder>,
    args: &SubmitArgs,
    output: Output,
    home: &Home,
) -> Result<u8, Report> {
    let size = Workers::on_this_machine(args.workers);
    warn_if_too_many(size);
    if output == Output::Text {
        if StandingFarm::recorded(home).is_some() {
            tell("note: the farm of `farm up` is gone; `farm up` brings it back, `farm down` tidies up after it");
        }
        let slots = size.total_slots();
        tell(&format!(
            "no farm is up: starting one for this job, with {slots} slot{}",
            if slots == 1 { "" } else { "s" }
        ));
    }
    let mut farm = LocalFarm::start(&exe()?, size).await?;
    let ticket = farm.admin.clone();
    let result = tokio::select! {
        result = run_on(&ticket, plan, files, args, output) => result,
        error = farm.failure() => Err(error.into()),
        () = interrupted() => {
            tell("interrupted: ending the farm of this job");
            Err(Report::silent(exit_codes::INTERRUPTED))
        }
    };
    farm.stop().await;
    result
}

async fn run_on(
    ticket: &Ticket,
    plan: Plan,
    files: Option<OutputFolder>,
    args: &SubmitArgs,
    output: Output,
) -> Result<u8, Report> {
    // Nobody brings back the scheduler of such a farm.
    let client = Client::connect(ticket, None).await?.with_patience(Duration::ZERO);
    let Started { jobs, mut watch, encoding, tasks, is_reduced } = plan.start(&client, true).await?;
    let mut delivery = Delivery::new(&args.results, encoding, output, (tasks, is_reduced))?.with_files(files);
    let status = follow(&client, &mut watch, &mut delivery, &jobs).await?;
    finish(&client, delivery, &status).await
}

pub(super) async fn finish(client: &Client, delivery: Delivery, status: &JobStatus) -> Result<u8, Report> {
    let wants_cause = delivery.wants_cause();
    let code = delivery.finish(status);
    if wants_cause {
        tell_cause(client, status).await;
    }
    client.close().await;
    code
}

pub(super) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without the signal there is nothing to wait for.
        std::future::pending::<()>().await;
    }
}

/// Ctrl-C on a farm that stays: the jobs go with their client, as nobody else waits for them.
pub(super) async fn interrupt(client: &Client, jobs: &[JobId], delivery: &Delivery) -> Result<u8, Report> {
    delivery.bar.clear();
    let named = super::show::job_list(jobs);
    tell(&format!("interrupted: cancelling {named} (`farm submit --detach` starts jobs that go on)"));
    let cancel = async {
        let client = client.clone().with_patience(Duration::ZERO);
        // Those that need others first: they would fail for want of them.
        for job in jobs.iter().rev() {
            client.cancel(*job).await?;
        }
        client.close().await;
        Ok::<_, ClientError>(())
    };
    if tokio::time::timeout(CANCEL, cancel).await.is_ok_and(|result| result.is_ok()) {
        return Err(Report::silent(exit_codes::INTERRUPTED));
    }
    let missing = format!("the scheduler does not answer: {named} may go on");
    Err(Report::new(exit_codes::INTERRUPTED, missing).hint("`farm job cancel JOB` cancels one later"))
}

pub(super) fn warn_if_too_many(size: Workers) {
    let (slots, cores) = (size.total_slots(), cores());
    if slots > cores {
        tell(&format!("warning: {slots} slots on {cores} cores: tasks will wait for each other, and none runs faster"));
    }
}
