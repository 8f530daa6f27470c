//! Workers that are killed or freeze in the middle of a job.

use std::time::{Duration, Instant};

use farm_client::args::Arguments;
use farm_client::client::{Client, Update, Watch};
use farm_client::job::{Job, JobOptions};
use farm_client::modules::LoadedModule;
use farm_proto::columns::Columns;
use farm_proto::job::JobState;
use farm_proto::message::Batch;
use rustix::process::Signal;
use serde::Serialize;

use super::standing::{Standing, wait_until};
use super::{Bench, Line, milliseconds, module_of, most};
use crate::commands::tell;
use crate::report::Report;

/// Goes round as often as the upper bits of its argument say, and makes something of the lower ones.
const BUSY: &str = r#"(module (func (export "busy") (param $task i64) (result i64)
    (local $rounds i64)
    (local.set $rounds (i64.shr_u (local.get $task) (i64.const 16)))
    (loop $again
        (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
        (br_if $again (i64.gt_s (local.get $rounds) (i64.const 0))))
    (i64.add (i64.mul (i64.and (local.get $task) (i64.const 0xffff)) (i64.const 3)) (i64.const 1))))"#;

/// The argument of a task.
const fn argument(task: u64, rounds: u64) -> u64 {
    rounds << 16 | task
}

/// What a task has to give.
const fn expected(task: u64) -> u64 {
    3 * task + 1
}

/// How long each task takes, about: long enough that what is lost beside tasks is little.
const TASK: Duration = Duration::from_millis(200);
/// A worker is lost when so many are done.
const MIDWAY: u64 = 10;
/// So many are left for when it has been noticed, and as many as can be done until then: were the other worker to wait
/// for what the lost one holds, that would count as lost, too.
const SPARE: u64 = 15;
/// What workers do first, to have come to work when they are measured.
const WARM_UP: u64 = 4;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// From the kill of a worker until the farm has given it up: the longest of all runs.
    lost_worker_noticed_ms: f64,
    /// Attempts beyond the first of any task, of a worker with one slot: the most of all runs.
    lost_worker_tasks_again: f64,
    /// Time of slots from which no outcome came, of the lost worker until then, and of another one until the job's end:
    /// the most of all runs. Tasks take 200 ms.
    lost_worker_work_ms: f64,
    /// From the stop of a worker until the farm has given it up.
    frozen_worker_noticed_ms: f64,
    frozen_worker_tasks_again: f64,
    frozen_worker_work_ms: f64,
    #[serde(skip)]
    heartbeat: Duration,
}

/// What the loss of one worker has cost.
struct Cost {
    noticed: Duration,
    again: u64,
    work: Duration,
}

pub(super) async fn measure(bench: &Bench) -> Result<Figures, Report> {
    let folder = bench.state_folder()?;
    let heartbeat = bench.args.heartbeat;
    let mut farm = Standing::start(bench, folder.path(), false).await?;
    farm.add_worker(1).await?;
    let busy = Busy::calibrated(&farm).await?;
    tell("workers that are killed, and workers that freeze");
    let (mut killed, mut frozen) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        killed.push(busy.lose(&mut farm, Signal::KILL, Duration::ZERO).await?);
        frozen.push(busy.lose(&mut farm, Signal::STOP, heartbeat).await?);
    }
    farm.end().await?;
    let worst = |costs: &[Cost], of: fn(&Cost) -> f64| most(&costs.iter().map(of).collect::<Vec<_>>());
    Ok(Figures {
        lost_worker_noticed_ms: worst(&killed, |cost| milliseconds(cost.noticed)),
        lost_worker_tasks_again: worst(&killed, |cost| cost.again as f64),
        lost_worker_work_ms: worst(&killed, |cost| milliseconds(cost.work)),
        frozen_worker_noticed_ms: worst(&frozen, |cost| milliseconds(cost.noticed)),
        frozen_worker_tasks_again: worst(&frozen, |cost| cost.again as f64),
        frozen_worker_work_ms: worst(&frozen, |cost| milliseconds(cost.work)),
        heartbeat,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let again = |tasks: f64, work: f64| {
            format!("{tasks} of its tasks begun again, {work:.0} ms of work lost; one of 200 ms wanted")
        };
        let within = format!("its heartbeat of {:.0} ms wanted", milliseconds(self.heartbeat));
        vec![
            Line::new(
                "a killed worker is noticed in",
                format!("{:.0} ms", self.lost_worker_noticed_ms),
                again(self.lost_worker_tasks_again, self.lost_worker_work_ms),
            ),
            Line::new("a frozen worker is noticed in", format!("{:.0} ms", self.frozen_worker_noticed_ms), within),
            Line::new("", String::new(), again(self.frozen_worker_tasks_again, self.frozen_worker_work_ms)),
        ]
    }
}

/// Tasks that keep a core busy for a known time.
struct Busy {
    module: LoadedModule,
    rounds: u64,
}

impl Busy {
    async fn calibrated(farm: &Standing<'_>) -> Result<Self, Report> {
        const ROUNDS: u64 = 200_000_000;
        let mut busy = Self { module: module_of(BUSY)?, rounds: 1 };
        let client = farm.client().await?;
        // Compiles it.
        busy.run(&client, 1).await?;
        busy.rounds = ROUNDS;
        let mut took = Duration::MAX;
        for _ in 0..5 {
            took = took.min(busy.run(&client, 1).await?);
        }
        client.close().await;
        busy.rounds = (ROUNDS as f64 * TASK.as_secs_f64() / took.as_secs_f64()).max(1.0) as u64;
        Ok(busy)
    }

