//! `farm cluster`: named groups of workers that somebody starts when they are wanted.

use std::fs;
use std::time::Duration;

use farm_client::exit_codes;
use farm_proto::cluster::{ClusterSpec, ClusterStatus, MemberState, ProviderKind, Scale};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Value, json};

use super::show::table;
use super::{connect, print, print_json, tell};
use crate::cli::{ClusterCommand, ClusterSpecArgs, FarmArgs, Output, Provider};
use crate::report::Report;

pub(crate) async fn cluster(command: ClusterCommand, output: Output) -> Result<u8, Report> {
    match command {
        ClusterCommand::Create { spec, scale, farm } => create(spec, scale, farm, output).await,
        ClusterCommand::DryRun { spec, farm } => dry_run(spec, farm, output).await,
        ClusterCommand::List { farm } => list(farm, output).await,
        ClusterCommand::Show { name, farm } => {
            let client = connect(&farm).await?;
            let status = client.cluster(&name).await?;
            client.close().await;
            show(&status, output)
        }
        ClusterCommand::Scale { name, workers, farm } => scale(&name, Scale::Fixed(workers), farm, output).await,
        ClusterCommand::Adapt { name, adapt, farm } => scale(&name, adapt.scale(), farm, output).await,
        ClusterCommand::Stop { name, now, farm } => {
            let client = connect(&farm).await?;
            let status = client.stop_cluster(&name, now).await?;
            client.close().await;
            match output {
                Output::Json => print_json(&in_json(&status))?,
                Output::Text if now => tell(&format!("cluster {name} stops; what its workers run is handed back")),
                Output::Text => tell(&format!("cluster {name} stops when what its workers run has ended")),
            }
            Ok(exit_codes::OK)
        }
    }
}

async fn create(args: ClusterSpecArgs, workers: u32, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let scale = Scale::Fixed(workers);
    let client = connect(&farm).await?;
    let name = match args.name.clone() {
        Some(name) => name,
        None => made_up(&client.clusters().await?),
    };
    let status = client.create_cluster(spec(args, name)?, scale).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&in_json(&status))?,
        Output::Text => {
            print(&format!("{}\n", status.name()))?;
            if scale == Scale::Fixed(0) {
                tell(&format!("it has no workers yet: `farm cluster scale {} N` starts some", status.name()));
            }
        }
    }
    Ok(exit_codes::OK)
}

/// The first of `cluster-1`, `cluster-2`, … that is free.
fn made_up(there_are: &[ClusterStatus]) -> String {
    let is_free = |name: &String| there_are.iter().all(|cluster| cluster.name() != name);
    // One of so many is.
    let mut names = (1..=there_are.len() + 1).map(|number| format!("cluster-{number}"));
    names.find(is_free).unwrap_or_default()
}

fn spec(args: ClusterSpecArgs, name: String) -> Result<ClusterSpec, Report> {
    let prologue = args.prologue.map(|path| {
        fs::read_to_string(&path).map_err(|error| {
            Report::new(exit_codes::USAGE, format!("cannot read the prologue {}", path.display())).because(&error)
        })
    });
    Ok(ClusterSpec {
        name,
        provider: match args.provider {
            Provider::Local => ProviderKind::Local,
            Provider::Slurm => ProviderKind::Slurm,
        },
        cores: args.worker_cores,
        memory: args.worker_memory,
        time_s: args.time.map(|time| time.as_secs()),
        partition: args.partition,
        account: args.account,
        qos: args.qos,
        sbatch_args: args.sbatch_arg,
        prologue: prologue.transpose()?,
        env: args.env,
        worker_binary: args.worker_binary,
        nodes: args.nodes,
    })
}

async fn dry_run(args: ClusterSpecArgs, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let name = args.name.clone().unwrap_or_else(|| "cluster-1".to_owned());
    let client = connect(&farm).await?;
    let plan = client.plan_cluster(spec(args, name)?).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&json!({"script": plan.script, "commands": plan.commands}))?,
        Output::Text => {
            for command in &plan.commands {
                print(&format!("{command}\n"))?;
            }
            if !plan.script.is_empty() {
                print(&format!("\n{}", plan.script))?;
            }
        }
    }
    Ok(exit_codes::OK)
}

async fn list(farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let clusters = client.clusters().await?;
    client.close().await;
    match output {
        Output::Json => print_json(&clusters.iter().map(in_json).collect::<Value>())?,
        Output::Text => {
            let head =
                ["NAME", "PROVIDER", "WANTED", "QUEUED", "STARTING", "UP", "LOST", "SLOTS", "JOBS", "AGE", "OWNER"];
            let rows = clusters.iter().map(|status| {
                let provider = status.spec.as_ref().map_or("by hand", |spec| spec.provider.as_str());
                let numbers = [status.wanted, status.queued, status.starting, status.up, status.lost, status.slots];
                let mut row = vec![status.name().to_owned(), provider.to_owned()];
                row.extend(numbers.map(|number| number.to_string()));
                row.extend([status.jobs.to_string(), age(status.age_s), status.owner.clone()]);
                row
            });
            print(&table(&head, rows.collect()))?;
            for status in clusters.iter().filter(|status| !status.short.is_empty() || status.stopping) {
                let state = if status.stopping { "stopping" } else { "short of workers" };
                print(&format!("\n{}: {state}\n", status.name()))?;
                print(&reasons(status))?;
            }
        }
    }
    Ok(exit_codes::OK)
}

