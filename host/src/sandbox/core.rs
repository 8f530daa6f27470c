//! Functions of core modules: JSON numbers to and from Wasm's.
//!
//! Wasm's integers have no sign. As parameters both readings are taken (`-1` and `4294967295` are the same `i32`),
//! results are read as signed.

use std::io::Write as _;

use farm_proto::outcome::{Failure, FailureKind};
use serde_json::Value;
use wasmtime::{ExternType, InstancePre, Module, ModuleExport, Store, Val, ValType};

use super::failure::Stop;
use super::state::State;
use super::values::{self, ParamPath};
use super::{bad_arguments, core_linker, failure};
use crate::module::ArgumentError;

/// Where a reactor is set up before its functions can be called.
const INITIALIZE: &str = "_initialize";

#[derive(Debug, Clone, Copy)]
enum Number {
    I32,
    I64,
    F32,
    F64,
}

impl Number {
    const fn of(ty: &ValType) -> Option<Self> {
        match ty {
            ValType::I32 => Some(Self::I32),
            ValType::I64 => Some(Self::I64),
            ValType::F32 => Some(Self::F32),
            ValType::F64 => Some(Self::F64),
            ValType::V128 | ValType::Ref(_) => None,
        }
    }

    fn convert(self, json: &Value, path: &ParamPath<'_>) -> Result<Val, ArgumentError> {
        const FLOAT: &str = r#"a number, "NaN", "Infinity" or "-Infinity""#;
        // The casts keep the bits of what was found to fit.
        Ok(match self {
            Self::I32 => Val::I32(values::integer_param(json, i32::MIN.into(), u32::MAX.into(), path)? as i32),
            Self::I64 => Val::I64(values::integer_param(json, i64::MIN.into(), u64::MAX.into(), path)? as i64),
            Self::F32 => Val::F32(values::float32(json).ok_or_else(|| path.error(FLOAT, json))?.to_bits()),
            Self::F64 => Val::F64(values::float64(json).ok_or_else(|| path.error(FLOAT, json))?.to_bits()),
        })
    }
}

pub(super) struct Core {
    instance: InstancePre<State>,
    initialize: Option<ModuleExport>,
    function: ModuleExport,
    params: Vec<(String, Number)>,
    results: usize,
}

impl Core {
    pub(super) fn new(module: &Module, name: &str) -> Result<Self, Failure> {
        let instance = core_linker(module)?;
        let (Some(ExternType::Func(ty)), Some(function)) = (module.get_export(name), module.get_export_index(name))
        else {
            let names: Vec<&str> = module
                .exports()
                .filter(|export| matches!(export.ty(), ExternType::Func(_)) && export.name() != INITIALIZE)
                .map(|export| export.name())
                .collect();
            let message = format!("no function `{name}`; there are: {}", names.join(", "));
            return Err(Failure::new(FailureKind::NoSuchFunction, message));
        };
        let numbers: Option<Vec<Number>> = ty.params().map(|ty| Number::of(&ty)).collect();
        let Some(numbers) = numbers.filter(|_| ty.results().all(|ty| Number::of(&ty).is_some())) else {
            let message = format!("`{name}` cannot be called with JSON: it takes or gives vectors or references");
            return Err(Failure::new(FailureKind::NoSuchFunction, message));
        };
        // Names of parameters are the client's business: it sends them by position where a module has them.
        let params = numbers.into_iter().enumerate().map(|(index, number)| (format!("p{index}"), number)).collect();
        Ok(Self { instance, initialize: initialize(module), function, params, results: ty.results().len() })
    }

    pub(super) fn call(&self, store: &mut Store<State>, argument: &[u8], result: &mut Vec<u8>) -> Result<(), Stop> {
        let json = serde_json::from_slice(argument).map_err(bad_arguments)?;
        let convert = |number: &Number, json: &Value, path: &ParamPath<'_>| number.convert(json, path);
        let params = values::parameters(&json, &self.params, convert, |_| None).map_err(bad_arguments)?;

        let instance = self.instance.instantiate(&mut *store)?;
        if let Some(initialize) = &self.initialize
            && let Some(initialize) =
                instance.get_module_export(&mut *store, initialize).and_then(|export| export.into_func())
        {
            initialize.call(&mut *store, &[], &mut [])?;
        }
        let function = instance.get_module_export(&mut *store, &self.function).and_then(|export| export.into_func());
        let Some(function) = function else {
            return Err(Stop::new(FailureKind::NoSuchFunction, "the function is gone"));
        };
        let mut results = vec![Val::I32(0); self.results];
        function.call(&mut *store, &params, &mut results)?;

        let start = result.len();
        match results.as_slice() {
            [] => result.extend_from_slice(b"null"),
            [one] => write(one, result),
            several => {
                for (index, value) in several.iter().enumerate() {
                    result.push(if index == 0 { b'[' } else { b',' });
                    write(value, result);
                }
                result.push(b']');
            }
        }
        let limit = store.data().shared.spec.limits.result;
        if (result.len() - start) as u64 > limit {
            return Err(failure::result_too_large(limit).into());
        }
        Ok(())
    }
}

/// The export that sets a reactor up, if the module has it.
fn initialize(module: &Module) -> Option<ModuleExport> {
    match module.get_export(INITIALIZE)? {
        ExternType::Func(ty) if ty.params().len() == 0 && ty.results().len() == 0 => {
            module.get_export_index(INITIALIZE)
        }
        _ => None,
    }
}

fn write(value: &Val, out: &mut Vec<u8>) {
    match value {
        // Writing to memory does not fail.
        Val::I32(value) => _ = write!(out, "{value}"),
        Val::I64(value) => _ = write!(out, "{value}"),
        Val::F32(bits) => values::write_float32(f32::from_bits(*bits), out),
        Val::F64(bits) => values::write_float64(f64::from_bits(*bits), out),
        // `Core::new` has seen that there are no others.
        _ => out.extend_from_slice(b"null"),
    }
}
