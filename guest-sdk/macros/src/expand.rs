//! What the macro puts beside a function.

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::LitStr;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use crate::check::{self, Input, Parameter, Signature};
use crate::options::Options;
use crate::text;

/// The wrapper, the registry entry, the line of the custom section, and the guard against a second function of the
/// same name.
pub(crate) fn registration(signature: &Signature<'_>, options: &Options) -> TokenStream {
    let krate = &options.krate;
    let private = quote!(#krate::__private);
    let conditions = check::conditions(signature.attributes);
    let name = options.name.as_ref().map_or_else(|| signature.ident.unraw().to_string(), LitStr::value);
    let guard = guard(&name, signature, options);
    let summary = text::summary(&name, signature);
    let line = summary.concat() + "\n";
    let (line, length) = (Literal::byte_string(line.as_bytes()), line.len());
    let wrapper = match &signature.input {
        Input::Raw(parameter) => raw_wrapper(signature, parameter, &private),
        Input::Json(parameters) => json_wrapper(signature, parameters, &private),
    };
    quote! {
        #conditions
        #guard

        #conditions
        #[doc(hidden)]
        #[allow(clippy::all, clippy::pedantic, clippy::restriction, deprecated, non_snake_case, unused)]
        const _: () = {
            #wrapper

            #private::inventory::submit! {
                #private::Function {
                    name: #name,
                    summary: &[#(#summary),*],
                    file: ::core::file!(),
                    line: ::core::line!(),
                    call: __farm_call,
                    schemas: __farm_schemas,
                }
            }

            #[cfg(target_family = "wasm")]
            #[used]
            #[unsafe(link_section = "farm:functions")]
            static __FARM_SECTION: [u8; #length] = *#line;
        };
    }
}

/// A macro named after the function. Exported macros stand at the root of their crate wherever they are written, so
/// that two functions of one name clash even if they are in different modules, already in `cargo check`.
fn guard(name: &str, signature: &Signature<'_>, options: &Options) -> TokenStream {
    let mut text = String::from("farm_functions_must_differ_in_name__");
    for character in name.chars() {
        if character.is_ascii_alphanumeric() || character == '_' {
            text.push(character);
        } else {
            text.push_str(&format!("_{:x}_", u32::from(character)));
        }
    }
    let span = options.name.as_ref().map_or_else(|| signature.ident.span(), LitStr::span);
    let guard = Ident::new(&text, span);
    quote_spanned! {span=>
        #[doc(hidden)]
        #[macro_export]
        macro_rules! #guard {
            () => {};
        }
    }
}

/// Reads the arguments from JSON, calls, writes the result as JSON.
fn json_wrapper(signature: &Signature<'_>, parameters: &[Parameter<'_>], private: &TokenStream) -> TokenStream {
    let function = signature.ident;
    let value = &signature.output.value;
    // With the span of a type, an error about the type points at it.
    let write = quote_spanned!(value.span()=> #private::write_result::<#value>(&__farm_value));
    // Of several arguments only the whole is read, so each is asked about where it stands.
    let asked = if parameters.len() > 1 { parameters } else { &[] };
    let checks = asked
        .iter()
        .map(|Parameter { ty, .. }| quote_spanned!(ty.span()=> const _: () = #private::check_argument::<#ty>();));
    let (arguments, read, actual) = match parameters {
        [] => (quote!(), quote!(#private::read_nothing(&__farm_input)?;), vec![]),
        [Parameter { ty, .. }] => (
            quote!(),
            quote_spanned!(ty.span()=> let __farm_argument = #private::read_argument::<#ty>(&__farm_input)?;),
            vec![quote!(__farm_argument)],
        ),
        several => {
            let types = several.iter().map(|parameter| parameter.ty);
            let read = quote!(#private::read_argument::<__FarmArguments<#(#types),*>>(&__farm_input)?);
            let actual = several.iter().map(|Parameter { ident, .. }| quote!(__farm_arguments.#ident)).collect();
            (arguments(several, private), quote!(let __farm_arguments = #read;), actual)
        }
    };
    let call = if signature.output.fallible {
        let failure = quote_spanned!(signature.output.whole.span()=> #private::returned_error(&__farm_error));
        quote! {
            match #function(#(#actual),*) {
                ::core::result::Result::Ok(__farm_value) => #write,
                ::core::result::Result::Err(__farm_error) => ::core::result::Result::Err(#failure),
            }
        }
    } else {
        let no_alias = quote_spanned! {value.span()=>
            const _: () = ::core::assert!(
                !#private::Probe::<#value>::IS_RESULT,
                "this is another name for `Result`, write `Result<T, E>`",
            );
        };
        quote! {
            #no_alias
            let __farm_value = #function(#(#actual),*);
            #write
        }
    };
    let types = parameters.iter().map(|parameter| parameter.ty);
    quote! {
        use #private::{AnySchema as _, DerivedSchema as _, NoResult as _};

        #(#checks)*

        #arguments

        fn __farm_call(__farm_input: #private::Vec<u8>) -> #private::Outcome {
            #read
            #call
        }

        fn __farm_schemas() -> #private::Vec<#private::String> {
            #private::Vec::from([
                #((&#private::Probe::<#types>::NEW).argument_schema(),)*
                (&#private::Probe::<#value>::NEW).result_schema(),
            ])
        }
    }
}

/// A struct that reads an array by position and an object by name.
fn arguments(parameters: &[Parameter<'_>], private: &TokenStream) -> TokenStream {
    let named: Vec<String> =
        parameters.iter().map(|Parameter { name, ty, .. }| format!("{name}: {}", text::of_type(*ty))).collect();
    let expecting =
        format!("an array of {} arguments ({}), or an object with these names", parameters.len(), named.join(", "));
    let serde = format!("{private}::serde").replace(' ', "");
    // Type parameters stand for the types, so that serde's code has nothing to say about one that it cannot read.
    let types: Vec<Ident> = (0..parameters.len()).map(|index| format_ident!("__T{index}")).collect();
    let fields = parameters.iter().zip(&types).map(|(Parameter { ident, required, .. }, ty)| {
        let (default, bound) = if *required {
            (quote!(), format!("{ty}: {serde}::Deserialize<'de>"))
        } else {
            (quote!(default,), format!("{ty}: {serde}::Deserialize<'de> + ::core::default::Default"))
        };
        quote!(#[serde(#default bound(deserialize = #bound))] #ident: #ty)
    });
    quote! {
        #[derive(#private::serde::Deserialize)]
        #[serde(crate = #serde, deny_unknown_fields, expecting = #expecting)]
        struct __FarmArguments<#(#types),*> {
            #(#fields,)*
        }
    }
}

/// Hands the bytes over and takes bytes back. The traits say which types can do that.
fn raw_wrapper(signature: &Signature<'_>, parameter: &Parameter<'_>, private: &TokenStream) -> TokenStream {
    let (function, input, output) = (signature.ident, parameter.ty, &signature.output.whole);
    let take = quote_spanned!(input.span()=> <#input as #private::RawInput<'_>>::of(&mut __farm_input));
    let give = quote_spanned!(output.span()=> <#output as #private::RawResult>::into_outcome(__farm_output));
    quote! {
        fn __farm_call(mut __farm_input: #private::Vec<u8>) -> #private::Outcome {
            let __farm_output = #function(#take);
            #give
        }

        fn __farm_schemas() -> #private::Vec<#private::String> {
            #private::Vec::new()
        }
    }
}
