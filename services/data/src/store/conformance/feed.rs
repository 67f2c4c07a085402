//! Change feeds: what is written is seen by watches at every clone, once they go on from their tokens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Clones, delete, delete_range, holding, put, text, token, unique};
use crate::change_record::{OLD_ROWS_BYTES_MAX, RowChangeKind};
use crate::clock::WriteTimestamp;
use crate::conditional::{Condition, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::feed::{Delivery, Watch};
use crate::mutation::{Mutation, RECORDED_BYTES_MAX};
use crate::store::Store;
use crate::table::{ChangeFeed, SortKeyType, TableChange, WriteMode};
use crate::tables::NewTable;
use crate::value::Value;

/// Longest time until a change must be seen.
const PATIENCE: Duration = Duration::from_secs(60);

async fn watched<S: Store>(data: &Data<S>, old_rows: bool) -> String {
    watched_as(data, WriteMode::LastWriteWins, old_rows).await
}

async fn watched_as<S: Store>(data: &Data<S>, write_mode: WriteMode, old_rows: bool) -> String {
    let name = unique("feed");
    let new = NewTable {
        name: name.clone(),
        sort_key_type: SortKeyType::String,
        write_mode,
        default_ttl: None,
        description: String::new(),
        change_feed: Some((old_rows, None)),
        attribute_schema: None,
        views: Vec::new(),
    };
    data.create(new).await.unwrap();
    name
}

async fn next<S: Store>(watch: &mut Watch<S>) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, watch.next()).await;
    delivery.expect("a change in time").expect("no end").unwrap()
}

/// Returns the value that a put in the feed holds.
fn value_of(kind: &RowChangeKind) -> Option<String> {
    let RowChangeKind::Put(row) = kind else { return None };
    row.attributes.iter().find_map(|(name, value)| match (name, value) {
        ("v", Value::String(value)) => Some(value.clone()),
        _ => None,
    })
}

pub(super) async fn a_watch_shows_new_and_old_rows<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = watched(here, true).await;
    let mut watch = there.watch(&name, String::new(), "").await.unwrap();
    assert!(next(&mut watch).await.parts.is_empty(), "the first response is a token alone");
    let mutate = async |at: i64, mutations| {
        here.mutate(&name, "p".to_owned(), mutations, &token(at)).await.unwrap();
    };
    let now = WriteTimestamp::now().0;
    mutate(now, vec![put("a", "1"), put("b", "2")]).await;
    mutate(now + 10, vec![put("a", "3"), delete("b"), delete("none")]).await;
    mutate(now + 20, vec![put("c", "4")]).await;
    mutate(now + 30, vec![delete_range("a", "z")]).await;
    let mut seen = Vec::new();
    while seen.len() < 7 {
        for part in next(&mut watch).await.parts {
            assert_eq!(part.record.partition.as_str(), "p");
            for change in &part.record.rows[part.rows.clone()] {
                let old: Vec<_> = change
                    .old_rows
                    .iter()
                    .map(|row| value_of(&RowChangeKind::Put(row.clone())).unwrap())
                    .collect();
                let new = match &change.kind {
                    RowChangeKind::Put(_) => value_of(&change.kind).unwrap(),
                    RowChangeKind::Delete(key) => format!("-{key:?}"),
                    RowChangeKind::DeleteRange(_) => "range".to_owned(),
                };
                seen.push(format!("{} {new} {}", part.record.write_time.0 - now, old.join(",")));
            }
        }
    }
    assert_eq!(
        seen,
        ["0 1 ", "0 2 ", "10 3 1", "10 -Text(\"b\") 2", "10 -Text(\"none\") ", "20 4 ", "30 range 3,4"]
    );
}

