//! π by throwing darts: of darts that hit a unit square evenly, π/4 hit the quarter circle in it.

/// Throws darts at the unit square, and counts those that hit the quarter circle.
///
/// The darts of a task are the same in every attempt, and different from those of any other task of the job.
#[farm::function]
pub fn hits(darts: u64) -> u64 {
    /// Darts between two reports of progress: some hundredths of a second.
    const ROUND: u64 = 4_000_000;

    let mut rng = farm::rng();
    let mut hits = 0;
    let mut thrown = 0;
    while thrown < darts {
        let round = ROUND.min(darts - thrown);
        for _ in 0..round {
            let (x, y) = (rng.f64(), rng.f64());
            hits += u64::from(x * x + y * y < 1.0);
        }
        thrown += round;
        // A task of one round is over before anybody could look.
        if darts > ROUND {
            farm::progress(thrown, darts);
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_4;

    use farm::{Task, testing};

    use super::hits;

    fn with_seed(seed: u64, darts: u64) -> u64 {
        testing::with_task(Task { seed, ..Task::default() }, || hits(darts))
    }

    #[test]
    fn the_share_of_hits_is_a_quarter_of_pi() {
        const DARTS: u64 = 5_000_000;
        let share = with_seed(1, DARTS) as f64 / DARTS as f64;
        let error = (FRAC_PI_4 * (1.0 - FRAC_PI_4) / DARTS as f64).sqrt();
        assert!((share - FRAC_PI_4).abs() < 4.0 * error, "{share}");
    }

    #[test]
    fn tasks_differ_and_attempts_do_not() {
        assert_eq!(with_seed(1, 10_000), with_seed(1, 10_000));
        assert_ne!(with_seed(1, 10_000), with_seed(2, 10_000));
        assert_eq!(with_seed(1, 0), 0);
    }
}
