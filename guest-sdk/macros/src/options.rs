//! What stands in the parentheses of `#[farm::function(…)]`.

use syn::parse::{Parse, ParseStream};
use syn::{Ident, LitStr, Path, Token, ext::IdentExt, parse_quote};

/// The options of one function.
pub(crate) struct Options {
    /// Bytes in, bytes out, instead of JSON.
    pub(crate) raw: bool,
    /// The name by which the function is called, if it is not that of the Rust function.
    pub(crate) name: Option<LitStr>,
    /// Where the SDK is found.
    pub(crate) krate: Path,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut options = Self { raw: false, name: None, krate: parse_quote!(::farm) };
        while !input.is_empty() {
            let key = input.call(Ident::parse_any)?;
            match key.to_string().as_str() {
                "raw" => options.raw = true,
                "name" => {
                    input.parse::<Token![=]>()?;
                    let name: LitStr = input.parse()?;
                    if name.value().is_empty() || name.value().chars().any(char::is_control) {
                        return Err(syn::Error::new(
                            name.span(),
                            "the name of a farm function is a text without control characters, not empty",
                        ));
                    }
                    options.name = Some(name);
                }
                "crate" => {
                    input.parse::<Token![=]>()?;
                    options.krate = input.call(Path::parse_mod_style)?;
                }
                other => {
                    return Err(syn::Error::new(
                        key.span(),
                        format!(
                            "`{other}` is no option of #[farm::function]\n= try: `raw`, `name = \"…\"` or `crate = path`"
                        ),
                    ));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}
