//! `farm up`, `down`, `status` and `worker drain`.

use std::time::Duration;

use farm_client::client::Client;
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::launch::{StandingFarm, Workers};
use serde_json::json;

use super::submit::warn_if_too_many;
use super::{connect, exe, print, print_json, show, tell};
use crate::cli::{FarmArgs, Output, UpArgs};
use crate::report::Report;

pub(crate) async fn up(args: UpArgs, output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    if let Some(farm) = StandingFarm::find(&home) {
        let ticket = farm.ticket()?;
        tell(&format!("a farm is up already, at {}:{}; `farm down` ends it", ticket.host, ticket.port));
        if args.workers.is_some_and(|asked| Workers::on_this_machine(Some(asked)) != farm.size) {
            return Err(Report::usage("it has another number of workers").hint("`farm down`, then `farm up` again"));
        }
        return Ok(exit_codes::OK);
    }
    let former = StandingFarm::recorded(&home);
    // The size and place that it had, unless something else is asked for.
    let size = match (args.workers, &former) {
        (None, Some(former)) => former.size,
        (workers, _) => Workers::on_this_machine(workers),
    };
    warn_if_too_many(size);
    let farm = StandingFarm::start(&exe()?, &home, args.listen, size, former.as_ref()).await?;
    let ticket = farm.ticket()?;
    let client = Client::connect(&ticket, Some(&home.identities())).await?;
    if let Err(report) = await_workers(&client, size).await {
        // Nothing is left behind that does not work.
        client.shutdown().await?;
        farm.await_end(&home).await?;
        return Err(report);
    }
    client.close().await;
    let address = format!("{}:{}", ticket.host, ticket.port);
    match output {
        Output::Json => print_json(&json!({
            "address": address,
            "scheduler_pid": farm.scheduler.pid,
            "worker_pids": farm.workers.iter().map(|process| process.pid).collect::<Vec<_>>(),
            "slots": size.total_slots(),
        }))?,
        Output::Text => {
            let slots = size.total_slots();
            let again = if former.is_some() { ", with the jobs that it had" } else { "" };
            tell(&format!(
                "a farm of {slots} slots is up at {address}{again}; `farm submit` finds it, `farm down` ends it"
            ));
        }
    }
    Ok(exit_codes::OK)
}

/// Waits until all workers are connected, so that `farm up` means what it says.
async fn await_workers(client: &Client, size: Workers) -> Result<(), Report> {
    for _ in 0..1000 {
        if client.farm().await?.workers.len() >= size.workers as usize {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Report::internal("the workers did not connect within 10 s")
        .hint("their logs are worker-*.log in the folder `local` of FARM_HOME"))
}

pub(crate) async fn down(output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    let Some(farm) = StandingFarm::recorded(&home) else {
        return Err(Report::new(exit_codes::UNREACHABLE, "no farm is up on this machine"));
    };
    if farm.scheduler.is_alive() {
        // A scheduler that does not answer is ended all the same, by its process id.
        if let Err(report) = ask_to_end(&farm, &home).await {
            tracing::warn!(?report, "the scheduler does not answer; ending its process");
        }
    } else {
        // They have nobody left to answer to, but would take seconds to find out.
        farm.kill_workers();
    }
    farm.await_end(&home).await?;
    match output {
        Output::Json => print_json(&json!({"down": true}))?,
        Output::Text => tell("the farm is down"),
    }
    Ok(exit_codes::OK)
}

async fn ask_to_end(farm: &StandingFarm, home: &Home) -> Result<(), Report> {
    let client = Client::connect(&farm.ticket()?, Some(&home.identities())).await?;
    Ok(client.shutdown().await?)
}

pub(crate) async fn status(farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let status = client.farm().await?;
    client.close().await;
    match output {
        Output::Json => print_json(&show::farm_json(&status))?,
        Output::Text => print(&show::farm(&status))?,
    }
    Ok(exit_codes::OK)
}

pub(crate) async fn drain(worker: &str, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let workers = client.drain(worker).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&json!({"draining": workers.iter().map(|worker| worker.0).collect::<Vec<_>>()}))?,
        Output::Text => {
            let which = match workers.as_slice() {
                [one] => format!("worker {one} leaves"),
                several => format!("{} workers leave", several.len()),
            };
            tell(&format!("{which} when what runs there has ended"));
        }
    }
    Ok(exit_codes::OK)
}
