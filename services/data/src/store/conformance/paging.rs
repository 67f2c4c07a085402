//! Pages and scans of random tables: together they are the whole, each row once, whatever else is written meanwhile and whichever
//! clone goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{Clones, create, text, unique};
use crate::data::Data;
use crate::mutation::Mutation;
use crate::read::{QueryRequest, ScanRequest};
use crate::store::{Consistency, Store};
use crate::table::{SortKeyType, WriteMode};
use crate::value::{Attributes, Value};

/// Rows of a table that stay while others come and go: the keys of each partition's rows.
type Kept = BTreeMap<String, BTreeSet<String>>;

fn put(key: &str, bytes: usize) -> Mutation {
    let attributes: Attributes =
        [("v".to_owned(), Value::Bytes(vec![7; bytes].into()))].into_iter().collect();
    Mutation::Put { sort_key: text(key), attributes, ttl: None }
}

/// Fills a table. Rows that stay have even numbers, and partitions that stay begin with `a` or `b`.
async fn fill<S: Store>(data: &Data<S>, table: &str, rng: &mut Rng) -> Kept {
    let mut kept = Kept::new();
    for number in 0..40 {
        let partition = format!(
            "{}{}",
            ["a", "b", "ab"][rng.usize(..3)],
            "x".repeat(rng.usize(..4)) + &number.to_string()
        );
        let rows = [0, 1, 3, 30, 300][rng.usize(..5)].min(if number < 30 { 30 } else { 300 });
        let large = rng.u8(..6) == 0;
        let keys: Vec<String> = (0..rows).map(|row| format!("{:04}", row * 2)).collect();
        for some in keys.chunks(50) {
            let puts =
                some.iter().map(|key| put(key, if large { rng.usize(..40_000) } else { rng.usize(..60) }));
            data.mutate(table, partition.clone(), puts.collect(), "").await.unwrap();
        }
        // A few deleted rows between those that stay.
        let deletes = vec![put("0001", 1), put("9999", 1)];
        data.mutate(table, partition.clone(), deletes, "").await.unwrap();
        let deletes = ["0001", "9999"].map(|key| Mutation::Delete { sort_key: text(key) });
        data.mutate(table, partition.clone(), deletes.to_vec(), "").await.unwrap();
        if rows > 0 {
            kept.insert(partition, keys.into_iter().collect());
        }
    }
    kept
}

/// Writes other rows, with odd numbers, and other partitions until told to stop.
async fn disturb<S: Store>(
    data: Data<S>,
    table: String,
    partitions: Vec<String>,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut rng = Rng::with_seed(seed);
    while !stop.load(Ordering::SeqCst) {
        let partition = match rng.u8(..3) {
            0 => format!("c{}", rng.u8(..)),
            _ => partitions[rng.usize(..partitions.len())].clone(),
        };
        let key = format!("{:04}", rng.u16(..300) * 2 + 1);
        let change = if rng.bool() { put(&key, 10) } else { Mutation::Delete { sort_key: text(&key) } };
        data.mutate(&table, partition, vec![change], "").await.unwrap();
    }
}

fn check(seed: u64, what: &str, expected: &BTreeSet<String>, found: &[String], kept: impl Fn(&str) -> bool) {
    let once: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(once.len(), found.len(), "seed {seed}: {what} has duplicates");
    let found: BTreeSet<String> = once.into_iter().filter(|key| kept(key)).collect();
    assert_eq!(&found, expected, "seed {seed}: {what}");
}

fn even(key: &str) -> bool {
    key.parse::<u32>().is_ok_and(|number| number % 2 == 0)
}

