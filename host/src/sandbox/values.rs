//! JSON to the values of WIT types and back. What it looks like is told in [`crate::module`]'s `wit`.

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};
use wasmtime::component::{Type, Val};

use crate::module::ArgumentError;

/// Where in the argument the conversion is. Names are kept by reference: a path is only written down for an error.
#[derive(Debug, Clone, Copy)]
enum Path<'a> {
    Root,
    Index(&'a Self, usize),
    Key(&'a Self, &'a str),
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Self::Root => out.push('$'),
            Self::Index(outer, index) => {
                outer.write(out);
                _ = write!(out, "[{index}]");
            }
            Self::Key(outer, key) => {
                outer.write(out);
                out.push('.');
                out.push_str(key);
            }
        }
    }

    fn error(&self, expected: impl Into<String>, found: &Value) -> ArgumentError {
        let mut path = String::new();
        self.write(&mut path);
        ArgumentError::at(path, expected, crate::module::found(found))
    }
}

/// The parameters of a function from one element of the arguments: the element itself for one, an array or an object
/// for several, nothing for none.
pub(super) fn parameters<T, V>(
    element: &Value,
    names: &[(String, T)],
    convert: impl Fn(&T, &Value, &ParamPath<'_>) -> Result<V, ArgumentError>,
    missing: impl Fn(&T) -> Option<V>,
) -> Result<Vec<V>, ArgumentError> {
    let root = Path::Root;
    let expected = || {
        let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        format!("an array of {} items or an object with {}", names.len(), names.join(", "))
    };
    match (names, element) {
        ([], Value::Null) => Ok(Vec::new()),
        ([], Value::Array(items)) if items.is_empty() => Ok(Vec::new()),
        ([], Value::Object(object)) if object.is_empty() => Ok(Vec::new()),
        ([], other) => Err(root.error("null, [] or {}, for the function takes no argument", other)),
        ([(_, ty)], element) => Ok(vec![convert(ty, element, &ParamPath(root))?]),
        (several, Value::Array(items)) => {
            if items.len() > several.len() {
                return Err(root.error(expected(), element));
            }
            let mut values = Vec::with_capacity(several.len());
            for (index, (_, ty)) in several.iter().enumerate() {
                values.push(match items.get(index) {
                    Some(item) => convert(ty, item, &ParamPath(Path::Index(&root, index)))?,
                    None => missing(ty).ok_or_else(|| root.error(expected(), element))?,
                });
            }
            Ok(values)
        }
        (several, Value::Object(object)) => {
            if object.keys().any(|key| !several.iter().any(|(name, _)| name == key)) {
                return Err(root.error(expected(), element));
            }
            let mut values = Vec::with_capacity(several.len());
            for (name, ty) in several {
                values.push(match object.get(name) {
                    Some(item) => convert(ty, item, &ParamPath(Path::Key(&root, name)))?,
                    None => missing(ty).ok_or_else(|| root.error(expected(), element))?,
                });
            }
            Ok(values)
        }
        (_, other) => Err(root.error(expected(), other)),
    }
}

/// Where a parameter stands.
#[derive(Debug)]
pub(super) struct ParamPath<'a>(Path<'a>);

impl ParamPath<'_> {
    pub(super) fn error(&self, expected: impl Into<String>, found: &Value) -> ArgumentError {
        self.0.error(expected, found)
    }
}

/// The value of a type.
pub(super) fn to_val(ty: &Type, json: &Value, path: &ParamPath<'_>) -> Result<Val, ArgumentError> {
    convert(ty, json, path.0)
}

