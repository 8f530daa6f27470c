//! Counts the identifiers of source files that a job ships as inputs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// Where the files are that an input named `sources` ships.
const SOURCES: &str = "/in/sources";

/// How often each identifier occurs in the files, which lie in the input `sources` unless their paths begin with `/`.
///
/// An identifier is a run of ASCII letters, digits and underscores that does not begin with a digit. Those in comments
/// and texts count as well.
#[farm::function]
pub fn identifiers(files: Vec<String>) -> Result<BTreeMap<String, u64>, String> {
    let mut counts = HashMap::new();
    for file in &files {
        // Joining an absolute path gives that path.
        let path = Path::new(SOURCES).join(file);
        let text = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        count(&text, &mut counts);
    }
    // Sorted, so that the same files give the same bytes.
    Ok(counts.into_iter().collect())
}

/// Adds the identifiers of a text.
fn count(text: &[u8], counts: &mut HashMap<String, u64>) {
    for word in text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_') {
        // What is between two separators is ASCII, hence UTF-8.
        let Ok(word) = str::from_utf8(word) else { continue };
        if word.is_empty() || word.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        // Most words are known already, and need no string of their own.
        if let Some(count) = counts.get_mut(word) {
            *count += 1;
        } else {
            counts.insert(word.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_counted_and_numbers_are_not() {
        let mut counts = HashMap::new();
        count("fn f_1(x: u8) -> u8 { 0x7f + x } // é1 ü".as_bytes(), &mut counts);
        let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
        counts.sort();
        assert_eq!(counts, [("f_1", 1), ("fn", 1), ("u8", 2), ("x", 2)].map(|(word, count)| (word.to_owned(), count)));
    }

    #[test]
    fn files_add_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ["a b a", "b _c"].iter().enumerate().map(|(number, text)| {
            let path = folder.path().join(format!("{number}.rs"));
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        });
        let counts = identifiers(files.collect()).expect("counts");
        assert_eq!(
            counts,
            BTreeMap::from([("a", 2), ("b", 2), ("_c", 1)].map(|(word, count)| (word.to_owned(), count)))
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = identifiers(vec!["nowhere.rs".to_owned()]).expect_err("there is no such file");
        assert!(error.starts_with("cannot read /in/sources/nowhere.rs: "), "{error}");
    }
}
