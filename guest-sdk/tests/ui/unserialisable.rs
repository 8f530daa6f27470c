extern crate farm_sdk as farm;

struct Point {
    x: f64,
}

#[farm::function]
fn shift(point: Point) -> f64 {
    point.x
}

#[farm::function]
fn origin() -> Point {
    Point { x: 0.0 }
}

#[farm::function]
fn between(from: Point, to: Point) -> f64 {
    to.x - from.x
}

fn main() {}
