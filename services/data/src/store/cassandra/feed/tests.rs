//! The end and the past of a shard over a log that is made up, with the time passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::log::{Pointer, Records, Stretch, bucket};
use super::*;
use crate::change_record::{ChangeRecord, RowChange, RowChangeKind};
use crate::clock::WriteTimestamp;
use crate::key::SortKey;
use crate::row::Row;
use crate::store::cassandra::feed::log::POINTERS;
use crate::store::conformance;
use crate::table::SortKeyType;

/// Wall time at which the tests begin.
const START: i64 = 1_800_000_000_000_000;
const SECOND: i64 = 1_000_000;
/// Times of a store with small time-outs.
const TIMES: Times =
    Times { placed: 3 * SECOND, settle: 4 * SECOND, apart: SECOND, done: 60 * SECOND, wait: 61 * SECOND };
/// Most bytes of a page: its limit, and one record.
const PAGE_MOST: usize = PAGE_BYTES + (1 << 20) + 1024;

/// A log that holds what a test puts into it.
#[derive(Debug, Default)]
struct FakeLog {
    pointers: Mutex<BTreeMap<Place, Pointer>>,
    records: Mutex<Records>,
}

impl FakeLog {
    fn point(&self, place: Place, bytes: usize) {
        let partition = format!("p{}", place.id);
        let size = i32::try_from(bytes).unwrap();
        self.pointers.lock().unwrap().insert(place, Pointer { place, partition, size });
    }

    fn record(&self, place: Place, bytes: usize) {
        let row = Row {
            sort_key: SortKey::Unit,
            attributes: conformance::holding(&"x".repeat(bytes)),
            write_time: WriteTimestamp(place.at),
            expire_time: None,
        };
        let record = ChangeRecord {
            place,
            partition: PartitionKey::parse(format!("p{}", place.id)).unwrap(),
            write_time: WriteTimestamp(place.at),
            rows: vec![RowChange { kind: RowChangeKind::Put(row), old_rows: Vec::new() }],
        };
        self.records.lock().unwrap().insert(place, Some(Arc::new(record)));
    }

    fn write(&self, at: i64, id: i64, bytes: usize) -> Place {
        let place = Place { at, id };
        self.point(place, bytes);
        self.record(place, bytes);
        place
    }

    fn places(&self) -> BTreeSet<Place> {
        let records = self.records.lock().unwrap();
        records.iter().filter_map(|(place, record)| record.is_some().then_some(*place)).collect()
    }
}

impl Log for FakeLog {
    async fn pointers(&self, stretch: Stretch) -> Result<Vec<Pointer>, Error> {
        let pointers = self.pointers.lock().unwrap();
        let range =
            pointers.range(stretch.from..stretch.before.max(stretch.from)).map(|(_, pointer)| pointer);
        let mut range: Vec<_> =
            range.filter(|pointer| bucket(pointer.place.at) == stretch.bucket).cloned().collect();
        if stretch.descending {
            range.reverse();
        }
        range.truncate(POINTERS);
        Ok(range)
    }

    async fn records(&self, pointers: &[Pointer], _: bool) -> Result<Records, Error> {
        let records = self.records.lock().unwrap();
        let found = pointers.iter().filter_map(|pointer| records.get_key_value(&pointer.place));
        Ok(found.map(|(place, record)| (*place, record.clone())).collect())
    }
}

/// Both clocks of a clone, which the test moves.
#[derive(Debug, Clone, Copy)]
struct Clocks(ClockReading);

impl Clocks {
    fn start() -> Self {
        Self(ClockReading { wall: WriteTimestamp(START), monotonic: Instant::now() })
    }

    fn pass(&mut self, time: Duration) {
        self.0.monotonic += time;
        self.0.wall.0 += i64::try_from(time.as_micros()).unwrap();
    }

    fn step(&mut self, micros: i64) {
        self.0.wall.0 += micros;
    }
}

