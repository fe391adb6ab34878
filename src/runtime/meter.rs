//! The rate at which a sink works over the last few seconds, and how many dead
//! letters it has had of late. Memory is constant, whether anybody asks or not.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The rate is over this long.
const WINDOW: Duration = Duration::from_secs(5);

/// Totals closer together than this share a sample.
const RESOLUTION: Duration = Duration::from_millis(250);

/// Samples of a running total.
#[derive(Debug, Default)]
pub struct Meter {
    /// Oldest first: when a sample was begun, and the latest total in it.
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// The total is this much from now on.
    pub fn record(&mut self, now: Instant, total: u64) {
        self.forget(now);
        match self.samples.back_mut() {
            Some((begun, last)) if now.duration_since(*begun) < RESOLUTION => *last = total,
            _ => self.samples.push_back((now, total)),
        }
    }

    /// Units per second, to one decimal, where the total is `total` now.
    pub fn rate(&mut self, now: Instant, total: u64) -> f64 {
        self.forget(now);
        let Some((since, before)) = self.samples.front() else {
            return 0.0;
        };
        let elapsed = now.duration_since(*since).max(Duration::from_secs(1));
        let done = total.saturating_sub(*before);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = done as f64 / elapsed.as_secs_f64();
        (rate * 10.0).round() / 10.0
    }

    /// Drops what has left the window. The last sample before it stays: the
    /// rate counts from there.
    fn forget(&mut self, now: Instant) {
        let has_left = |sample: &(Instant, u64)| now.duration_since(sample.0) > WINDOW;
        while self.samples.get(1).is_some_and(has_left) {
            self.samples.pop_front();
        }
    }
}

/// How many there were of something in the last minute.
#[derive(Debug, Default)]
pub struct LastMinute {
    /// Oldest first: when a second began, and how many there were in it.
    seconds: VecDeque<(Instant, u64)>,
}

impl LastMinute {
    const WINDOW: Duration = Duration::from_mins(1);

    /// There were so many more.
    pub fn add(&mut self, now: Instant, more: u64) {
        if more == 0 {
            return;
        }
        self.forget(now);
        match self.seconds.back_mut() {
            Some((begun, count)) if now.duration_since(*begun) < Duration::from_secs(1) => {
                *count += more;
            }
            _ => self.seconds.push_back((now, more)),
        }
    }

    /// How many there were.
    pub fn count(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.seconds.iter().map(|(_, count)| count).sum()
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |begun: Instant| now.duration_since(begun) > Self::WINDOW;
        while self
            .seconds
            .front()
            .is_some_and(|(begun, _)| is_old(*begun))
        {
            self.seconds.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As many samples as fit into the window, and the one before it.
    const MOST: usize = 22;

    #[test]
    fn a_day_without_a_question_takes_no_memory() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        for batch in 0..200_000_u32 {
            meter.record(start + Duration::from_millis(10) * batch, u64::from(batch));
            assert!(meter.samples.len() <= MOST, "{}", meter.samples.len());
        }
    }

    #[test]
    fn the_rate_is_of_the_last_seconds() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        let second = |second: u64| start + Duration::from_secs(second);
        assert!(meter.rate(start, 0).abs() < f64::EPSILON);
        for at in 0..=60 {
            meter.record(second(at), at * 100);
        }
        let rate = meter.rate(second(60), 6_000);
        assert!((rate - 100.0).abs() < 1.0, "{rate}");
        let rate = meter.rate(second(600), 6_000);
        assert!(rate.abs() < 0.1, "{rate}");
    }

    proptest! {
        #[test]
        fn samples_stay_few_and_the_rate_finite(
            steps in proptest::collection::vec((0_u64..2_000, 0_u64..1_000), 0..300),
        ) {
            let (start, mut meter) = (Instant::now(), Meter::default());
            let (mut at, mut total) = (Duration::ZERO, 0);
            for (pause_ms, done) in steps {
                at += Duration::from_millis(pause_ms);
                total += done;
                meter.record(start + at, total);
                let rate = meter.rate(start + at, total);
                prop_assert!(rate.is_finite() && rate >= 0.0);
                prop_assert!(meter.samples.len() <= MOST);
            }
        }
    }

    #[test]
    fn what_is_older_than_a_minute_is_not_counted_and_not_kept() {
        let mut letters = LastMinute::default();
        let now = Instant::now();
        letters.add(now, 61);
        assert_eq!(letters.count(now + Duration::from_secs(50)), 61);
        assert_eq!(letters.count(now + Duration::from_secs(62)), 0);
        assert!(letters.seconds.is_empty());
        for second in 0..1000 {
            letters.add(now + Duration::from_secs(second), 1);
        }
        assert!(letters.seconds.len() < 70, "{}", letters.seconds.len());
    }
}
