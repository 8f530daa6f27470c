//! What bytes are read as.

use super::folder::Folder;

/// Bytes of one edit.
const LEN: usize = 6;

/// A change of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edit {
    /// Which one, in the order of names.
    pub(crate) file: u8,
    pub(crate) kind: u8,
    /// Where: counted from the start, or, if the kind's highest bit is set, as a part of the length.
    pub(crate) at: u16,
    pub(crate) value: u8,
    pub(crate) count: u8,
}

impl Edit {
    /// Half of the file, from the kind's highest bit.
    pub(crate) const SCALED: u8 = 0x80;
    pub(crate) const TRUNCATE: u8 = 0;
    pub(crate) const FLIP: u8 = 1;
    pub(crate) const OVERWRITE: u8 = 2;
    pub(crate) const DELETE: u8 = 3;
    pub(crate) const APPEND: u8 = 4;
    /// A page is replaced by another, as by a disk that writes to the wrong place.
    pub(crate) const COPY_PAGE: u8 = 5;

    pub(crate) fn bytes(self) -> [u8; LEN] {
        let [low, high] = self.at.to_le_bytes();
        [self.file, self.kind, low, high, self.value, self.count]
    }

    /// The name of the file, if it is another one now.
    pub(super) fn apply(self, folder: &mut Folder) -> Option<String> {
        const PAGE: usize = 4096;
        let name = folder.files.keys().nth(usize::from(self.file) % folder.files.len().max(1))?.clone();
        let bytes = folder.files.get_mut(&name)?;
        let before = bytes.clone();
        let at = match self.kind & Self::SCALED {
            0 => usize::from(self.at),
            _ => (usize::from(self.at) * bytes.len()) >> 16,
        };
        let at = at.min(bytes.len());
        let end = (at + usize::from(self.count) + 1).min(bytes.len());
        match self.kind & !Self::SCALED & 7 {
            Self::TRUNCATE => bytes.truncate(at),
            Self::FLIP => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (self.value & 7)),
            Self::DELETE => {
                folder.files.remove(&name);
                return Some(name);
            }
            Self::APPEND => bytes.extend(std::iter::repeat_n(self.value, usize::from(self.count))),
            Self::COPY_PAGE if bytes.len() > PAGE => {
                let pages = bytes.len() / PAGE;
                let (from, to) = (usize::from(self.value) % pages * PAGE, at / PAGE % pages * PAGE);
                bytes.copy_within(from..from + PAGE, to);
            }
            _ => bytes[at..end].fill(self.value),
        }
        (*bytes != before).then_some(name)
    }
}

/// The edits that bytes say; what is left at the end is none.
pub(super) fn read(bytes: &[u8]) -> impl Iterator<Item = Edit> {
    let (edits, _) = bytes.as_chunks::<LEN>();
    let edit = |&[file, kind, low, high, value, count]: &[u8; LEN]| {
        let at = u16::from_le_bytes([low, high]);
        Edit { file, kind, at, value, count }
    };
    edits.iter().take(8).map(edit)
}
