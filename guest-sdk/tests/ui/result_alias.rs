extern crate farm_sdk as farm;

type Outcome = Result<u8, String>;

#[farm::function]
fn hidden(x: u8) -> Outcome {
    Ok(x)
}

#[farm::function]
fn no_value(x: u8) -> std::fmt::Result {
    let _ = x;
    Ok(())
}

fn main() {}