pub(super) async fn pages_are_the_whole<S: Store>(clones: &Clones<S>) {
    for seed in 0..3 {
        let table = create(&clones.here, "paging", SortKeyType::String).await;
        let mut rng = Rng::with_seed(seed);
        let kept = fill(&clones.here, &table, &mut rng).await;
        let stop = Arc::new(AtomicBool::new(false));
        let partitions: Vec<String> = kept.keys().cloned().collect();
        let disturbing = disturb(clones.here.clone(), table.clone(), partitions, seed, stop.clone());
        let disturbing = tokio::spawn(disturbing);
        for (partition, keys) in kept.iter().step_by(3) {
            for descending in [false, true] {
                let found = queried(clones, &table, partition, descending, &mut rng).await;
                let mut ordered = found.clone();
                ordered.sort();
                if descending {
                    ordered.reverse();
                }
                assert_eq!(found, ordered, "seed {seed}: {partition}");
                check(seed, partition, keys, &found, even);
            }
        }
        let expected: BTreeSet<String> = kept
            .iter()
            .flat_map(|(partition, keys)| keys.iter().map(move |key| format!("{partition} {key}")))
            .collect();
        let of_kept =
            |key: &str| !key.starts_with('c') && key.split_once(' ').is_some_and(|(_, key)| even(key));
        let scan = scanned(clones, &table, "", &mut rng).await;
        let theirs = |key: &str| of_kept(key) && kept.contains_key(key.split_once(' ').unwrap_or_default().0);
        check(seed, "the scan", &expected, &scan, theirs);
        let begins: BTreeSet<String> = expected.iter().filter(|key| key.starts_with("ab")).cloned().collect();
        let scan = scanned(clones, &table, "ab", &mut rng).await;
        assert!(scan.iter().all(|key| key.starts_with("ab")), "{scan:?}");
        check(seed, "the scan of a prefix", &begins, &scan, theirs);

        for prefix in ["", "ab"] {
            let listed = listed(clones, &table, prefix, &mut rng).await;
            let partitions = kept.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
            assert!(listed.iter().all(|key| key.starts_with(prefix)), "{listed:?}");
            check(seed, "the list", &partitions, &listed, |key| kept.contains_key(key));
        }
        stop.store(true, Ordering::SeqCst);
        disturbing.await.unwrap();
    }
}

async fn queried<S: Store>(
    Clones { here, there }: &Clones<S>,
    table: &str,
    partition: &str,
    descending: bool,
    rng: &mut Rng,
) -> Vec<String> {
    let (table, partition_key) = (table.to_owned(), partition.to_owned());
    let mut request = QueryRequest { table, partition_key, descending, ..QueryRequest::default() };
    let mut found = Vec::new();
    loop {
        request.page_size = rng.i32(1..120);
        let data = if rng.bool() { here } else { there };
        let (rows, next) = data.query(request.clone(), Consistency::Quorum).await.unwrap();
        found.extend(rows.into_iter().map(|row| key_of(&row)));
        if next.is_empty() {
            return found;
        }
        request.page_token = next;
    }
}

