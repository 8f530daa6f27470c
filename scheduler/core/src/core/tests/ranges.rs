//! Range sets and tallies against plain collections.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Dice;
use crate::RangeSet;
use crate::tally::Tally;

/// Small numbers, so that ranges meet often.
const END: u64 = 48;

fn range(dice: &mut Dice) -> Range<u64> {
    let start = dice.below(END);
    start..(start + dice.below(9)).min(END)
}

#[test]
fn a_range_set_is_a_set() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let mut set = RangeSet::new();
        let mut plain = BTreeSet::new();
        for step in 0..100 {
            let range = range(&mut dice);
            if dice.once_in(2) {
                set.insert(range.clone());
                plain.extend(range.clone());
            } else {
                set.remove(range.clone());
                plain.retain(|number| !range.contains(number));
            }
            set.check_invariants();
            let at = format!("seed {seed}, step {step}, {range:?}");
            assert!(set.iter().flatten().eq(plain.iter().copied()), "{at}: {set:?}");
            assert_eq!(set.len(), plain.len() as u64, "{at}");
            assert_eq!(set.is_empty(), plain.is_empty(), "{at}");
            let probe = dice.below(END);
            assert_eq!(set.contains(probe), plain.contains(&probe), "{at}: {probe}");
            assert_eq!(set.count_below(probe), plain.range(..probe).count() as u64, "{at}: {probe}");
            let part = self::range(&mut dice);
            assert!(set.intersection(part.clone()).flatten().eq(plain.range(part.clone()).copied()), "{at}: {part:?}");
            assert_eq!(set.count_in(part.clone()), plain.range(part.clone()).count() as u64, "{at}: {part:?}");
            assert_eq!(set.covers(&part), part.clone().all(|number| plain.contains(&number)), "{at}: {part:?}");
            assert_eq!(set.meets(&part), part.clone().any(|number| plain.contains(&number)), "{at}: {part:?}");
            assert_eq!(set.nth(probe), plain.iter().copied().nth(probe as usize), "{at}: {probe}");
            assert_eq!(set.iter().collect::<RangeSet>(), set, "{at}");
        }
    }
}

#[test]
fn neighbours_become_one_range() {
    let mut set: RangeSet = [0..2, 4..6, 2..4].into_iter().collect();
    assert_eq!(set.iter().collect::<Vec<_>>(), [0..6]);
    set.remove(2..3);
    assert_eq!((set.first(), set.range_count(), set.len()), (Some(0..2), 2, 5));
    set.clear();
    assert_eq!(set, RangeSet::new());
    set.insert(5..5);
    set.remove(5..5);
    assert!(set.is_empty());
}

#[test]
fn the_ends_of_the_numbers_are_no_ends_of_the_set() {
    let mut set = RangeSet::from(0..u64::MAX);
    set.remove(1..u64::MAX - 1);
    assert_eq!(set.iter().collect::<Vec<_>>(), [0..1, u64::MAX - 1..u64::MAX]);
    assert_eq!(set.intersection(0..u64::MAX).count(), 2);
}

#[test]
fn a_tally_counts() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let mut tally = Tally::default();
        let mut plain = BTreeMap::new();
        for step in 0..100 {
            let range = range(&mut dice);
            if dice.once_in(4) {
                tally.lower(range.clone());
                plain.iter_mut().filter(|(number, _)| range.contains(number)).for_each(|(_, count)| *count -= 1);
                plain.retain(|_, count| *count > 0);
            } else if dice.once_in(4) {
                tally.clear(range.clone());
                plain.retain(|number, _| !range.contains(number));
            } else {
                tally.raise(range.clone());
                range.clone().for_each(|number| *plain.entry(number).or_insert(0) += 1);
            }
            tally.check_invariants();
            let at = format!("seed {seed}, step {step}, {range:?}");
            let told = tally.runs_in(0..END).flat_map(|(run, count)| run.map(move |number| (number, count)));
            assert!(told.eq(plain.iter().map(|(&number, &count)| (number, count))), "{at}: {tally:?}");
            let probe = dice.below(END);
            let (count, end) = tally.run_at(probe);
            assert_eq!((count, count), (plain.get(&probe).copied().unwrap_or(0), tally.get(probe)), "{at}: {probe}");
            assert!((probe..end.min(END)).all(|number| tally.get(number) == count), "{at}: {probe}..{end}");
        }
    }
}
