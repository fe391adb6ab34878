//! Tests of the board against a model that keeps every change and counts from scratch.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WINDOW: i64 = 100;
const SKEW: i64 = 30;
/// A time step of the property test; many steps make a second.
const STEP: i64 = 33_333;

fn settings(score: Score) -> WindowSettings {
    WindowSettings {
        window_us: WINDOW,
        skew_us: SKEW,
        score,
    }
}

fn times() -> impl Strategy<Value = i64> {
    (0..400_i64).prop_map(|step| step * STEP)
}

fn content(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

fn event(number: u8, event_ts: i64) -> BoardEvent {
    BoardEvent {
        content_id: Some(content(number)),
        event_ts,
        duration_ms: None,
    }
}

fn board(window: &Window) -> BTreeMap<Uuid, i64> {
    window.scores().collect()
}

#[test]
fn an_event_leaves_at_the_exact_microsecond() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    assert_eq!(
        window.apply(1, Some(event(1, 1_000)), 1_000),
        Applied::Counted
    );
    window.advance(1_099);
    assert_eq!(window.cardinality(), 1);
    window.advance(1_100);
    assert_eq!((window.cardinality(), window.len()), (0, 0));
}

#[test]
fn an_event_ahead_of_the_clock_enters_at_the_exact_microsecond() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    assert_eq!(
        window.apply(1, Some(event(1, 1_010)), 1_000),
        Applied::Waiting
    );
    window.advance(1_009);
    assert_eq!((window.cardinality(), window.len()), (0, 1));
    window.advance(1_010);
    assert_eq!(window.changed(), [(content(1), Some(1))]);
}

#[test]
fn an_event_too_far_ahead_of_its_record_never_counts() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    assert_eq!(
        window.apply(1, Some(event(1, 1_031)), 1_000),
        Applied::TooFarAhead
    );
    assert_eq!(
        window.apply(2, Some(event(1, 1_030)), 1_000),
        Applied::Waiting
    );
    window.advance(1_040);
    assert_eq!(board(&window), BTreeMap::from([(content(1), 1)]));
}

#[test]
fn the_latest_change_decides_whether_an_event_is_eligible() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    window.apply(1, Some(event(1, 1_031)), 1_000);
    assert_eq!(
        window.apply(1, Some(event(1, 1_031)), 1_001),
        Applied::Waiting
    );
    assert_eq!(
        window.apply(1, Some(event(1, 1_031)), 1_000),
        Applied::TooFarAhead
    );
    assert!(window.is_empty());
}

#[test]
fn a_move_to_other_content_changes_both_scores() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    window.apply(1, Some(event(1, 1_000)), 1_000);
    window.changed();
    window.apply(1, Some(event(2, 1_000)), 1_000);
    let changed: BTreeMap<_, _> = window.changed().into_iter().collect();
    assert_eq!(
        changed,
        BTreeMap::from([(content(1), None), (content(2), Some(1))])
    );
}

#[test]
fn a_replay_changes_nothing() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    for _ in 0..3 {
        window.apply(1, Some(event(1, 1_000)), 1_000);
    }
    assert_eq!(window.changed(), [(content(1), Some(1))]);
    window.apply(1, Some(event(1, 1_000)), 1_005);
    window.apply(1, None, 1_006);
    window.apply(1, Some(event(1, 1_000)), 1_007);
    assert_eq!(window.changed(), []);
}

#[test]
fn zero_seconds_is_on_the_board_with_zero() {
    let mut window = Window::new(settings(Score::Seconds), 1_000);
    let with = |duration_ms| {
        Some(BoardEvent {
            content_id: Some(content(1)),
            event_ts: 1_000,
            duration_ms,
        })
    };
    window.apply(1, with(Some(-5_000)), 1_000);
    window.apply(2, with(None), 1_000);
    assert_eq!(window.changed(), [(content(1), Some(0))]);
    window.apply(3, with(Some(999)), 1_000);
    assert_eq!(window.changed(), []);
    window.apply(4, with(Some(1)), 1_000);
    assert_eq!(window.changed(), [(content(1), Some(1))]);
}

#[test]
fn an_event_that_keeps_changing_its_time_uses_bounded_memory() {
    let mut window = Window::new(settings(Score::Events), 1_000);
    for change in 0..100_000 {
        window.apply(1, Some(event(1, 950 + change % 70)), 1_000);
    }
    assert!(window.leaving.len() + window.entering.len() < 2_000);
    assert_eq!(board(&window), BTreeMap::from([(content(1), 1)]));
    window.advance(1_019);
    window.apply(2, Some(event(2, 1_019)), 1_019);
    window.advance(1_200);
    assert!(window.is_empty() && window.cardinality() == 0);
}

