//! Many byte strings in one: arguments and results travel as columns, never one message each.
//!
//! ```text
//! end of item 0, end of item 1, … (u32, little endian)   all items, one behind the other
//! ```
//!
//! How many items there are stands elsewhere: in the message in front, or in the table that names the blob.

use bytes::{BufMut, Bytes, BytesMut};

/// Consecutive byte strings, ready to be sent or just received. Cloning and slicing copy nothing but the ends.
/// Two are equal if their items are.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// `ends` as on the wire, counted from `base`.
    ends: Bytes,
    bytes: Bytes,
    /// What the first end would have started from: not 0 in a slice.
    base: u32,
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        // What a slice was cut from tells in its ends, but not in its items.
        let same_ends = || match self.base == other.base {
            true => self.ends == other.ends,
            false => (0..self.len()).all(|index| self.end(index) - self.base == other.end(index) - other.base),
        };
        self.len() == other.len() && self.bytes == other.bytes && same_ends()
    }
}

impl Eq for Columns {}

/// The bytes are not columns of that many items.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    #[error("columns of {count} items need at least {needed} bytes, there are {found}")]
    TooShort { count: u64, needed: u64, found: usize },
    #[error("the columns' ends do not ascend, or do not end where the bytes do")]
    BadEnds,
}

impl Columns {
    /// Reads `count` items.
    ///
    /// # Errors
    ///
    /// The bytes are too short, or the ends do not ascend to exactly the last byte.
    pub fn decode(count: u64, mut encoded: Bytes) -> Result<Self, ColumnsError> {
        let needed = count.saturating_mul(4);
        if needed > encoded.len() as u64 {
            return Err(ColumnsError::TooShort { count, needed, found: encoded.len() });
        }
        let bytes = encoded.split_off(needed as usize);
        let columns = Self { ends: encoded, bytes, base: 0 };
        let mut last = 0;
        for index in 0..columns.len() {
            let end = columns.end(index);
            if end < last {
                return Err(ColumnsError::BadEnds);
            }
            last = end;
        }
        if last as usize != columns.bytes.len() {
            return Err(ColumnsError::BadEnds);
        }
        Ok(columns)
    }

    /// What [`Self::decode`] reads.
    pub fn encode(&self) -> Bytes {
        let mut encoded = BytesMut::with_capacity(self.encoded_len());
        if self.base == 0 {
            encoded.put_slice(&self.ends);
        } else {
            (0..self.len()).for_each(|index| encoded.put_u32_le(self.end(index) - self.base));
        }
        encoded.put_slice(&self.bytes);
        encoded.freeze()
    }

    /// How many bytes [`Self::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        self.ends.len() + self.bytes.len()
    }

    pub fn len(&self) -> usize {
        self.ends.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All items, one behind the other.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn end(&self, index: usize) -> u32 {
        let at = index * 4;
        let mut end = [0; 4];
        end.copy_from_slice(&self.ends[at..at + 4]);
        u32::from_le_bytes(end)
    }

    fn start(&self, index: usize) -> u32 {
        if index == 0 { self.base } else { self.end(index - 1) }
    }

    /// Item `index`, without copying it.
    ///
    /// # Panics
    ///
    /// If there is no such item.
    pub fn get(&self, index: usize) -> &[u8] {
        let range = (self.start(index) - self.base) as usize..(self.end(index) - self.base) as usize;
        &self.bytes[range]
    }

    /// Items `from..to`, without copying them.
    ///
    /// # Panics
    ///
    /// If there are fewer items, or `from > to`.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        assert!(from <= to, "columns sliced backwards: {from}..{to}");
        let base = if from == self.len() { self.base + self.bytes.len() as u32 } else { self.start(from) };
        let end = if to == from { base } else { self.end(to - 1) };
        Self {
            ends: self.ends.slice(from * 4..to * 4),
            bytes: self.bytes.slice((base - self.base) as usize..(end - self.base) as usize),
            base,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Makes [`Columns`] item by item.
#[derive(Debug, Default)]
pub struct ColumnsBuilder {
    ends: Vec<u8>,
    bytes: Vec<u8>,
}

impl ColumnsBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an item.
    ///
    /// # Panics
    ///
    /// If the items together exceed 4 GiB; check [`Self::bytes_len`] before where that can be.
    pub fn push(&mut self, item: &[u8]) {
        self.bytes.extend_from_slice(item);
        self.end_item();
    }

    /// The bytes of the item being made: append to it, then call [`Self::end_item`].
    pub fn item(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Ends the item whose bytes were appended to [`Self::item`].
    ///
    /// # Panics
    ///
    /// If the items together exceed 4 GiB.
    pub fn end_item(&mut self) {
        let end = u32::try_from(self.bytes.len()).unwrap_or_else(|_| panic!("columns of more than 4 GiB"));
        self.ends.extend_from_slice(&end.to_le_bytes());
    }

    pub fn len(&self) -> usize {
        self.ends.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes the items have together.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The columns made so far; the builder is empty afterwards.
    pub fn finish(&mut self) -> Columns {
        Columns {
            ends: Bytes::from(std::mem::take(&mut self.ends)),
            bytes: Bytes::from(std::mem::take(&mut self.bytes)),
            base: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(items: &[&[u8]]) -> Columns {
        let mut builder = ColumnsBuilder::new();
        items.iter().for_each(|item| builder.push(item));
        builder.finish()
    }

    #[test]
    fn items_come_back_as_they_went() {
        let made = columns(&[b"one", b"", b"three"]);
        let read = Columns::decode(3, made.encode()).expect("columns just made");
        assert_eq!(read.iter().collect::<Vec<_>>(), [b"one" as &[u8], b"", b"three"]);
        assert_eq!(read, made);
    }

    #[test]
    fn a_slice_of_a_slice_is_encoded_from_zero() {
        let made = columns(&[b"a", b"bb", b"ccc", b"dddd"]).slice(1, 4).slice(1, 3);
        assert_eq!(made.iter().collect::<Vec<_>>(), [b"ccc" as &[u8], b"dddd"]);
        let read = Columns::decode(2, made.encode()).expect("columns just made");
        assert_eq!(read.iter().collect::<Vec<_>>(), [b"ccc" as &[u8], b"dddd"]);
        assert!(made.slice(2, 2).is_empty());
        assert_eq!(made.slice(1, 1).bytes().len(), 0);
    }

    #[test]
    fn rubbish_is_refused() {
        let short = Columns::decode(9, Bytes::from_static(b"123"));
        assert!(matches!(short, Err(ColumnsError::TooShort { .. })), "{short:?}");
        let descending = [2u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
        let bytes = [descending, b"x".to_vec()].concat();
        assert_eq!(Columns::decode(2, bytes.into()), Err(ColumnsError::BadEnds));
        let beyond = Bytes::from([5u32.to_le_bytes().to_vec(), b"x".to_vec()].concat());
        assert_eq!(Columns::decode(1, beyond), Err(ColumnsError::BadEnds));
    }
}
