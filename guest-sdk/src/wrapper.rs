//! The steps around a call: what the macro's wrappers are made of.

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::registry::Outcome;

/// What a function can take.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a farm function: it is not read from JSON",
    label = "derive `serde::Deserialize` for it",
    note = "a type that borrows from its input cannot be read either: take `String` for `&str`"
)]
pub trait Argument: DeserializeOwned {}

impl<T: DeserializeOwned> Argument for T {}

/// Nothing but the question whether a type can be an argument, asked at the place of the type.
pub const fn check_argument<T: Argument>() {}

/// Reads the argument of a function from JSON.
pub fn read_argument<T: Argument>(input: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(input).map_err(|_| explain::<T>(input))
}

/// Reads the argument of a function that has no parameters.
pub fn read_nothing(input: &[u8]) -> Result<(), Failure> {
    match input.trim_ascii() {
        b"" | b"null" | b"[]" | b"{}" => Ok(()),
        _ => Err(Failure::BadArguments("the function takes no arguments: give null, [] or {}".to_owned())),
    }
}

/// Reads once more, this time keeping track of the path. Most inputs are good and need not pay for that.
#[cold]
#[inline(never)]
fn explain<T: Argument>(input: &[u8]) -> Failure {
    let mut reader = serde_json::Deserializer::from_slice(input);
    let (path, why) = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => (None, reader.end().err().map_or_else(|| "unreadable".to_owned(), |error| error.to_string())),
        Err(error) => {
            let path = error.path().to_string();
            // A question mark stands for a place that has no name, such as a key that was cut off.
            let path = path.trim_end_matches('?').trim_end_matches('.').to_owned();
            (Some(path).filter(|path| !path.is_empty()), error.inner().to_string())
        }
    };
    // The line of a one-line JSON text is noise; the column helps where the text is not JSON at all.
    let why = why.replace(" at line 1 column ", " at column ");
    Failure::BadArguments(match path {
        Some(path) if path.starts_with('[') => format!("argument{path}: {why}"),
        Some(path) => format!("argument.{path}: {why}"),
        None => format!("argument: {why}"),
    })
}

/// Writes the value that a function gave as JSON.
pub fn write_result<T: Serialize>(value: &T) -> Outcome {
    serde_json::to_vec(value)
        .map_err(|error| Failure::ReturnedError(format!("the result cannot be written as JSON: {error}")))
}

/// Writes the error that a function gave. `{:#}` makes error types that know their causes tell them all.
#[cold]
#[inline(never)]
pub fn returned_error<E: Display>(error: &E) -> Failure {
    Failure::ReturnedError(format!("{error:#}"))
}

/// What a raw function can take.
#[diagnostic::on_unimplemented(
    message = "a raw farm function takes bytes, not `{Self}`",
    label = "write `&[u8]` or `Vec<u8>`",
    note = "a function whose argument is JSON is written without `raw`"
)]
pub trait RawInput<'a> {
    /// The bytes, borrowed or taken.
    fn of(input: &'a mut Vec<u8>) -> Self;
}

impl<'a> RawInput<'a> for &'a [u8] {
    fn of(input: &'a mut Vec<u8>) -> Self {
        input
    }
}

impl RawInput<'_> for Vec<u8> {
    fn of(input: &mut Vec<u8>) -> Self {
        std::mem::take(input)
    }
}

/// What a raw function can give.
#[diagnostic::on_unimplemented(
    message = "a raw farm function gives bytes, not `{Self}`",
    label = "write `Vec<u8>` or `Result<Vec<u8>, E>`",
    note = "a function whose result is JSON is written without `raw`"
)]
pub trait RawResult {
    /// The bytes or the failure.
    fn into_outcome(self) -> Outcome;
}

impl RawResult for Vec<u8> {
    fn into_outcome(self) -> Outcome {
        Ok(self)
    }
}

impl<E: Display> RawResult for Result<Vec<u8>, E> {
    fn into_outcome(self) -> Outcome {
        self.map_err(|error| returned_error(&error))
    }
}
