use std::path::PathBuf;
use std::{env, fs};

use farm::{Rng, Task, testing};

use crate::event::{self, FourMomentum, MASSES, MUON_MASS, Z_MASS, Z_WIDTH};
use crate::{Histogram, generate, histogram, table};

/// Close enough for numbers that were written with ten decimals.
fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * b.abs()
}

#[test]
fn masses_follow_the_breit_wigner_distribution() {
    const DRAWS: usize = 200_000;
    let mut rng = Rng::seeded(1);
    let mut masses: Vec<f64> = (0..DRAWS).map(|_| event::breit_wigner(&mut rng)).collect();
    masses.sort_by(f64::total_cmp);
    assert!(masses[0] >= MASSES.0 - 1e-9 && masses[DRAWS - 1] <= MASSES.1 + 1e-9);

    // Half of a Breit-Wigner distribution is within half its width of the peak (of all of it, not only what is made).
    let near = masses.iter().filter(|mass| (mass.powi(2) - Z_MASS.powi(2)).abs() < Z_MASS * Z_WIDTH).count();
    let share = near as f64 / DRAWS as f64;
    assert!((0.50..0.53).contains(&share), "{share}");
    assert!((masses[DRAWS / 2] - Z_MASS).abs() < 0.1, "the median is {}", masses[DRAWS / 2]);

    // Kolmogorov: the largest distance from the distribution function, which is an arctangent in s.
    let angle = |mass: f64| ((mass * mass - Z_MASS * Z_MASS) / (Z_MASS * Z_WIDTH)).atan();
    let (low, high) = (angle(MASSES.0), angle(MASSES.1));
    let distance = masses
        .iter()
        .enumerate()
        .map(|(number, mass)| ((angle(*mass) - low) / (high - low) - number as f64 / DRAWS as f64).abs());
    let distance = distance.fold(0.0, f64::max);
    assert!(distance < 1.95 / (DRAWS as f64).sqrt(), "{distance}");
}

#[test]
fn decays_keep_energy_and_momentum() {
    let mut rng = Rng::seeded(2);
    for _ in 0..10_000 {
        let z = event::z(&mut rng);
        let pair = event::decay(&mut rng, &z);
        let FourMomentum { e, p } = pair.0.momentum + pair.1.momentum;
        assert!(close(e, z.e, 1e-12));
        assert!(p.iter().zip(z.p).all(|(sum, whole)| (sum - whole).abs() < 1e-9 * z.e));
        assert!(close(pair.mass(), z.mass(), 1e-9));
        assert_eq!(pair.0.charge, -pair.1.charge);
        for muon in [pair.0, pair.1] {
            // The square of a small mass is lost in that of a large energy.
            let square = muon.momentum.mass().powi(2);
            assert!((square - MUON_MASS.powi(2)).abs() < 1e-12 * muon.momentum.e.powi(2));
        }
    }
}

#[test]
fn decays_have_no_direction() {
    const DECAYS: u32 = 100_000;
    let mut rng = Rng::seeded(3);
    let at_rest = FourMomentum { e: Z_MASS, p: [0.0; 3] };
    let (mut mean, mut squares) = ([0.0; 3], [0.0; 3]);
    for _ in 0..DECAYS {
        let muon = event::decay(&mut rng, &at_rest).0.momentum;
        let momentum = (muon.e.powi(2) - MUON_MASS.powi(2)).sqrt();
        for axis in 0..3 {
            mean[axis] += muon.p[axis] / momentum / f64::from(DECAYS);
            squares[axis] += (muon.p[axis] / momentum).powi(2) / f64::from(DECAYS);
        }
    }
    for axis in 0..3 {
        assert!(mean[axis].abs() < 0.01, "{mean:?}");
        assert!((squares[axis] - 1.0 / 3.0).abs() < 0.005, "{squares:?}");
    }
}

#[test]
fn events_differ_by_task_and_not_by_attempt() {
    let table = |seed, index, attempt| testing::with_task(Task { job: 1, index, attempt, seed }, || generate(3));
    assert_eq!(table(5, 2, 0), table(5, 2, 1));
    assert_ne!(table(5, 2, 0), table(6, 2, 0));
    let third = table(5, 2, 0);
    let numbers: Vec<&str> = third.lines().skip(1).filter_map(|line| line.split(',').nth(1)).collect();
    assert_eq!(numbers, ["7", "8", "9"], "no two events of a job have the same number");
}

