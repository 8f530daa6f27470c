//! The farm as a Rust program uses it: map, gather, reduce.

use farm_client::client::Client;
use farm_client::futures::{Futures, FuturesError};
use farm_client::home::Home;
use farm_client::modules::LoadedModule;
use farm_proto::outcome::FailureKind;

use crate::support::Farm;

const FUNCTIONS: &str = r#"(module
    (func (export "square") (param i64) (result i64) (i64.mul (local.get 0) (local.get 0)))
    (func (export "add") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
    (func (export "odd") (param i64) (result i64)
        (if (i64.eqz (i64.and (local.get 0) (i64.const 1))) (then unreachable))
        (local.get 0)))"#;

/// Runs a program against a farm of two workers.
fn program<T>(body: impl AsyncFnOnce(Client, LoadedModule) -> T) -> T {
    let farm = Farm::new(2);
    let path = farm_tests::wat(&farm.world, "functions", FUNCTIONS);
    let module = LoadedModule::load(&path, &Home::from_env()).expect("a module");
    let ticket = farm.scheduler.admin_ticket().parse().expect("a ticket");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { body(Client::connect(&ticket, None).await.expect("a connection"), module).await })
}

async fn map(client: &Client, module: &LoadedModule, name: &str, values: std::ops::Range<i64>) -> Futures {
    client.function(module, name).expect("a function").map(values).await.expect("accepted")
}

#[test]
fn map_and_gather() {
    program(async |client, module| {
        let squares = map(&client, &module, "square", 0..1000).await;
        assert_eq!(squares.len(), 1000);
        let values: Vec<i64> = squares.gather().await.expect("all succeed");
        assert_eq!(values, (0..1000).map(|x| x * x).collect::<Vec<_>>());
        // Again, and by somebody who knows the job's number only.
        let same = client.futures(squares.job()).await.expect("it is there");
        assert_eq!(same.gather::<i64>().await.expect("all succeed"), values);
        let pairs = client.function(&module, "add").expect("a function").map([(1, 2), (30, 4)]).await;
        assert_eq!(pairs.expect("accepted").gather::<i64>().await.expect("all succeed"), [3, 34]);
    });
}

#[test]
fn failures_are_told_in_their_places() {
    program(async |client, module| {
        let odd = map(&client, &module, "odd", 0..6).await;
        let error = odd.gather::<i64>().await.expect_err("half of them fail");
        assert!(matches!(error, FuturesError::Task(_)), "{error}");
        let all = odd.gather_results::<i64>().await.expect("the job is done");
        let values: Vec<_> = all.iter().map(|result| result.as_ref().ok().copied()).collect();
        assert_eq!(values, [None, Some(1), None, Some(3), None, Some(5)]);
        let failure = &all[2].as_ref().expect_err("even").failure;
        assert_eq!(failure.kind, FailureKind::Trap);
        let mut completed = odd.as_completed::<i64>();
        let mut seen = Vec::new();
        while let Some((index, _)) = completed.next().await.expect("the job is done") {
            seen.push(index);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        // What needs them fails where they did.
        let on = client.function(&module, "square").expect("a function").map_on(&odd).await.expect("accepted");
        let on = on.gather_results::<i64>().await.expect("the job is done");
        assert_eq!(on[3].as_ref().ok(), Some(&9));
        assert_eq!(on[2].as_ref().expect_err("its input failed").failure.kind, FailureKind::InputFailed);
    });
}

#[test]
fn results_flow_on_and_become_one() {
    program(async |client, module| {
        let squares = map(&client, &module, "square", 0..100).await;
        let fourth = client.function(&module, "square").expect("a function").map_on(&squares).await.expect("accepted");
        let expected: i64 = (0..100).map(|x: i64| x.pow(4)).sum();
        for fan_in in [2, 16, 1000] {
            let sum = client.function(&module, "add").expect("a function").reduce(&fourth, fan_in).await;
            assert_eq!(sum.expect("accepted").result::<i64>().await.expect("all succeed"), expected, "{fan_in}");
        }
        let after = client.function(&module, "square").expect("a function").after(&fourth).map([7]).await;
        assert_eq!(after.expect("accepted").gather::<i64>().await.expect("it succeeds"), [49]);
        let nothing = map(&client, &module, "square", 0..0).await;
        assert_eq!(nothing.gather::<i64>().await.expect("done at once"), [0i64; 0]);
        let reduced = client.function(&module, "add").expect("a function").reduce(&nothing, 16).await;
        assert!(reduced.is_err(), "there is nothing to reduce");
    });
}
