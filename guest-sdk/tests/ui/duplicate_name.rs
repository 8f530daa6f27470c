extern crate farm_sdk as farm;

#[farm::function]
fn square(x: i64) -> i64 {
    x * x
}

mod fast {
    #[farm::function]
    fn square(x: i64) -> i64 {
        x * x
    }
}

#[farm::function(name = "cube")]
fn third_power(x: i64) -> i64 {
    x * x * x
}

#[farm::function]
fn cube(x: i64) -> i64 {
    x * x * x
}

fn main() {}
