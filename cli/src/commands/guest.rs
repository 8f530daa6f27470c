//! `farm new` and `farm build`.

use std::fs;
use std::path::{Path, PathBuf};

use farm_client::exit_codes;
use farm_client::guest::{self, Target};
use farm_host::module;
use indicatif::HumanBytes;
use serde_json::json;

use super::{print_json, tell};
use crate::cli::Output;
use crate::report::Report;

pub(crate) fn new(path: &Path, wasi: bool, sdk: Option<&Path>) -> Result<u8, Report> {
    for file in guest::new_crate(path, wasi, sdk)? {
        tell(&format!("made {}", file.display()));
    }
    let path = path.display();
    let name = Path::new(&path.to_string())
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().replace('-', "_"));
    tell(&format!(
        "\nnext:\n    cargo test --manifest-path {path}/Cargo.toml\n    farm build {path}\n    farm run {name}.wasm --args \
         {path}/args.json\n    farm submit {name}.wasm --range 0..1000000 --out squares.json"
    ));
    Ok(exit_codes::OK)
}

pub(crate) fn build(path: &Path, target: Option<Target>, out: Option<&Path>, output: Output) -> Result<u8, Report> {
    let plan = guest::plan(path, target)?;
    tell(&format!("building for {}, {}", plan.target.triple(), plan.reason));
    let made = guest::build(&plan)?;
    let name = made.file_name().map_or_else(|| PathBuf::from("function.wasm"), PathBuf::from);
    let out = out
        .map_or(name, |out| if out.is_dir() { out.join(made.file_name().unwrap_or_default()) } else { out.to_owned() });
    let write = |error: std::io::Error| {
        Report::new(exit_codes::BAD_MODULE, format!("cannot write {}", out.display())).because(&error)
    };
    let built = fs::read(&made).map_err(write)?;
    let prepared = module::prepare(built)?;
    fs::write(&out, &prepared.bytes).map_err(write)?;
    let functions: Vec<_> = prepared.info.functions.iter().map(|function| function.name.as_str()).collect();
    match output {
        Output::Json => print_json(&json!({
            "module": out,
            "target": plan.target.triple(),
            "digest": prepared.info.digest.to_string(),
            "size": prepared.info.size,
            "functions": functions,
        }))?,
        Output::Text => {
            tell(&format!("{}: {}, {}", out.display(), functions.join(", "), HumanBytes(prepared.info.size)))
        }
    }
    Ok(exit_codes::OK)
}
