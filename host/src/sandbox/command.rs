//! Programs: the argument on standard input, the result from standard output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use farm_proto::job::StdoutMode;
use farm_proto::outcome::{Failure, FailureKind};
use serde_json::value::RawValue;
use wasmtime::component::{Component, ComponentExportIndex};
use wasmtime::{Module, ModuleExport, Store};
use wasmtime_wasi::I32Exit;

use super::failure::{Stop, last_line};
use super::state::{Invocation, State};
use super::{bad_arguments, check_json, component_linker, core_linker};
use crate::module::{ArgumentError, as_base64_object, json_string};

/// What makes a component a program; any 0.2 release is as good.
const RUN: &str = "wasi:cli/run@0.2.0";

pub(super) enum Command {
    Core { instance: wasmtime::InstancePre<State>, start: ModuleExport },
    Component { instance: wasmtime::component::InstancePre<State>, run: ComponentExportIndex },
}

impl Command {
    pub(super) fn of_module(module: &Module) -> Result<Self, Failure> {
        let instance = core_linker(module)?;
        let start = module.get_export_index("_start").ok_or_else(|| not_a_command("`_start`"))?;
        Ok(Self::Core { instance, start })
    }

    pub(super) fn of_component(component: &Component) -> Result<Self, Failure> {
        let instance = component_linker(component)?;
        let run = component
            .get_export_index(None, RUN)
            .and_then(|interface| component.get_export_index(Some(&interface), "run"))
            .ok_or_else(|| not_a_command("`wasi:cli/run`"))?;
        Ok(Self::Component { instance, run })
    }

    /// Runs the program to its end and gives its exit code.
    pub(super) fn run(&self, store: &mut Store<State>) -> Result<i32, Stop> {
        let ended = match self {
            Self::Core { instance, start } => start_module(store, instance, start),
            Self::Component { instance, run } => run_component(store, instance, run),
        };
        match ended {
            Ok(Ok(())) => Ok(0),
            // What a component says by this, a program says by 1.
            Ok(Err(())) => Ok(1),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(code)) => Ok(*code),
                None => Err(error.into()),
            },
        }
    }

    pub(super) fn call(&self, store: &mut Store<State>, result: &mut Vec<u8>) -> Result<(), Stop> {
        let code = self.run(store)?;
        let spec = &store.data().shared.spec;
        let wasi = store.data().wasi.as_ref();
        if !spec.command.ok_exit.contains(&code) {
            let tail = wasi.map(|wasi| wasi.stderr_tail()).unwrap_or_default();
            let message = match last_line(&tail) {
                Some(line) => format!("the program ended with exit code {code}: {line}"),
                None => format!("the program ended with exit code {code}"),
            };
            return Err(Stop::new(FailureKind::ReturnedError, message));
        }
        let stdout = wasi.map_or_else(Vec::new, |wasi| wasi.take_result());
        match spec.command.stdout {
            StdoutMode::Json => check_json(stdout, result).map_err(|failure| {
                Stop::new(failure.kind, "standard output is not one JSON text (`--stdout text` takes any text)")
            })?,
            StdoutMode::Text if std::str::from_utf8(&stdout).is_err() => {
                let message = "standard output is not UTF-8 (`--stdout base64` takes any bytes)";
                return Err(Stop::new(FailureKind::ReturnedError, message));
            }
            StdoutMode::Text | StdoutMode::Base64 => super::append(stdout, result),
        }
        Ok(())
    }
}

/// A program's end, as far as it does not name an exit code.
type RunResult = Result<(), ()>;

fn start_module(
    store: &mut Store<State>,
    instance: &wasmtime::InstancePre<State>,
    start: &ModuleExport,
) -> wasmtime::Result<RunResult> {
    let instance = instance.instantiate(&mut *store)?;
    match instance.get_module_export(&mut *store, start).and_then(|export| export.into_func()) {
        Some(start) => start.call(&mut *store, &[], &mut []).map(|()| Ok(())),
        None => wasmtime::bail!("`_start` is no function"),
    }
}

fn run_component(
    store: &mut Store<State>,
    instance: &wasmtime::component::InstancePre<State>,
    run: &ComponentExportIndex,
) -> wasmtime::Result<RunResult> {
    let instance = instance.instantiate(&mut *store)?;
    let run = instance.get_typed_func::<(), (RunResult,)>(&mut *store, run)?;
    run.call(&mut *store, ()).map(|(ended,)| ended)
}

fn not_a_command(what: &str) -> Failure {
    Failure::new(FailureKind::BadModule, format!("the module is no program: it does not export {what}"))
}

/// How a program is started with one element of the arguments.
///
/// A string is standard input. An object that has `args`, `stdin` or `env` says so, and may have nothing else. Of
/// anything else the program reads the JSON text.
pub(super) fn invocation(argument: &[u8]) -> Result<Invocation, Failure> {
    if let Some(text) = json_string(argument) {
        return Ok(Invocation { stdin: text.into_owned().into_bytes().into(), ..Invocation::default() });
    }
    match fields(argument) {
        Some(fields) => of_fields(&fields).map_err(bad_arguments),
        None => Ok(Invocation { stdin: Bytes::copy_from_slice(argument), ..Invocation::default() }),
    }
}