async fn scale(name: &str, scale: Scale, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let status = client.scale_cluster(name, scale).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&in_json(&status))?,
        Output::Text => tell(&format!("cluster {name}: {}", wants(scale))),
    }
    Ok(exit_codes::OK)
}

fn show(status: &ClusterStatus, output: Output) -> Result<u8, Report> {
    if let Output::Json = output {
        print_json(&in_json(status))?;
        return Ok(exit_codes::OK);
    }
    let mut lines = vec![format!("cluster {}{}", status.name(), if status.stopping { ", stopping" } else { "" })];
    if let Some(spec) = &status.spec {
        let mut worker = format!("{} {}", spec.cores, if spec.cores == 1 { "core" } else { "cores" });
        worker.extend(spec.memory.map(|memory| format!(", {}", HumanBytes(memory))));
        worker.extend(spec.time_s.map(|time| format!(", for {}", age(time))));
        lines.push(format!("  provider   {}", spec.provider.as_str()));
        lines.push(format!("  worker     {worker}"));
        let options = [("partition", &spec.partition), ("account", &spec.account), ("qos", &spec.qos)];
        lines.extend(options.iter().filter_map(|(name, value)| Some(format!("  {name:9}  {}", value.as_ref()?))));
        lines.push(format!("  wanted     {}, {}", status.wanted, wants(status.scale)));
        lines.push(format!("  made       {} ago by {}", age(status.age_s), status.owner));
    }
    let ClusterStatus { queued, starting, up, lost, slots, jobs, .. } = status;
    lines.push(format!("  workers    {queued} queued, {starting} starting, {up} up, {lost} lost; {slots} slots"));
    lines.push(format!("  jobs       {jobs}"));
    print(&format!("{}\n{}", lines.join("\n"), reasons(status)))?;
    if !status.workers.is_empty() {
        let rows = status.workers.iter().map(|member| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            vec![
                member.lease.clone(),
                state(member.state).to_owned(),
                text(&member.id),
                text(&member.node),
                text(&member.reason),
            ]
        });
        print(&format!("\n{}", table(&["WORKER", "STATE", "ID", "NODE", "REASON"], rows.collect())))?;
    }
    Ok(exit_codes::OK)
}

fn reasons(status: &ClusterStatus) -> String {
    let mut text: String = status.short.iter().map(|why| format!("  {}\n", why.replace('\n', "\n    "))).collect();
    if let Some(left) = status.retry_in_s {
        text.push_str(&format!("  the next attempt is in {left} s\n"));
    }
    text
}

fn wants(scale: Scale) -> String {
    match scale {
        Scale::Fixed(1) => "1 worker".to_owned(),
        Scale::Fixed(count) => format!("{count} workers"),
        Scale::Adaptive { min, max, idle_s } => {
            format!("between {min} and {max} workers as there is work, idle ones kept for {}", age(idle_s))
        }
    }
}

fn age(seconds: u64) -> String {
    HumanDuration(Duration::from_secs(seconds)).to_string()
}

const fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Queued => "queued",
        MemberState::Starting => "starting",
        MemberState::Up => "up",
        MemberState::Lost => "lost",
        MemberState::Draining => "draining",
    }
}

/// A cluster for programs. The names are a promise.
fn in_json(status: &ClusterStatus) -> Value {
    let scale = match status.scale {
        Scale::Fixed(workers) => json!({"workers": workers}),
        Scale::Adaptive { min, max, idle_s } => json!({"min": min, "max": max, "idle_s": idle_s}),
    };
    let spec = status.spec.as_ref().map(|spec| {
        json!({
            "provider": spec.provider.as_str(),
            "worker_cores": spec.cores,
            "worker_memory": spec.memory,
            "time_s": spec.time_s,
            "partition": spec.partition,
            "account": spec.account,
            "qos": spec.qos,
        })
    });
    let workers = status.workers.iter().map(|member| {
        json!({
            "name": member.lease,
            "state": state(member.state),
            "id": member.id,
            "node": member.node,
            "reason": member.reason,
        })
    });
    json!({
        "name": status.name(),
        "owner": status.owner,
        "age_s": status.age_s,
        "spec": spec,
        "scale": scale,
        "stopping": status.stopping,
        "wanted": status.wanted,
        "queued": status.queued,
        "starting": status.starting,
        "up": status.up,
        "lost": status.lost,
        "slots": status.slots,
        "jobs": status.jobs,
        "workers": workers.collect::<Value>(),
        "short": status.short,
        "retry_in_s": status.retry_in_s,
    })
}
