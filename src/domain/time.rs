//! Points in time, as the domain sees them.

/// A point in time: Unix milliseconds on PostgreSQL's clock.
///
/// Whole milliseconds make the arithmetic agree between SQL, Lua and Rust: all three compute
/// seconds as the same integer divided by 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub i64);

impl Millis {
    /// Seconds from `earlier` to `self`; 0 when `self` is not later.
    pub fn seconds_since(self, earlier: Millis) -> f64 {
        self.0.saturating_sub(earlier.0).max(0) as f64 / 1000.0
    }

    /// The whole second this point lies in, counted from the Unix epoch.
    pub fn second(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_never_negative() {
        assert_eq!(Millis(1_500).seconds_since(Millis(250)), 1.25);
        assert_eq!(Millis(250).seconds_since(Millis(1_500)), 0.0);
        assert_eq!(Millis(i64::MIN).seconds_since(Millis(i64::MAX)), 0.0);
        assert!(Millis(i64::MAX).seconds_since(Millis(i64::MIN)).is_finite());
    }

    #[test]
    fn a_point_before_the_epoch_lies_in_the_second_that_began_before_it() {
        assert_eq!([Millis(999).second(), Millis(1_000).second(), Millis(-1).second()], [0, 1, -1]);
    }
}