/// A watch of the shard at one clone.
struct Follower {
    read: FeedRead,
    seen: BTreeSet<Place>,
    largest: usize,
}

impl Follower {
    fn at(position: i64) -> Self {
        let table = Arc::new(conformance::table("t", SortKeyType::None));
        let cursor = FeedCursor::at(position);
        Self {
            read: FeedRead { table, shard: 0, cursor, partition: None },
            seen: BTreeSet::new(),
            largest: 0,
        }
    }

    async fn page(&mut self, log: &FakeLog, tail: &Tail, now: Clocks) -> bool {
        let page = changes(log, tail, &self.read, TIMES, now.0).await.unwrap();
        self.read.cursor = page.cursor;
        self.seen.extend(page.records.iter().map(|record| record.place));
        self.largest = self.largest.max(page.records.iter().map(|record| record.bytes()).sum());
        page.more
    }

    /// Reads until there is nothing more.
    async fn follow(&mut self, log: &FakeLog, tail: &Tail, now: Clocks) {
        for _ in 0..10_000 {
            if !self.page(log, tail, now).await {
                return;
            }
        }
        panic!("the pages do not end: {:?}", self.read.cursor);
    }

    /// Goes on at another clone, with the token.
    fn moved(&self) -> Self {
        Self { seen: self.seen.clone(), ..Self::at(self.read.cursor.position) }
    }
}

#[tokio::test]
async fn one_microsecond_may_hold_thousands() {
    let (log, tail, now) = (FakeLog::default(), Tail::default(), Clocks::start());
    for id in 0..3500 {
        log.write(START - 300 * SECOND, id, 10);
    }
    log.write(START - 299 * SECOND, 9, 10);
    let mut follower = Follower::at(START - 400 * SECOND);
    follower.follow(&log, &tail, now).await;
    assert_eq!(follower.seen.len(), 3501);
}

#[tokio::test]
async fn past_pages_keep_their_bytes() {
    let (log, tail, now) = (FakeLog::default(), Tail::default(), Clocks::start());
    for id in 0..16 {
        log.write(START - 300 * SECOND + id, id, 1 << 20);
    }
    let mut follower = Follower::at(START - 400 * SECOND);
    follower.follow(&log, &tail, now).await;
    assert_eq!(follower.seen, log.places());
    assert!(follower.largest <= PAGE_MOST, "{} bytes at once", follower.largest);
}

#[tokio::test]
async fn live_pages_keep_their_bytes() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let mut follower = Follower::at(START - TIMES.settle);
    follower.follow(&log, &tail, now).await;
    now.pass(Duration::from_secs(1));
    for id in 0..8 {
        log.write(START + id, id, 1 << 20);
    }
    let mut moved = None;
    while follower.page(&log, &tail, now).await {
        moved = moved.or_else(|| Some(follower.moved()));
    }
    assert_eq!(follower.seen, log.places());
    assert!(follower.largest <= PAGE_MOST, "{} bytes at once", follower.largest);
    // The token of a page that was cut leaves nothing out.
    let (mut moved, there) = (moved.expect("several pages"), Tail::default());
    now.pass(Duration::from_secs(30));
    moved.follow(&log, &there, now).await;
    assert_eq!(moved.seen, log.places());
}

#[tokio::test]
async fn late_record_is_behind_no_token() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let late = Place { at: START - 20 * SECOND, id: 1 };
    log.point(late, 10);
    log.write(START - 19 * SECOND, 2, 10);
    let mut follower = Follower::at(START - 30 * SECOND);
    assert!(follower.page(&log, &tail, now).await);
    assert!(follower.read.cursor.position <= late.at, "the token is beyond a write that may be done");
    let (mut moved, there) = (follower.moved(), Tail::default());
    now.pass(Duration::from_secs(6));
    log.record(late, 10);
    moved.follow(&log, &there, now).await;
    assert_eq!(moved.seen, log.places());
    follower.follow(&log, &tail, now).await;
    assert_eq!(follower.seen, log.places());
}

