//! Just enough of WebAssembly's binary format to see what a module asks for.

use anyhow::{Context as _, Result, bail};

const PREAMBLE: &[u8] = b"\0asm\x01\0\0\0";
const IMPORT_SECTION: u8 = 2;

/// Module and name of the first import of a core module, if it has any.
pub(crate) fn first_import(module: &[u8]) -> Result<Option<(String, String)>> {
    let mut rest = module.strip_prefix(PREAMBLE).context("this is not a WebAssembly core module")?;
    while let Some((&id, after)) = rest.split_first() {
        rest = after;
        let mut section = bytes(&mut rest)?;
        if id == IMPORT_SECTION && number(&mut section)? > 0 {
            return Ok(Some((name(&mut section)?, name(&mut section)?)));
        }
    }
    Ok(None)
}

fn name(rest: &mut &[u8]) -> Result<String> {
    Ok(String::from_utf8_lossy(bytes(rest)?).into_owned())
}

/// Bytes after their length.
fn bytes<'m>(rest: &mut &'m [u8]) -> Result<&'m [u8]> {
    let length = number(rest)?;
    let (bytes, after) = rest.split_at_checked(length).context("the module is cut off")?;
    *rest = after;
    Ok(bytes)
}

/// An unsigned LEB128 number of 32 bits.
fn number(rest: &mut &[u8]) -> Result<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let (&byte, after) = rest.split_first().context("the module is cut off")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).context("a length is too large");
        }
    }
    bail!("a length has more than five bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(sections: &[u8]) -> Vec<u8> {
        [PREAMBLE, sections].concat()
    }

    #[test]
    fn a_module_without_imports_has_none() {
        assert_eq!(first_import(&module(b"\x01\x01\0\x02\x01\0")).unwrap(), None);
    }

    #[test]
    fn the_first_import_is_named() {
        let imports = b"\0\x01x\x02\x0c\x01\x03env\x04time\0\0";
        let found = first_import(&module(imports)).unwrap();
        assert_eq!(found, Some(("env".to_owned(), "time".to_owned())));
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_an_error() {
        for bad in [&b"\x7fELF"[..], &module(b"\x02\x7f\x01"), &module(b"\x02\xff\xff\xff\xff\xff\x01")] {
            assert!(first_import(bad).is_err());
        }
    }
}
