//! The checked-in bindings are those of `wit/farm.wit`.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use wit_bindgen_core::{Files, WorldGenerator};
use wit_parser::Resolve;

/// Makes the bindings as `wit_bindgen::generate!` would.
fn generate() -> Result<String, Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit"))?;
    let world = resolve.select_world(&[package], None)?;
    let mut files = Files::default();
    let options = wit_bindgen_rust::Opts { generate_all: true, format: true, ..Default::default() };
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, text) = files.iter().next().ok_or("no file was generated")?;
    Ok(String::from_utf8(text.to_vec())?)
}

#[test]
fn bindings_are_up_to_date() -> Result<(), Box<dyn Error>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bindings.rs");
    let generated = generate()?;
    if env::var_os("FARM_BLESS").is_some() {
        fs::write(&file, generated)?;
    } else if fs::read_to_string(&file)? != generated {
        return Err("src/bindings.rs is out of date: run `FARM_BLESS=1 cargo test -p farm-sdk --test bindings`".into());
    }
    Ok(())
}
