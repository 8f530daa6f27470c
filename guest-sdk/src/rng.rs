//! Random numbers that are the same in every attempt.

use std::convert::Infallible;
use std::ops::Range;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{SeedableRng, TryRng};

use crate::task;

/// A generator of pseudo-random numbers: xoshiro256++ by Blackman and Vigna. Fast and of good quality for simulation;
/// not for secrets.
///
/// What a seed gives is part of the interface and stays as it is. It implements `rand_core` 0.10, so that `rand` 0.10
/// and `rand_distr` can draw from it as well.
#[derive(Clone, Debug)]
pub struct Rng(Xoshiro256PlusPlus);

/// A generator seeded for the task that is running: every attempt of a task draws the same numbers, and the tasks of a
/// job draw different ones.
///
/// Every call starts the same sequence anew. Make one generator and hand it on.
pub fn rng() -> Rng {
    Rng::seeded(task().seed)
}

impl Rng {
    /// A generator that does not depend on the task.
    pub fn seeded(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Any 64 bits.
    pub fn u64(&mut self) -> u64 {
        let Ok(bits) = self.0.try_next_u64();
        bits
    }

    /// A number of `0.0 <= x < 1.0`, evenly spread over the multiples of 2⁻⁵³.
    pub fn f64(&mut self) -> f64 {
        const BITS: u32 = f64::MANTISSA_DIGITS;
        (self.u64() >> (u64::BITS - BITS)) as f64 / (1_u64 << BITS) as f64
    }

    /// A number evenly spread over the range. The end may come out where rounding leads to it.
    pub fn uniform(&mut self, range: Range<f64>) -> f64 {
        range.start + (range.end - range.start) * self.f64()
    }

    /// A whole number of `0..end`, all equally likely. 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // Lemire, "Fast random integer generation in an interval" (2019): the high half of a product, redrawn while
        // the low half shows that the number fell into the uneven rest.
        let mut product = u128::from(self.u64()) * u128::from(end);
        if (product as u64) < end {
            let rest = end.wrapping_neg() % end;
            while (product as u64) < rest {
                product = u128::from(self.u64()) * u128::from(end);
            }
        }
        (product >> u64::BITS) as u64
    }

    /// A number of the normal distribution with mean 0 and standard deviation 1.
    pub fn normal(&mut self) -> f64 {
        // Marsaglia's polar method. Its second number is dropped, so that a clone of the generator is all its state.
        loop {
            let (x, y) = (self.uniform(-1.0..1.0), self.uniform(-1.0..1.0));
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                return x * (-2.0 * square.ln() / square).sqrt();
            }
        }
    }
}

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_numbers_it_always_gave() {
        let mut rng = Rng::seeded(0);
        // The first is also what the reference implementation gives from SplitMix64's state for seed 0.
        assert_eq!([rng.u64(), rng.u64()], [5_987_356_902_031_041_503, 7_051_070_477_665_621_255]);
    }

    #[test]
    fn numbers_are_spread_as_promised() {
        const DRAWS: u32 = 200_000;
        let mut rng = Rng::seeded(1);
        let (mut uniform, mut normal, mut square, mut counts) = (0.0, 0.0, 0.0, [0_u32; 5]);
        for _ in 0..DRAWS {
            let x = rng.f64();
            assert!((0.0..1.0).contains(&x));
            uniform += x;
            let x = rng.normal();
            normal += x;
            square += x * x;
            counts[rng.below(5) as usize] += 1;
        }
        let draws = f64::from(DRAWS);
        assert!((uniform / draws - 0.5).abs() < 0.003);
        assert!((normal / draws).abs() < 0.01);
        assert!((square / draws - 1.0).abs() < 0.015);
        for count in counts {
            assert!((f64::from(count) / draws - 0.2).abs() < 0.005);
        }
    }

    #[test]
    fn below_keeps_its_bounds() {
        let mut rng = Rng::seeded(2);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        for _ in 0..1_000 {
            assert!(rng.below(u64::MAX) < u64::MAX);
            assert!(rng.below((1 << 63) + 1) <= 1 << 63);
        }
    }
}