#[test]
fn the_z_is_found_in_generated_events() {
    const EVENTS: u64 = 50_000;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("events.csv");
    fs::write(&file, testing::with_task(Task { seed: 4, ..Task::default() }, || generate(EVENTS))).expect("a file");
    let file = file.display().to_string();

    let whole = histogram(file.clone(), 60.0, 120.0, 120, None).expect("a histogram");
    assert_eq!((whole.rows, whole.same_sign), (EVENTS, 0));
    assert_eq!(whole.counts.iter().sum::<u64>() + whole.underflow + whole.overflow, EVENTS);
    assert!(whole.largest_difference.is_some_and(|difference| difference < 1e-6));

    // The mean of what is within 5 GeV of the peak, where the tails weigh little.
    let near = whole.counts.iter().zip(0..).map(|(count, bin)| (60.25 + 0.5 * f64::from(bin), *count as f64));
    let near: Vec<(f64, f64)> = near.filter(|(mass, _)| (mass - Z_MASS).abs() < 5.0).collect();
    let mean =
        near.iter().map(|(mass, count)| mass * count).sum::<f64>() / near.iter().map(|(_, count)| count).sum::<f64>();
    assert!((mean - Z_MASS).abs() < 0.15, "{mean}");

    // Parts add up to the whole.
    let part = |first, end| histogram(file.clone(), 60.0, 120.0, 120, Some((first, end))).expect("a histogram");
    let (first, second) = (part(0, 20_000), part(20_000, usize::MAX));
    assert_eq!((first.rows, second.rows), (20_000, EVENTS - 20_000));
    let sum: Vec<u64> = first.counts.iter().zip(&second.counts).map(|(a, b)| a + b).collect();
    assert_eq!(sum, whole.counts);
}

const HEADER: &str = "Q1,E1,px1,py1,pz1,E2,px2,py2,pz2,Q2";

fn rows(text: &str) -> Result<Vec<table::Row>, String> {
    table::read(text.as_bytes())?.collect()
}

#[test]
fn pairs_are_sorted_into_bins_by_charge_and_mass() {
    // At rest against each other, the mass is the sum of the energies of what has none.
    let text = |charge: &str, energy: f64| format!("1,{energy},0,0,{energy},{energy},0,0,-{energy},{charge}\r\n");
    let mut table = format!("{HEADER}\r\n\r\n");
    for (charge, energy) in [("-1", 30.0), ("-1", 59.999), ("-1", 60.0), ("-1", 29.0), ("1", 45.0), ("-1", 45.0)] {
        table += &text(charge, energy);
    }
    let mut histogram = Histogram::new(60.0, 120.0, 2).expect("a histogram");
    for row in rows(&table).expect("rows") {
        histogram.add(&row);
    }
    assert_eq!(histogram.counts, [1, 2]);
    assert_eq!((histogram.underflow, histogram.overflow, histogram.same_sign), (1, 1, 1));
    assert_eq!((histogram.rows, histogram.largest_difference), (6, None));
}

#[test]
fn what_is_wrong_with_a_table_is_told_with_its_line() {
    let error = |text: &str| rows(text).expect_err("an error");
    assert_eq!(error(""), "the file is empty");
    assert_eq!(error("E1,px1\n"), "line 1: there is no column py1");
    assert_eq!(error(&format!("{HEADER}\n1,2,3\n")), "line 2: py1 is missing");
    assert_eq!(error(&format!("{HEADER}\n1,2,3,x,5,6,7,8,9,-1\n")), "line 2: py1 is not a number: x");
    assert_eq!(error(&format!("{HEADER}\n\n0,2,3,4,5,6,7,8,9,-1\n")), "line 3: Q1 is 0, not 1 or -1");
    assert!(
        histogram("missing.csv".to_owned(), 0.0, 1.0, 1, None)
            .expect_err("an error")
            .contains("/in/events/missing.csv")
    );
    assert!(Histogram::new(1.0, 1.0, 10).is_err());
    assert!(Histogram::new(f64::NAN, 1.0, 10).is_err());
    assert!(Histogram::new(0.0, 1.0, 0).is_err());
}

/// Real events, where they are: CMS open data, which are not part of the repository.
#[test]
fn masses_of_real_events_are_those_that_cms_gives() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/Zmumu.csv");
    if !file.exists() {
        eprintln!("skipped: there is no {}", file.display());
        return;
    }
    let histogram = histogram(file.display().to_string(), 60.0, 120.0, 60, None).expect("a histogram");
    assert!(histogram.rows > 1_000, "{} rows", histogram.rows);
    let difference = histogram.largest_difference.expect("a column M");
    assert!(difference < 1e-6, "{difference}");
    let peak = histogram.counts.iter().zip(60..).max_by_key(|(count, _)| **count).map(|(_, low)| low);
    assert!(peak.is_some_and(|low| (88..94).contains(&low)), "the peak is at {peak:?}");
}
