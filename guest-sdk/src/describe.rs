//! The description of a module's functions, with JSON Schemas.
//!
//! Schemas are made when a tool asks for them and at no other time, so that a task does not pay for them. `schemars`
//! makes them, except for those of numbers, texts and lists of such: a module whose functions need no others holds
//! half the code without it, and compiles in half the time.

use std::marker::PhantomData;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};

use crate::registry;

/// Stands for a type of which it is not known whether it has a schema.
///
/// `(&Probe::<T>::NEW).argument_schema()` finds the best method that there is for `T`: Rust looks at those of the type
/// itself first, then at those of traits, and only then at those that need one more reference.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<fn() -> T>);

impl<T> Probe<T> {
    /// The only value.
    pub const NEW: Self = Self(PhantomData);
}

impl<T: Plain> Probe<T> {
    /// The schema of what can be read: a JSON text.
    pub fn argument_schema(&self) -> String {
        T::schema()
    }

    /// The schema of what is written: a JSON text.
    pub fn result_schema(&self) -> String {
        T::schema()
    }
}

/// Serves types that `schemars` knows.
pub trait DerivedSchema {
    /// The schema of what can be read: a JSON text.
    fn argument_schema(&self) -> String;

    /// The schema of what is written: a JSON text.
    fn result_schema(&self) -> String;
}

impl<T: JsonSchema> DerivedSchema for Probe<T> {
    fn argument_schema(&self) -> String {
        schema::<T>(SchemaSettings::for_deserialize)
    }

    fn result_schema(&self) -> String {
        schema::<T>(SchemaSettings::for_serialize)
    }
}

/// Serves all other types.
pub trait AnySchema {
    /// The schema that everything matches.
    fn argument_schema(&self) -> String {
        "true".to_owned()
    }

    /// The schema that everything matches.
    fn result_schema(&self) -> String {
        "true".to_owned()
    }
}

impl<T> AnySchema for &Probe<T> {}

impl<T, E> Probe<Result<T, E>> {
    /// The type is a `Result`, whatever it is called.
    pub const IS_RESULT: bool = true;
}

/// Serves types that are no `Result`.
pub trait NoResult {
    /// The type is no `Result`.
    const IS_RESULT: bool = false;
}

impl<T> NoResult for Probe<T> {}

fn schema<T: JsonSchema>(contract: fn(SchemaSettings) -> SchemaSettings) -> String {
    let mut settings = contract(SchemaSettings::draft2020_12());
    // What version of JSON Schema it is, the guide says once for all.
    settings.meta_schema = None;
    SchemaGenerator::new(settings).into_root_schema_for::<T>().as_value().to_string()
}

/// A type whose schema needs no `schemars`. What it says is what `schemars` would say.
pub trait Plain {
    /// The schema: a JSON text.
    fn schema() -> String;
}

macro_rules! plain {
    ($($type:ty => $schema:literal,)+) => {
        $(impl Plain for $type {
            fn schema() -> String {
                $schema.to_owned()
            }
        })+
    };
}

plain! {
    () => r#"{"type":"null"}"#,
    bool => r#"{"type":"boolean"}"#,
    i8 => r#"{"format":"int8","maximum":127,"minimum":-128,"type":"integer"}"#,
    i16 => r#"{"format":"int16","maximum":32767,"minimum":-32768,"type":"integer"}"#,
    i32 => r#"{"format":"int32","type":"integer"}"#,
    i64 => r#"{"format":"int64","type":"integer"}"#,
    isize => r#"{"format":"int","type":"integer"}"#,
    u8 => r#"{"format":"uint8","maximum":255,"minimum":0,"type":"integer"}"#,
    u16 => r#"{"format":"uint16","maximum":65535,"minimum":0,"type":"integer"}"#,
    u32 => r#"{"format":"uint32","minimum":0,"type":"integer"}"#,
    u64 => r#"{"format":"uint64","minimum":0,"type":"integer"}"#,
    usize => r#"{"format":"uint","minimum":0,"type":"integer"}"#,
    f32 => r#"{"format":"float","type":"number"}"#,
    f64 => r#"{"format":"double","type":"number"}"#,
    String => r#"{"type":"string"}"#,
}

impl<T: Plain> Plain for Vec<T> {
    fn schema() -> String {
        [r#"{"items":"#, &T::schema(), r#","type":"array"}"#].concat()
    }
}

macro_rules! plain_tuple {
    ($count:literal: $($item:ident)+) => {
        impl<$($item: Plain),+> Plain for ($($item,)+) {
            fn schema() -> String {
                let items = [$($item::schema()),+].join(",");
                let ends = concat!(r#"{"maxItems":"#, $count, r#","minItems":"#, $count, r#","prefixItems":["#);
                [ends, &items, r#"],"type":"array"}"#].concat()
            }
        }
    };
}

plain_tuple!(2: A B);
plain_tuple!(3: A B C);
plain_tuple!(4: A B C D);

/// The version of the description's format.
const VERSION: u32 = 1;

/// The description of all functions: a JSON text. Each is the line of the custom section, with the schemas added.
pub(crate) fn describe() -> String {
    let mut text = format!(r#"{{"version":{VERSION},"functions":["#);
    for (position, function) in registry::sorted().into_iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        let (first, rest) = function.summary.split_first().unwrap_or((&"null", &[]));
        text.push_str(first);
        for (schema, part) in (function.schemas)().into_iter().zip(rest) {
            text.push_str(r#","schema":"#);
            text.push_str(&schema);
            text.push_str(part);
        }
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn agree<T: Plain + JsonSchema>() {
        let mut derived: Value = serde_json::from_str(&schema::<T>(SchemaSettings::for_deserialize)).expect("JSON");
        derived.as_object_mut().expect("an object").remove("title");
        let plain: Value = serde_json::from_str(&T::schema()).expect("JSON");
        assert_eq!(plain, derived, "{}", std::any::type_name::<T>());
    }

    #[test]
    fn plain_schemas_are_those_of_schemars() {
        agree::<()>();
        agree::<bool>();
        agree::<(i8, i16, i32, i64)>();
        agree::<(u8, u16, u32, u64)>();
        agree::<(isize, usize)>();
        agree::<(f32, f64, String)>();
        agree::<Vec<Vec<u8>>>();
        agree::<Vec<(String, f64)>>();
    }
}