pub(super) async fn applied_conditional_writes_are_shown<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = watched_as(here, WriteMode::Conditional, true).await;
    let mut watch = there.watch(&name, String::new(), "").await.unwrap();
    let write = async |condition, mutations: Vec<Mutation>| {
        let conditions = vec![(text("a"), condition)];
        let outcome = here.check_and_mutate(&name, "p".to_owned(), conditions, mutations, "").await;
        matches!(outcome.unwrap(), Outcome::Applied { .. })
    };
    assert!(write(Condition::Absent, vec![put("a", "1")]).await);
    assert!(!write(Condition::Absent, vec![put("a", "2")]).await);
    assert!(write(Condition::Exists, vec![put("a", "3"), put("b", "4")]).await);
    assert!(write(Condition::Exists, vec![delete("a")]).await);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        for part in next(&mut watch).await.parts {
            for change in &part.record.rows[part.rows.clone()] {
                let old = change.old_rows.first().map(|row| RowChangeKind::Put(row.clone()));
                seen.push((value_of(&change.kind), old.as_ref().and_then(value_of)));
            }
        }
    }
    let value = |value: &str| Some(value.to_owned());
    assert_eq!(seen, [(value("1"), None), (value("3"), value("1")), (value("4"), None), (None, value("3"))]);
}

pub(super) async fn a_partition_is_watched_alone<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = watched(here, false).await;
    let mut watch = here.watch(&name, "b".to_owned(), "").await.unwrap();
    let first = next(&mut watch).await.resume_token;
    for (at, partition) in ["a", "b", "c", "b"].into_iter().enumerate() {
        let value = at.to_string();
        there.mutate(&name, partition.to_owned(), vec![put("k", &value)], "").await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let parts = next(&mut watch).await.parts;
        seen.extend(parts.iter().map(|part| value_of(&part.record.rows[0].kind).unwrap()));
    }
    assert_eq!(seen, ["1", "3"]);
    // A token belongs to its table and partition.
    for (table, partition, token) in [
        (&*name, "a", &*first),
        (&name, "", &first),
        (&name, "b", "x"),
        (&watched(here, false).await, "b", &first),
    ] {
        match there.watch(table, partition.to_owned(), token).await {
            Err(Error::Invalid(invalid)) => assert_eq!(invalid.reason.as_str(), "INVALID_RESUME_TOKEN"),
            other => panic!("{:?}", other.err()),
        }
    }
    let plain = super::create(here, "plain", SortKeyType::String).await;
    let off = here.watch(&plain, String::new(), "").await.err();
    assert!(matches!(off, Some(Error::ChangeFeedOff(_))), "{off:?}");
}

pub(super) async fn refused_range_leaves_nothing<S: Store>(Clones { here, .. }: &Clones<S>) {
    let name = watched(here, true).await;
    for chunk in 0..11 {
        let puts = (0..100).map(|i| put(&format!("{chunk:02}{i:02}"), "x")).collect();
        here.mutate(&name, "p".to_owned(), puts, "").await.unwrap();
    }
    let all = here.mutate(&name, "p".to_owned(), vec![delete_range("", ""), put("new", "1")], "").await;
    assert!(matches!(all, Err(Error::RangeTooLarge { max: 1000 })), "{all:?}");
    assert_eq!(super::value(here, &name, "new").await, None);
    here.mutate(&name, "p".to_owned(), vec![delete_range("", "02")], "").await.unwrap();
}

pub(super) async fn old_rows_have_few_bytes<S: Store>(Clones { here, .. }: &Clones<S>) {
    let large = "x".repeat(600_000);
    for mode in [WriteMode::LastWriteWins, WriteMode::Conditional] {
        let name = watched_as(here, mode, true).await;
        let write = async |mutations| match mode {
            WriteMode::LastWriteWins => here.mutate(&name, "p".to_owned(), mutations, "").await.map(drop),
            WriteMode::Conditional => {
                here.check_and_mutate(&name, "p".to_owned(), vec![], mutations, "").await.map(drop)
            }
        };
        for key in ["a", "b", "c"] {
            write(vec![put(key, &large)]).await.unwrap();
        }
        let all = write(vec![delete("a"), delete("b"), delete("c")]).await;
        assert!(matches!(all, Err(Error::OldRowsTooLarge { .. })), "{mode:?}: {all:?}");
        assert!(super::value(here, &name, "a").await.is_some(), "nothing was done");
        if mode == WriteMode::LastWriteWins {
            let range = write(vec![delete_range("a", "d")]).await;
            assert!(matches!(range, Err(Error::OldRowsTooLarge { .. })), "{range:?}");
        }
        write(vec![delete("a"), delete("b")]).await.unwrap();
    }
}