fn key_of(row: &crate::row::Row) -> String {
    match &row.sort_key {
        crate::key::SortKey::Text(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// Scans a table, and goes on at any clone after a few messages.
async fn scanned<S: Store>(
    Clones { here, there }: &Clones<S>,
    table: &str,
    prefix: &str,
    rng: &mut Rng,
) -> Vec<String> {
    let (table, prefix) = (table.to_owned(), prefix.to_owned());
    let mut request = ScanRequest { table, prefix, parallelism: rng.i32(0..9), ..ScanRequest::default() };
    let mut found = Vec::new();
    loop {
        let data = if rng.bool() { here } else { there };
        let stream = data.scan(request.clone(), Consistency::Quorum, CancellationToken::new()).await.unwrap();
        let mut stream = Box::pin(stream.take(rng.usize(1..6)));
        while let Some(message) = stream.next().await {
            let message = message.unwrap();
            found.extend(
                message.rows.iter().map(|(partition, row)| format!("{} {}", partition.as_str(), key_of(row))),
            );
            request.resume_token = message.resume_token;
        }
        if request.resume_token.is_empty() {
            return found;
        }
    }
}

async fn listed<S: Store>(
    Clones { here, there }: &Clones<S>,
    table: &str,
    prefix: &str,
    rng: &mut Rng,
) -> Vec<String> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let data = if rng.bool() { here } else { there };
        let (keys, next) =
            data.partitions(table, prefix.to_owned(), rng.i32(1..20), &token, None).await.unwrap();
        found.extend(keys.iter().map(|key| key.as_str().to_owned()));
        if next.is_empty() {
            return found;
        }
        token = next;
    }
}

async fn write<S: Store>(data: &Data<S>, table: &str, mode: WriteMode, partition: &str, change: Mutation) {
    let (partition, changes) = (partition.to_owned(), vec![change]);
    match mode {
        WriteMode::LastWriteWins => {
            data.mutate(table, partition, changes, "").await.unwrap();
        }
        WriteMode::Conditional => {
            data.check_and_mutate(table, partition, Vec::new(), changes, "").await.unwrap();
        }
    }
}

pub(super) async fn scan_reads_tables_of_each_kind<S: Store>(clones: &Clones<S>) {
    for (of, mode) in [
        (SortKeyType::None, WriteMode::LastWriteWins),
        (SortKeyType::None, WriteMode::Conditional),
        (SortKeyType::String, WriteMode::Conditional),
    ] {
        let table = unique("kind");
        clones.here.create_table(&table, of, mode, None).await.unwrap();
        let (sort_key, name) = if of == SortKeyType::None { (None, "Unit") } else { (text("a"), "a") };
        let (mut expected, mut partitions) = (BTreeSet::new(), BTreeSet::new());
        for number in 0..130 {
            let put =
                Mutation::Put { sort_key: sort_key.clone(), attributes: super::holding("x"), ttl: None };
            let partition = format!("p{number}");
            write(&clones.here, &table, mode, &partition, put).await;
            expected.insert(format!("{partition} {name}"));
            partitions.insert(partition);
        }
        // Nothing of what is remembered of a delete is a row.
        let delete = Mutation::Delete { sort_key };
        write(&clones.here, &table, mode, "gone", delete).await;
        let mut rng = Rng::with_seed(1);
        let found = scanned(clones, &table, "", &mut rng).await;
        check(1, "the scan", &expected, &found, |_| true);
        let listed = listed(clones, &table, "", &mut rng).await;
        // A conditional table remembers the version of a deleted row, so its partition may be listed.
        let of_rows = |key: &str| mode == WriteMode::LastWriteWins || key != "gone";
        check(1, "the list", &partitions, &listed, of_rows);
        expected.retain(|key| key.starts_with("p12"));
        let found = scanned(clones, &table, "p12", &mut rng).await;
        check(2, "the scan of a prefix", &expected, &found, |_| true);
    }
}

/// Rows of very different sizes come in messages that every client takes, each row once.
pub(super) async fn scan_messages_have_their_limit<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "mixed", SortKeyType::String).await;
    let mut rng = Rng::with_seed(7);
    let mut expected = BTreeSet::new();
    for number in 0..6 {
        let (partition, large) = (format!("p{number}"), number % 2 == 1);
        for key in 0..4 {
            let bytes = if large { 1_000_000 } else { rng.usize(..200_000) };
            clones
                .here
                .mutate(&table, partition.clone(), vec![put(&key.to_string(), bytes)], "")
                .await
                .unwrap();
            expected.insert(format!("{partition} {key}"));
        }
    }
    for (data, prefix, parallelism) in
        [(&clones.there, "", 1), (&clones.here, "", 4), (&clones.there, "p", 1)]
    {
        let (table, prefix) = (table.clone(), prefix.to_owned());
        let request = ScanRequest { table, prefix, parallelism, ..ScanRequest::default() };
        let stream = data.scan(request, Consistency::Quorum, CancellationToken::new()).await.unwrap();
        let messages: Vec<_> = stream.map(Result::unwrap).collect().await;
        let mut found = Vec::new();
        for message in messages {
            let sizes: Vec<usize> =
                message.rows.iter().map(|(_, row)| prost::Message::encoded_len(&row.attributes)).collect();
            assert!(sizes.len() <= 1 || sizes.iter().sum::<usize>() <= 1 << 20, "{sizes:?}");
            found.extend(
                message.rows.iter().map(|(partition, row)| format!("{} {}", partition.as_str(), key_of(row))),
            );
        }
        check(7, "the scan", &expected, &found, |_| true);
    }
}

