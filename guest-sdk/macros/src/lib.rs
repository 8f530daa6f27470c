//! The `#[farm::function]` macro. Use it through the `farm-sdk` crate, which documents it.
//!
//! The annotated function is left exactly as it was written. Beside it, in an anonymous constant, the macro puts
//!
//! * a wrapper that reads the arguments from JSON, calls the function and writes the result as JSON,
//! * an entry in the registry through which the module's exports find that wrapper,
//! * a line of the custom section `farm:functions`, for tools that only look at the file,
//! * an empty macro named after the function, so that a second function of that name is a compile error.

mod check;
mod expand;
mod options;
mod text;

use proc_macro::TokenStream;
use quote::quote;
use syn::parse_macro_input;

/// Makes a plain Rust function callable on a farm.
///
/// See the documentation of `farm_sdk::function`, which is this macro re-exported.
#[proc_macro_attribute]
pub fn function(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as options::Options);
    let original = proc_macro2::TokenStream::from(item.clone());
    let function: check::Function = match syn::parse(item) {
        Ok(function) => function,
        Err(error) => {
            let error = error.to_compile_error();
            return quote!(#error #original).into();
        }
    };
    // The function is kept next to the errors, so that its uses elsewhere do not add errors of their own.
    let generated = match check::Signature::of(&function, &options) {
        Ok(signature) => expand::registration(&signature, &options),
        Err(error) => error.to_compile_error(),
    };
    quote!(#original #generated).into()
}