/// The largest write that a table with a feed takes is one that the engine takes, and a larger one is refused before it.
pub(super) async fn the_largest_record_is_stored<S: Store>(Clones { here, .. }: &Clones<S>) {
    let key = |at: usize| format!("{at:0>1024}");
    let (old, new) = ("o".repeat(OLD_ROWS_BYTES_MAX / 4 - 1200), "n".repeat(RECORDED_BYTES_MAX / 4 - 64));
    for mode in [WriteMode::LastWriteWins, WriteMode::Conditional] {
        let name = watched_as(here, mode, true).await;
        let write = async |mutations| match mode {
            WriteMode::LastWriteWins => here.mutate(&name, "p".to_owned(), mutations, "").await.map(drop),
            WriteMode::Conditional => {
                here.check_and_mutate(&name, "p".to_owned(), vec![], mutations, "").await.map(drop)
            }
        };
        for at in 0..4 {
            write(vec![put(&key(at), &old)]).await.unwrap();
        }
        let replaced = (0..4).map(|at| delete(&key(at))).chain((4..8).map(|at| put(&key(at), &new)));
        let rest = (8..100).map(|at| match mode {
            WriteMode::LastWriteWins => delete_range(&key(at * 2), &key(at * 2 + 1)),
            WriteMode::Conditional => delete(&key(at)),
        });
        write(replaced.chain(rest).collect()).await.unwrap();
        assert_eq!(super::value(here, &name, &key(1)).await, None, "{mode:?}");
        let refused = write(["a", "b", "c", "d", "e"].map(|key| put(key, &new)).into()).await;
        let Err(Error::Invalid(refused)) = refused else { panic!("{mode:?}: {refused:?}") };
        assert_eq!(refused.reason.as_str(), "MUTATE_TOO_LARGE");
        assert_eq!(super::value(here, &name, "a").await, None, "{mode:?}");
    }
}

/// Writers that are cut off at any moment and repeat what they do not know, each in a partition of its own, and a watch that goes
/// on at another clone at any moment.
pub(super) async fn moving_watch_misses_nothing<S: Store>(clones: &Clones<S>) {
    for mode in [WriteMode::LastWriteWins, WriteMode::Conditional] {
        moving_watch(clones, mode).await;
    }
}

async fn moving_watch<S: Store>(clones: &Clones<S>, mode: WriteMode) {
    const WRITERS: u64 = 6;
    const WRITES: usize = 30;
    let seed: u64 =
        std::env::var("SHOAL_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}, {mode:?}");
    let name = watched_as(&clones.here, mode, false).await;
    let mut token = {
        let mut watch = clones.here.watch(&name, String::new(), "").await.unwrap();
        next(&mut watch).await.resume_token
    };
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (both, name) = ([clones.here.clone(), clones.there.clone()], name.clone());
        let rng = Rng::with_seed(seed ^ writer);
        writers.push(tokio::spawn(writes(rng, both, mode, name, writer, WRITES)));
    }
    let mut rng = Rng::with_seed(seed);
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    let mut times: HashSet<(String, i64)> = HashSet::new();
    let until = Instant::now() + PATIENCE * 2;
    let complete = |seen: &HashMap<String, Vec<usize>>| {
        let wanted = 0..WRITES;
        let count = |seen: &Vec<usize>| wanted.clone().filter(|write| seen.contains(write)).count();
        seen.values().map(count).sum::<usize>() == WRITES * usize::try_from(WRITERS).unwrap()
    };
    while !complete(&seen) {
        assert!(Instant::now() < until, "seed {seed}: not all came: {seen:?}");
        let data = if rng.bool() { &clones.here } else { &clones.there };
        let mut watch = data.watch(&name, String::new(), &token).await.unwrap();
        for _ in 0..rng.usize(1..12) {
            let wait = Duration::from_millis(rng.u64(1..400));
            let Ok(Some(delivery)) = tokio::time::timeout(wait, watch.next()).await else { break };
            let delivery = delivery.unwrap();
            for part in delivery.parts {
                let partition = part.record.partition.as_str().to_owned();
                let write = value_of(&part.record.rows[0].kind).unwrap().parse().unwrap();
                times.insert((partition.clone(), part.record.write_time.0));
                let seen = seen.entry(partition).or_default();
                if !seen.contains(&write) {
                    seen.push(write);
                }
            }
            token = delivery.resume_token;
        }
    }
    let mut written = BTreeMap::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    for (partition, order) in seen {
        assert_eq!(order, (0..WRITES).collect::<Vec<_>>(), "seed {seed}, {partition}");
    }
    assert!(written.keys().all(|write| times.contains(write)), "seed {seed}: a write has another time");
}