#[tokio::test]
async fn another_watch_may_find_late_records() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let late = Place { at: START - 20 * SECOND, id: 1 };
    log.point(late, 10);
    for id in 2..6 {
        log.write(START - 19 * SECOND, id, 1 << 20);
    }
    let (mut follower, mut other) = (Follower::at(START - 30 * SECOND), Follower::at(START));
    assert!(follower.page(&log, &tail, now).await);
    log.record(late, 10);
    // The other watch looks, finds it, and goes on until it is forgotten.
    for _ in 0..20 {
        now.pass(Duration::from_secs(1));
        other.follow(&log, &tail, now).await;
    }
    follower.follow(&log, &tail, now).await;
    assert_eq!(follower.seen, log.places());
    assert!(other.seen.contains(&late));
}

#[tokio::test]
async fn jumping_clock_hides_no_change() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let mut follower = Follower::at(START - TIMES.settle);
    follower.follow(&log, &tail, now).await;
    // An hour ahead for one look, and back.
    now.pass(Duration::from_secs(1));
    now.step(3600 * SECOND);
    let ahead = changes(&log, &tail, &follower.read, TIMES, now.0).await.unwrap();
    follower.read.cursor = ahead.cursor;
    now.pass(Duration::from_secs(1));
    now.step(-3600 * SECOND);
    log.write(now.0.wall.0, 1, 10);
    now.pass(Duration::from_secs(1));
    follower.follow(&log, &tail, now).await;
    assert_eq!(follower.seen, log.places());
    let mut moved = follower.moved();
    moved.follow(&log, &Tail::default(), now).await;
    assert_eq!(moved.seen, log.places());
}

#[tokio::test]
async fn orphans_hold_up_nothing() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let mut follower = Follower::at(START - TIMES.settle);
    follower.follow(&log, &tail, now).await;
    log.point(Place { at: START, id: 0 }, 10);
    for second in 0..24 {
        now.pass(Duration::from_secs(1));
        for id in 0..4 {
            log.write(now.0.wall.0 - id, second * 4 + id, 1 << 20);
        }
        follower.follow(&log, &tail, now).await;
        let (seen, written) = (follower.seen.len(), log.places().len());
        assert!(seen == written, "{seen} of {written} came after {second} s");
    }
    let kept = tail.kept_bytes().await;
    assert!(kept <= 9 * (4 << 20), "{kept} bytes are kept");
}

#[tokio::test]
async fn backlog_of_pointers_is_bounded() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let mut follower = Follower::at(START - TIMES.settle);
    follower.follow(&log, &tail, now).await;
    for id in 0..40 {
        log.write(START + id, id, 1 << 20);
    }
    for id in 40..25_000 {
        log.write(START + id, id, 1);
    }
    let mut most = 0;
    for _ in 0..200 {
        now.pass(Duration::from_millis(200));
        follower.follow(&log, &tail, now).await;
        most = most.max(tail.waiting().await);
    }
    assert!(follower.seen == log.places(), "{} came", follower.seen.len());
    assert!(most <= super::tail::WAITING_MAX, "{most} pointers were kept");
}

#[tokio::test]
async fn abandoned_places_are_not_waited_for() {
    let (log, tail, mut now) = (FakeLog::default(), Tail::default(), Clocks::start());
    let mut follower = Follower::at(START - TIMES.settle);
    follower.follow(&log, &tail, now).await;
    let abandoned = Place { at: START, id: 1 };
    log.point(abandoned, 10);
    log.records.lock().unwrap().insert(abandoned, None);
    for passed in [1, 9] {
        now.pass(Duration::from_secs(passed));
        follower.follow(&log, &tail, now).await;
        assert_eq!((tail.waiting().await, follower.seen.len()), (0, 0));
    }
    assert!(follower.read.cursor.position > abandoned.at, "the token goes on");
    let mut back = Follower::at(START - 100 * SECOND);
    back.follow(&log, &tail, now).await;
    assert!(back.read.cursor.position > abandoned.at && back.seen.is_empty());
}

