//! `RangeSet` against a plain set of numbers.

use std::collections::BTreeSet;
use std::ops::Range;

use farm_core::RangeSet;
use proptest::collection::vec;
use proptest::prelude::*;

/// Where the numbers of the plain set end.
const END: u64 = 48;

#[derive(Debug, Clone)]
enum Change {
    Insert(Range<u64>),
    Remove(Range<u64>),
    Clear,
}

/// Any range, also an empty one and one that is the wrong way round.
fn range() -> impl Strategy<Value = Range<u64>> {
    let short = (0..=END, 0..6u64).prop_map(|(start, count)| start..(start + count).min(END));
    prop_oneof![3 => short, 1 => (0..=END, 0..=END).prop_map(|(start, end)| start..end)]
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        20 => range().prop_map(Change::Insert),
        12 => range().prop_map(Change::Remove),
        1 => Just(Change::Clear),
    ];
    vec(change, 0..40)
}

/// Where the numbers of the plain set are: a scale that keeps their order, and may leave any gaps between them. A number
/// of the plain set stands for all numbers from its place up to the next one's.
type Scale = fn(u64) -> u64;

const SCALES: [Scale; 5] = [
    |number| number,
    // Next to the end of what there is; `u64::MAX` itself is in no range.
    |number| u64::MAX - END + number,
    |number| number * (u64::MAX / END),
    |number| if number < END / 2 { number } else { u64::MAX - END + number },
    |number| 1_u64.checked_shl(number as u32).map_or(u64::MAX, |place| place + number) - 1,
];

fn scaled(range: &Range<u64>, scale: Scale) -> Range<u64> {
    scale(range.start)..scale(range.end)
}

/// The numbers as ranges that do not touch.
fn runs(numbers: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

fn width(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Everything that can be asked of the set is as the plain set says.
fn check(set: &RangeSet, plain: &BTreeSet<u64>, asked: &Range<u64>, scale: Scale) {
    let runs_of = |numbers: &mut dyn Iterator<Item = u64>| -> Vec<Range<u64>> {
        runs(numbers).iter().map(|run| scaled(run, scale)).collect()
    };
    let all = runs_of(&mut plain.iter().copied());
    assert!(set.iter().eq(all.iter().cloned()), "{set:?}, not {all:?}");
    assert!(set.iter().rev().eq(all.iter().rev().cloned()));
    assert_eq!((set.first(), set.range_count()), (all.first().cloned(), all.len()));
    assert_eq!((set.len(), set.is_empty()), (width(&all), plain.is_empty()));
    assert_eq!(&all.iter().rev().cloned().collect::<RangeSet>(), set);

    for number in 0..=END {
        let place = scale(number);
        assert_eq!(set.contains(place), plain.contains(&number), "whether {place} is in {set:?}");
        let below = width(&runs_of(&mut plain.range(..number).copied()));
        assert_eq!(set.count_below(place), below, "how many are below {place} in {set:?}");
        if plain.contains(&number) {
            assert_eq!(set.nth(below), Some(place), "number {below} of {set:?}");
            // All of what it stands for.
            let last = scale(number + 1) - 1;
            assert!(set.contains(last) && set.nth(below + (last - place)) == Some(last), "{last} in {set:?}");
        }
    }
    assert!(set.nth(set.len()).is_none() && set.nth(u64::MAX).is_none() && !set.contains(u64::MAX));

    let found = runs_of(&mut asked.clone().filter(|number| plain.contains(number)));
    let part = scaled(asked, scale);
    assert!(set.intersection(part.clone()).eq(found.iter().cloned()), "{part:?} of {set:?}");
    assert_eq!(set.count_in(part.clone()), width(&found), "how many of {part:?} are in {set:?}");
    assert_eq!(set.meets(&part), !found.is_empty(), "whether {part:?} meets {set:?}");
    assert_eq!(
        set.covers(&part),
        asked.clone().all(|number| plain.contains(&number)),
        "whether {set:?} covers {part:?}"
    );
}

fn apply(change: &Change, plain: &mut BTreeSet<u64>) {
    match change.clone() {
        Change::Insert(range) => plain.extend(range),
        Change::Remove(range) => plain.retain(|number| !range.contains(number)),
        Change::Clear => plain.clear(),
    }
}

fn apply_to_set(change: &Change, set: &mut RangeSet, scale: Scale) {
    match change {
        Change::Insert(range) => set.insert(scaled(range, scale)),
        Change::Remove(range) => set.remove(scaled(range, scale)),
        Change::Clear => set.clear(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn a_range_set_is_a_set(changes in changes(), asked in vec(range(), 40)) {
        for scale in SCALES {
            let (mut set, mut plain) = (RangeSet::new(), BTreeSet::new());
            for (change, asked) in changes.iter().zip(&asked) {
                apply(change, &mut plain);
                apply_to_set(change, &mut set, scale);
                check(&set, &plain, asked, scale);
            }
        }
    }

    #[test]
    fn the_order_of_insertion_does_not_matter(ranges in vec(range(), 0..20)) {
        let set: RangeSet = ranges.iter().cloned().collect();
        prop_assert_eq!(&ranges.iter().rev().cloned().collect::<RangeSet>(), &set);
        let mut copy = set.clone();
        for range in &ranges {
            prop_assert!(set.covers(range));
            prop_assert!(range.is_empty() || RangeSet::from(range.clone()).iter().eq([range.clone()]));
            copy.insert(range.clone());
        }
        prop_assert_eq!(&copy, &set);
        ranges.iter().for_each(|range| copy.remove(range.clone()));
        prop_assert_eq!(copy, RangeSet::new());
    }

    #[test]
    fn any_numbers_do(ranges in vec(any::<(u64, u64)>(), 0..12), asked: (u64, u64)) {
        // Here the plain set is the list of ranges itself: a number is in it if it is in one of them.
        let ranges: Vec<_> = ranges.into_iter().map(|(start, end)| start..end).collect();
        let set: RangeSet = ranges.iter().cloned().collect();
        let ends = ranges.iter().flat_map(|range| [range.start, range.end]).chain([asked.0, asked.1, 0, u64::MAX]);
        for number in ends.flat_map(|end| [end.saturating_sub(1), end, end.saturating_add(1)]) {
            let within = ranges.iter().any(|range| range.contains(&number));
            prop_assert_eq!(set.contains(number), within, "whether {} is in {:?}", number, set);
            let below = set.count_below(number);
            prop_assert!(!within || set.nth(below) == Some(number));
        }
        let asked = asked.0..asked.1;
        let mut rest = set.clone();
        rest.remove(asked.clone());
        prop_assert_eq!(rest.len() + set.count_in(asked.clone()), set.len());
        prop_assert!(!rest.meets(&asked));
        set.intersection(asked).for_each(|part| rest.insert(part));
        prop_assert_eq!(rest, set);
    }
}
