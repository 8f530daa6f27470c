use super::super::config::tests::spec;
use super::super::{Program, Provider, QueueState};
use super::run::tests::Fakes;
use super::*;

const FARM: &str = "0123456789";

fn order(spec: ClusterSpec, count: u32) -> Order {
    let urls = vec!["http://127.0.0.1:9/worker/ab".to_owned()];
    let program = Program { sha256: "ab".to_owned(), size: 1 << 20, urls };
    let (farm, base) = (FARM.to_owned(), "0a1b2c3d4e5f".to_owned());
    Order { farm, spec, base, count, ticket: "farm://secret".to_owned(), program }
}

fn slurm(config: SlurmConfig, fakes: &Fakes) -> Slurm {
    let runner = fakes.runner(config.submit_via.as_deref());
    Slurm { config, runner }
}

#[tokio::test]
async fn what_must_hold_is_on_the_command_line() {
    let fakes = Fakes::new(&[("sbatch", r#"printf '%s\n' "$@" >"${0%/*}/args"; cat >"${0%/*}/script"; echo 17"#)]);
    let slurm = slurm(SlurmConfig { account: Some("physics".to_owned()), ..SlurmConfig::default() }, &fakes);
    let spec = ClusterSpec {
        memory: Some((3 << 30) + 1),
        time_s: Some(3601),
        partition: Some("cms".to_owned()),
        sbatch_args: vec!["--gres=gpu:1".to_owned(), "-C".to_owned(), "a100|h100".to_owned()],
        ..spec("night")
    };
    slurm.submit(&order(spec.clone(), 40)).await.unwrap();
    let args = fakes.read("args");
    let expected = "--parsable\n--gres=gpu:1\n-C\na100|h100\n--job-name=farm-night-0a1b2c3d4e5f\n\
                    --comment=farm:0123456789:night:0a1b2c3d4e5f\n--nodes=1\n--ntasks-per-node=1\n--cpus-per-task=2\n\
                    --partition=cms\n--account=physics\n--mem=3073M\n--time=61\n--signal=B:USR1@90\n--array=0-39\n\
                    --output=/dev/null\n--open-mode=append\n--chdir=/\n";
    assert!(args.starts_with(expected), "{args}");
    assert!(args.ends_with("--export=ALL\n--no-requeue\n"), "{args}");
    assert!(fakes.read("script").starts_with("#!/bin/sh\n"));
    slurm.submit(&order(spec.clone(), 1)).await.unwrap();
    assert!(!fakes.read("args").contains("--array"));
    let plan = slurm.plan(&order(spec, 2));
    assert!(plan.commands[0].ends_with("--no-requeue < SCRIPT"), "{plan:?}");
    assert!(plan.commands[0].starts_with("sbatch --parsable --gres=gpu:1 -C 'a100|h100'"), "{plan:?}");
    assert!(!format!("{plan:?}").contains("secret") && plan.script.contains("farm_base=0a1b2c3d4e5f"));
}

#[test]
fn several_nodes_are_one_job_with_one_worker_each() {
    let provider = Provider::Slurm(Slurm::new(SlurmConfig::default()));
    let plan = provider.plan(&order(ClusterSpec { nodes: 4, ..spec("wide") }, 1));
    assert!(plan.commands[0].contains("--nodes=4 --ntasks-per-node=1 --cpus-per-task=2"), "{plan:?}");
    assert!(plan.commands[0].contains("--signal=USR1@90"), "{plan:?}");
    assert!(plan.script.contains("exec srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --cpus-per-task=2"), "{plan:?}");
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    let fakes = Fakes::new(&[
        ("sbatch", "cat >/dev/null; echo 'Submitted, I think'"),
        ("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"),
        ("scancel", "exit 8"),
    ]);
    let provider = Provider::Slurm(slurm(SlurmConfig::default(), &fakes));
    let error = provider.submit(&order(spec("x"), 1)).await.unwrap_err();
    assert!(error.to_string().contains("Submitted, I think") && !error.is_sure(), "{error}");
    let error = provider.poll(FARM).await.unwrap_err().to_string();
    assert!(error.contains("Unable to contact slurm controller"), "{error}");
    let error = provider.cancel(&["17".to_owned()]).await.unwrap_err().to_string();
    assert_eq!(error, "scancel failed (exit status: 8): without a word");
    let mut far = order(spec("x"), 1);
    far.program.urls.clear();
    let error = provider.submit(&far).await.unwrap_err();
    assert!(error.is_sure() && error.to_string().contains("--http"), "{error}");
    far.count = Provider::MAX_COUNT + 1;
    assert!(provider.submit(&far).await.unwrap_err().is_sure());
}

#[tokio::test]
async fn the_queue_is_asked_once_for_all_and_jobs_are_cancelled_in_few_commands() {
    let fakes = Fakes::new(&[
        (
            "squeue",
            r#"echo "$*" >>"${0%/*}/asked"
            echo '17_0|17|0|RUNNING|farm-x-b|farm:0123456789:x:b|n1|1|1790000000|1:00|None'
            echo '17_1|17|1|PENDING|farm-x-b|farm:0123456789:x:b||N/A|N/A|1:00|Resources'
            echo '18|18|N/A|RUNNING|other|(null)|n1|1|2|1:00|None'"#,
        ),
        ("scancel", r#"echo "$#" >>"${0%/*}/cancelled""#),
    ]);
    let slurm = slurm(SlurmConfig::default(), &fakes);
    let members = slurm.poll(FARM).await.unwrap();
    let states: Vec<_> = members.iter().map(|member| (member.lease.as_str(), &member.state)).collect();
    assert_eq!(states, [("b-0", &QueueState::Running), ("b-1", &QueueState::Queued)]);
    let user = rustix::process::geteuid().as_raw();
    let asked = fakes.read("asked");
    assert!(asked.starts_with("--noheader --array --states=all --format=%i|%F|"), "{asked}");
    assert!(asked.ends_with(&format!("|%r --user={user}\n")), "{asked}");
    let ids: Vec<_> = (0..450).map(|index| format!("17_{index}")).collect();
    slurm.cancel(&ids).await.unwrap();
    assert_eq!(fakes.read("cancelled"), "200\n200\n50\n");
}
