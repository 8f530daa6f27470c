//! Whether an element of the arguments is what a function takes, told before anything is uploaded.

use std::fmt;
use std::fmt::Write as _;

use serde_json::Value;

use super::schema::{Fault, Schema, Step, found};
use super::{FunctionInfo, ParamInfo};

/// An element of the arguments that its function does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, found {found}")]
pub struct ArgumentError {
    /// From the element, which is `$`: `$[0].px1`.
    pub path: String,
    pub expected: String,
    pub found: String,
}

impl ArgumentError {
    pub(crate) fn at(path: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: path.into(), expected: expected.into(), found: found.into() }
    }
}

/// A path from the element, as JSON Path writes it.
struct Path<'a>(&'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('$')?;
        self.0.iter().try_for_each(|step| match step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => {
                let plain = !key.is_empty()
                    && !key.starts_with(|c: char| c.is_ascii_digit())
                    && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
                if plain { write!(f, ".{key}") } else { write!(f, "[{key:?}]") }
            }
        })
    }
}

impl From<Fault> for ArgumentError {
    fn from(fault: Fault) -> Self {
        Self { path: Path(&fault.path).to_string(), expected: fault.expected, found: fault.found }
    }
}

/// Checks the elements of an argument table, of which there may be millions.
///
/// What it refuses, the function would refuse. What it lets pass may still be refused by the function: a schema does
/// not say everything.
#[derive(Debug)]
pub struct ArgumentChecker {
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// Nothing is known, or bytes are taken.
    Anything,
    Nothing,
    One(Fast, Schema),
    Several(Vec<Param>),
}

/// What can be told from an element's text alone.
#[derive(Debug)]
enum Fast {
    Integer { minimum: i128, maximum: i128 },
    Number,
    No,
}

#[derive(Debug)]
struct Param {
    name: String,
    type_text: String,
    required: bool,
    schema: Option<Schema>,
}

impl ArgumentChecker {
    /// Prepares the checks for one function.
    pub fn new(function: &FunctionInfo) -> Self {
        let schema_of = |param: &ParamInfo| param.schema.as_ref().map(Schema::compile);
        let shape = match function.params.as_slice() {
            _ if function.raw => Shape::Anything,
            [] => Shape::Nothing,
            [one] => match schema_of(one) {
                None => Shape::Anything,
                Some(schema) => {
                    let fast = match schema.as_integer() {
                        Some((minimum, maximum)) => Fast::Integer { minimum, maximum },
                        None if schema.takes_any_number() => Fast::Number,
                        None => Fast::No,
                    };
                    Shape::One(fast, schema)
                }
            },
            several => Shape::Several(
                several
                    .iter()
                    .map(|param| Param {
                        name: param.name.clone(),
                        type_text: param.type_text.clone(),
                        required: param.required,
                        schema: schema_of(param),
                    })
                    .collect(),
            ),
        };
        Self { shape }
    }

    /// Checks one element, which is one valid JSON text.
    ///
    /// # Errors
    ///
    /// Where the element does not fit, and what was expected there.
    pub fn check(&self, element: &[u8]) -> Result<(), ArgumentError> {
        if let Shape::Anything = self.shape {
            return Ok(());
        }
        if let Shape::One(fast, _) = &self.shape
            && fast.fits(element)
        {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(element)
            .map_err(|error| ArgumentError::at("$", "a JSON text that is not nested too deeply", error.to_string()))?;
        match &self.shape {
            Shape::Anything => Ok(()),
            Shape::Nothing => check_nothing(&value),
            Shape::One(_, schema) => Ok(schema.check(&value)?),
            Shape::Several(params) => check_several(params, &value),
        }
    }
}

impl Fast {
    /// Whether `element` is surely what is expected. `false` says nothing.
    fn fits(&self, element: &[u8]) -> bool {
        match self {
            Self::No => false,
            // In a valid JSON text only numbers begin like this.
            Self::Number => matches!(element.first(), Some(b'-' | b'0'..=b'9')),
            Self::Integer { minimum, maximum } => {
                parse_integer(element).is_some_and(|value| (*minimum..=*maximum).contains(&value))
            }
        }
    }
}

/// An integer of up to 18 digits.
fn parse_integer(text: &[u8]) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0_i64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(i128::from(if negative { -value } else { value }))
}

fn check_nothing(value: &Value) -> Result<(), ArgumentError> {
    let nothing = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    };
    if nothing {
        Ok(())
    } else {
        Err(ArgumentError::at("$", "null, [] or {}, for the function takes no argument", found(value)))
    }
}

fn check_several(params: &[Param], value: &Value) -> Result<(), ArgumentError> {
    match value {
        Value::Array(items) => {
            let needed = params.iter().rposition(|param| param.required).map_or(0, |last| last + 1);
            if items.len() < needed || items.len() > params.len() {
                return Err(ArgumentError::at("$", signature(params), found(value)));
            }
            for (index, (param, item)) in params.iter().zip(items).enumerate() {
                check_param(param, item, Step::Index(index))?;
            }
            Ok(())
        }
        Value::Object(object) => {
            if let Some(unknown) = object.keys().find(|key| !params.iter().any(|param| param.name == **key)) {
                let path = Path(&[Step::Key(unknown.clone())]).to_string();
                return Err(ArgumentError::at(path, signature(params), "a parameter that the function does not have"));
            }
            for param in params {
                let step = Step::Key(param.name.clone());
                match object.get(&param.name) {
                    Some(item) => check_param(param, item, step)?,
                    None if param.required => {
                        let path = Path(&[step]).to_string();
                        return Err(ArgumentError::at(path, format!("a value of type {}", param.type_text), "nothing"));
                    }
                    None => {}
                }
            }
            Ok(())
        }
        _ => Err(ArgumentError::at("$", signature(params), found(value))),
    }
}

fn check_param(param: &Param, item: &Value, step: Step) -> Result<(), ArgumentError> {
    let Some(schema) = &param.schema else {
        return Ok(());
    };
    schema.check(item).map_err(|mut fault| {
        fault.path.insert(0, step);
        fault.into()
    })
}

/// Both ways to give several parameters.
fn signature(params: &[Param]) -> String {
    let each = |separator: &str| {
        let each: Vec<String> =
            params.iter().map(|param| format!("{}{separator}{}", param.name, param.type_text)).collect();
        each.join(", ")
    };
    format!("an array ({}) or an object with these names", each(": "))
}
