//! Texts taken from the source: doc comments, types, and the JSON object that describes a function.

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
        .flat_map(|text| text.split('\n').map(str::to_owned).collect::<Vec<_>>())
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

/// The line of the custom section `farm:functions` that stands for one function, in pieces: a schema goes between each
/// two of them. A raw function has no schemas, hence one piece.
pub(crate) fn summary(name: &str, signature: &Signature<'_>) -> Vec<String> {
    let raw = matches!(signature.input, Input::Raw(_));
    let mut pieces = vec![];
    let mut piece =
        format!(r#"{{"name":{},"doc":{},"raw":{raw},"params":["#, json(name), json(&doc(signature.attributes)));
    for (position, parameter) in signature.input.parameters().iter().enumerate() {
        let comma = if position > 0 { "," } else { "" };
        let (name, ty) = (json(&parameter.name), json(&of_type(parameter.ty)));
        piece.push_str(&format!(r#"{comma}{{"name":{name},"type":{ty},"required":{}"#, parameter.required));
        if !raw {
            pieces.push(std::mem::take(&mut piece));
        }
        piece.push('}');
    }
    piece.push_str(&format!(r#"],"result":{{"type":{}"#, json(&of_type(&signature.output.value))));
    if !raw {
        pieces.push(std::mem::take(&mut piece));
    }
    piece.push_str("}}");
    pieces.push(piece);
    pieces
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
        let none: syn::ItemFn = parse_quote!(
            fn f() {}
        );
        assert_eq!(doc(&none.attrs), "");
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json("a\"b\\c\nd\te\u{1}é"), r#""a\"b\\c\nd\te\u0001é""#);
    }
}
