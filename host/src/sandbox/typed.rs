//! Functions of any other component: JSON to and from WIT values.

use farm_proto::outcome::{Failure, FailureKind};
use wasmtime::Store;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Type, Val};

use super::failure::Stop;
use super::state::State;
use super::values::{self, Bounded, ParamPath};
use super::{bad_arguments, component_linker, failure};

/// Of an error's JSON. What people are shown of it is shorter still.
const LONGEST_ERROR: u64 = 64 << 10;

pub(super) struct Typed {
    instance: InstancePre<State>,
    function: ComponentExportIndex,
    params: Vec<(String, Type)>,
    has_result: bool,
}

impl Typed {
    pub(super) fn new(component: &Component, name: &str) -> Result<Self, Failure> {
        let instance = component_linker(component)?;
        let no_such_function = || {
            let message = format!("no function `{name}`; there are: {}", names(component).join(", "));
            Failure::new(FailureKind::NoSuchFunction, message)
        };
        let (item, function) = match name.rsplit_once('#') {
            Some((interface, function)) => {
                let interface = component.get_export_index(None, interface).ok_or_else(no_such_function)?;
                component.get_export(Some(&interface), function)
            }
            None => component.get_export(None, name),
        }
        .ok_or_else(no_such_function)?;
        let ComponentItem::ComponentFunc(ty) = item else {
            return Err(no_such_function());
        };
        if let Some(reason) = not_callable(&ty) {
            let message = format!("`{name}` cannot be called with JSON: {reason}");
            return Err(Failure::new(FailureKind::NoSuchFunction, message));
        }
        let params = ty.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
        Ok(Self { instance, function, params, has_result: ty.results().len() > 0 })
    }

    pub(super) fn call(&self, store: &mut Store<State>, argument: &[u8], result: &mut Vec<u8>) -> Result<(), Stop> {
        let json = serde_json::from_slice(argument).map_err(bad_arguments)?;
        let convert = |ty: &Type, json: &_, path: &ParamPath<'_>| values::to_val(ty, json, path);
        let missing = |ty: &Type| matches!(ty, Type::Option(_)).then_some(Val::Option(None));
        let params = values::parameters(&json, &self.params, convert, missing).map_err(bad_arguments)?;
        drop(json);

        let instance = self.instance.instantiate(&mut *store)?;
        let Some(function) = instance.get_func(&mut *store, self.function) else {
            return Err(Stop::new(FailureKind::NoSuchFunction, "the function is gone"));
        };
        let mut results = [Val::Bool(false)];
        let results = if self.has_result { &mut results[..] } else { &mut [] };
        function.call(&mut *store, &params, results)?;
        let value = match results {
            [] => None,
            [Val::Result(Err(error)), ..] => {
                let message = match error.as_deref() {
                    None => "the function returned an error".to_owned(),
                    Some(Val::String(text)) => text.clone(),
                    Some(other) => {
                        let mut json = Vec::new();
                        values::write_json(other, &mut Bounded::new(&mut json, LONGEST_ERROR));
                        String::from_utf8_lossy(&json).into_owned()
                    }
                };
                return Err(Stop::new(FailureKind::ReturnedError, message));
            }
            [Val::Result(Ok(value)), ..] => value.as_deref(),
            [value, ..] => Some(&*value),
        };
        let limit = store.data().shared.spec.limits.result;
        let mut bounded = Bounded::new(result, limit);
        match value {
            None => bounded.put(b"null"),
            Some(value) => values::write_json(value, &mut bounded),
        }
        if bounded.is_overrun() {
            return Err(failure::result_too_large(limit).into());
        }
        Ok(())
    }
}

/// All functions of a component, by the names that [`crate::module`] gives them.
fn names(component: &Component) -> Vec<String> {
    let engine = component.engine();
    let mut names = Vec::new();
    for (name, item) in component.component_type().exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(_) => names.push(name.to_owned()),
            ComponentItem::ComponentInstance(instance) => {
                let functions =
                    instance.exports(engine).filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
                names.extend(functions.map(|(function, _)| format!("{name}#{function}")));
            }
            _ => {}
        }
    }
    names
}

/// Why JSON cannot call a function.
fn not_callable(function: &ComponentFunc) -> Option<&'static str> {
    if function.async_() {
        return Some("it is asynchronous");
    }
    let mut types = function.params().map(|(_, ty)| ty).chain(function.results());
    types.find_map(|ty| foreign(&ty))
}

/// What JSON has no form for in a type.
fn foreign(ty: &Type) -> Option<&'static str> {
    match ty {
        Type::Own(_) | Type::Borrow(_) => Some("it takes or gives a resource"),
        Type::Future(_) | Type::Stream(_) => Some("it takes or gives a stream or future"),
        Type::ErrorContext => Some("it takes or gives an error context"),
        Type::Map(_) | Type::FixedLengthList(_) => Some("it takes or gives a map or a list of fixed length"),
        Type::List(list) => foreign(&list.ty()),
        Type::Record(record) => record.fields().find_map(|field| foreign(&field.ty)),
        Type::Tuple(tuple) => tuple.types().find_map(|ty| foreign(&ty)),
        Type::Variant(variant) => variant.cases().find_map(|case| foreign(&case.ty?)),
        Type::Option(option) => foreign(&option.ty()),
        Type::Result(result) => result.ok().and_then(|ty| foreign(&ty)).or_else(|| foreign(&result.err()?)),
        _ => None,
    }
}