/// Writes numbers in order. A call is cut off at a random moment now and then, and repeated with its token at either clone until it
/// is answered.
async fn writes<S: Store>(
    mut rng: Rng,
    clones: [Data<S>; 2],
    mode: WriteMode,
    name: String,
    writer: u64,
    writes: usize,
) -> BTreeMap<(String, i64), usize> {
    let mut written = BTreeMap::new();
    let partition = format!("w{writer}");
    for write in 0..writes {
        let with_token = rng.bool();
        let time = WriteTimestamp::now().0;
        let token = if with_token { token(time) } else { String::new() };
        let put = || {
            let (sort_key, attributes) = (text(&format!("k{}", write % 3)), holding(&write.to_string()));
            vec![Mutation::Put { sort_key, attributes, ttl: None }]
        };
        let answered = loop {
            let data = clones[rng.usize(..2)].clone();
            let (name, partition, token, mutations) = (name.clone(), partition.clone(), token.clone(), put());
            let call = tokio::spawn(async move {
                if mode == WriteMode::LastWriteWins {
                    return data.mutate(&name, partition, mutations, &token).await;
                }
                match data.check_and_mutate(&name, partition, vec![], mutations, &token).await? {
                    Outcome::Applied { write_time, .. } => Ok(write_time),
                    refused => panic!("{refused:?}"),
                }
            });
            if with_token && rng.u8(..4) == 0 {
                // As a clone that dies: what it has sent goes on, and nothing follows.
                tokio::time::sleep(Duration::from_micros(rng.u64(..3000))).await;
                call.abort();
            }
            match call.await {
                Ok(Ok(stamp)) => break stamp,
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => {}
            }
        };
        written.insert((partition.clone(), answered.0), write);
    }
    written
}

pub(super) async fn feed_is_switched_on_and_off<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("switched");
    here.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
    there.mutate(&name, "p".to_owned(), vec![put("a", "before")], "").await.unwrap();
    let off = there.watch(&name, String::new(), "").await;
    assert!(matches!(off, Err(Error::ChangeFeedOff(_))), "it has no feed yet");
    let feed = |old_rows| {
        let now = WriteTimestamp::now();
        let feed = ChangeFeed::parse(old_rows, None, now).unwrap().begun_at(now);
        TableChange { change_feed: Some(Some(feed)), ..TableChange::default() }
    };
    let on = here.update_table(&name, feed(false)).await.unwrap();
    // Every write after the answer is in the feed, at whichever clone.
    let mut watch = here.watch(&name, String::new(), "").await.unwrap();
    let first = next(&mut watch).await.resume_token;
    there.mutate(&name, "p".to_owned(), vec![put("a", "after")], "").await.unwrap();
    let mut seen = Vec::new();
    while seen.is_empty() {
        let parts = next(&mut watch).await.parts;
        seen.extend(parts.iter().flat_map(|part| &part.record.rows).filter_map(|row| value_of(&row.kind)));
    }
    assert_eq!(seen, ["after"]);
    // What else a caller chooses changes, and the feed goes on.
    let changed = there.update_table(&name, feed(true)).await.unwrap();
    let (began, goes_on) = (on.change_feed().unwrap(), changed.change_feed().unwrap());
    assert!(goes_on.old_rows && goes_on.since == began.since && goes_on.shards == began.shards);

    let none = TableChange { change_feed: Some(None), ..TableChange::default() };
    assert!(here.update_table(&name, none).await.unwrap().change_feed().is_none());
    let ended = async {
        loop {
            if let Err(error) = watch.next().await.unwrap() {
                break error;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("the watch ends");
    assert!(matches!(ended, Error::ChangeFeedOff(_)), "{ended:?}");
    // A feed that begins again has nothing of the time before.
    here.update_table(&name, feed(false)).await.unwrap();
    let gone = there.watch(&name, String::new(), &first).await.map(drop);
    assert!(matches!(gone, Err(Error::ChangesGone { .. })), "{gone:?}");
    here.drop_table(&name, None).await.unwrap();
}
