//! The description that an SDK module carries of its functions.
//!
//! Two forms stand in custom sections named `farm:functions`. The macro can only write what the compiler knows while
//! it expands it: one JSON object a line, in the core module. The full form is one JSON object in the component, and
//! adds what only a running program knows, the schemas:
//!
//! ```json
//! {"version": 1, "functions": [
//!     {"name": "square", "doc": "", "raw": false,
//!      "params": [{"name": "x", "type": "i64", "required": true, "schema": {"type": "integer", "format": "int64"}}],
//!      "result": {"type": "i64", "schema": {"type": "integer", "format": "int64"}}}]}
//! ```

use serde::Deserialize;

use super::FunctionInfo;

/// The only version so far. A module of a later one is refused by name instead of being misread.
const VERSION: u32 = 1;

#[derive(Debug, Deserialize)]
struct Full {
    version: u32,
    functions: Vec<FunctionInfo>,
}

/// Why a text is no full description.
#[derive(Debug, thiserror::Error)]
pub(super) enum DescriptionError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, and this farm reads version {VERSION}")]
    Version(u32),
}

/// Reads the full form.
pub(super) fn parse_full(text: &[u8]) -> Result<Vec<FunctionInfo>, DescriptionError> {
    let full: Full = serde_json::from_slice(text)?;
    if full.version == VERSION { Ok(full.functions) } else { Err(DescriptionError::Version(full.version)) }
}

/// Adds a custom section at the end of a module or component, where it is valid in both.
pub(super) fn append_section(bytes: &mut Vec<u8>, name: &str, data: &[u8]) {
    const CUSTOM: u8 = 0;
    let mut body = Vec::with_capacity(name.len() + data.len() + 5);
    leb128(&mut body, name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    bytes.push(CUSTOM);
    leb128(bytes, body.len());
    bytes.append(&mut body);
}

fn leb128(bytes: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::{Parser, Payload};

    use super::*;

    #[test]
    fn a_section_that_was_added_is_read_back() {
        for size in [0, 1, 127, 128, 300, 70_000] {
            let mut bytes = b"\0asm\x01\0\0\0".to_vec();
            let data = vec![7; size];
            append_section(&mut bytes, "some:name", &data);
            let found = Parser::new(0).parse_all(&bytes).find_map(|payload| match payload.unwrap() {
                Payload::CustomSection(section) => Some((section.name().to_owned(), section.data().to_vec())),
                _ => None,
            });
            assert_eq!(found, Some(("some:name".to_owned(), data)));
        }
    }

    #[test]
    fn the_short_form_and_later_versions_are_not_the_full_form() {
        let short = br#"{"name":"a","raw":false,"params":[],"result":{"type":"()"}}"#;
        assert!(matches!(parse_full(short), Err(DescriptionError::Json(_))));
        let later = br#"{"version":2,"functions":[]}"#;
        assert!(matches!(parse_full(later), Err(DescriptionError::Version(2))));
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let text = br#"{"version":1,"functions":[{"name":"f","params":[{"name":"x","type":"T"}]}]}"#;
        let functions = parse_full(text).unwrap();
        assert!(functions[0].params[0].required);
        assert!(!functions[0].raw);
    }
}
