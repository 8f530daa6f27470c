//! Texts taken from the source: doc comments, types, and the JSON object that describes a function.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Attribute, Expr, ExprLit, Lit, Meta};

use crate::check::{Input, Signature};

/// The doc comment of an item, as its author wrote it, without the space that follows `///`.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines: Vec<String> = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        })
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    // A block comment's lines may have no leading space; only a common one is taken away.
    let indented = lines.iter().all(|line| line.is_empty() || line.starts_with(' '));
    let lines: Vec<&str> =
        lines.iter().map(|line| if indented && !line.is_empty() { &line[1..] } else { line.as_str() }).collect();
    lines.join("\n").trim().to_owned()
}

/// A type as people write it: `Vec<(f64, String)>`, where the token stream's own text would be
/// `Vec < (f64 , String) >`.
pub(crate) fn of_type(ty: &impl ToTokens) -> String {
    let spaced = ty.to_token_stream().to_string();
    let mut text = String::with_capacity(spaced.len());
    let mut characters = spaced.chars().peekable();
    while let Some(character) = characters.next() {
        if !character.is_whitespace() {
            text.push(character);
            continue;
        }
        let before = text.chars().next_back().unwrap_or(' ');
        let after = characters.peek().copied().unwrap_or(' ');
        // A space separates two words, and follows a comma, a semicolon or a plus; an arrow is kept apart.
        let words = (before.is_alphanumeric() || before == '_') && (after.is_alphanumeric() || after == '_');
        let arrow = text.ends_with("->") || (after == '-' && before == ')');
        let separator = matches!(before, ',' | ';' | '+') || after == '+';
        if (words || arrow || separator) && before != ' ' {
            text.push(' ');
        }
    }
    text.trim_end().to_owned()
}

/// The line of the custom section `farm:functions` that stands for one function.
pub(crate) fn summary(name: &str, signature: &Signature<'_>) -> String {
    let raw = matches!(signature.input, Input::Raw(_));
    let parameters: Vec<String> = match &signature.input {
        Input::Raw(parameter) => vec![parameter],
        Input::Json(parameters) => parameters.iter().collect(),
    }
    .into_iter()
    .map(|parameter| {
        format!(
            r#"{{"name":{},"type":{},"required":{}}}"#,
            json(&parameter.name),
            json(&of_type(parameter.ty)),
            parameter.required
        )
    })
    .collect();
    format!(
        r#"{{"name":{},"doc":{},"raw":{raw},"params":[{}],"result":{{"type":{}}}}}"#,
        json(name),
        json(&doc(signature.attributes)),
        parameters.join(","),
        json(&signature.output.value.as_ref().map_or_else(|| "()".to_owned(), TokenStream::to_string_as_type)),
    )
}

/// Gives a token stream the spacing of a type.
trait AsType {
    fn to_string_as_type(&self) -> String;
}

impl AsType for TokenStream {
    fn to_string_as_type(&self) -> String {
        of_type(self)
    }
}

/// A JSON string.
fn json(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use quote::quote;
    use syn::parse_quote;

    use super::*;

    #[test]
    fn types_look_as_people_write_them() {
        for text in [
            "i64",
            "Vec<u8>",
            "&[u8]",
            "HashMap<String, Vec<(f64, bool)>>",
            "[f64; 3]",
            "Option<std::path::PathBuf>",
            "Box<dyn Fn(u8) -> u8 + Send>",
            "()",
        ] {
            let ty: syn::Type = syn::parse_str(text).expect("a type");
            assert_eq!(of_type(&ty), text);
        }
    }

    #[test]
    fn doc_comments_keep_their_shape() {
        let item: syn::ItemFn = parse_quote! {
            /// First line.
            ///
            ///     indented
            #[inline]
            /// Last.
            fn f() {}
        };
        assert_eq!(doc(&item.attrs), "First line.\n\n    indented\nLast.");
        let none: syn::ItemFn = parse_quote!(fn f() {});
        assert_eq!(doc(&none.attrs), "");
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json("a\"b\\c\nd\te\u{1}é"), r#""a\"b\\c\nd\te\u0001é""#);
    }

    #[test]
    fn a_stream_of_tokens_is_spaced_like_a_type() {
        assert_eq!(quote!(Vec<u8>).to_string_as_type(), "Vec<u8>");
    }
}