#[derive(Debug, Clone)]
enum Step {
    Apply {
        id: i64,
        event: Option<BoardEvent>,
        record_time: i64,
    },
    Advance(i64),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = (
        proptest::option::weighted(0.9, 0..4_u8),
        times(),
        any::<Option<i16>>(),
    )
        .prop_map(|(number, event_ts, duration)| BoardEvent {
            content_id: number.map(content),
            event_ts,
            duration_ms: duration.map(i32::from),
        });
    let step = prop_oneof![
        6 => (0..12_i64, proptest::option::weighted(0.85, event), times())
            .prop_map(|(id, event, record_time)| Step::Apply { id, event, record_time }),
        2 => times().prop_map(Step::Advance),
        1 => Just(Step::Drain),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Changes in the order of the log.
type Log = Vec<(i64, Option<BoardEvent>, i64)>;

/// Advances the window as its worker does, and rebuilds it from the log if the clock was set
/// back.
fn advance_or_rebuild(window: Window, settings: WindowSettings, log: &Log, now: i64) -> Window {
    let mut window = if window.is_clock_set_back(now) {
        let mut rebuilt = Window::new(settings, now);
        for (id, event, record_time) in log {
            rebuilt.apply(*id, *event, *record_time);
        }
        rebuilt
    } else {
        window
    };
    window.advance(now);
    window
}

#[test]
fn the_clock_counts_as_set_back_if_it_falls_by_more_than_a_second() {
    let window = Window::new(settings(Score::Events), 5_000_000);
    for (now, expected) in [
        (9_000_000, false),
        (5_000_000, false),
        (4_000_000, false),
        (3_999_999, true),
        (i64::MIN, true),
    ] {
        assert_eq!(window.is_clock_set_back(now), expected, "{now}");
    }
}

#[test]
fn events_that_left_while_the_clock_was_ahead_return() {
    let settings = settings(Score::Events);
    let start = 10_000_000;
    let log = vec![(1, Some(event(1, start)), start)];
    let mut window = Window::new(settings, start);
    window.apply(1, Some(event(1, start)), start);
    let ahead = advance_or_rebuild(window, settings, &log, start + 1_200_000_000);
    assert!(ahead.is_empty());
    let back = advance_or_rebuild(ahead, settings, &log, start + 10);
    assert_eq!(
        (back.as_of_us(), board(&back)),
        (start + 10, [(content(1), 1)].into())
    );
}

/// The latest change of every id. An event that was too far ahead of its record, or had left
/// the window, does not return later.
#[derive(Default)]
struct Model {
    latest: BTreeMap<i64, (BoardEvent, i64)>,
    as_of: i64,
}

impl Model {
    fn apply(&mut self, id: i64, event: Option<BoardEvent>, record_time: i64) {
        self.latest.remove(&id);
        if let Some(event) = event {
            self.latest.insert(id, (event, record_time));
        }
    }

    fn kept(&self) -> impl Iterator<Item = (Uuid, BoardEvent)> + '_ {
        self.latest.values().filter_map(|(event, record_time)| {
            let is_eligible = event.event_ts <= record_time + SKEW * STEP;
            let is_in_window = self.as_of - WINDOW * STEP < event.event_ts;
            (is_eligible && is_in_window).then_some((event.content_id?, *event))
        })
    }

    fn board(&self, score: Score) -> BTreeMap<Uuid, i64> {
        let mut sums: BTreeMap<Uuid, i64> = BTreeMap::new();
        for (content, event) in self
            .kept()
            .filter(|(_, event)| event.event_ts <= self.as_of)
        {
            *sums.entry(content).or_default() += match score {
                Score::Events => 1,
                Score::Seconds => i64::from(event.duration_ms.unwrap_or(0).max(0)),
            };
        }
        if score == Score::Seconds {
            for sum in sums.values_mut() {
                *sum /= 1_000;
            }
        }
        sums
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_board_equals_the_model(
        steps in steps(),
        score in prop_oneof![Just(Score::Events), Just(Score::Seconds)],
    ) {
        let scaled = WindowSettings {
            window_us: WINDOW * STEP,
            skew_us: SKEW * STEP,
            score,
        };
        let mut window = Window::new(scaled, 0);
        let mut model = Model::default();
        let mut published: BTreeMap<Uuid, i64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Apply { id, event, record_time } => {
                    window.apply(id, event, record_time);
                    model.apply(id, event, record_time);
                }
                Step::Advance(to) => {
                    window.advance(to);
                    model.as_of = model.as_of.max(to);
                }
                Step::Drain => {
                    for (content, score) in window.changed() {
                        let before = match score {
                            Some(score) => published.insert(content, score),
                            None => published.remove(&content),
                        };
                        prop_assert_ne!(before, score, "not a difference");
                    }
                    prop_assert_eq!(&published, &model.board(score));
                }
            }
            prop_assert_eq!(board(&window), model.board(score));
            prop_assert_eq!(window.cardinality(), model.board(score).len());
            prop_assert_eq!(window.len(), model.kept().count());
            prop_assert_eq!(window.as_of_us(), model.as_of);
        }
    }

    /// Whatever the clock does, the board equals the model at a time that is never more than a
    /// second ahead of the clock.
    #[test]
    fn the_board_follows_a_clock_that_is_set_back(steps in steps()) {
        let scaled = WindowSettings {
            window_us: WINDOW * STEP,
            skew_us: SKEW * STEP,
            score: Score::Events,
        };
        let mut window = Window::new(scaled, 0);
        let mut model = Model::default();
        let mut log = Log::new();
        for step in steps {
            match step {
                Step::Apply { id, event, record_time } => {
                    log.push((id, event, record_time));
                    window.apply(id, event, record_time);
                    model.apply(id, event, record_time);
                }
                Step::Advance(now) => {
                    let before = window.as_of_us();
                    window = advance_or_rebuild(window, scaled, &log, now);
                    model.as_of = window.as_of_us();
                    prop_assert!((now..=now + MAX_FALL_US).contains(&model.as_of));
                    prop_assert!(model.as_of >= before || now < before - MAX_FALL_US);
                }
                Step::Drain => {}
            }
            prop_assert_eq!(board(&window), model.board(Score::Events));
        }
    }
}
