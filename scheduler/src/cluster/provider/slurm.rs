//! Workers as SLURM's batch jobs.
//!
//! A submission is one batch job, or for several workers an array of them, each with a script that comes by stdin and
//! says nothing that must hold: that is on the command line, where no variable of the environment has precedence. No job
//! is requeued: a worker that is lost is replaced by another one, and two of the same name would be one too many.
//!
//! What is ours is known by its comment, `farm:FARM:CLUSTER:BASE`. Nothing is remembered between calls, and nothing but
//! the commands' answers is relied upon.

mod queue;
mod run;
mod script;

use farm_proto::cluster::{ClusterSpec, Plan};

pub(crate) use self::run::CommandError;
use self::run::{Invocation, Runner};
use self::script::Script;
use super::{Member, Order, ProviderError, SlurmConfig};

/// Ids in one `scancel`.
const CANCEL_AT_ONCE: usize = 200;

#[derive(Debug)]
pub(crate) struct Slurm {
    config: SlurmConfig,
    runner: Runner,
}

impl Slurm {
    pub(crate) fn new(config: SlurmConfig) -> Self {
        let runner = Runner::new(config.submit_via.as_deref());
        Self { config, runner }
    }

    pub(super) async fn submit(&self, order: &Order) -> Result<(), ProviderError> {
        let spec = self.config.filled(&order.spec);
        if spec.worker_binary.is_none() && order.program.urls.is_empty() {
            return Err(ProviderError::Refused(
                "nodes have no way to the program: `farm scheduler --http` serves it, or `worker_binary` says where they \
                 have it"
                    .to_owned(),
            ));
        }
        let answer = self.runner.run(self.sbatch(order, &spec)).await?;
        match queue::submitted(&answer) {
            Some(job) => {
                tracing::info!(cluster = spec.name, base = order.base, count = order.count, job, "submitted");
                Ok(())
            }
            None => Err(CommandError::Answer { program: "sbatch".to_owned(), answer: first_line(&answer) }.into()),
        }
    }

    pub(super) async fn poll(&self, farm: &str) -> Result<Vec<Member>, ProviderError> {
        let answer = self.runner.run(squeue()).await?;
        Ok(queue::members(farm, &answer))
    }

    pub(super) async fn cancel(&self, ids: &[String]) -> Result<(), ProviderError> {
        let mut result = Ok(());
        for ids in ids.chunks(CANCEL_AT_ONCE) {
            let words = std::iter::once("scancel".to_owned()).chain(ids.iter().cloned()).collect();
            let cancelled = self.runner.run(Invocation { words, ..Invocation::default() }).await;
            if let Err(error) = cancelled {
                // The others are to go all the same.
                result = Err(error.into());
            }
        }
        result
    }

    pub(super) fn plan(&self, order: &Order) -> Plan {
        let spec = self.config.filled(&order.spec);
        let sbatch = self.sbatch(order, &spec);
        let commands = vec![
            format!("{} < SCRIPT", self.runner.shown(&sbatch)),
            self.runner.shown(&squeue()),
            self.runner
                .shown(&Invocation { words: vec!["scancel".to_owned(), "ID".to_owned()], ..Invocation::default() }),
        ];
        Plan { script: sbatch.stdin, commands }
    }

    fn sbatch(&self, order: &Order, spec: &ClusterSpec) -> Invocation {
        let (name, base) = (&spec.name, &order.base);
        let drain = self.config.drain_s(spec.time_s);
        let mut words = vec!["sbatch".to_owned(), "--parsable".to_owned()];
        // First: of two that say different things, the later one counts.
        words.extend(spec.sbatch_args.iter().cloned());
        let mut option = |name: &str, value: &str| words.push(format!("--{name}={value}"));
        option("job-name", &format!("farm-{name}-{base}"));
        option("comment", &queue::comment(&order.farm, name, base));
        option("nodes", &spec.nodes.to_string());
        option("ntasks-per-node", "1");
        option("cpus-per-task", &spec.cores.to_string());
        let of_site = [("partition", &spec.partition), ("account", &spec.account), ("qos", &spec.qos)];
        for (name, value) in of_site {
            if let Some(value) = value {
                option(name, value);
            }
        }
        if let Some(bytes) = spec.memory {
            option("mem", &format!("{}M", bytes.div_ceil(1 << 20).max(1)));
        }
        if let Some(seconds) = spec.time_s {
            // It counts in minutes.
            option("time", &seconds.div_ceil(60).max(1).to_string());
        }
        // To the shell that has become the worker; or to the workers, which are srun's.
        let whom = if spec.nodes > 1 { "" } else { "B:" };
        option("signal", &format!("{whom}USR1@{drain}"));
        if order.count > 1 {
            option("array", &format!("0-{}", order.count - 1));
        }
        let log = match &self.config.log_dir {
            None => "/dev/null".to_owned(),
            Some(folder) => {
                folder.join(if order.count > 1 { "%x-%A_%a.log" } else { "%x-%j.log" }).display().to_string()
            }
        };
        option("output", &log);
        option("open-mode", "append");
        // There is one on every node.
        option("chdir", "/");
        // Of what `run` leaves of it.
        option("export", "ALL");
        words.push("--no-requeue".to_owned());
        let prologue = self.config.prologue(spec);
        let stdin = Script { order, spec, prologue: prologue.as_deref() }.text();
        Invocation { words, tail: "", secret: order.ticket.clone(), stdin }
    }
}

fn squeue() -> Invocation {
    Invocation { words: queue::words(), tail: queue::USER, ..Invocation::default() }
}

fn first_line(answer: &str) -> String {
    answer.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests;
