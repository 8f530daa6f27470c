//! WIT types as people read them, and as JSON Schema.
//!
//! How values look in JSON is told in [`super`]; the sandbox's `values` follows the same table.

use serde_json::{Value, json};
use wit_parser::{Resolve, Type, TypeDefKind};

/// A type in WIT's own notation; a named one by its name.
pub(super) fn type_text(resolve: &Resolve, ty: &Type) -> String {
    let of = |ty: &Type| type_text(resolve, ty);
    let simple = match ty {
        Type::Bool => "bool",
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::S8 => "s8",
        Type::S16 => "s16",
        Type::S32 => "s32",
        Type::S64 => "s64",
        Type::F32 => "f32",
        Type::F64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext => "error-context",
        Type::Id(id) => {
            let definition = &resolve.types[*id];
            if let Some(name) = &definition.name {
                return name.clone();
            }
            return match &definition.kind {
                TypeDefKind::Type(alias) => of(alias),
                TypeDefKind::List(item) => format!("list<{}>", of(item)),
                TypeDefKind::Option(some) => format!("option<{}>", of(some)),
                TypeDefKind::Tuple(tuple) => {
                    format!("tuple<{}>", tuple.types.iter().map(of).collect::<Vec<_>>().join(", "))
                }
                TypeDefKind::Result(result) => match (&result.ok, &result.err) {
                    (None, None) => "result".to_owned(),
                    (Some(ok), None) => format!("result<{}>", of(ok)),
                    (ok, Some(err)) => {
                        format!("result<{}, {}>", ok.as_ref().map_or_else(|| "_".to_owned(), of), of(err))
                    }
                },
                // The rest has a name in every WIT text.
                other => other.as_str().to_owned(),
            };
        }
    };
    simple.to_owned()
}

/// Any float. Without a sign of its own, JSON's grammar has no word for what is not finite.
pub(super) fn float_schema() -> Value {
    json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]})
}

/// The schema of a type's JSON, or `None` where a value of it cannot be written down.
pub(super) fn schema(resolve: &Resolve, ty: &Type) -> Option<Value> {
    Some(match ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::U8 => integer(0, u8::MAX.into()),
        Type::U16 => integer(0, u16::MAX.into()),
        Type::U32 => integer(0, u32::MAX.into()),
        Type::U64 => integer(0, u64::MAX),
        Type::S8 => integer(i8::MIN.into(), 0x7f),
        Type::S16 => integer(i16::MIN.into(), 0x7fff),
        Type::S32 => integer(i32::MIN.into(), 0x7fff_ffff),
        Type::S64 => integer(i64::MIN, 0x7fff_ffff_ffff_ffff),
        Type::F32 | Type::F64 => float_schema(),
        Type::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
        Type::String => json!({"type": "string"}),
        Type::ErrorContext => return None,
        Type::Id(id) => defined(resolve, &resolve.types[*id].kind)?,
    })
}

fn integer(minimum: i64, maximum: u64) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

fn defined(resolve: &Resolve, kind: &TypeDefKind) -> Option<Value> {
    let of = |ty: &Type| schema(resolve, ty);
    Some(match kind {
        TypeDefKind::Type(alias) => of(alias)?,
        TypeDefKind::List(item) => {
            let list = json!({"type": "array", "items": of(item)?});
            if matches!(item, Type::U8) { json!({"anyOf": [list, base64_schema()]}) } else { list }
        }
        TypeDefKind::Tuple(tuple) => array_of(tuple.types.iter().map(of).collect::<Option<_>>()?),
        TypeDefKind::Record(record) => {
            let mut properties = serde_json::Map::new();
            let mut required = Vec::new();
            for field in &record.fields {
                let mut property = of(&field.ty)?;
                if let (Some(docs), Value::Object(property)) = (&field.docs.contents, &mut property) {
                    property.insert("description".to_owned(), json!(docs));
                }
                properties.insert(field.name.clone(), property);
                if !is_option(resolve, &field.ty) {
                    required.push(field.name.clone());
                }
            }
            json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false
            })
        }
        TypeDefKind::Variant(variant) => {
            let mut cases = Vec::with_capacity(variant.cases.len());
            for case in &variant.cases {
                cases.push(match &case.ty {
                    None => json!({"const": case.name}),
                    Some(payload) => tagged(&case.name, of(payload)?),
                });
            }
            json!({"oneOf": cases})
        }
        TypeDefKind::Enum(cases) => {
            json!({"enum": cases.cases.iter().map(|case| &case.name).collect::<Vec<_>>()})
        }
        TypeDefKind::Flags(flags) => {
            let names: Vec<&String> = flags.flags.iter().map(|flag| &flag.name).collect();
            json!({"type": "array", "items": {"enum": names}})
        }
        TypeDefKind::Option(some) => {
            let value = of(some)?;
            let value = if is_option(resolve, some) { tagged("some", value) } else { value };
            json!({"anyOf": [value, {"type": "null"}]})
        }
        TypeDefKind::Result(result) => {
            let half = |ty: &Option<Type>| ty.as_ref().map_or_else(|| Some(json!({"type": "null"})), of);
            json!({"oneOf": [tagged("ok", half(&result.ok)?), tagged("err", half(&result.err)?)]})
        }
        TypeDefKind::FixedLengthList(..)
        | TypeDefKind::Map(..)
        | TypeDefKind::Resource
        | TypeDefKind::Handle(_)
        | TypeDefKind::Future(_)
        | TypeDefKind::Stream(_)
        | TypeDefKind::Unknown => return None,
    })
}

fn base64_schema() -> Value {
    tagged("base64", json!({"type": "string"}))
}

fn tagged(name: &str, value: Value) -> Value {
    json!({"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": false})
}

fn array_of(items: Vec<Value>) -> Value {
    let length = items.len();
    json!({"type": "array", "prefixItems": items, "minItems": length, "maxItems": length})
}

/// Follows names to what they stand for.
fn kind_of<'a>(resolve: &'a Resolve, ty: &Type) -> Option<&'a TypeDefKind> {
    let Type::Id(id) = ty else {
        return None;
    };
    match &resolve.types[*id].kind {
        TypeDefKind::Type(alias) => kind_of(resolve, alias),
        kind => Some(kind),
    }
}

pub(super) fn is_option(resolve: &Resolve, ty: &Type) -> bool {
    matches!(kind_of(resolve, ty), Some(TypeDefKind::Option(_)))
}

/// The good half of a `result`; `None` for any other type.
pub(super) fn ok_of_result(resolve: &Resolve, ty: &Type) -> Option<Option<Type>> {
    match kind_of(resolve, ty) {
        Some(TypeDefKind::Result(result)) => Some(result.ok),
        _ => None,
    }
}
