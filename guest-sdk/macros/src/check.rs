//! What may stand under `#[farm::function]`, and what to write instead of what may not.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, FnArg, GenericArgument, Ident, Pat, PathArguments, ReturnType, Type, Visibility};

use crate::options::Options;
use crate::text;

/// A function as far as the macro reads it. Its body stays tokens: whatever Rust allows there is none of our business.
pub(crate) struct Function {
    attributes: Vec<Attribute>,
    signature: syn::Signature,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        input.parse::<Visibility>()?;
        let ahead = input.fork();
        let signature = input.parse().map_err(|error| {
            let words = std::iter::from_fn(|| ahead.parse::<TokenTree>().ok());
            let is_function = words.map_while(word).any(|word| word == "fn");
            if is_function { error } else { Error::new(ahead.span(), "#[farm::function] goes on a function") }
        })?;
        let body: TokenTree = input.parse()?;
        match body {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && input.is_empty() => {
                Ok(Self { attributes, signature })
            }
            other => Err(Error::new(other.span(), "#[farm::function] goes on a function that has a body")),
        }
    }
}

/// The text of a token, unless it is a group.
fn word(token: TokenTree) -> Option<String> {
    match token {
        TokenTree::Group(_) => None,
        token => Some(token.to_string()),
    }
}

/// One parameter of a function.
pub(crate) struct Parameter<'a> {
    /// Its name without `r#`.
    pub(crate) name: String,
    pub(crate) ident: &'a Ident,
    pub(crate) ty: &'a Type,
    /// Whether a caller must give it. An `Option` may be left out.
    pub(crate) required: bool,
}

/// What a function takes.
pub(crate) enum Input<'a> {
    Raw(Parameter<'a>),
    Json(Vec<Parameter<'a>>),
}

impl<'a> Input<'a> {
    pub(crate) fn parameters(&self) -> &[Parameter<'a>] {
        match self {
            Self::Raw(parameter) => std::slice::from_ref(parameter),
            Self::Json(parameters) => parameters,
        }
    }
}

/// What a function gives.
pub(crate) struct Output {
    /// The type as it is written.
    pub(crate) whole: Type,
    /// The type of the value, which is `T` where the function returns `Result<T, E>`.
    pub(crate) value: Type,
    /// Whether the function returns a `Result`.
    pub(crate) fallible: bool,
}

/// A function that can be called on a farm.
pub(crate) struct Signature<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) attributes: &'a [Attribute],
    pub(crate) input: Input<'a>,
    pub(crate) output: Output,
}

impl<'a> Signature<'a> {
    /// Checks a function. All that is wrong with it is told at once.
    pub(crate) fn of(function: &'a Function, options: &Options) -> syn::Result<Self> {
        let signature = &function.signature;
        let mut errors = qualifiers(signature);
        let mut parameters = Vec::new();
        for argument in &signature.inputs {
            match parameter(argument, options.raw) {
                Ok(parameter) => parameters.push(parameter),
                Err(error) => errors.push(error),
            }
        }
        let output = output(&signature.output).map_err(|error| errors.push(error)).ok();
        let receiver = signature.receiver().is_some();
        let input = if !options.raw {
            Some(Input::Json(parameters))
        } else if signature.inputs.len() == 1 {
            parameters.pop().map(Input::Raw)
        } else {
            if !receiver {
                errors.push(Error::new_spanned(
                    Inputs(signature),
                    "a raw farm function takes one parameter, the task's bytes\n= try: `input: &[u8]` or `input: Vec<u8>`",
                ));
            }
            None
        };
        if let Some(error) = errors.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        }) {
            return Err(error);
        }
        match (input, output) {
            (Some(input), Some(output)) => {
                Ok(Self { ident: &signature.ident, attributes: &function.attributes, input, output })
            }
            // Each of the two is missing only together with an error, which was returned above.
            _ => Err(Error::new_spanned(&signature.ident, "not a farm function")),
        }
    }
}

/// The place of a function's parameters: the parameters, or the name where there are none.
struct Inputs<'a>(&'a syn::Signature);

