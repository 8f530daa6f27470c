//! The ring against a plain list of records, and against a writer gone mad.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ring::*;
use super::shared::{RING, Shared, Word};

/// xorshift: the tests need numbers, not good ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn record(&mut self) -> (Header, Vec<u8>, Vec<u8>) {
        let len = match self.below(20) {
            0 => self.below(3 * RING as u64),
            1..4 => self.below(100_000),
            _ => self.below(64),
        };
        let result = vec![self.next() as u8; len as usize];
        let details = vec![self.next() as u8; self.below(40).saturating_sub(30) as usize];
        let header = Header {
            kind: [Kind::Outcome, Kind::ChunkEnd, Kind::OpenFailed, Kind::Progress][self.below(4) as usize],
            details: details.len() as u32,
            result: len,
            a: self.next(),
            b: self.next(),
        };
        (header, result, details)
    }
}

fn pair() -> (Arc<Shared>, Reader) {
    let (ours, fd) = Shared::create().expect("memory");
    let theirs = Arc::new(Shared::open(fd).expect("the same memory"));
    (theirs, Reader::new(Arc::new(ours)))
}

#[test]
fn records_arrive_as_they_were_written() {
    for seed in 1..8 {
        let (shared, mut reader) = pair();
        let (bell, rung) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut random = Random(seed);
            let mut writer = Writer::new(shared, Box::new(move || _ = bell.send(())));
            for now in 0..300 {
                let (header, result, details) = random.record();
                writer.write(header, &result, &details, now * 100_000);
            }
            writer.announce(0);
        });
        let mut random = Random(seed);
        let mut result = Vec::new();
        let mut count = 0;
        while rung.recv().is_ok() {
            reader.look().expect("an honest writer");
            while let Some(header) = reader.header().expect("an honest writer") {
                let Some(details) = reader.body(&mut result) else {
                    break;
                };
                let (expected, bytes, more) = random.record();
                assert_eq!(header, expected, "seed {seed}, record {count}");
                assert!(result == bytes, "seed {seed}, record {count}");
                assert_eq!(details, more, "seed {seed}, record {count}");
                result.clear();
                count += 1;
            }
            reader.release();
        }
        writer.join().expect("all written");
        assert_eq!(count, 300, "seed {seed}");
    }
}

#[test]
fn a_writer_gone_mad_is_told_from_a_good_one_and_harms_nobody() {
    let mut told = 0;
    for seed in 1..400 {
        let (shared, mut reader) = pair();
        let mut random = Random(seed * 7919);
        let mut writer = Writer::new(Arc::clone(&shared), Box::new(|| {}));
        let mut result = Vec::new();
        let mut read = || -> Result<(), Corrupt> {
            for _ in 0..50 {
                for _ in 0..random.below(20) {
                    let (header, bytes, details) = random.record();
                    if writer.has_room(bytes.len() + details.len()) {
                        writer.write(header, &bytes, &details, 0);
                    }
                }
                if random.below(4) == 0 {
                    let noise: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
                    shared.copy_in(random.next(), &noise);
                }
                if random.below(20) == 0 {
                    let word = [Word::Written, Word::Started, Word::Taken, Word::EvenSpan][random.below(2) as usize];
                    shared.word(word).store(random.next(), Ordering::Release);
                }
                reader.look()?;
                while reader.header()?.is_some() && reader.body(&mut result).is_some() {
                    assert!(result.len() <= MAX_RESULT);
                    result.clear();
                }
                reader.release();
            }
            Ok(())
        };
        told += usize::from(read().is_err());
    }
    // Noise in free space is overwritten before anyone sees it.
    assert!(told > 200, "only {told} of 399 were noticed");
}

#[test]
fn a_lone_record_is_announced_when_asked_and_many_are_announced_together() {
    let (shared, _reader) = pair();
    let (bell, rung) = std::sync::mpsc::channel();
    let mut writer = Writer::new(shared, Box::new(move || _ = bell.send(())));
    let header = Header { kind: Kind::Outcome, details: 0, result: 0, a: 0, b: 0 };
    for now in 1..1000 {
        writer.write(header, b"", b"", now);
    }
    assert_eq!(rung.try_iter().count(), 0);
    writer.write(header, b"", b"", ANNOUNCE_AFTER_NS);
    assert_eq!(rung.try_iter().count(), 1);
    writer.write(header, b"", b"", ANNOUNCE_AFTER_NS + 1);
    writer.announce(ANNOUNCE_AFTER_NS + 1);
    writer.announce(ANNOUNCE_AFTER_NS + 2);
    assert_eq!(rung.try_iter().count(), 1);
}
