//! `farm run` with a WASI command as a program.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use farm_tests::World;
use rustix::process::Signal;

use crate::support::{module, takes_less_than};
use crate::wat;

#[test]
fn standard_streams_are_its_own() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    let text = "any bytes: ".bytes().chain(0..=255).collect::<Vec<u8>>();
    let finished = world.farm(["run", m]).stdin(text.clone()).succeeds();
    assert_eq!(finished.stdout, text);
    assert_eq!(finished.stderr, "");
    let m = module(&world, &wat::printer(2, "to stderr", 1, 0));
    let finished = world.farm(["run", m]).succeeds();
    assert_eq!((finished.text(), finished.stderr.as_str()), ("", "to stderr"));
    world.leaves_nothing();
}

#[test]
fn the_exit_code_is_its_own() {
    let world = World::new();
    let m = module(&world, wat::EXIT);
    for code in ["0", "3", "42"] {
        let finished = world.farm(["run", m]).stdin(code).run();
        assert_eq!(finished.code(), code.parse().ok());
        assert_eq!(finished.stderr, "");
    }
}

#[test]
fn arguments_and_environment_are_those_that_are_given() {
    let world = World::new();
    let m = module(&world, &wat::prints_list("args"));
    let finished = world.farm(["run", m, "--", "-n", "two words", "--help"]).succeeds();
    assert_eq!(finished.text(), "m.wat\0-n\0two words\0--help\0");
    let m = module(&world, &wat::prints_list("environ"));
    let finished = world.farm(["run", m, "--env", "A=1", "--env", "B=x=y"]).with_env("SECRET", "s").succeeds();
    assert_eq!(finished.text(), "A=1\0B=x=y\0");
}

/// Copies the file `in.txt` of its first folder to `out.txt` in the same.
const COPY: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 100) "in.txtout.txt")
    (func (export "_start")
        ;; Rights to read (2) and to write (64); create (1) and truncate (8) what is written.
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 6)
            (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)) (then (call $exit (i32.const 1))))
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 4096))
        (if (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8))
            (then (call $exit (i32.const 2))))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 106) (i32.const 7)
            (i32.const 9) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)) (then (call $exit (i32.const 3))))
        (if (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8))
            (then (call $exit (i32.const 4))))))"#;

#[test]
fn folders_are_those_that_are_given() {
    let world = World::new();
    let m = module(&world, COPY);
    world.write("data/in.txt", "through the sandbox");
    world.farm(["run", m, "--dir", "data::/"]).succeeds();
    let copied = fs::read_to_string(world.path().join("data/out.txt")).expect("the copy");
    assert_eq!(copied, "through the sandbox");
    // Without a folder there is none.
    world.farm(["run", m]).fails(1);
    let missing = world.farm(["run", m, "--dir", "no/such::/"]).fails(7);
    missing.explains(&["no/such"]);
}

#[test]
fn a_trap_is_told_with_its_reason() {
    let world = World::new();
    let m = module(&world, r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#);
    world.farm(["run", m]).fails(7).explains(&["m.wat", "trap", "the guest gave up"]);
    world.leaves_nothing();
}

#[test]
fn one_that_waits_for_input_ends_with_it_or_by_a_signal() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    let mut running = world.farm(["run", m]).keeping_stdin().start();
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running(), "{}", running.said());
    running.close_stdin();
    assert_eq!(running.wait().code(), Some(0));

    let mut running = world.farm(["run", m]).keeping_stdin().start();
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running(), "{}", running.said());
    // Not SIGINT: shells start what they put in the background with that ignored, and programs inherit it.
    let finished = takes_less_than(5, || {
        running.signal(Signal::TERM);
        running.wait()
    });
    assert_eq!(finished.status.signal(), Some(Signal::TERM.as_raw()), "{:?}", finished.status);
    world.leaves_nothing();
}

#[test]
fn what_is_for_programs_only_is_refused_for_functions() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for extra in [&["--dir", "."][..], &["--", "x"]] {
        let finished = world.farm(["run", m, "--args", "[1]"]).with(extra).fails(2);
        finished.explains(&["WASI commands"]).hints(&["--input"]);
    }
}

#[test]
fn what_is_for_tasks_only_is_refused_for_programs() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    for option in [["--timeout", "1s"], ["--fuel", "1000"], ["--memory", "64MiB"], ["--out", "x"], ["--retries", "2"]] {
        world.farm(["run", m]).with(option).fails(2).explains(&[option[0]]).hints(&["--args"]);
    }
}
