//! The exports of a module: the world `function` of `wit/farm.wit`.

use std::panic::{self, PanicHookInfo};

use crate::bindings::exports::farm::function::handler;
use crate::bindings::farm::function::panic::panicked;
use crate::failure::Failure;
use crate::{describe, registry};

struct Module;

impl handler::Guest for Module {
    fn call(function: String, input: Vec<u8>) -> Result<Vec<u8>, handler::Failure> {
        panic::set_hook(Box::new(report));
        registry::call(&function, input).map_err(|failure| match failure {
            Failure::NoSuchFunction(names) => handler::Failure::NoSuchFunction(names),
            Failure::BadArguments(why) => handler::Failure::BadArguments(why),
            Failure::ReturnedError(text) => handler::Failure::ReturnedError(text),
        })
    }

    fn describe() -> String {
        panic::set_hook(Box::new(report));
        describe::describe()
    }
}

/// Hands the message of a panic to the host. The abort that follows is the host's to see.
fn report(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a panic without a message");
    let (file, line, column) =
        info.location().map_or(("", 0, 0), |location| (location.file(), location.line(), location.column()));
    panicked(message, file, line, column);
}

#[expect(unsafe_code, reason = "exports have fixed names, which the compiler cannot know to be unique")]
mod exports {
    use super::Module;
    use crate::bindings;

    bindings::export!(Module with_types_in bindings);
}
