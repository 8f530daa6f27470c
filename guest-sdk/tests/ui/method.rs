extern crate farm_sdk as farm;

struct Counter(u64);

impl Counter {
    #[farm::function]
    fn count(&mut self, by: u64) -> u64 {
        self.0 += by;
        self.0
    }
}

fn main() {}
