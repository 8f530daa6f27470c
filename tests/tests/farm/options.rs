//! Options of `run` and `submit` that change what a task sees and how its end is read.

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{kinds, module, outcomes};
use crate::wat;

const BOTH: [&str; 2] = ["run", "submit"];

#[test]
fn a_task_sees_the_environment_that_is_given_and_no_other() {
    let world = World::new();
    let m = module(&world, &wat::prints_list("environ"));
    for command in BOTH {
        let args = r#"["", {"env": {"A": "x", "N": 3}}]"#;
        let command = world.farm([command, m, "--args", args, "--env", "A=1", "--env", "B=y=z"]);
        let finished = command.with_env("SECRET", "hidden").succeeds();
        assert_eq!(finished.json(), json!(["A=1\u{0}B=y=z\u{0}", "B=y=z\u{0}A=x\u{0}N=3\u{0}"]));
    }
    world.farm(["run", m, "--args", "[1]", "--env", "novalue"]).fails(2).says(&["K=V"]);
}

#[test]
fn a_task_that_fails_is_tried_again_if_asked() {
    let world = World::new();
    let m = module(&world, &wat::third_time());
    for command in BOTH {
        let run = |retries: &str| {
            let command = world.farm([command, m, "--args", "[3, 4, 5]", "--retries", retries, "--output", "json"]);
            command.run()
        };
        let enough = run("2").with_code(0).json();
        assert_eq!(enough["results"], json!([9, 16, 25]));
        let too_few = run("1").with_code(1).json();
        assert_eq!(too_few["failures"].as_array().map(Vec::len), Some(3));
        assert_eq!(too_few["failures"][0]["error"]["kind"], "trap");
    }
    let submitted = world.farm(["submit", m, "--args", "[3, 4, 5]", "--retries", "5", "--output", "json"]).succeeds();
    assert_eq!(submitted.json()["job"]["retried"], 6);
}

#[test]
fn limits_are_not_tried_again() {
    let world = World::new();
    let m = module(&world, wat::SPIN);
    let command =
        world.farm(["submit", m, "--args", "[0]", "--retries", "50", "--timeout", "100ms", "--output", "json"]);
    let document = command.fails(1).json();
    assert_eq!(document["failures"][0]["error"]["kind"], "timeout");
    assert_eq!(document["job"]["retried"], 0);
}

#[test]
fn a_job_stops_when_too_many_tasks_have_failed() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    for command in BOTH {
        let finished =
            world.farm([command, m, "--range", "0..100000", "--max-failures", "3", "--output", "json"]).fails(7);
        let document = finished.json();
        assert_eq!(document["job"]["state"], "failed");
        let counts = |name: &str| document["job"]["counts"][name].as_u64().expect("a number");
        assert!(counts("failed") > 3, "{}", document["job"]);
        assert_eq!(document["results"].as_array().map(Vec::len), Some(100_000));
        let delivered = document["results"].as_array().into_iter().flatten().filter(|value| !value.is_null()).count();
        assert_eq!(delivered as u64, counts("succeeded"), "good results are delivered");

        let text = world.farm([command, m, "--range", "0..100000", "--max-failures", "3"]).fails(7);
        let who = if command == "run" { "the run" } else { "job 1" };
        let failed = format!("error: {who} failed: ");
        text.says(&[&failed, "more than 3 tasks failed", "trap: the guest gave up"]);
        let just = world.farm([command, m, "--range", "0..6", "--max-failures", "3"]).fails(1);
        just.says(&["3 of 6 tasks failed"]);
    }
}

#[test]
fn what_stdout_is_can_be_chosen() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    for command in BOTH {
        let run = |mode: &str, args: &Value| {
            let command = world.farm([command, m, "--stdout", mode, "--args", "-", "--format", "ndjson"]);
            kinds(&command.stdin(args.to_string()).run())
        };
        assert_eq!(run("text", &json!(["[1]\n"])), [json!("[1]\n")]);
        let json = json!(["{\"a\": [1,\n 2]}\n", "17", "no JSON", "1 2", ""]);
        let failed = json!("returned-error");
        let expected = [json!({"a": [1, 2]}), json!(17), failed.clone(), failed.clone(), failed.clone()];
        assert_eq!(run("json", &json), expected);
        let bytes = json!([{"stdin": {"base64": "AP/+"}}, "abc"]);
        assert_eq!(run("base64", &bytes), [json!({"base64": "AP/+"}), json!({"base64": "YWJj"})]);
        assert_eq!(run("text", &bytes), [failed, json!("abc")]);
    }
    world.farm(["run", m, "--args", "[1]", "--stdout", "xml"]).fails(2).says(&["text, json and base64"]);
}

#[test]
fn exit_codes_that_mean_success_can_be_chosen() {
    let world = World::new();
    let m = module(&world, wat::EXIT);
    for command in BOTH {
        let run = |extra: &[&str]| {
            let command = world.farm([command, m, "--args", r#"["0", "10", "20", "3"]"#, "--format", "ndjson"]);
            command.with(extra).fails(1)
        };
        let (good, bad) = (json!(""), json!("returned-error"));
        let all = [good.clone(), bad.clone(), bad.clone(), bad.clone()];
        assert_eq!(kinds(&run(&[])), all);
        let sat = run(&["--ok-exit", "10,20"]);
        assert_eq!(kinds(&sat), [bad.clone(), good.clone(), good.clone(), bad.clone()]);
        let both = run(&["--ok-exit", "0", "--ok-exit", "10"]);
        assert_eq!(kinds(&both), [good.clone(), good, bad.clone(), bad]);
        sat.says(&["the program ended with exit code 3"]);
    }
}

#[test]
fn stderr_of_a_command_is_kept_with_the_outcome() {
    let world = World::new();
    let m = module(&world, &wat::printer(2, "last words\\n", 1, 4).replace("(i32.const 12)", "(i32.const 11)"));
    for command in BOTH {
        let finished = world.farm([command, m, "--args", r#"[""]"#, "--format", "ndjson"]).fails(1);
        let line = outcomes(&finished).remove(0);
        assert_eq!(line["stderr"], "last words\n");
        assert_eq!(line["error"]["message"], "the program ended with exit code 4: last words");
        finished.says(&["stderr: last words"]);
    }
}
