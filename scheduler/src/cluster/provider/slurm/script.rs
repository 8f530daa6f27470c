//! The batch script of a worker, for any POSIX shell.
//!
//! It looks for the program in node-local scratch, fetches it if it is not there, checks it, and becomes the worker. It
//! touches no disk that is anybody else's, and has no secret in it. What keeps the worker from starting goes to the
//! scheduler, by the way that the program came, and to the job's output.
//!
//! ```text
//! SCRATCH/farm-worker-UID/              SCRATCH is $TMPDIR, else /tmp; for this user alone
//!                         program-SHA256    kept for later workers; gone a month after its last use
//!                         part-JOB-PID      being fetched
//!                         job-JOB-PID/      of one worker, which removes it; or the next one does
//! ```

use farm_proto::cluster::ClusterSpec;

use super::super::{Order, quoted};

/// All of it that is the same for every job: functions.
const FUNCTIONS: &str = include_str!("script.sh");

/// What a script is made from.
#[derive(Debug)]
pub(super) struct Script<'a> {
    pub(super) order: &'a Order,
    /// With what the site says.
    pub(super) spec: &'a ClusterSpec,
    pub(super) prologue: Option<&'a str>,
}

impl Script<'_> {
    pub(super) fn text(&self) -> String {
        let Self { order, spec, .. } = self;
        let what = format!("#!/bin/sh\n# Made by farm: a worker of the cluster {}.\n", spec.name);
        let body = self.body();
        if spec.nodes <= 1 {
            return format!("{what}{body}");
        }
        // The script is on the first node only. To be explicit about the cores is a must: srun ignores what sbatch was
        // told in some versions.
        let (nodes, cores) = (spec.nodes, spec.cores);
        format!(
            "{what}farm_worker={}\nexec srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cores} \
             --export=ALL --kill-on-bad-exit=0 sh -c \"$farm_worker\" {}\n",
            quoted(&body),
            quoted(&order.base),
        )
    }

    /// What runs on every node.
    fn body(&self) -> String {
        let Self { order, spec, prologue } = self;
        let mut body = String::from("umask 077\n");
        let mut set = |name: &str, value: &str| body.push_str(&format!("{name}={}\n", quoted(value)));
        set("farm_base", &order.base);
        set("farm_sha256", &order.program.sha256);
        set("farm_kib", &order.program.size.div_ceil(1024).to_string());
        set("farm_slots", &spec.cores.to_string());
        set("farm_time", &spec.time_s.map(|time| format!("--time={time}s")).unwrap_or_default());
        set("farm_program", spec.worker_binary.as_deref().unwrap_or_default());
        body.push_str("farm_lease=$farm_base-${SLURM_ARRAY_TASK_ID:-0}\n");
        // Several workers of one job have names of their own.
        let name = if spec.nodes > 1 { "$farm_lease-${SLURM_PROCID:-0}" } else { "$farm_lease" };
        body.push_str(&format!("farm_name={name}\n"));
        body.push_str(&format!(
            "\n# With one address of the program after another, until it succeeds.\n{}\n",
            self.anywhere()
        ));
        body.push_str(FUNCTIONS);
        // Commands that other people wrote may end the shell.
        body.push_str("\ntrap 'farm_report \"the prologue ended the script, with $?\"' EXIT\n");
        for (name, value) in &spec.env {
            body.push_str(&format!("export {name}={}\n", quoted(value)));
        }
        if let Some(prologue) = prologue {
            body.push_str(&format!("\n{}\n", prologue.trim_end()));
        }
        body.push_str("\nset +ef -u\nunset IFS\nfarm_main\n");
        body
    }

    fn anywhere(&self) -> String {
        let calls: Vec<_> = self.order.program.urls.iter().map(|url| format!("\"$1\" {}", quoted(url))).collect();
        let calls = if calls.is_empty() { "false".to_owned() } else { calls.join(" || ") };
        format!("farm_anywhere() {{ {calls}; }}\n")
    }
}

#[cfg(test)]
mod tests;
