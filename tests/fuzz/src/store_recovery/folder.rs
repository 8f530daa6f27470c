//! A folder in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Files by their path within the folder.
#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Folder {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut folder = Self::default();
        folder.add(path, "")?;
        Ok(folder)
    }

    fn add(&mut self, path: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.add(&entry.path(), &format!("{name}/"))?;
            } else {
                self.files.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        for (name, bytes) in &self.files {
            let file = path.join(name);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, bytes)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }
}
