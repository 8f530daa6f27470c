//! The progress bar, where stderr is a terminal.

use farm_tests::World;

use crate::support::module;
use crate::wat;

/// Runs a line with a terminal as its standard streams, and gives what is seen there.
fn on_a_terminal(world: &World, line: &str) -> String {
    // From util-linux, which every Debian has.
    let finished = world.shell(&format!("exec script -qec 'stty cols 120; {line}' /dev/null")).run();
    assert!(finished.stderr.is_empty(), "{}", finished.stderr);
    finished.text().to_owned()
}

#[test]
fn it_shows_how_many_how_fast_and_how_long() {
    let world = World::new();
    // Odd ones fail at once, even ones take some time.
    let odd = "(if (i64.ne (i64.and (local.get $x) (i64.const 1)) (i64.const 0)) (then unreachable)) (loop $again";
    let m = module(&world, &wat::busy(30_000_000).replace("(loop $again", odd));
    let seen = on_a_terminal(&world, &format!("farm submit {m} --range 0..300 --workers 1 --out r.json"));
    assert!(seen.contains("/300"), "{seen:?}");
    assert!(seen.contains("/s"), "a rate: {seen:?}");
    assert!(seen.contains(" left"), "the time left: {seen:?}");
    assert!(seen.contains(" failed"), "failures: {seen:?}");
    assert!(seen.contains("150 of 300 tasks failed"), "and what is said in the end: {seen:?}");
}

#[test]
fn a_task_tells_how_far_it_is() {
    let farm = crate::support::Farm::new(1);
    let m = module(
        &farm.world,
        r#"(component
            (import "farm:function/host@0.1.0" (instance $host
                (export "progress" (func (param "done" u64) (param "total" u64)))))
            (core func $progress (canon lower (func $host "progress")))
            (core module $m
                (import "host" "progress" (func $progress (param i64 i64)))
                (func (export "f") (param i32) (result i32)
                    (call $progress (i64.const 3) (i64.const 8))
                    (loop $again (br $again))
                    (i32.const 0)))
            (core instance $i (instantiate $m (with "host" (instance (export "progress" (func $progress))))))
            (func (export "f") (param "x" u32) (result u32) (canon lift (core func $i "f"))))"#,
    );
    let job = farm.detach(&[m, "--args", "[0]"]);
    let status = farm.wait_until(&job, "tells its progress", |status| status["progress"][0]["done"] == 3);
    assert_eq!(status["progress"], serde_json::json!([{"task": 0, "done": 3, "total": 8}]));
    let text = farm.farm(&["job", "show", &job]).succeeds();
    assert!(text.text().contains("3 of 8"), "{}", text.text());
    farm.farm(&["job", "cancel", &job]).succeeds();
}
