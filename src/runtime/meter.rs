//! The rate of a sink over the last few seconds, and its recent dead letters. Memory
//! is bounded, even if the values are never read.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Period over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// Totals recorded within this time share a sample.
const RESOLUTION: Duration = Duration::from_millis(250);

/// Samples of a running total.
#[derive(Debug, Default)]
pub struct Meter {
    /// Start time and latest total of each sample, oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Records the current total.
    pub fn record(&mut self, now: Instant, total: u64) {
        self.forget(now);
        match self.samples.back_mut() {
            Some((start, last)) if now.duration_since(*start) < RESOLUTION => *last = total,
            _ => self.samples.push_back((now, total)),
        }
    }

    /// Returns the units per second, to one decimal. `total` is the current total.
    pub fn rate(&mut self, now: Instant, total: u64) -> f64 {
        self.forget(now);
        let Some((since, before)) = self.samples.front() else {
            return 0.0;
        };
        let elapsed = now.duration_since(*since).max(Duration::from_secs(1));
        let done = total.saturating_sub(*before);
        #[expect(
            clippy::cast_precision_loss,
            reason = "an approximate rate for display"
        )]
        let rate = done as f64 / elapsed.as_secs_f64();
        (rate * 10.0).round() / 10.0
    }

    /// Drops the samples outside the window, except the last one before it, from which
    /// the rate is measured.
    fn forget(&mut self, now: Instant) {
        let has_left = |sample: &(Instant, u64)| now.duration_since(sample.0) > WINDOW;
        while self.samples.get(1).is_some_and(has_left) {
            self.samples.pop_front();
        }
    }
}

/// Number of occurrences within the last minute.
#[derive(Debug, Default)]
pub struct LastMinute {
    /// Start time and count of each second, oldest first.
    seconds: VecDeque<(Instant, u64)>,
}

impl LastMinute {
    const WINDOW: Duration = Duration::from_mins(1);

    /// Adds `more` occurrences.
    pub fn add(&mut self, now: Instant, more: u64) {
        if more == 0 {
            return;
        }
        self.forget(now);
        match self.seconds.back_mut() {
            Some((start, count)) if now.duration_since(*start) < Duration::from_secs(1) => {
                *count += more;
            }
            _ => self.seconds.push_back((now, more)),
        }
    }

    /// Returns the number of occurrences within the last minute.
    pub fn count(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.seconds.iter().map(|(_, count)| count).sum()
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |start: Instant| now.duration_since(start) > Self::WINDOW;
        while self
            .seconds
            .front()
            .is_some_and(|(start, _)| is_old(*start))
        {
            self.seconds.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The samples that fit into the window, and the one before it.
    const MAX_SAMPLES: usize = 22;

    #[test]
    fn memory_is_bounded_if_the_rate_is_never_read() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        for batch in 0..200_000_u32 {
            meter.record(start + Duration::from_millis(10) * batch, u64::from(batch));
            assert!(
                meter.samples.len() <= MAX_SAMPLES,
                "{}",
                meter.samples.len()
            );
        }
    }

    #[test]
    fn the_rate_covers_the_last_seconds() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        let second = |second: u64| start + Duration::from_secs(second);
        assert!(meter.rate(start, 0).abs() < f64::EPSILON);
        for number in 0..=60 {
            meter.record(second(number), number * 100);
        }
        let rate = meter.rate(second(60), 6_000);
        assert!((rate - 100.0).abs() < 1.0, "{rate}");
        let rate = meter.rate(second(600), 6_000);
        assert!(rate.abs() < 0.1, "{rate}");
    }

    proptest! {
        #[test]
        fn the_number_of_samples_is_bounded_and_the_rate_finite(
            steps in proptest::collection::vec((0_u64..2_000, 0_u64..1_000), 0..300),
        ) {
            let (start, mut meter) = (Instant::now(), Meter::default());
            let (mut elapsed, mut total) = (Duration::ZERO, 0);
            for (pause_ms, done) in steps {
                elapsed += Duration::from_millis(pause_ms);
                total += done;
                meter.record(start + elapsed, total);
                let rate = meter.rate(start + elapsed, total);
                prop_assert!(rate.is_finite() && rate >= 0.0);
                prop_assert!(meter.samples.len() <= MAX_SAMPLES);
            }
        }
    }

    #[test]
    fn occurrences_older_than_a_minute_are_neither_counted_nor_stored() {
        let mut recent = LastMinute::default();
        let now = Instant::now();
        recent.add(now, 61);
        assert_eq!(recent.count(now + Duration::from_secs(50)), 61);
        assert_eq!(recent.count(now + Duration::from_secs(62)), 0);
        assert!(recent.seconds.is_empty());
        for second in 0..1000 {
            recent.add(now + Duration::from_secs(second), 1);
        }
        assert!(recent.seconds.len() < 70, "{}", recent.seconds.len());
    }
}