impl ToTokens for Inputs<'_> {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        if self.0.inputs.is_empty() {
            self.0.ident.to_tokens(tokens);
        } else {
            self.0.inputs.to_tokens(tokens);
        }
    }
}

/// What is wrong before the parameters: `async`, `unsafe`, `extern`, generics.
fn qualifiers(signature: &syn::Signature) -> Vec<Error> {
    let mut errors = Vec::new();
    if let Some(token) = &signature.asyncness {
        errors.push(Error::new_spanned(
            token,
            "a farm function cannot be async: a task runs alone in its sandbox and has nothing to wait for\n\
             = try: leave out `async`; to do several things at once, make several tasks",
        ));
    }
    if let Some(token) = &signature.unsafety {
        errors.push(Error::new_spanned(
            token,
            "a farm function cannot be unsafe: its arguments come from anybody\n\
             = try: leave out `unsafe`, and check the arguments before an unsafe block inside",
        ));
    }
    if let Some(abi) = &signature.abi {
        errors.push(Error::new_spanned(
            abi,
            "a farm function has Rust's own calling convention; the macro makes what is exported\n\
             = try: leave out `extern`",
        ));
    }
    if let Some(variadic) = &signature.variadic {
        errors.push(Error::new_spanned(
            variadic,
            "a farm function has a fixed number of parameters\n= try: one parameter of type `Vec<…>`",
        ));
    }
    if !signature.generics.params.is_empty() {
        let only_lifetimes =
            signature.generics.params.iter().all(|parameter| matches!(parameter, syn::GenericParam::Lifetime(_)));
        let message = if only_lifetimes {
            "a farm function cannot borrow its arguments, hence has no lifetime parameters\n\
             = try: leave them out and take owned types: `String`, `Vec<…>`"
        } else {
            "a farm function cannot be generic: its arguments' types must be known when the module is built\n\
             = try: concrete types, and one function for each of them that calls the generic one"
        };
        errors.push(Error::new_spanned(&signature.generics, message));
    } else if let Some(clause) = &signature.generics.where_clause {
        errors.push(Error::new_spanned(clause, "a farm function is not generic, hence has no `where`"));
    }
    errors
}

/// Checks one parameter.
fn parameter(argument: &FnArg, raw: bool) -> syn::Result<Parameter<'_>> {
    let typed = match argument {
        FnArg::Typed(typed) => typed,
        FnArg::Receiver(receiver) => {
            return Err(Error::new_spanned(
                receiver,
                "a farm function cannot be a method: there is no object that a task could be sent to\n\
                 = try: a function outside of the `impl` block, with the object as an ordinary parameter",
            ));
        }
    };
    if let Some(attribute) = typed.attrs.first() {
        return Err(Error::new_spanned(attribute, "the parameters of a farm function have no attributes"));
    }
    let Pat::Ident(pattern) = &*typed.pat else {
        return Err(Error::new_spanned(
            &typed.pat,
            format!(
                "each parameter of a farm function needs a name, by which callers can give it\n\
                 = try: `name: {}`, and take it apart inside the function",
                text::of_type(&typed.ty)
            ),
        ));
    };
    if let Some(by_ref) = &pattern.by_ref {
        return Err(Error::new_spanned(
            by_ref,
            "the parameters of a farm function are plain names\n= try: leave out `ref`",
        ));
    }
    let ty = &*typed.ty;
    if !raw {
        owned(ty)?;
    }
    Ok(Parameter {
        name: pattern.ident.unraw().to_string(),
        ident: &pattern.ident,
        ty,
        required: last_segment(ty).is_none_or(|segment| segment.ident != "Option"),
    })
}

/// Refuses a parameter's type that borrows or that is no type yet.
fn owned(ty: &Type) -> syn::Result<()> {
    if let Type::Reference(reference) = ty {
        return Err(Error::new_spanned(
            ty,
            format!(
                "a farm function cannot borrow its arguments: they are made from JSON for this call alone\n= try: `{}`",
                owned_text(&reference.elem)
            ),
        ));
    }
    if let Type::ImplTrait(_) = ty {
        return Err(Error::new_spanned(
            ty,
            "a farm function cannot be generic: its arguments' types must be known when the module is built\n\
             = try: a concrete type in place of `impl …`",
        ));
    }
    if borrows(ty.to_token_stream()) {
        return Err(Error::new_spanned(
            ty,
            "a farm function cannot borrow its arguments: they are made from JSON for this call alone\n\
             = try: owned types all through: `String` for `&str`, `Vec<T>` for `&[T]`",
        ));
    }
    Ok(())
}

