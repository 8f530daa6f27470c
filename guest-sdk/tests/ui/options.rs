extern crate farm_sdk as farm;

#[farm::function(bytes)]
fn length(input: Vec<u8>) -> usize {
    input.len()
}

#[farm::function(name = "")]
fn unnamed() {}

fn main() {}
