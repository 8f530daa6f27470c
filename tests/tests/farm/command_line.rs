//! The command line itself: help, and what is wrong with what was typed.

use farm_tests::World;

const COMMANDS: [&str; 21] = [
    "run",
    "submit",
    "up",
    "down",
    "status",
    "jobs",
    "job",
    "secret",
    "why",
    "inspect",
    "new",
    "build",
    "cluster",
    "scheduler",
    "worker",
    "admin",
    "ticket",
    "login",
    "logout",
    "context",
    "bench",
];

#[test]
fn help_shows_every_command_but_those_for_the_farm_itself() {
    let world = World::new();
    let help = world.farm(["--help"]).succeeds();
    let listed = help.text().lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed =
        listed.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let listed: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    let mut expected = COMMANDS.to_vec();
    expected.push("help");
    assert_eq!(listed, expected);
    for hidden in ["slot", "compile-module"] {
        assert!(!help.text().lines().any(|line| line.trim_start().starts_with(hidden)), "{}", help.text());
    }
}

#[test]
fn every_command_has_help_that_says_what_it_does() {
    let world = World::new();
    for command in COMMANDS {
        let help = world.farm([command, "--help"]).succeeds();
        let first = help.text().lines().next().unwrap_or_default();
        assert!(first.contains(' '), "{command}: {first}");
        for hidden in ["end-with-stdin", "new-session", "sandbox-for"] {
            assert!(!help.text().contains(hidden), "{command} shows {hidden}");
        }
    }
    for command in ["show", "results", "cancel"] {
        world.farm(["job", command, "--help"]).succeeds();
    }
}

#[test]
fn help_explains_every_option() {
    let world = World::new();
    let common = [
        "--args",
        "--ndjson",
        "--range",
        "--out",
        "--format",
        "--function",
        "--timeout",
        "--memory",
        "--fuel",
        "--max-result",
        "--max-output",
        "--env",
        "--input",
        "--stdout",
        "--ok-exit",
        "--retries",
        "--max-failures",
        "--output",
    ];
    let help = |command: &str| world.farm([command, "--help"]).succeeds().text().to_owned();
    let (run, submit) = (help("run"), help("submit"));
    for option in common {
        assert!(run.contains(option) && submit.contains(option), "{option}");
    }
    for option in ["--workers", "--priority", "--name", "--detach", "--ticket"] {
        assert!(submit.contains(option), "{option}");
    }
    assert!(run.contains("--dir"));
}

#[test]
fn exit_codes_are_told_and_are_those_of_the_library() {
    use farm_client::exit_codes::*;
    let world = World::new();
    let help = world.farm(["--help"]).succeeds();
    let text = help.text().split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, codes) = text.split_once("Exit codes: ").expect("a list");
    let told: Vec<u8> = codes.split(" · ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect();
    let documented = [
        OK,
        TASKS_FAILED,
        USAGE,
        BAD_MODULE,
        BAD_ARGUMENTS,
        UNREACHABLE,
        REFUSED,
        JOB_FAILED,
        NOT_FOUND,
        INTERNAL,
        INTERRUPTED,
    ];
    assert_eq!(told, documented);
}

#[test]
fn the_version_is_that_of_the_package() {
    let world = World::new();
    let version = format!("farm {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(world.farm(["--version"]).succeeds().text(), version);
}

#[test]
fn what_is_logged_can_be_chosen_and_stays_off_stdout() {
    let world = World::new();
    let m = crate::support::module(&world, crate::wat::SQUARE);
    let run = |log: &str| world.farm(["run", m, "--args", "[3]"]).with_env("FARM_LOG", log).succeeds();
    let (silent, talkative) = (run("off"), run("trace"));
    assert_eq!(silent.stderr, "");
    assert!(talkative.stderr.contains("TRACE") || talkative.stderr.contains("DEBUG"), "{}", talkative.stderr);
    assert_eq!(silent.json(), talkative.json());
}

#[test]
fn what_was_mistyped_is_told() {
    let world = World::new();
    world.farm(["sbumit"]).fails(2).says(&["sbumit", "submit"]);
    world.farm(["run"]).fails(2).says(&["<MODULE>"]);
    world.farm(["run", "m.wat", "--timeuot", "1s"]).fails(2).says(&["--timeuot", "--timeout"]);
    world.farm(["run", "m.wat", "--format", "xml"]).fails(2).says(&["json", "ndjson"]);
    world.farm(["worker", "--slots", "1"]).fails(2).says(&["--ticket"]);
    let nothing = world.farm(Vec::<&str>::new()).fails(2);
    assert!(nothing.stderr.contains("Usage: farm"), "{}", nothing.stderr);
}