fn convert(ty: &Type, json: &Value, path: Path<'_>) -> Result<Val, ArgumentError> {
    let integer = |minimum: i128, maximum: i128| integer(json, minimum, maximum, path);
    // Each cast is of a number that was found to be in range.
    Ok(match ty {
        Type::Bool => Val::Bool(json.as_bool().ok_or_else(|| path.error("true or false", json))?),
        Type::S8 => Val::S8(integer(i8::MIN.into(), i8::MAX.into())? as i8),
        Type::U8 => Val::U8(integer(0, u8::MAX.into())? as u8),
        Type::S16 => Val::S16(integer(i16::MIN.into(), i16::MAX.into())? as i16),
        Type::U16 => Val::U16(integer(0, u16::MAX.into())? as u16),
        Type::S32 => Val::S32(integer(i32::MIN.into(), i32::MAX.into())? as i32),
        Type::U32 => Val::U32(integer(0, u32::MAX.into())? as u32),
        Type::S64 => Val::S64(integer(i64::MIN.into(), i64::MAX.into())? as i64),
        Type::U64 => Val::U64(integer(0, u64::MAX.into())? as u64),
        Type::Float32 => Val::Float32(float32(json).ok_or_else(|| path.error(FLOAT, json))?),
        Type::Float64 => Val::Float64(float64(json).ok_or_else(|| path.error(FLOAT, json))?),
        Type::Char => Val::Char(character(json).ok_or_else(|| path.error("a string of one character", json))?),
        Type::String => match json {
            Value::String(text) => Val::String(text.clone()),
            other => return Err(path.error("a string", other)),
        },
        Type::List(list) => {
            let item = list.ty();
            match json {
                Value::Array(items) => Val::List(
                    items
                        .iter()
                        .enumerate()
                        .map(|(index, json)| convert(&item, json, Path::Index(&path, index)))
                        .collect::<Result<_, _>>()?,
                ),
                Value::Object(object) if matches!(item, Type::U8) => {
                    let bytes = base64(object).ok_or_else(|| path.error(BYTES, json))?;
                    Val::List(bytes.into_iter().map(Val::U8).collect())
                }
                other if matches!(item, Type::U8) => return Err(path.error(BYTES, other)),
                other => return Err(path.error("an array", other)),
            }
        }
        Type::Tuple(tuple) => {
            let expected = || format!("an array of {} items", tuple.types().len());
            let items = json.as_array().filter(|items| items.len() == tuple.types().len());
            let items = items.ok_or_else(|| path.error(expected(), json))?;
            Val::Tuple(
                tuple
                    .types()
                    .zip(items)
                    .enumerate()
                    .map(|(index, (ty, json))| convert(&ty, json, Path::Index(&path, index)))
                    .collect::<Result<_, _>>()?,
            )
        }
        Type::Record(record) => {
            let object = json.as_object().ok_or_else(|| {
                let names: Vec<&str> = record.fields().map(|field| field.name).collect();
                path.error(format!("an object with {}", names.join(", ")), json)
            })?;
            if let Some((name, value)) = object.iter().find(|(name, _)| !record.fields().any(|f| f.name == **name)) {
                let names: Vec<&str> = record.fields().map(|field| field.name).collect();
                return Err(Path::Key(&path, name).error(format!("only {}", names.join(", ")), value));
            }
            let mut fields = Vec::with_capacity(record.fields().len());
            for field in record.fields() {
                let inner = Path::Key(&path, field.name);
                let value = match object.get(field.name) {
                    Some(json) => convert(&field.ty, json, inner)?,
                    None if matches!(field.ty, Type::Option(_)) => Val::Option(None),
                    None => {
                        let mut place = String::new();
                        inner.write(&mut place);
                        return Err(ArgumentError::at(place, "a value", "nothing"));
                    }
                };
                fields.push((field.name.to_owned(), value));
            }
            Val::Record(fields)
        }
        Type::Variant(variant) => {
            let (name, payload) = case(json).ok_or_else(|| path.error(r#""case" or {"case": value}"#, json))?;
            let Some(case) = variant.cases().find(|case| case.name == name) else {
                let names: Vec<&str> = variant.cases().map(|case| case.name).collect();
                return Err(path.error(format!("one of the cases {}", names.join(", ")), json));
            };
            Val::Variant(name.to_owned(), payload_of(case.ty.as_ref(), name, payload, path, json)?)
        }
        Type::Enum(cases) => match json {
            Value::String(name) if cases.names().any(|known| known == name) => Val::Enum(name.clone()),
            other => {
                return Err(path.error(format!("one of {}", cases.names().collect::<Vec<_>>().join(", ")), other));
            }
        },
        Type::Option(option) => match json {
            Value::Null => Val::Option(None),
            json => {
                let inner = option.ty();
                if matches!(inner, Type::Option(_)) {
                    let Some(("some", Some(payload))) = case(json) else {
                        return Err(path.error(r#"null or {"some": value}"#, json));
                    };
                    Val::Option(Some(Box::new(convert(&inner, payload, Path::Key(&path, "some"))?)))
                } else {
                    Val::Option(Some(Box::new(convert(&inner, json, path)?)))
                }
            }
        },
        Type::Result(result) => match case(json) {
            Some((name @ "ok", payload)) => {
                Val::Result(Ok(payload_of(result.ok().as_ref(), name, payload, path, json)?))
            }
            Some((name @ "err", payload)) => {
                Val::Result(Err(payload_of(result.err().as_ref(), name, payload, path, json)?))
            }
            _ => return Err(path.error(r#"{"ok": value} or {"err": value}"#, json)),
        },
        Type::Flags(flags) => {
            let expected = || format!("an array of {}", flags.names().collect::<Vec<_>>().join(", "));
            let mut names = Vec::new();
            for (index, name) in json.as_array().ok_or_else(|| path.error(expected(), json))?.iter().enumerate() {
                match name.as_str().filter(|name| flags.names().any(|known| known == *name)) {
                    Some(name) => names.push(name.to_owned()),
                    None => return Err(Path::Index(&path, index).error(expected(), name)),
                }
            }
            Val::Flags(names)
        }
        Type::Map(_)
        | Type::FixedLengthList(_)
        | Type::Own(_)
        | Type::Borrow(_)
        | Type::Future(_)
        | Type::Stream(_)
        | Type::ErrorContext => return Err(path.error("a value that JSON has no form for", json)),
    })
}

const FLOAT: &str = r#"a number, "NaN", "Infinity" or "-Infinity""#;
const BYTES: &str = r#"an array of bytes or {"base64": "…"}"#;

/// An integer within bounds.
pub(super) fn integer_param(
    json: &Value,
    minimum: i128,
    maximum: i128,
    path: &ParamPath<'_>,
) -> Result<i128, ArgumentError> {
    integer(json, minimum, maximum, path.0)
}

fn integer(json: &Value, minimum: i128, maximum: i128, path: Path<'_>) -> Result<i128, ArgumentError> {
    let number = json.as_i64().map(i128::from).or_else(|| json.as_u64().map(i128::from));
    number
        .filter(|number| (minimum..=maximum).contains(number))
        .ok_or_else(|| path.error(format!("an integer from {minimum} to {maximum}"), json))
}

fn not_finite(json: &Value) -> Option<f64> {
    match json.as_str()? {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Any number of JSON, rounded to the nearest; or what JSON has no number for.
pub(super) fn float64(json: &Value) -> Option<f64> {
    json.as_f64().or_else(|| not_finite(json))
}

/// As [`float64`]; a number beyond the range of `f32` is none.
pub(super) fn float32(json: &Value) -> Option<f32> {
    match json.as_f64() {
        Some(wide) => Some(wide as f32).filter(|narrow| narrow.is_finite()),
        None => not_finite(json).map(|wide| wide as f32),
    }
}

fn character(json: &Value) -> Option<char> {
    let mut characters = json.as_str()?.chars();
    characters.next().filter(|_| characters.next().is_none())
}

fn base64(object: &serde_json::Map<String, Value>) -> Option<Vec<u8>> {
    let text = object.get("base64").filter(|_| object.len() == 1)?.as_str()?;
    STANDARD.decode(text).ok()
}

/// `"name"` or `{"name": payload}`.
fn case(json: &Value) -> Option<(&str, Option<&Value>)> {
    match json {
        Value::String(name) => Some((name, None)),
        Value::Object(object) if object.len() == 1 => {
            object.iter().next().map(|(name, payload)| (name.as_str(), Some(payload)))
        }
        _ => None,
    }
}

fn payload_of(
    ty: Option<&Type>,
    name: &str,
    payload: Option<&Value>,
    path: Path<'_>,
    whole: &Value,
) -> Result<Option<Box<Val>>, ArgumentError> {
    match (ty, payload) {
        (None, None | Some(Value::Null)) => Ok(None),
        (None, Some(payload)) => Err(Path::Key(&path, name).error("no value, for the case has none", payload)),
        (Some(ty), Some(payload)) => Ok(Some(Box::new(convert(ty, payload, Path::Key(&path, name))?))),
        (Some(_), None) => Err(path.error(format!("{{{name:?}: value}}, for the case has one"), whole)),
    }
}

/// Appends a value's JSON, as far as there is room for it.
pub(super) fn write_json(value: &Val, out: &mut Bounded<'_>) {
    match value {
        Val::Bool(value) => out.put(if *value { b"true" } else { b"false" }),
        Val::S8(value) => write_display(value, out),
        Val::U8(value) => write_display(value, out),
        Val::S16(value) => write_display(value, out),
        Val::U16(value) => write_display(value, out),
        Val::S32(value) => write_display(value, out),
        Val::U32(value) => write_display(value, out),
        Val::S64(value) => write_display(value, out),
        Val::U64(value) => write_display(value, out),
        Val::Float32(value) => write_float32(*value, out),
        Val::Float64(value) => write_float64(*value, out),
        Val::Char(value) => write_string(value.encode_utf8(&mut [0; 4]), out),
        Val::String(value) | Val::Enum(value) => write_string(value, out),
        Val::List(items) | Val::Tuple(items) | Val::FixedLengthList(items) => {
            write_sequence(b'[', items, b']', out, write_json);
        }
        Val::Record(fields) => write_sequence(b'{', fields, b'}', out, |(name, value), out| {
            write_string(name, out);
            out.put(b":");
            write_json(value, out);
        }),
        Val::Variant(name, None) => write_string(name, out),
        Val::Variant(name, Some(payload)) => write_tagged(name, Some(payload), out),
        Val::Option(None) => out.put(b"null"),
        Val::Option(Some(value)) if matches!(**value, Val::Option(_)) => write_tagged("some", Some(value), out),
        Val::Option(Some(value)) => write_json(value, out),
        Val::Result(Ok(value)) => write_tagged("ok", value.as_deref(), out),
        Val::Result(Err(value)) => write_tagged("err", value.as_deref(), out),
        Val::Flags(names) => write_sequence(b'[', names, b']', out, |name, out| write_string(name, out)),
        // The engine has these types switched off, or `Typed` refuses functions that give them.
        Val::Map(_) | Val::Resource(_) | Val::Future(_) | Val::Stream(_) | Val::ErrorContext(_) => {
            out.put(b"null");
        }
    }
}

/// Bytes up to a limit. A value may be much longer as JSON than in memory, and it is not known how long before it is
/// written.
#[derive(Debug)]
pub(super) struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    room: u64,
    is_overrun: bool,
}

impl<'a> Bounded<'a> {
    /// Appends at most `room` bytes to `out`.
    pub(super) fn new(out: &'a mut Vec<u8>, room: u64) -> Self {
        Self { out, room, is_overrun: false }
    }

    /// Whether something had no room.
    pub(super) const fn is_overrun(&self) -> bool {
        self.is_overrun
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        // It is known of, and the rest is dropped as well.
        _ = self.write_all(bytes);
    }
}

impl std::io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.is_overrun |= bytes.len() as u64 > self.room;
        if self.is_overrun {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.room -= bytes.len() as u64;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_display(value: &impl std::fmt::Display, out: &mut impl std::io::Write) {
    // Writing to memory fails only where that is bounded.
    _ = write!(out, "{value}");
}

/// The shortest text that reads back as the same `f32`.
pub(super) fn write_float32(value: f32, out: &mut impl std::io::Write) {
    if value.is_finite() {
        _ = serde_json::to_writer(out, &value);
    } else {
        write_float64(value.into(), out);
    }
}

/// The shortest text that reads back as the same `f64`, or a string for which JSON has no number.
pub(super) fn write_float64(value: f64, out: &mut impl std::io::Write) {
    match Number::from_f64(value) {
        Some(number) => write_display(&number, out),
        None if value.is_nan() => _ = out.write_all(br#""NaN""#),
        None if value > 0.0 => _ = out.write_all(br#""Infinity""#),
        None => _ = out.write_all(br#""-Infinity""#),
    }
}

fn write_string(text: &str, out: &mut Bounded<'_>) {
    _ = serde_json::to_writer(out, text);
}

fn write_tagged(name: &str, payload: Option<&Val>, out: &mut Bounded<'_>) {
    out.put(b"{");
    write_string(name, out);
    out.put(b":");
    match payload {
        Some(payload) => write_json(payload, out),
        None => out.put(b"null"),
    }
    out.put(b"}");
}

fn write_sequence<T>(
    open: u8,
    items: &[T],
    close: u8,
    out: &mut Bounded<'_>,
    mut each: impl FnMut(&T, &mut Bounded<'_>),
) {
    out.put(&[open]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put(b",");
        }
        each(item, out);
    }
    out.put(&[close]);
}
