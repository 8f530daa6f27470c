extern crate farm_sdk as farm;

#[farm::function]
async fn fetch(url: String) -> String {
    url
}

#[farm::function]
unsafe fn peek(address: u32) -> u32 {
    address
}

#[farm::function]
extern "C" fn add(a: i32, b: i32) -> i32 {
    a + b
}

fn main() {}
