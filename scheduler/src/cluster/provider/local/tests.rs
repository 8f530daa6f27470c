use std::os::unix::fs::PermissionsExt;

use super::super::Program;
use super::super::config::tests::spec;
use super::*;

const FARM: &str = "0123456789";

struct World {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl World {
    /// With a worker that does this.
    fn new(worker: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        fs::write(&program, format!("#!/bin/sh\n{worker}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, program }
    }

    /// A scheduler's, or the next one's.
    fn local(&self, config: LocalConfig) -> Local {
        Local::new(config, self.folder.path().join("state"), self.program.clone()).unwrap()
    }

    fn order(&self, count: u32) -> Order {
        let spec = farm_proto::cluster::ClusterSpec {
            env: vec![("SITE".to_owned(), "here it's".to_owned())],
            prologue: Some("PROLOGUE=$((40 + 2)); export PROLOGUE".to_owned()),
            ..spec("here")
        };
        let (farm, base) = (FARM.to_owned(), super::super::random_base());
        Order { farm, spec, base, count, ticket: "farm://secret".to_owned(), program: Program::default() }
    }
}

async fn until(local: &Local, mut is: impl FnMut(&[Member]) -> bool) -> Vec<Member> {
    for _ in 0..1000 {
        let members = local.poll(FARM).unwrap();
        if is(&members) {
            return members;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still {:?}", local.poll(FARM))
}

fn all_ended(members: &[Member]) -> bool {
    members.iter().all(|member| !member.is_alive())
}

#[tokio::test]
async fn a_worker_gets_its_ticket_environment_and_name() {
    let world = World::new(r#"echo "$* / $FARM_TICKET / $SITE / $PROLOGUE" >&2; exit 3"#);
    let local = world.local(LocalConfig { prologue: Some("PROLOGUE=0".to_owned()), ..LocalConfig::default() });
    let order = world.order(1);
    let plan = local.plan(&order);
    local.submit(&order).await.unwrap();
    let members = until(&local, all_ended).await;
    let [member] = members.as_slice() else { panic!("{members:?}") };
    assert_eq!(member.state, QueueState::Ended("exit code 3".to_owned()));
    let lease = order.leases()[0].clone();
    let said = format!("worker --name {lease} --slots 2 / farm://secret / here it's / 42");
    assert_eq!(member.reason.as_deref(), Some(said.as_str()));
    assert_eq!(local.log_tail(&member.lease), Some(said));
    assert!(plan.commands[0].contains(&lease) && !plan.commands[0].contains("secret"), "{plan:?}");
}

#[tokio::test]
async fn workers_are_found_again_by_the_next_scheduler_which_can_end_them() {
    let world = World::new("exec sleep 600");
    let order = world.order(2);
    let first = world.local(LocalConfig::default());
    first.submit(&order).await.unwrap();
    drop(first);
    let next = world.local(LocalConfig::default());
    let mut leases: Vec<_> = next.poll(FARM).unwrap().into_iter().map(|member| member.lease).collect();
    leases.sort();
    assert_eq!(leases, order.leases());
    assert_eq!(next.poll("another").unwrap(), []);
    // Workers of another farm, or none.
    next.cancel(&["nobody-0".to_owned()]).unwrap();
    next.cancel(&leases[..1]).unwrap();
    let one_ended = |members: &[Member]| members.iter().filter(|member| member.is_alive()).count() == 1;
    let members = until(&next, one_ended).await;
    assert!(members.iter().any(|member| member.lease == leases[1] && member.is_alive()));
    next.cancel(&leases).unwrap();
    until(&next, all_ended).await;
}

#[tokio::test]
async fn a_worker_whose_record_cannot_be_written_never_starts() {
    let world = World::new("echo started >&2");
    let local = world.local(LocalConfig::default());
    let order = world.order(1);
    let lease = order.leases()[0].clone();
    // A folder that is not empty cannot be replaced by a file.
    fs::create_dir_all(Record::path(&local.folder, &lease).join("x")).unwrap();
    assert!(local.submit(&order).await.is_err());
    let status = locked(&local.children).remove(&lease).unwrap().wait().unwrap();
    assert_eq!((status.code(), local.log_tail(&lease)), (Some(1), None));
}

#[tokio::test]
async fn another_process_with_the_same_id_is_not_taken_for_a_worker() {
    let world = World::new("exit 0");
    let local = world.local(LocalConfig::default());
    let order = world.order(1);
    local.submit(&order).await.unwrap();
    let mut record = Record::all(&local.folder).unwrap().remove(0);
    let ours = serde_json::json!({ "pid": std::process::id(), "started": 1 });
    record.process = Some(serde_json::from_value(ours).unwrap());
    record.write(&local.folder).unwrap();
    // And by a scheduler that did not start it.
    let next = world.local(LocalConfig::default());
    next.cancel(&order.leases()).unwrap();
    assert_eq!(next.poll(FARM).unwrap()[0].state, QueueState::Ended("ended".to_owned()));
}

#[tokio::test]
async fn a_worker_ends_with_its_time_and_is_forgotten_after_a_while() {
    let world = World::new("exec sleep 600");
    let local = world.local(LocalConfig::default());
    let mut order = world.order(1);
    order.spec.time_s = Some(0);
    local.submit(&order).await.unwrap();
    let members = until(&local, all_ended).await;
    assert_eq!(members[0].state, QueueState::Ended("signal 15".to_owned()));
    let mut record = Record::all(&local.folder).unwrap().remove(0);
    record.end(unix_s() - REMEMBERED.as_secs() - 1, "long ago".to_owned());
    record.write(&local.folder).unwrap();
    assert_eq!(local.poll(FARM).unwrap(), []);
    assert_eq!(fs::read_dir(&local.folder).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_log_does_not_grow_for_ever() {
    let world = World::new("exec sleep 600");
    let local = world.local(LocalConfig::default());
    let order = world.order(1);
    local.submit(&order).await.unwrap();
    let log = local.log(&order.leases()[0]);
    fs::File::options().append(true).open(&log).unwrap().set_len(MAX_LOG + 1).unwrap();
    local.poll(FARM).unwrap();
    assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    local.cancel(&order.leases()).unwrap();
    until(&local, all_ended).await;
}