/// Whether a type mentions a reference or a lifetime.
fn borrows(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Punct(punct) => matches!(punct.as_char(), '&' | '\''),
        TokenTree::Group(group) => borrows(Group::stream(&group)),
        _ => false,
    })
}

/// The owned counterpart of what a reference points to.
fn owned_text(target: &Type) -> String {
    match target {
        Type::Slice(slice) => format!("Vec<{}>", text::of_type(&slice.elem)),
        Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
        Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Path") => {
            "std::path::PathBuf".to_owned()
        }
        other => text::of_type(other),
    }
}

/// Checks what a function returns.
fn output(output: &ReturnType) -> syn::Result<Output> {
    let ReturnType::Type(_, ty) = output else {
        return Ok(Output { whole: syn::parse_quote!(()), value: syn::parse_quote!(()), fallible: false });
    };
    let Some(segment) = last_segment(ty).filter(|segment| segment.ident == "Result") else {
        return Ok(Output { whole: (**ty).clone(), value: returned(ty)?, fallible: false });
    };
    let value = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|argument| match argument {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        }),
        _ => None,
    };
    match value {
        Some(value) => Ok(Output { whole: (**ty).clone(), value: returned(value)?, fallible: true }),
        None => Err(Error::new_spanned(
            ty,
            "the type of the value must be seen in the signature of a farm function\n= try: `Result<T, E>`",
        )),
    }
}

/// Refuses the type of a value that borrows or that has no name.
fn returned(ty: &Type) -> syn::Result<Type> {
    match ty {
        Type::Reference(reference) => Err(Error::new_spanned(
            ty,
            format!(
                "a farm function cannot return a reference: its result leaves the sandbox\n= try: `{}`",
                owned_text(&reference.elem)
            ),
        )),
        Type::ImplTrait(_) => Err(Error::new_spanned(
            ty,
            "the result of a farm function is described to its callers, hence needs a name\n\
             = try: the concrete type in place of `impl …`",
        )),
        ty => Ok(ty.clone()),
    }
}

/// The last segment of a type that is a plain path.
fn last_segment(ty: &Type) -> Option<&syn::PathSegment> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

/// The `cfg` attributes of a function, under which all that belongs to it stands as well.
pub(crate) fn conditions(attributes: &[Attribute]) -> TokenStream {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    quote!(#(#conditions)*)
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn options(tokens: TokenStream) -> Options {
        syn::parse2(tokens).expect("options")
    }

    fn error(function: &Function, raw: bool) -> String {
        let options = if raw { options(quote!(raw)) } else { options(quote!()) };
        Signature::of(function, &options).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn owned_counterparts_are_suggested() {
        let function: Function = parse_quote!(
            fn f(a: &Path) {}
        );
        assert!(error(&function, false).ends_with("= try: `std::path::PathBuf`"));
        let function: Function = parse_quote!(
            fn f() -> Result<&'static [f64], String> {}
        );
        assert!(error(&function, false).ends_with("= try: `Vec<f64>`"));
    }

    #[test]
    fn a_result_is_looked_into() {
        let function: Function = parse_quote!(
            fn f() -> std::io::Result<Vec<u8>> {}
        );
        let options = options(quote!());
        let signature = Signature::of(&function, &options).expect("a farm function");
        assert!(signature.output.fallible);
        assert_eq!(text::of_type(&signature.output.value), "Vec<u8>");
    }

    #[test]
    fn options_may_be_left_out() {
        let function: Function = parse_quote!(
            fn f(a: u8, b: std::option::Option<u8>) {}
        );
        let options = options(quote!());
        let signature = Signature::of(&function, &options).expect("a farm function");
        let required: Vec<bool> = signature.input.parameters().iter().map(|parameter| parameter.required).collect();
        assert_eq!(required, [true, false]);
    }
}
