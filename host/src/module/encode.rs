//! From an element of the arguments to the bytes that a task gets.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farm_proto::job::ModuleKind;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ArgumentError, FunctionInfo};
use crate::sandbox::check_invocation;

/// Appends to `out` what a task gets for one element of the arguments.
///
/// * A raw SDK function: a string's UTF-8 bytes, the bytes of `{"base64": "…"}`, and of anything else its JSON text.
/// * A core function of several parameters: by position, because only the client knows their names.
/// * Everything else: the JSON text, without white space.
///
/// `element` is one valid JSON text, as [`RawValue`] holds it.
///
/// # Errors
///
/// The base64 of a raw function's argument is broken, an object has other names than a core function's parameters, or
/// does not say how to start a program.
/// `out` is unchanged then.
pub fn encode_argument(
    kind: ModuleKind,
    function: &FunctionInfo,
    element: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ArgumentError> {
    if kind == ModuleKind::Sdk && function.raw {
        match element.first() {
            Some(b'"') => {
                if let Ok(text) = serde_json::from_slice::<Cow<'_, str>>(element) {
                    out.extend_from_slice(text.as_bytes());
                    return Ok(());
                }
            }
            Some(b'{') => {
                if let Some(encoded) = as_base64_object(element) {
                    let start = out.len();
                    return STANDARD.decode_vec(encoded.as_bytes(), out).map_err(|error| {
                        out.truncate(start);
                        ArgumentError::at("$.base64", "standard base64", error.to_string())
                    });
                }
            }
            _ => {}
        }
    }
    if kind == ModuleKind::Command {
        check_invocation(element)?;
    }
    if kind == ModuleKind::Core && function.params.len() > 1 && element.first() == Some(&b'{') {
        return by_position(function, element, out);
    }
    compact_json(element, out);
    Ok(())
}

/// Turns an object of all parameters into an array.
fn by_position(function: &FunctionInfo, element: &[u8], out: &mut Vec<u8>) -> Result<(), ArgumentError> {
    let members: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(element)
        .map_err(|error| ArgumentError::at("$", "an object of parameters", error.to_string()))?;
    if let Some(unknown) = members.keys().find(|name| !function.params.iter().any(|param| param.name == **name)) {
        return Err(ArgumentError::at(format!("$.{unknown}"), "a parameter of the function", "another name"));
    }
    let start = out.len();
    for (index, param) in function.params.iter().enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        let Some(value) = members.get(param.name.as_str()) else {
            out.truncate(start);
            let expected = format!("a value of type {}", param.type_text);
            return Err(ArgumentError::at(format!("$.{}", param.name), expected, "nothing"));
        };
        compact_json(value.get().as_bytes(), out);
    }
    out.push(b']');
    Ok(())
}

/// The text of `{"base64": "…"}`, if `json` is such an object.
pub(crate) fn as_base64_object(json: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Base64<'a> {
        #[serde(borrow)]
        base64: &'a RawValue,
    }

    let object: Base64<'_> = serde_json::from_slice(json).ok()?;
    json_string(object.base64.get().as_bytes())
}

/// The text of a JSON string, borrowed where nothing in it is escaped; `None` for any other JSON.
pub(crate) fn json_string(json: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    (json.trim_ascii_start().first() == Some(&b'"')).then_some(())?;
    serde_json::from_slice::<Text<'_>>(json).ok().map(|text| text.0)
}

/// Appends a valid JSON text without the white space between its tokens, so that it is one line.
pub fn compact_json(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    out.reserve(json.len());
    // What stands between strings is copied up to the next quote or white space, strings are copied whole.
    while let Some(at) = rest.iter().position(|byte| *byte == b'"' || byte.is_ascii_whitespace()) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if rest[0] == b'"' {
            let length = string_length(rest);
            out.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
        } else {
            rest = rest.trim_ascii_start();
        }
    }
    out.extend_from_slice(rest);
}

/// The length of the JSON string at the start of `json`, with both quotes.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while at < json.len() {
        match json[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(json: &str) -> String {
        let mut out = Vec::new();
        compact_json(json.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn encode(raw: bool, element: &str) -> Result<Vec<u8>, ArgumentError> {
        let function = FunctionInfo {
            name: "f".to_owned(),
            doc: String::new(),
            params: Vec::new(),
            result: super::super::ResultInfo::default(),
            raw,
        };
        let mut out = b"before ".to_vec();
        let result = encode_argument(ModuleKind::Sdk, &function, element.as_bytes(), &mut out);
        assert!(out.starts_with(b"before "));
        result.map(|()| out.split_off(7))
    }

    #[test]
    fn white_space_goes_except_in_strings() {
        assert_eq!(compact(" [ 1 ,\n\t2 ] "), "[1,2]");
        assert_eq!(compact(r#"{ "a b" : " \" x \\" , "c": "" }"#), r#"{"a b":" \" x \\","c":""}"#);
        assert_eq!(compact("12345678901234567890"), "12345678901234567890");
    }

    #[test]
    fn a_raw_function_takes_text_bytes_and_any_json() {
        assert_eq!(encode(true, r#""a\nü""#).unwrap(), "a\nü".as_bytes());
        assert_eq!(encode(true, r#"{"base64": "AP8="}"#).unwrap(), [0, 255]);
        assert_eq!(encode(true, r#"{"base64": "AP8=", "x": 1}"#).unwrap(), br#"{"base64":"AP8=","x":1}"#);
        assert_eq!(encode(true, r#"{"base64": 3}"#).unwrap(), br#"{"base64":3}"#);
        assert_eq!(encode(true, "[1, 2]").unwrap(), b"[1,2]");
        assert_eq!(encode(false, r#""text""#).unwrap(), br#""text""#);
    }

    #[test]
    fn broken_base64_is_told() {
        let error = encode(true, r#"{"base64": "?"}"#).unwrap_err();
        assert_eq!(error.path, "$.base64");
    }
}
