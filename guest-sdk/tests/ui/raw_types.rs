extern crate farm_sdk as farm;

#[farm::function(raw)]
fn text_in(input: String) -> Vec<u8> {
    input.into_bytes()
}

#[farm::function(raw)]
fn text_out(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

#[farm::function(raw)]
fn join(a: &[u8], b: &[u8]) -> Vec<u8> {
    [a, b].concat()
}

#[farm::function(raw)]
fn constant() -> Vec<u8> {
    vec![1]
}

fn main() {}
