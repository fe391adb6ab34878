//! Enrichment of an event by its content, in integers only.
//!
//! The results equal those of Postgres' `numeric` and ClickHouse's `Decimal`. Floats would
//! round differently.

/// Returns `duration_ms / 1000.0` as the mantissa of a `Decimal(13,3)`: thousandths of a
/// second. Returns `None` if the duration is missing.
#[must_use]
pub fn engagement_seconds(duration_ms: Option<i32>) -> Option<i64> {
    duration_ms.map(i64::from)
}

/// Returns `round(engagement_seconds / length_seconds, 2)`, with halves rounded away from zero,
/// as the mantissa of a `Decimal(12,2)`: hundredths. Returns `None` if an operand is missing or
/// the length is not positive.
#[must_use]
pub fn engagement_pct(duration_ms: Option<i32>, length_seconds: Option<i32>) -> Option<i64> {
    let duration = i64::from(duration_ms?);
    let length = i64::from(length_seconds?);
    if length <= 0 {
        return None;
    }
    // d / (1000·len) in hundredths is d / (10·len); half of that divisor rounds.
    let hundredths = (duration.abs() + 5 * length) / (10 * length);
    Some(hundredths * duration.signum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns true if `hundredths / 100` is nearest to `d / (1000·len)`, with halves rounded
    /// away from zero. Uses cross-multiplication instead of division.
    fn is_rounded(hundredths: i64, duration: i32, length: i32) -> bool {
        let exact = i128::from(duration) * 100 * 2;
        let unit = i128::from(length) * 1_000;
        let twice = i128::from(hundredths) * 2 * unit;
        let distance = exact - twice;
        if duration >= 0 {
            -unit <= distance && distance < unit
        } else {
            -unit < distance && distance <= unit
        }
    }

    #[test]
    fn halves_are_rounded_away_from_zero() {
        for (duration, length, hundredths) in [
            (1_000, 8, 13),
            (-1_000, 8, -13),
            (124, 1, 12),
            (125, 1, 13),
            (0, 5, 0),
            (-4, 1, 0),
            (-5, 1, -1),
            (i32::MAX, 1, 214_748_365),
            (i32::MIN, 1, -214_748_365),
            (1, i32::MAX, 0),
        ] {
            let pct = engagement_pct(Some(duration), Some(length));
            assert_eq!(pct, Some(hundredths), "{duration} of {length}");
        }
    }

    #[test]
    fn a_missing_operand_gives_null() {
        assert_eq!(engagement_seconds(None), None);
        assert_eq!(engagement_pct(None, Some(1)), None);
        assert_eq!(engagement_pct(Some(1), None), None);
        assert_eq!(engagement_pct(Some(1), Some(0)), None);
        assert_eq!(engagement_pct(Some(1), Some(-1)), None);
    }

    proptest! {
        #[test]
        fn the_ratio_is_the_nearest_hundredth(
            duration: i32,
            length in prop_oneof![1..=i32::MAX, 1..=100_i32],
        ) {
            let pct = engagement_pct(Some(duration), Some(length)).unwrap();
            prop_assert!(is_rounded(pct, duration, length), "{} of {}: {}", duration, length, pct);
            prop_assert!(pct.abs() < 10_i64.pow(12));
        }

        #[test]
        fn seconds_are_thousandths(duration: i32) {
            prop_assert_eq!(engagement_seconds(Some(duration)), Some(i64::from(duration)));
        }
    }
}
