extern crate farm_sdk as farm;

#[farm::function]
struct Point;

#[farm::function]
const LIMIT: u8 = 3;

fn main() {}