    async fn submit(&self, client: &Client, tasks: u64) -> Result<Watch, Report> {
        let function = self.module.function(None)?;
        let tasks = (0..tasks).map(|task| argument(task, self.rounds));
        let arguments = Arguments::from_values(tasks, &mut |element, out| function.encode(element, out))?;
        let job = Job::new(&self.module, &function, &JobOptions::default(), arguments);
        Ok(job.submit(client, true, &|_| {}).await?)
    }

    /// How long some tasks take together.
    async fn run(&self, client: &Client, tasks: u64) -> Result<Duration, Report> {
        let since = Instant::now();
        Outcomes::of(self.submit(client, tasks).await?, tasks).await?;
        Ok(since.elapsed())
    }

    /// Has a second worker come, and does that to it in the middle of a job, which is followed to its end. It is to take
    /// about `patience` until the worker is given up.
    async fn lose(&self, farm: &mut Standing<'_>, signal: Signal, patience: Duration) -> Result<Cost, Report> {
        farm.add_worker(1).await?;
        let client = farm.client().await?;
        self.run(&client, WARM_UP).await?;
        let meanwhile = 2 * patience.as_nanos() / TASK.as_nanos();
        let tasks = MIDWAY + u64::try_from(meanwhile).unwrap_or(u64::MAX) + SPARE;
        let before = client.farm().await?.counts.succeeded;
        let since = Instant::now();
        let watch = self.submit(&client, tasks).await?;
        let job = watch.job();
        let lost = async {
            wait_until(&client, "a job is under way", |status| {
                let is_midway = status.counts.succeeded >= before + MIDWAY;
                is_midway && status.workers.len() == 2 && status.workers.iter().all(|worker| worker.leased > 0)
            })
            .await?;
            farm.signal_worker(signal)?;
            let until = since.elapsed();
            let noticed = wait_until(&client, "a worker is given up", |status| status.workers.len() < 2).await?;
            let counts = client.job(job).await?.counts;
            if counts.waiting + counts.leased == 0 {
                return Err(Report::internal("the job was over before the loss of a worker was noticed"));
            }
            Ok((until, noticed))
        };
        let ended = async {
            let outcomes = Outcomes::of(watch, tasks).await?;
            Ok((outcomes, since.elapsed()))
        };
        let ((until, noticed), (outcomes, took)) = tokio::try_join!(lost, ended)?;
        // What is frozen cannot end by itself.
        farm.remove_worker().await?;
        let again = client.job(job).await?.retried;
        client.close().await;
        // One slot was there until the worker was lost, and the other one to the end.
        let work = (until + took).saturating_sub(outcomes.ran);
        Ok(Cost { noticed, again, work })
    }
}

/// What a job has told of its tasks.
struct Outcomes {
    known: Vec<bool>,
    /// Time that the tasks ran that have an outcome.
    ran: Duration,
}

impl Outcomes {
    /// Follows a job of `tasks` tasks to its end.
    ///
    /// # Errors
    ///
    /// Not every task has its value, and has it once.
    async fn of(mut watch: Watch, tasks: u64) -> Result<Self, Report> {
        let mut outcomes = Self { known: vec![false; tasks as usize], ran: Duration::ZERO };
        let mut state = None;
        while let Some(update) = watch.next().await? {
            match update {
                Update::Results { batch, results, .. } => outcomes.take(&batch, &results)?,
                Update::Status(status) => state = Some(status.state),
                Update::Reconnecting { .. } | Update::Reconnected { .. } => {}
            }
        }
        let missing = outcomes.known.iter().filter(|is_known| !**is_known).count();
        if missing > 0 || state != Some(JobState::Done) {
            return Err(Report::internal(format!("a job ended with {missing} tasks missing, as {state:?}")));
        }
        Ok(outcomes)
    }

    fn take(&mut self, batch: &Batch, results: &Columns) -> Result<(), Report> {
        self.ran += Duration::from_nanos(batch.run_ns);
        if let Some((offset, failure)) = batch.failures.first() {
            let task = batch.first + u64::from(*offset);
            return Err(Report::internal(format!("task {task} failed: {}", failure.message)));
        }
        for (task, value) in (batch.first..).zip(results.iter()) {
            if value != expected(task).to_string().as_bytes() {
                let value = String::from_utf8_lossy(value);
                return Err(Report::internal(format!("task {task} gave {value}, not {}", expected(task))));
            }
            match self.known.get_mut(task as usize) {
                Some(known) if !*known => *known = true,
                Some(_) => return Err(Report::internal(format!("task {task} has two outcomes"))),
                None => return Err(Report::internal(format!("there is no task {task}, and it has an outcome"))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use farm_proto::columns::ColumnsBuilder;

    use super::*;

    fn batch(first: u64, values: &[&str]) -> (Batch, Columns) {
        let mut columns = ColumnsBuilder::new();
        values.iter().for_each(|value| columns.push(value.as_bytes()));
        let batch = Batch {
            first,
            count: values.len() as u32,
            failures: Vec::new(),
            captured: Vec::new(),
            run_ns: 1,
            fetch_ns: 0,
            compile_ns: 0,
        };
        (batch, columns.finish())
    }

    #[test]
    fn each_task_has_its_value_once() {
        let mut outcomes = Outcomes { known: vec![false; 3], ran: Duration::ZERO };
        let mut take = |first, values: &[&str]| {
            let (batch, columns) = batch(first, values);
            outcomes.take(&batch, &columns)
        };
        assert!(take(1, &["4", "7"]).is_ok());
        assert!(take(0, &["2"]).is_err(), "another value");
        assert!(take(2, &["7"]).is_err(), "twice");
        assert!(take(3, &["10"]).is_err(), "beyond the end");
        assert!(take(0, &["1"]).is_ok());
        assert_eq!(outcomes.known, [true; 3]);
    }
}
