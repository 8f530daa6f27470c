extern crate farm_sdk as farm;

#[farm::function]
fn largest<T: PartialOrd>(items: Vec<T>) -> Option<T> {
    items.into_iter().reduce(|a, b| if a > b { a } else { b })
}

#[farm::function]
fn shout(text: impl Into<String>) -> String {
    text.into().to_uppercase()
}

#[farm::function]
fn first<'a>(words: Vec<&'a str>) -> usize {
    words.len()
}

fn main() {}
