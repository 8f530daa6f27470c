//! What is in a component.

use farm_proto::ids::Digest;
use farm_proto::job::ModuleKind;
use wasmparser::{Parser, Payload};
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{Function, FunctionKind, Resolve, WorldId, WorldItem};

use super::imports::{ImportScan, Imports};
use super::{
    FUNCTIONS_SECTION, FunctionInfo, ModuleError, ModuleInfo, ParamInfo, Prepared, ResultInfo, core, describe, wit,
};

/// What makes a component an SDK function.
const HANDLER: &str = "farm:function/handler@0.1.";
/// What makes a component a command.
const RUN: &str = "wasi:cli/run@0.2.";

/// What one pass over the binary finds.
#[derive(Debug)]
struct Scan {
    imports: Imports,
    /// The contents of each `farm:functions` section, the component's own ones after those of its modules.
    descriptions: Vec<Vec<u8>>,
    has_debug_info: bool,
}

/// Reads a validated component, and completes its description where it is an SDK function.
pub(super) fn describe(bytes: Vec<u8>) -> Result<Prepared, ModuleError> {
    let scan = scan(&bytes)?;
    let (resolve, world) = match decode(&bytes) {
        Ok(DecodedWasm::Component(resolve, world)) => (resolve, world),
        Ok(DecodedWasm::WitPackage(..)) => return Err(ModuleError::WitPackage),
        Err(error) => return Err(ModuleError::ComponentTypes { message: format!("{error:#}") }),
    };
    let exports: Vec<String> = resolve.worlds[world].exports.keys().map(|key| resolve.name_world_key(key)).collect();
    let exports_interface = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));

    let (bytes, kind, functions) = if exports_interface(HANDLER) {
        let (bytes, functions) = sdk_functions(bytes, &scan.descriptions)?;
        (bytes, ModuleKind::Sdk, functions)
    } else if exports_interface(RUN) {
        (bytes, ModuleKind::Command, vec![core::command_function()])
    } else {
        (bytes, ModuleKind::Component, typed_functions(&resolve, world))
    };
    if functions.is_empty() {
        return Err(ModuleError::NothingToCall);
    }
    let info = ModuleInfo {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        kind,
        functions,
        imports: scan.imports.names,
        touches: scan.imports.touches,
        has_debug_info: scan.has_debug_info,
    };
    Ok(Prepared { bytes, info })
}

fn scan(bytes: &[u8]) -> Result<Scan, ModuleError> {
    let mut depth = 0_usize;
    let mut imports = ImportScan::default();
    let mut inner = Vec::new();
    let mut outer = Vec::new();
    let mut has_debug_info = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import?;
                    // Types are no demand on the host: they only give a name to what other imports use.
                    if !matches!(import.ty, wasmparser::ComponentTypeRef::Type(_)) {
                        imports.add_interface(import.name.name);
                    }
                }
            }
            Payload::CustomSection(section) => {
                has_debug_info |= section.name() == ".debug_line";
                if section.name() == FUNCTIONS_SECTION {
                    if depth == 0 { &mut outer } else { &mut inner }.push(section.data().to_vec());
                }
            }
            _ => {}
        }
    }
    inner.append(&mut outer);
    Ok(Scan { imports: imports.finish()?, descriptions: inner, has_debug_info })
}

/// The functions of an SDK component, and the component with their full description in it.
fn sdk_functions(bytes: Vec<u8>, descriptions: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<FunctionInfo>), ModuleError> {
    // The last one wins: what a tool has put there stands behind what the compiler did.
    if let Some(full) = descriptions.iter().rev().find_map(|text| describe::parse_full(text).ok()) {
        return Ok((bytes, full));
    }
    let text = crate::sandbox::describe(&bytes)
        .map_err(|failure| ModuleError::Describe { message: format!("calling its `describe` ended with {failure}") })?;
    let functions = describe::parse_full(text.as_bytes())
        .map_err(|error| ModuleError::Describe { message: format!("its `describe` gives no description: {error}") })?;
    let mut bytes = bytes;
    describe::append_section(&mut bytes, FUNCTIONS_SECTION, text.as_bytes());
    Ok((bytes, functions))
}

/// What JSON can call, at the top of the world and in its interfaces.
fn typed_functions(resolve: &Resolve, world: WorldId) -> Vec<FunctionInfo> {
    let mut functions = Vec::new();
    for (key, item) in &resolve.worlds[world].exports {
        match item {
            WorldItem::Function(function) => functions.extend(typed(resolve, None, function)),
            WorldItem::Interface { id, .. } => {
                let interface = resolve.name_world_key(key);
                let members = resolve.interfaces[*id].functions.values();
                functions.extend(members.filter_map(|function| typed(resolve, Some(&interface), function)));
            }
            WorldItem::Type { .. } => {}
        }
    }
    functions
}

/// A function of values, or `None` for one that needs a resource, a stream or a future.
fn typed(resolve: &Resolve, interface: Option<&str>, function: &Function) -> Option<FunctionInfo> {
    if !matches!(function.kind, FunctionKind::Freestanding) {
        return None;
    }
    let mut params = Vec::with_capacity(function.params.len());
    for param in &function.params {
        params.push(ParamInfo {
            name: param.name.clone(),
            type_text: wit::type_text(resolve, &param.ty),
            required: !wit::is_option(resolve, &param.ty),
            schema: Some(wit::schema(resolve, &param.ty)?),
        });
    }
    let result = match &function.result {
        None => ResultInfo { type_text: "nothing".to_owned(), schema: Some(serde_json::json!({"type": "null"})) },
        Some(ty) => ResultInfo {
            type_text: wit::type_text(resolve, ty),
            // An error becomes a failure of the task, so that only the good half is ever seen as a value.
            schema: Some(match wit::ok_of_result(resolve, ty) {
                Some(ok) => {
                    ok.map_or_else(|| Some(serde_json::json!({"type": "null"})), |ok| wit::schema(resolve, &ok))?
                }
                None => wit::schema(resolve, ty)?,
            }),
        },
    };
    let name = match interface {
        Some(interface) => format!("{interface}#{}", function.name),
        None => function.name.clone(),
    };
    Some(FunctionInfo { name, doc: function.docs.contents.clone().unwrap_or_default(), params, result, raw: false })
}