/// A scan whose time is over ends with the place that it has come to, however long its steps are.
pub(super) async fn late_scans_keep_their_place<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "late", SortKeyType::String).await;
    let mut expected = BTreeSet::new();
    for number in 0..200 {
        clones.here.mutate(&table, format!("p{number}"), vec![put("0", 10)], "").await.unwrap();
        expected.insert(format!("p{number} 0"));
    }
    for prefix in ["", "p"] {
        let (table, prefix) = (table.clone(), prefix.to_owned());
        let mut request = ScanRequest { table, prefix, parallelism: 2, ..ScanRequest::default() };
        let (mut found, mut cut) = (Vec::new(), 0);
        for turn in 1_u32.. {
            // Sooner or later a step has time enough.
            let until = std::time::Instant::now() + std::time::Duration::from_micros(200) * turn;
            request.until = Some(until);
            let data = if turn % 2 == 0 { &clones.here } else { &clones.there };
            let stream =
                data.scan(request.clone(), Consistency::Quorum, CancellationToken::new()).await.unwrap();
            let messages: Vec<_> = stream.map(Result::unwrap).collect().await;
            for message in messages {
                found.extend(
                    message
                        .rows
                        .iter()
                        .map(|(partition, row)| format!("{} {}", partition.as_str(), key_of(row))),
                );
                request.resume_token = message.resume_token;
            }
            if request.resume_token.is_empty() {
                break;
            }
            cut += 1;
        }
        assert!(cut > 0, "the first turns have no time for a step");
        check(8, "the scan", &expected, &found, |_| true);
    }
}

pub(super) async fn scan_ends_when_told<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "told", SortKeyType::String).await;
    for number in 0..20 {
        clones.here.mutate(&table, format!("p{number}"), vec![put("a", 60_000)], "").await.unwrap();
    }
    let request = ScanRequest { table: table.clone(), parallelism: 1, ..ScanRequest::default() };
    let stopped = CancellationToken::new();
    stopped.cancel();
    let stream = clones.here.scan(request.clone(), Consistency::Quorum, stopped).await.unwrap();
    let messages: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!(messages.len(), 1);
    let token = messages[0].resume_token.clone();
    assert!(!token.is_empty(), "a scan that was cut has to be resumed");

    let other = ScanRequest { prefix: "p".to_owned(), resume_token: token, ..request };
    let refused = clones.there.scan(other, Consistency::Quorum, CancellationToken::new()).await;
    assert!(matches!(refused.map(|_| ()), Err(crate::error::Error::Invalid(_))));
}

pub(super) async fn count_is_as_query_would_be<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "count", SortKeyType::String).await;
    for hundred in 0..25 {
        let puts = (0..100).map(|i| put(&format!("{:04}", hundred * 100 + i), 1)).collect();
        clones.here.mutate(&table, "p".to_owned(), puts, "").await.unwrap();
    }
    let request = |prefix: &str| QueryRequest { prefix: text(prefix), ..super::request(&table) };
    for (prefix, expected) in [("", 2500), ("1", 1000), ("00", 100), ("x", 0)] {
        let counted = clones.there.count(request(prefix), Consistency::Quorum).await.unwrap();
        assert_eq!(counted, (expected, String::new()));
    }
    let mut late = QueryRequest { until: Some(std::time::Instant::now()), ..request("") };
    let (mut counted, mut calls) = (0, 0);
    loop {
        let (count, next) = clones.there.count(late.clone(), Consistency::Quorum).await.unwrap();
        (counted, calls) = (counted + count, calls + 1);
        if next.is_empty() {
            break;
        }
        late.page_token = next;
    }
    assert!(counted == 2500 && calls > 1, "{counted} rows in {calls} calls");
}
