//! One number that orders what is known of a streamer over all their sessions.

/// How many bits of a rank lie below the session's ordinal.
const VERSION_BITS: u32 = 32;

/// `ordinal · 2³² + version`: what a later session has outranks whatever an earlier one had.
pub fn of(ordinal: i64, version: i64) -> i64 {
    (ordinal << VERSION_BITS) + version
}

/// The ordinal and the version that a rank was made of.
pub fn split(rank: i64) -> (i64, i64) {
    let ordinal = rank >> VERSION_BITS;
    (ordinal, rank - (ordinal << VERSION_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_session_outranks_an_earlier_one_and_a_rank_comes_apart_again() {
        assert!(of(2, 1) > of(1, 4_000_000_000));
        assert_eq!(split(of(7, 12)), (7, 12));
        assert_eq!(split(0), (0, 0));
    }
}
