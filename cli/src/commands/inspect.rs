//! `farm inspect`.

use std::fmt::Write as _;
use std::path::Path;

use farm_client::exit_codes;
use farm_client::home::Home;
use farm_host::module::{Capability, FunctionInfo, ModuleInfo};
use farm_proto::job::ModuleKind;
use indicatif::HumanBytes;

use super::{job, print, print_json};
use crate::cli::Output;
use crate::report::Report;

pub(crate) fn inspect(path: &Path, output: Output) -> Result<u8, Report> {
    let module = job::load(path, &Home::from_env())?;
    match output {
        Output::Json => print_json(&module.info)?,
        Output::Text => print(&describe(&module.info))?,
    }
    Ok(exit_codes::OK)
}

fn describe(info: &ModuleInfo) -> String {
    let kind = match info.kind {
        ModuleKind::Sdk => "SDK functions",
        ModuleKind::Component => "component with typed exports",
        ModuleKind::Core => "core module with numeric exports",
        ModuleKind::Command => "WASI command",
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "kind      {kind}");
    let _ = writeln!(text, "size      {}", HumanBytes(info.size));
    let _ = writeln!(text, "digest    {}", info.digest);
    if info.imports.is_empty() {
        text.push_str("imports   none\n");
    }
    for (number, import) in info.imports.iter().enumerate() {
        let _ = writeln!(text, "{}{import}", if number == 0 { "imports   " } else { "          " });
    }
    if info.touches.is_empty() {
        text.push_str("touches   nothing: a pure function of its argument\n");
    } else {
        let touches: Vec<_> = info.touches.iter().map(|capability| touched(*capability)).collect();
        let _ = writeln!(text, "touches   {}, as far as the job grants it", touches.join(", "));
    }
    let debug = if info.has_debug_info { "backtraces name files and lines" } else { "backtraces name functions only" };
    let _ = writeln!(text, "debug     {debug}");
    if info.kind == ModuleKind::Command {
        text.push_str(
            "\nEach argument is a string (its stdin) or an object {\"args\": […], \"stdin\": \"…\", \"env\": {…}}; the result is \
             its stdout.\n",
        );
        return text;
    }
    for function in &info.functions {
        text.push('\n');
        text.push_str(&signature(function));
    }
    text
}

const fn touched(capability: Capability) -> &'static str {
    match capability {
        Capability::Stdio => "standard streams",
        Capability::Files => "input files",
        Capability::Environment => "environment and arguments",
        Capability::Clocks => "clocks",
        Capability::Random => "random numbers",
        Capability::Network => "the network (always refused)",
        Capability::Task => "its task (log, progress, seed)",
        _ => "something newer than this command",
    }
}

fn signature(function: &FunctionInfo) -> String {
    let params: Vec<_> = function.params.iter().map(|param| format!("{}: {}", param.name, param.type_text)).collect();
    let result =
        if function.result.type_text.is_empty() { String::new() } else { format!(" -> {}", function.result.type_text) };
    let mut text = format!("{}({}){result}\n", function.name, params.join(", "));
    for line in function.doc.lines() {
        let _ = writeln!(text, "    {}", line.trim_end());
    }
    for param in &function.params {
        // A simple type says it all in the signature.
        if let Some(schema) = param.schema.as_ref().filter(|schema| has_fields(schema)) {
            let _ = writeln!(text, "    {}: {schema}", param.name);
        }
    }
    text
}

/// Whether a schema speaks, at whatever depth, of objects with fields of their own.
fn has_fields(schema: &serde_json::Value) -> bool {
    match schema {
        serde_json::Value::Object(members) => members.contains_key("properties") || members.values().any(has_fields),
        serde_json::Value::Array(items) => items.iter().any(has_fields),
        _ => false,
    }
}
