//! Looking for what is to be nowhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether these bytes have a text in them.
pub fn has(content: &[u8], text: &str) -> bool {
    content.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The files below some folders that have a text in them. What cannot be read has not.
pub fn files_with(folders: &[&Path], text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<_> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && fs::read(entry.path()).is_ok_and(|content| has(&content, text)) {
                found.push(entry.path());
            }
        }
    }
    found
}
