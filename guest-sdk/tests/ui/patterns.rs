extern crate farm_sdk as farm;

#[farm::function]
fn distance((x, y): (f64, f64)) -> f64 {
    x.hypot(y)
}

#[farm::function]
fn ignore(_: u8) {}

fn main() {}
