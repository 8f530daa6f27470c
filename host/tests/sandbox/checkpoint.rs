//! What carries a task to its next attempt, as a core module sees it: four imports of the module `farm`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use farm_host::module::{Capability, ModuleError, prepare};
use farm_host::sandbox::{Carrier, Sandbox, Task};
use farm_proto::ids::JobId;
use farm_proto::message::MAX_CHECKPOINT;
use farm_proto::outcome::FailureKind;

use crate::support::{Guest, call};

/// A state, and the task that has kept it.
type State = (u64, Vec<u8>);

#[derive(Debug, Clone, Default)]
struct Carried {
    stops: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<State>>>,
    restored: Option<Arc<[u8]>>,
}

impl Carrier for Carried {
    fn should_stop(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }

    fn keep(&self, task: u64, state: &[u8]) {
        self.kept.lock().unwrap().push((task, state.to_vec()));
    }

    fn restored(&self, task: u64) -> Option<Arc<[u8]>> {
        self.restored.clone().filter(|_| task == 7)
    }
}

/// Each function makes one call, of which it gives what that gives.
const GUEST: &str = r#"(module
    (import "farm" "should_stop" (func $should_stop (result i32)))
    (import "farm" "checkpoint" (func $checkpoint (param i32 i32) (result i32)))
    (import "farm" "restored" (func $restored (param i32 i32) (result i32)))
    (import "farm" "suspend" (func $suspend (param i32 i32)))
    (memory (export "memory") 300)
    (data (i32.const 8) "state")
    (func (export "stops") (result i32) (call $should_stop))
    (func (export "keep") (param i32 i32) (result i32) (call $checkpoint (local.get 0) (local.get 1)))
    (func (export "twice") (result i32) (call $checkpoint (i32.const 8) (i32.const 2)) (drop)
        (call $checkpoint (i32.const 8) (i32.const 3)))
    (func (export "restore") (param i32 i32) (result i32 i64)
        (call $restored (local.get 0) (local.get 1)) (i64.load (i32.const 64)))
    (func (export "suspend") (param i32 i32) (result i32) (call $suspend (local.get 0) (local.get 1)) (i32.const 1)))"#;

fn open(function: &str, carried: &Carried) -> Sandbox {
    let mut sandbox = Guest::new(GUEST).function(function).open().unwrap();
    sandbox.set_carrier(Box::new(carried.clone()));
    sandbox
}

fn of_task_seven(sandbox: &mut Sandbox, argument: &str) -> (String, farm_host::sandbox::Ended) {
    let mut result = Vec::new();
    let task = Task { job: JobId(1), index: 7, attempt: 0, argument: argument.as_bytes() };
    let ended = sandbox.call(task, &mut result);
    (String::from_utf8(result).unwrap(), ended)
}

#[test]
fn a_guest_learns_that_its_worker_goes() {
    let carried = Carried::default();
    let mut sandbox = open("stops", &carried);
    assert_eq!(of_task_seven(&mut sandbox, "[]").0, "0");
    carried.stops.store(true, Ordering::Relaxed);
    assert_eq!(of_task_seven(&mut sandbox, "[]").0, "1");
}

#[test]
fn states_are_kept_as_they_are_made() {
    let carried = Carried::default();
    assert_eq!(of_task_seven(&mut open("keep", &carried), "[8, 5]").0, "0");
    assert_eq!(of_task_seven(&mut open("twice", &carried), "[]").0, "0");
    assert_eq!(of_task_seven(&mut open("keep", &carried), "[0, 0]").0, "0");
    let states = ["state", "st", "sta", ""].map(|state| (7, state.as_bytes().to_vec()));
    assert_eq!(*carried.kept.lock().unwrap(), states);
}

#[test]
fn a_state_that_is_too_large_is_refused() {
    let carried = Carried::default();
    let mut sandbox = open("keep", &carried);
    assert_eq!(of_task_seven(&mut sandbox, &format!("[0, {MAX_CHECKPOINT}]")).0, "0");
    assert_eq!(of_task_seven(&mut sandbox, &format!("[0, {}]", MAX_CHECKPOINT + 1)).0, "1");
    assert_eq!(carried.kept.lock().unwrap().len(), 1);
}

