extern crate farm_sdk as farm;

#[farm::function]
fn name() -> &'static str {
    "farm"
}

#[farm::function]
fn checked_name() -> Result<&'static str, String> {
    Ok("farm")
}

#[farm::function]
fn evens() -> impl Iterator<Item = u64> {
    (0..10).step_by(2)
}

fn main() {}