/// Whether a program can be started with that element: the client asks before it sends it.
pub(crate) fn check_invocation(argument: &[u8]) -> Result<(), ArgumentError> {
    fields(argument).map_or(Ok(()), |fields| of_fields(&fields).map(drop))
}

/// The members of an object, in their order.
type Fields<'a> = Vec<(String, &'a RawValue)>;

/// The members of an object that says how to start a program.
fn fields(argument: &[u8]) -> Option<Fields<'_>> {
    if argument.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let Members(fields) = serde_json::from_slice(argument).ok()?;
    fields.iter().any(|(name, _)| matches!(name.as_str(), "args" | "stdin" | "env")).then_some(fields)
}

/// An object's members, each as its text: `serde_json`'s map would parse what is only passed on.
struct Members<'a>(Fields<'a>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

fn of_fields(fields: &Fields<'_>) -> Result<Invocation, ArgumentError> {
    let mut invocation = Invocation::default();
    for (name, value) in fields {
        let json = value.get().as_bytes();
        match name.as_str() {
            "args" => {
                let args: Vec<&RawValue> = serde_json::from_slice(json)
                    .map_err(|_| ArgumentError::at("$.args", "an array of strings or numbers", shortened(json)))?;
                invocation.args = args
                    .iter()
                    .enumerate()
                    .map(|(index, arg)| word(arg, || format!("$.args[{index}]")))
                    .collect::<Result<_, _>>()?;
            }
            "env" => {
                let Members(variables) = serde_json::from_slice(json)
                    .map_err(|_| ArgumentError::at("$.env", "an object of strings or numbers", shortened(json)))?;
                invocation.env = variables
                    .into_iter()
                    .map(|(name, value)| {
                        let word = word(value, || format!("$.env.{name}"))?;
                        Ok((name, word))
                    })
                    .collect::<Result<_, ArgumentError>>()?;
            }
            "stdin" => invocation.stdin = stdin(json)?,
            other => {
                let expected = "only `args`, `stdin` and `env` beside each other";
                return Err(ArgumentError::at(format!("$.{other}"), expected, shortened(json)));
            }
        }
    }
    Ok(invocation)
}

fn stdin(json: &[u8]) -> Result<Bytes, ArgumentError> {
    if let Some(text) = json_string(json) {
        return Ok(text.into_owned().into_bytes().into());
    }
    match as_base64_object(json) {
        Some(encoded) => match STANDARD.decode(encoded.as_bytes()) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(ArgumentError::at("$.stdin.base64", "standard base64", error.to_string())),
        },
        None => Ok(Bytes::copy_from_slice(json)),
    }
}

/// A string's text, or a number's or boolean's as it is written.
fn word(value: &RawValue, path: impl Fn() -> String) -> Result<String, ArgumentError> {
    let text = value.get();
    let word = match text.as_bytes().first() {
        Some(b'"') => json_string(text.as_bytes()).map(|word| word.into_owned()),
        Some(b'{' | b'[') | None => None,
        Some(_) if text == "null" => None,
        Some(_) => Some(text.to_owned()),
    };
    let word = word.ok_or_else(|| ArgumentError::at(path(), "a string or a number", shortened(text.as_bytes())))?;
    if word.contains('\0') {
        return Err(ArgumentError::at(path(), "a string without a NUL character", shortened(text.as_bytes())));
    }
    Ok(word)
}

fn shortened(json: &[u8]) -> String {
    const LONGEST: usize = 40;
    let text = String::from_utf8_lossy(json);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(argument: &str) -> Invocation {
        invocation(argument.as_bytes()).unwrap()
    }

    #[test]
    fn a_string_is_standard_input() {
        assert_eq!(of(r#""a\nb""#).stdin, "a\nb");
    }

    #[test]
    fn an_object_may_name_arguments_input_and_environment() {
        let invocation = of(r#"{"args": ["-n", 5, true], "stdin": {"base64": "AP8="}, "env": {"A": "b", "N": 1}}"#);
        assert_eq!(invocation.args, ["-n", "5", "true"]);
        assert_eq!(&invocation.stdin[..], [0, 255]);
        assert_eq!(invocation.env, [("A".to_owned(), "b".to_owned()), ("N".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn of_anything_else_the_text_is_read() {
        for json in ["17", "[1,2]", r#"{"x":1}"#, "null", "{}"] {
            assert_eq!(of(json).stdin, json);
        }
        assert_eq!(of(r#"{"stdin": {"x": [1, 2]}}"#).stdin, r#"{"x": [1, 2]}"#);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_path() {
        for (argument, path) in [
            (r#"{"args": "x"}"#, "$.args"),
            (r#"{"args": [[]]}"#, "$.args[0]"),
            (r#"{"env": {"A": null}}"#, "$.env.A"),
            (r#"{"stdin": "", "stdout": ""}"#, "$.stdout"),
            (r#"{"stdin": {"base64": "?"}}"#, "$.stdin.base64"),
            (r#"{"args": ["a\u0000b"]}"#, "$.args[0]"),
        ] {
            let failure = invocation(argument.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BadArguments);
            assert!(failure.message.starts_with(&format!("{path}: ")), "{failure}");
        }
    }
}
