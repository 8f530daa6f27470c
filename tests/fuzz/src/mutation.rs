//! Inputs made of others by chance, the same each time.

/// A generator of numbers that is the same everywhere: SplitMix64.
#[derive(Debug, Clone)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.any() % (end as u64).max(1)) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.any() as u8).collect()
    }
}

/// Endless inputs, made of those of a corpus.
#[derive(Debug)]
pub struct Mutations<'a> {
    corpus: &'a [(String, Vec<u8>)],
    longest: usize,
    dice: SplitMix,
}

impl<'a> Mutations<'a> {
    /// The same seed gives the same inputs.
    pub fn new(corpus: &'a [(String, Vec<u8>)], longest: usize, seed: u64) -> Self {
        Self { corpus, longest, dice: SplitMix(seed) }
    }

    /// One change, where and of what kind chance may say.
    fn change(&mut self, input: &mut Vec<u8>) {
        const NOTABLE: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', 0xc3];
        let dice = &mut self.dice;
        let at = dice.below(input.len() + 1);
        let end = (at + 1 + dice.below(16)).min(input.len());
        match dice.below(9) {
            0 | 1 if at < input.len() => input[at] ^= 1 << dice.below(8),
            2 if at < input.len() => input[at] = dice.any() as u8,
            3 if at < input.len() => input[at] = NOTABLE[dice.below(NOTABLE.len())],
            4 if at < end => drop(input.drain(at..end)),
            5 => input.truncate(at),
            6 if at < end => {
                // Part of it once more.
                let part = input[at..end].to_vec();
                let to = dice.below(input.len() + 1);
                input.splice(to..to, part);
            }
            7 => {
                let count = 1 + dice.below(8);
                let fresh = dice.bytes(count);
                input.splice(at..at, fresh);
            }
            _ if !self.corpus.is_empty() => {
                // The end of another.
                let other = &self.corpus[dice.below(self.corpus.len())].1;
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {}
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        // Now and then one of chance alone.
        let mut input = match self.corpus.len() {
            0 => Vec::new(),
            count => self.corpus[self.dice.below(count)].1.clone(),
        };
        if self.dice.below(8) == 0 {
            let count = self.dice.below(self.longest.min(512));
            input = self.dice.bytes(count);
        }
        for _ in 0..=self.dice.below(4) {
            self.change(&mut input);
        }
        input.truncate(self.longest);
        Some(input)
    }
}
