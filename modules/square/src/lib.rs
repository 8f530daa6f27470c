//! The smallest farm function.

/// The square of a whole number. Fails where it is beyond 64 bits.
#[farm::function]
pub fn square(x: i64) -> Result<i64, String> {
    x.checked_mul(x).ok_or_else(|| format!("the square of {x} is beyond 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::square;

    #[test]
    fn squares() {
        assert_eq!(square(-12), Ok(144));
        assert_eq!(square(3_037_000_500), Err("the square of 3037000500 is beyond 64 bits".to_owned()));
    }

    #[test]
    fn takes_and_gives_json() {
        assert_eq!(farm::testing::call("square", "12"), Ok(b"144".to_vec()));
    }
}
