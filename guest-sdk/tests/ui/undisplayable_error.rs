extern crate farm_sdk as farm;

struct Refused;

#[farm::function]
fn refuse(x: u8) -> Result<u8, Refused> {
    if x > 3 { Err(Refused) } else { Ok(x) }
}

fn main() {}
