//! `farm submit`.

use farm_client::blobs::JobBlobs;
use farm_client::client::{Client, Watch};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::launch::{LocalFarm, StandingFarm, Workers, cores};
use farm_proto::job::JobStatus;
use serde_json::json;

use super::job::{self, Job};
use super::progress::Bar;
use super::watch::{Delivery, follow};
use super::{exe, find_farm, print, print_json, tell};
use crate::cli::{Output, SubmitArgs};
use crate::report::Report;

pub(crate) async fn submit(args: SubmitArgs, output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    let module = job::load(&args.module, &home)?;
    let mut job = Job::read(module, &args.args, &args.task)?;
    job.spec.name.clone_from(&args.name);
    job.spec.priority = args.priority;
    let Some(ticket) = find_farm(&args.farm, &home)? else {
        if args.detach {
            return Err(Report::new(exit_codes::UNREACHABLE, "--detach needs a farm that stays")
                .hint("`farm up` starts one here"));
        }
        return on_own_farm(&job, &args, output, &home).await;
    };
    if args.workers.is_some() {
        tell("note: --workers is for a farm that is made for one job; this job goes to the one that is there");
    }
    let client = Client::connect(&ticket, Some(&home.identities())).await?;
    let mut watch = start(&client, &job, !args.detach).await?;
    if args.detach {
        return detached(&watch, output);
    }
    let mut delivery = Delivery::new(&args.results, job.spec.module.result, output, job.arguments.count())?;
    tokio::select! {
        status = follow(&client, &mut watch, &mut delivery) => finish(&client, delivery, &status?).await,
        () = interrupted() => interrupt(&client, &watch, &delivery).await,
    }
}

fn detached(watch: &Watch, output: Output) -> Result<u8, Report> {
    match output {
        Output::Json => print_json(&json!({"job": watch.job().0}))?,
        Output::Text => print(&format!("{}\n", watch.job()))?,
    }
    Ok(exit_codes::OK)
}

/// Runs the job on a farm that is made for it and goes with it.
async fn on_own_farm(job: &Job, args: &SubmitArgs, output: Output, home: &Home) -> Result<u8, Report> {
    let size = Workers::on_this_machine(args.workers);
    warn_if_too_many(size);
    if output == Output::Text {
        if StandingFarm::recorded(home).is_some() {
            tell("note: the farm of `farm up` is gone; `farm down` tidies up after it");
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
        result = run_on(&ticket, job, args, output) => result,
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
    ticket: &farm_proto::ticket::Ticket,
    job: &Job,
    args: &SubmitArgs,
    output: Output,
) -> Result<u8, Report> {
    let client = Client::connect(ticket, None).await?;
    let mut watch = start(&client, job, true).await?;
    let mut delivery = Delivery::new(&args.results, job.spec.module.result, output, job.arguments.count())?;
    let status = follow(&client, &mut watch, &mut delivery).await?;
    finish(&client, delivery, &status).await
}

async fn finish(client: &Client, delivery: Delivery, status: &JobStatus) -> Result<u8, Report> {
    let code = delivery.finish(status);
    client.close().await;
    code
}

/// Uploads what is missing, and starts the job.
async fn start(client: &Client, job: &Job, watch: bool) -> Result<Watch, Report> {
    let blobs = JobBlobs::new(job.module.bytes.clone(), job.module.info.digest, &job.arguments, &job.inputs);
    let total = job.inputs.iter().map(|file| file.input.size).sum::<u64>() + job.module.info.size;
    let bar = std::cell::RefCell::new((total > SHOW_UPLOAD).then(|| Bar::upload(total)));
    let uploaded = |size| {
        if let Some(bar) = bar.borrow_mut().as_mut() {
            bar.advance(size, 0);
        }
    };
    Ok(client.submit(&job.spec, job.arguments.inline_payload(), &blobs, watch, &uploaded).await?)
}

/// Uploads of fewer bytes than this are over before a bar could be read.
const SHOW_UPLOAD: u64 = 32 << 20;

pub(super) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without the signal there is nothing to wait for.
        std::future::pending::<()>().await;
    }
}

/// Ctrl-C on a farm that stays: the job goes with its client, as nobody else waits for it.
async fn interrupt(client: &Client, watch: &Watch, delivery: &Delivery) -> Result<u8, Report> {
    delivery.bar.clear();
    tell(&format!("interrupted: cancelling job {} (`farm submit --detach` starts jobs that go on)", watch.job()));
    client.cancel(watch.job()).await?;
    client.close().await;
    Err(Report::silent(exit_codes::INTERRUPTED))
}

pub(super) fn warn_if_too_many(size: Workers) {
    let (slots, cores) = (size.total_slots(), cores());
    if slots > cores {
        tell(&format!("warning: {slots} slots on {cores} cores: tasks will wait for each other, and none runs faster"));
    }
}
