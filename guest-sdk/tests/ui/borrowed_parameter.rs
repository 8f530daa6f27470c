extern crate farm_sdk as farm;

use std::path::Path;

#[farm::function]
fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

#[farm::function]
fn total(numbers: &[f64], weights: Option<&[f64]>) -> f64 {
    numbers.iter().sum::<f64>() * weights.map_or(1.0, |weights| weights[0])
}

#[farm::function]
fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn main() {}
