//! What is in a core module.

use std::collections::HashMap;

use farm_proto::job::ModuleKind;
use serde_json::json;
use wasmparser::{ExternalKind, FuncType, Name, NameSectionReader, Parser, Payload, TypeRef, ValType};

use super::imports::{ImportScan, Imports};
use super::{FunctionInfo, ModuleError, ParamInfo, ResultInfo};

/// A core module, read once from front to back.
#[derive(Debug)]
pub(super) struct CoreScan {
    pub(super) kind: ModuleKind,
    pub(super) functions: Vec<FunctionInfo>,
    pub(super) imports: Imports,
    pub(super) has_debug_info: bool,
}

/// What the sandbox calls by itself, so that nobody else does.
const REACTOR_START: &str = "_initialize";

/// Reads a validated core module.
pub(super) fn scan(bytes: &[u8]) -> Result<CoreScan, ModuleError> {
    let mut types: Vec<Option<FuncType>> = Vec::new();
    let mut functions: Vec<u32> = Vec::new();
    let mut exports: Vec<(String, u32)> = Vec::new();
    let mut imports = ImportScan::default();
    let mut names: HashMap<u32, HashMap<u32, String>> = HashMap::new();
    let mut has_debug_info = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::TypeSection(section) => {
                for group in section {
                    for subtype in group?.into_types() {
                        types.push(match subtype.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    let index = match import.ty {
                        TypeRef::Func(index) | TypeRef::FuncExact(index) => Some(index),
                        _ => None,
                    };
                    imports.add_core(import.module, import.name, index.is_some());
                    functions.extend(index);
                }
            }
            Payload::FunctionSection(section) => {
                for index in section {
                    functions.push(index?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact) {
                        exports.push((export.name.to_owned(), export.index));
                    }
                }
            }
            Payload::CustomSection(section) => {
                has_debug_info |= section.name() == ".debug_line";
                if section.name() == "name" {
                    // Names are a help; a module with a broken name section runs all the same.
                    let reader = wasmparser::BinaryReader::new(section.data(), section.data_offset());
                    names = local_names(NameSectionReader::new(reader)).unwrap_or_default();
                }
            }
            _ => {}
        }
    }

    let signature = |function: u32| {
        let index = functions.get(usize::try_from(function).ok()?)?;
        types.get(usize::try_from(*index).ok()?)?.as_ref()
    };
    let imports = imports.finish()?;
    let starts = exports.iter().any(|(name, function)| {
        name == "_start" && signature(*function).is_some_and(|ty| ty.params().is_empty() && ty.results().is_empty())
    });
    if starts {
        let command = command_function();
        return Ok(CoreScan { kind: ModuleKind::Command, functions: vec![command], imports, has_debug_info });
    }
    let functions: Vec<FunctionInfo> = exports
        .iter()
        .filter(|(name, _)| name != REACTOR_START)
        .filter_map(|(name, function)| numeric(name, signature(*function)?, names.get(function)))
        .collect();
    if functions.is_empty() {
        return Err(ModuleError::NothingToCall);
    }
    Ok(CoreScan { kind: ModuleKind::Core, functions, imports, has_debug_info })
}

/// The function of every command.
pub(super) fn command_function() -> FunctionInfo {
    FunctionInfo {
        name: String::new(),
        doc: "A program. A string is its standard input; an object may name `args`, `stdin` and `env`; of anything \
              else it reads the JSON text. Its standard output is the result."
            .to_owned(),
        params: vec![ParamInfo {
            name: "stdin".to_owned(),
            type_text: "text, or {args, stdin, env}".to_owned(),
            required: true,
            schema: None,
        }],
        result: ResultInfo { type_text: "standard output".to_owned(), schema: None },
        raw: false,
    }
}

/// A function of numbers, or `None` for one that JSON cannot call.
fn numeric(name: &str, ty: &FuncType, names: Option<&HashMap<u32, String>>) -> Option<FunctionInfo> {
    let mut params = Vec::with_capacity(ty.params().len());
    for (index, param) in (0..).zip(ty.params()) {
        let known = names.and_then(|names| names.get(&index)).filter(|name| !name.is_empty());
        params.push(ParamInfo {
            name: known.cloned().unwrap_or_else(|| format!("p{index}")),
            type_text: number_type(*param)?.to_owned(),
            required: true,
            schema: Some(number_schema(*param)),
        });
    }
    // By name only works where names differ.
    let mut distinct: Vec<&str> = params.iter().map(|param| param.name.as_str()).collect();
    distinct.sort_unstable();
    if distinct.windows(2).any(|pair| pair[0] == pair[1]) {
        for (index, param) in params.iter_mut().enumerate() {
            param.name = format!("p{index}");
        }
    }
    let results: Vec<&str> = ty.results().iter().map(|result| number_type(*result)).collect::<Option<_>>()?;
    let result = match (results.as_slice(), ty.results()) {
        ([], _) => ResultInfo { type_text: "nothing".to_owned(), schema: Some(json!({"type": "null"})) },
        ([text], [one]) => ResultInfo { type_text: (*text).to_owned(), schema: Some(number_schema(*one)) },
        (texts, several) => ResultInfo {
            type_text: format!("({})", texts.join(", ")),
            schema: Some(json!({
                "type": "array",
                "prefixItems": several.iter().map(|ty| number_schema(*ty)).collect::<Vec<_>>(),
                "minItems": several.len(),
                "maxItems": several.len(),
            })),
        },
    };
    Some(FunctionInfo { name: name.to_owned(), doc: String::new(), params, result, raw: false })
}

const fn number_type(ty: ValType) -> Option<&'static str> {
    match ty {
        ValType::I32 => Some("i32"),
        ValType::I64 => Some("i64"),
        ValType::F32 => Some("f32"),
        ValType::F64 => Some("f64"),
        ValType::V128 | ValType::Ref(_) => None,
    }
}

/// Wasm's integers have no sign: both readings of one are taken.
fn number_schema(ty: ValType) -> serde_json::Value {
    match ty {
        ValType::I32 => json!({"type": "integer", "minimum": i32::MIN, "maximum": u32::MAX}),
        ValType::I64 => json!({"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX}),
        _ => super::wit::float_schema(),
    }
}

fn local_names(section: NameSectionReader<'_>) -> wasmparser::Result<HashMap<u32, HashMap<u32, String>>> {
    let mut names = HashMap::new();
    for subsection in section {
        if let Name::Local(functions) = subsection? {
            for function in functions {
                let function = function?;
                let mut locals = HashMap::new();
                for local in function.names {
                    let local = local?;
                    locals.insert(local.index, local.name.to_owned());
                }
                names.insert(function.index, locals);
            }
        }
    }
    Ok(names)
}