#[test]
fn late_places_are_taken_anew() {
    let mut now = Clocks::start();
    let placed = Placed::take(WriteTimestamp(START - SECOND / 2), now.0);
    assert_eq!(placed.place.at, START - SECOND / 2);
    assert_eq!(Placed::take(WriteTimestamp(START - 2 * SECOND), now.0).place.at, START);
    now.pass(Duration::from_millis(2500));
    assert!(placed.is_in_log_in_time(TIMES, now.0));
    // Paused, by either clock: one stands still while a machine sleeps, and one may be set.
    let (mut paused, mut slept) = (now, now);
    paused.0.monotonic += Duration::from_millis(1);
    slept.step(1);
    for late in [paused, slept] {
        assert!(!placed.is_in_log_in_time(TIMES, late.0) && placed.is_done_in_time(TIMES, late.0));
    }
    let mut set_back = now;
    set_back.pass(Duration::from_secs(58));
    set_back.step(-58 * SECOND);
    assert!(!placed.is_done_in_time(TIMES, set_back.0));
}

/// Writers whose pointers and records come as late as they may, some never; clones whose clocks differ by as much as they may; and
/// watches that go on at another clone at any moment.
#[tokio::test]
async fn moving_followers_see_every_record() {
    let seed: u64 =
        std::env::var("SHOAL_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    for round in 0..20 {
        follow_at_random(fastrand::Rng::with_seed(seed.wrapping_add(round))).await;
    }
}

async fn follow_at_random(mut rng: fastrand::Rng) {
    const TICK: i64 = SECOND / 5;
    let log = FakeLog::default();
    let mut clones: Vec<_> = (0..3).map(|_| (Tail::default(), Clocks::start())).collect();
    for (_, clocks) in &mut clones {
        clocks.step(rng.i64(-TIMES.apart / 2..=TIMES.apart / 2));
    }
    let mut followers: Vec<_> = (0..3).map(|at| (at, Follower::at(START - TIMES.settle))).collect();
    let mut comes: BTreeMap<(i64, u64), (Place, usize, bool)> = BTreeMap::new();
    let mut id = 0;
    for tick in 0..600_i64 {
        let now = START + tick * TICK;
        for (_, clocks) in &mut clones {
            clocks.pass(Duration::from_micros(TICK.cast_unsigned()));
        }
        for _ in 0..if tick < 250 { rng.usize(..6) } else { 0 } {
            id += 1;
            let place = Place { at: now + rng.i64(-TIMES.apart / 2..=TIMES.apart / 2), id };
            let bytes = if rng.u8(..10) == 0 { 700_000 } else { 100 };
            let points = now + rng.i64(0..TIMES.settle - 2 * TIMES.apart);
            comes.insert((points, rng.u64(..)), (place, bytes, false));
            let records = match rng.u8(..20) {
                0 => continue,
                1 => points + rng.i64(0..50 * SECOND),
                _ => points + rng.i64(0..SECOND),
            };
            comes.insert((records, rng.u64(..)), (place, bytes, true));
        }
        while let Some(first) = comes.first_entry().filter(|first| first.key().0 <= now) {
            let (place, bytes, done) = first.remove();
            if done { log.record(place, bytes) } else { log.point(place, bytes) }
        }
        for (at, follower) in &mut followers {
            if rng.u8(..10) == 0 {
                *at = rng.usize(..clones.len());
                *follower = follower.moved();
            }
            // Some are slow, or away.
            if rng.u8(..20) == 0 || tick >= 300 {
                let (tail, clocks) = &clones[*at];
                for _ in 0..rng.usize(1..8) {
                    follower.page(&log, tail, *clocks).await;
                }
            }
        }
    }
    for (_, follower) in &followers {
        let missed: Vec<_> = log.places().difference(&follower.seen).copied().collect();
        assert!(missed.is_empty(), "{missed:?}, on from {:?}", follower.read.cursor);
    }
}