#[test]
fn as_much_of_a_state_is_restored_as_there_is_room_for() {
    let carried = Carried { restored: Some(Arc::from(&[1, 2, 3][..])), ..Carried::default() };
    let mut sandbox = open("restore", &carried);
    let bytes = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
    for (room, written) in [(0, [0; 8]), (2, [1, 2, 0, 0, 0, 0, 0, 0]), (100, [1, 2, 3, 0, 0, 0, 0, 0])] {
        let (result, _) = of_task_seven(&mut sandbox, &format!("[64, {room}]"));
        assert_eq!(result, format!("[3,{}]", bytes(written)), "with room for {room}");
    }
    // Of another task, there is none.
    assert_eq!(call(&mut sandbox, b"[64, 100]").0, b"[-1,0]");
}

#[test]
fn a_task_that_should_stop_may_suspend_itself() {
    let carried = Carried::default();
    let mut sandbox = open("suspend", &carried);
    let (_, ended) = of_task_seven(&mut sandbox, "[8, 5]");
    let failure = ended.failure.unwrap();
    assert_eq!((failure.kind, ended.suspended), (FailureKind::Trap, false));
    assert!(failure.message.contains("only once `should_stop` has said so"), "{failure}");
    assert!(carried.kept.lock().unwrap().is_empty());

    carried.stops.store(true, Ordering::Relaxed);
    let (result, ended) = of_task_seven(&mut sandbox, "[8, 5]");
    assert_eq!((result.as_str(), ended.failure, ended.suspended), ("", None, true));
    assert_eq!(*carried.kept.lock().unwrap(), [(7, b"state".to_vec())]);

    let (_, ended) = of_task_seven(&mut sandbox, &format!("[0, {}]", MAX_CHECKPOINT + 1));
    let failure = ended.failure.unwrap();
    assert_eq!(failure.message, "a checkpoint of 16777217 bytes is more than the 16777216 that are kept");
}

#[test]
fn a_state_outside_of_the_memory_ends_the_task() {
    let carried = Carried { restored: Some(Arc::from(&[1, 2, 3][..])), ..Carried::default() };
    for (function, argument) in [
        ("keep", "[19660799, 2]"),
        ("keep", "[4294967295, 4294967295]"),
        ("restore", "[19660799, 2]"),
        ("suspend", "[4294967295, 1]"),
    ] {
        let (_, ended) = of_task_seven(&mut open(function, &carried), argument);
        let failure = ended.failure.unwrap_or_else(|| panic!("{function} {argument}"));
        assert_eq!(failure.message, "a checkpoint that is not in the module's memory");
        assert_eq!(failure.kind, FailureKind::Trap);
    }
    let without = r#"(module (import "farm" "checkpoint" (func $checkpoint (param i32 i32) (result i32)))
        (func (export "keep") (result i32) (call $checkpoint (i32.const 0) (i32.const 0))))"#;
    assert_eq!(Guest::new(without).fails("[]", FailureKind::Trap), "a checkpoint of a module that exports no `memory`");
}

#[test]
fn without_a_carrier_nothing_is_kept_and_nothing_is_lost() {
    let guest = |function: &str| Guest::new(GUEST).function(function);
    assert_eq!(guest("stops").value("[]"), "0");
    assert_eq!(guest("keep").value("[8, 5]"), "0");
    assert_eq!(guest("restore").value("[64, 8]"), "[-1,0]");
}

#[test]
fn it_is_told_of_a_module() {
    let info = prepare(GUEST.into()).unwrap().info;
    assert_eq!(info.touches, [Capability::Task]);
    let other = r#"(module (import "farm" "freeze" (func)) (func (export "f")))"#;
    match prepare(other.into()) {
        Err(ModuleError::MissingImports { names }) => assert_eq!(names, ["farm.freeze"]),
        other => panic!("{other:?}"),
    }
}
