//! From a file to the bytes that travel.

use farm_proto::ids::Digest;
use farm_proto::job::ModuleKind;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use super::{ModuleError, ModuleInfo, Prepared, component, core};

/// What the sandbox can run; the engines of [`crate::sandbox`] are set up with the same.
pub(super) const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Makes of a file's bytes what is sent to a farm, and says what it is.
///
/// * `.wasm` core modules and components are taken; text is taken for `.wat` if it begins like it.
/// * A core module that carries component types (what `cargo build` makes of an SDK crate) becomes a component, with
///   the adapter for WASI 0.1 where it needs it.
/// * An SDK component that only carries the short description of its functions is asked for the full one, once, in a
///   sandbox with bounded time and memory; the answer becomes part of the bytes.
/// * Everything else is refused, precompiled artefacts in particular.
///
/// # Errors
///
/// See [`ModuleError`]. Nothing of the module has run by then, except for the description.
pub fn prepare(bytes: Vec<u8>) -> Result<Prepared, ModuleError> {
    let bytes = to_binary(bytes)?;
    match validate(&bytes)? {
        Encoding::Component => component::describe(bytes),
        Encoding::Module if carries_component_types(&bytes)? => component::describe(componentize(&bytes)?),
        Encoding::Module => {
            let scan = core::scan(&bytes)?;
            let info = ModuleInfo {
                digest: Digest::of(&bytes),
                size: bytes.len() as u64,
                kind: scan.kind,
                functions: scan.functions,
                imports: scan.imports.names,
                touches: scan.imports.touches,
                has_debug_info: scan.has_debug_info,
            };
            debug_assert!(matches!(info.kind, ModuleKind::Core | ModuleKind::Command));
            Ok(Prepared { bytes, info })
        }
    }
}

/// The binary form of `bytes`, or why they have none.
fn to_binary(bytes: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
    if bytes.is_empty() {
        return Err(ModuleError::Empty);
    }
    if bytes.starts_with(b"\0asm") {
        return Ok(bytes);
    }
    if wasmtime::Engine::detect_precompiled(&bytes).is_some() {
        return Err(ModuleError::Precompiled);
    }
    if begins_like_text(&bytes) {
        return match wat::parse_bytes(&bytes) {
            Ok(binary) => Ok(binary.into_owned()),
            Err(error) => Err(ModuleError::Text { message: in_one_line(&error.to_string()) }),
        };
    }
    if b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) {
        return Err(ModuleError::Truncated { offset: bytes.len() as u64 });
    }
    Err(ModuleError::NotWasm { found: name_contents(&bytes) })
}

/// What is wrong with a text, and where, without the picture that the parser draws of it.
fn in_one_line(picture: &str) -> String {
    let mut lines = picture.lines();
    let message = lines.next().unwrap_or_default();
    // `     --> <anon>:1:14`
    let place = lines.find_map(|line| line.trim_start().strip_prefix("--> <anon>:")?.split_once(':'));
    match place {
        Some((line, column)) => format!("{message} at line {line}, column {column}"),
        None => message.to_owned(),
    }
}

/// Whether the first thing that is neither white space nor a comment is an opening parenthesis.
fn begins_like_text(bytes: &[u8]) -> bool {
    let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    loop {
        rest = rest.trim_ascii_start();
        if let Some(comment) = rest.strip_prefix(b";;") {
            let line = comment.iter().position(|byte| *byte == b'\n').unwrap_or(comment.len());
            rest = &comment[line..];
        } else {
            // A block comment opens with a parenthesis too.
            return rest.first() == Some(&b'(');
        }
    }
}

/// Names what a file is that is no WebAssembly, for people.
fn name_contents(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"\x7fELF", "an ELF file (a native program, library or object)"),
        (b"\x1f\x8b", "gzip-compressed data: unpack it first"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed data: unpack it first"),
        (b"PK\x03\x04", "a ZIP archive (or a Python wheel, or a JAR)"),
        (b"!<arch>", "an ar archive (a static library)"),
        (b"BC\xc0\xde", "LLVM bitcode: link it first"),
        (b"MZ", "a Windows program"),
        (b"\xcf\xfa\xed\xfe", "a macOS program"),
        (b"#!", "a script"),
    ];
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return format!("this is {name}");
    }
    let start = &bytes[..bytes.len().min(16)];
    format!("it begins with `{}` where `\\0asm` is expected", start.escape_ascii())
}

fn validate(bytes: &[u8]) -> Result<Encoding, ModuleError> {
    Validator::new_with_features(FEATURES).validate_all(bytes)?;
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::Version { encoding, .. } = payload? {
            return Ok(encoding);
        }
    }
    // The header is the first thing that the validator has seen.
    Err(ModuleError::Truncated { offset: bytes.len() as u64 })
}

fn carries_component_types(bytes: &[u8]) -> Result<bool, ModuleError> {
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::CustomSection(section) = payload?
            && section.name().starts_with("component-type")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Wraps a core module that says which component it wants to be.
fn componentize(bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let encode = || {
        wit_component::ComponentEncoder::default()
            .validate(true)
            .module(bytes)?
            // Left out again by the encoder where nothing imports from it.
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
            .encode()
    };
    encode().map_err(|error| ModuleError::Componentize { message: format!("{error:#}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_binaries() {
        assert!(begins_like_text(b"(module)"));
        assert!(begins_like_text(b"\n ;; says why\n\t(component)"));
        assert!(begins_like_text(b"(; block ;) (module)"));
        assert!(begins_like_text(b"\xef\xbb\xbf(module)"));
        assert!(!begins_like_text(b"\0asm"));
        assert!(!begins_like_text(b";; only a comment"));
        assert!(!begins_like_text(b"fn main() {}"));
    }
}
