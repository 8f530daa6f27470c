//! Each target over its corpus, and over inputs made of that by chance: the same ones each time.

use farm_fuzz::{Mutations, Target, target};

const SEED: u64 = 7117;

/// Says which input it was.
struct InHand<'a>(&'a str, &'a [u8]);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {}: {:?}", self.0, self.1);
        }
    }
}

fn check(target: Target) {
    let corpus = match target.inputs() {
        Ok(inputs) => inputs,
        Err(error) => panic!("{}: {error}", target.corpus().display()),
    };
    for (name, seed) in (target.seeds)() {
        let kept = corpus.iter().any(|(other, input)| *other == name && *input == seed);
        assert!(kept, "{name} is not in the corpus, or another: `cargo run -p farm-fuzz -- seeds` writes it");
    }
    for (name, input) in &corpus {
        let _in_hand = InHand(name, input);
        (target.run)(input);
    }
    for (number, input) in Mutations::new(&corpus, target.longest, SEED).take(target.inputs).enumerate() {
        let _in_hand = InHand(&format!("mutation {number}"), &input);
        (target.run)(&input);
    }
}

#[test]
fn frames() {
    check(target("frames").expect("a target"));
}

#[test]
fn ticket() {
    check(target("ticket").expect("a target"));
}

#[test]
fn core_operations() {
    check(target("core_operations").expect("a target"));
}

#[test]
fn store_recovery() {
    check(target("store_recovery").expect("a target"));
}
