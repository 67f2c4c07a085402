//! What every store must do, checked through the service's logic as callers see it. Each check works in tables of its
//! own, so all of them may share an engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Micros;
use crate::data::{Data, QueryRequest};
use crate::error::Error;
use crate::mutation::Mutation;
use crate::row::Row;
use crate::store::{Consistency, Store};
use crate::table::{Definition, SortKeyType, Table, TableName, WriteMode};
use crate::value::{Attributes, Time, Value};

/// A table that needs no store.
pub(crate) fn table(name: &str, sort_key_type: SortKeyType) -> Table {
    let definition = Definition {
        name: TableName::parse(name, "name").unwrap(),
        sort_key_type,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
    };
    Table { definition, id: Uuid::from_u128(7), create_time: Micros(1) }
}

/// Two clones on one engine; what one writes the other must show.
pub(crate) struct Clones<S> {
    pub(crate) here: Data<S>,
    pub(crate) there: Data<S>,
}

/// Runs every check.
pub(crate) async fn run<S: Store>(clones: &Clones<S>) {
    a_table_is_created_once(clones).await;
    racing_creations_agree(clones).await;
    a_table_is_usable_at_once_on_another_clone(clones).await;
    tables_are_listed_by_name(clones).await;
    rows_come_back_as_they_were_put(clones).await;
    a_table_without_sort_keys_has_one_row_a_partition(clones).await;
    the_latest_timestamp_stays_in_whatever_order_writes_come(clones).await;
    a_delete_wins_a_tie(clones).await;
    of_puts_at_one_timestamp_the_same_one_stays_in_any_order(clones).await;
    a_repeat_changes_nothing(clones).await;
    a_token_in_milliseconds_is_refused_and_writes_nothing(clones).await;
    deleted_ranges_hide_older_puts_that_come_later(clones).await;
    a_put_into_a_range_deleted_by_the_same_write_stays(clones).await;
    a_row_ends_with_its_ttl(clones).await;
    rows_are_ordered_by_their_sort_key(clones).await;
    ranges_have_a_first_key_and_one_after_the_last(clones).await;
    pages_go_on_at_another_clone(clones).await;
    a_page_ends_at_a_mebibyte(clones).await;
    several_rows_are_read_at_once(clones).await;
    a_write_is_seen_whole(clones).await;
    a_read_shows_every_write_answered_before_it(clones).await;
}

/// Names and token nonces no other check uses.
fn unique(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}_{}_{count:06}", std::process::id())
}

async fn create<S: Store>(data: &Data<S>, what: &str, of: SortKeyType) -> String {
    let name = unique(what);
    data.create_table(&name, of, WriteMode::LastWriteWins, None).await.unwrap();
    name
}

pub(crate) fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.to_owned()))
}

pub(crate) fn holding(value: &str) -> Attributes {
    [("v".to_owned(), Value::String(value.to_owned()))].into_iter().collect()
}

fn put(key: &str, value: &str) -> Mutation {
    Mutation::Put { sort_key: text(key), attributes: holding(value), ttl: None }
}

fn put_for(key: &str, value: &str, seconds: u64) -> Mutation {
    Mutation::Put { sort_key: text(key), attributes: holding(value), ttl: Some(Duration::from_secs(seconds)) }
}

fn delete(key: &str) -> Mutation {
    Mutation::Delete { sort_key: text(key) }
}

fn delete_range(start: &str, end: &str) -> Mutation {
    let bound = |key: &str| if key.is_empty() { None } else { text(key) };
    Mutation::DeleteRange { start: bound(start), end: bound(end) }
}

fn token(micros: i64) -> String {
    format!("{micros}-{}", unique("n"))
}

/// So long after a moment that is past for all checks of this process.
pub(crate) fn moment(micros: i64) -> Micros {
    static BASE: OnceLock<i64> = OnceLock::new();
    Micros(BASE.get_or_init(|| Micros::now().0 - 3_600_000_000) + micros)
}

/// Writes at a [`moment`].
async fn mutate<S: Store>(data: &Data<S>, table: &str, at: i64, mutations: Vec<Mutation>) -> Micros {
    mutate_at(data, table, moment(at).0, mutations).await
}

async fn mutate_at<S: Store>(data: &Data<S>, table: &str, at: i64, mutations: Vec<Mutation>) -> Micros {
    data.mutate(table, "p".to_owned(), mutations, &token(at)).await.unwrap()
}

async fn value<S: Store>(data: &Data<S>, table: &str, key: &str) -> Option<String> {
    match data.get(table, "p".to_owned(), text(key), Consistency::Quorum).await {
        Ok(row) => Some(value_of(&row)),
        Err(Error::RowNotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

fn value_of(row: &Row) -> String {
    match row.attributes.iter().next() {
        Some((_, Value::String(text))) => text.clone(),
        other => panic!("{other:?}"),
    }
}

fn request(table: &str) -> QueryRequest {
    QueryRequest { table: table.to_owned(), partition_key: "p".to_owned(), ..QueryRequest::default() }
}

/// All rows of a query, page by page, each page at the other clone.
async fn all<S: Store>(clones: &Clones<S>, mut request: QueryRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for turn in 0.. {
        let data = if turn % 2 == 0 { &clones.there } else { &clones.here };
        let (page, next) = data.query(request.clone(), Consistency::Quorum).await.unwrap();
        rows.extend(page);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    rows
}

async fn keys<S: Store>(clones: &Clones<S>, request: QueryRequest) -> Vec<Value> {
    let rows = all(clones, request).await;
    rows.into_iter().map(|row| row.sort_key.into_value().unwrap()).collect()
}

async fn a_table_is_created_once<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("once");
    let lww = WriteMode::LastWriteWins;
    let ttl = Some(Duration::from_millis(1500));
    let created = here.create_table(&name, SortKeyType::Int64, lww, ttl).await.unwrap();
    let again =
        there.create_table(&name, SortKeyType::Int64, lww, Some(Duration::from_secs(2))).await.unwrap();
    assert_eq!(created, again);
    assert_eq!(*there.table(&name, "name").await.unwrap(), created);
    for (of, ttl, expected) in
        [(SortKeyType::String, ttl, "sort_key_type INT64"), (SortKeyType::Int64, None, "default_ttl 2 s")]
    {
        match there.create_table(&name, of, lww, ttl).await {
            Err(Error::TableExists { difference, .. }) => assert_eq!(difference, expected),
            other => panic!("{other:?}"),
        }
    }
    let missing = here.table("no_such_table", "name").await;
    assert!(matches!(missing, Err(Error::TableNotFound(_))), "{missing:?}");
}

async fn racing_creations_agree<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("race");
    let create = |data: Data<S>| {
        let name = name.clone();
        tokio::spawn(async move {
            data.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap()
        })
    };
    let racing: Vec<_> = (0..3).flat_map(|_| [create(here.clone()), create(there.clone())]).collect();
    let mut ids = BTreeSet::new();
    for created in racing {
        ids.insert(created.await.unwrap().id);
    }
    assert_eq!(ids.len(), 1);
    mutate(here, &name, 5, vec![put("a", "1")]).await;
    assert_eq!(value(there, &name, "a").await.as_deref(), Some("1"));
}

async fn a_table_is_usable_at_once_on_another_clone<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("atonce");
    // Looked for before it is there: that must not be remembered.
    assert!(there.table(&name, "table").await.is_err());
    here.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
    mutate(there, &name, 5, vec![put("a", "1")]).await;
    assert_eq!(value(here, &name, "a").await.as_deref(), Some("1"));
}

async fn tables_are_listed_by_name<S: Store>(Clones { here, there }: &Clones<S>) {
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push(create(here, "list", SortKeyType::String).await);
    }
    let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (tables, next) = there.tables(2, &token).await.unwrap();
        assert!(tables.len() <= 2);
        found.extend(tables.iter().map(|table| table.definition.name.to_string()));
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert!(pages >= 3 && found.is_sorted(), "{pages} pages: {found:?}");
    found.retain(|name| expected.contains(name));
    assert_eq!(found, expected);
}

async fn rows_come_back_as_they_were_put<S: Store>(Clones { here, there }: &Clones<S>) {
    let attributes: Attributes = [
        ("s".to_owned(), Value::String("ä\0".into())),
        ("i".to_owned(), Value::Int(i64::MIN)),
        ("d".to_owned(), Value::Double(-0.0)),
        ("b".to_owned(), Value::Bool(true)),
        ("x".to_owned(), Value::Bytes(vec![0, 255].into())),
        ("t".to_owned(), Value::Time(Time { seconds: -5, nanos: 7 })),
    ]
    .into_iter()
    .collect();
    for (of, sort_key) in [
        (SortKeyType::String, Some(Value::String("ö\0z".into()))),
        (SortKeyType::Int64, Some(Value::Int(i64::MIN))),
        (SortKeyType::Bytes, Some(Value::Bytes(vec![0, 255, 0].into()))),
        (SortKeyType::None, None),
    ] {
        let table = create(here, "kinds", of).await;
        for attributes in [attributes.clone(), Attributes::default()] {
            let mutation =
                Mutation::Put { sort_key: sort_key.clone(), attributes: attributes.clone(), ttl: None };
            let written = here.mutate(&table, "ß".to_owned(), vec![mutation], "").await.unwrap();
            let row = there.get(&table, "ß".to_owned(), sort_key.clone(), Consistency::Quorum).await.unwrap();
            assert_eq!((row.attributes, row.write_time, row.expire_time), (attributes, written, None));
            assert_eq!(row.sort_key.into_value(), sort_key);
        }
        let other = there.get(&table, "other".to_owned(), sort_key, Consistency::Strong).await;
        assert!(matches!(other, Err(Error::RowNotFound)), "{other:?}");
    }
}

async fn a_table_without_sort_keys_has_one_row_a_partition<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "none", SortKeyType::None).await;
    assert!(all(clones, request(&table)).await.is_empty());
    let put = |value| Mutation::Put { sort_key: None, attributes: holding(value), ttl: None };
    mutate(&clones.here, &table, 10, vec![put("1")]).await;
    mutate(&clones.there, &table, 20, vec![put("2")]).await;
    let rows = all(clones, request(&table)).await;
    assert_eq!(rows.iter().map(value_of).collect::<Vec<_>>(), ["2"]);
    mutate(&clones.here, &table, 30, vec![Mutation::Delete { sort_key: None }]).await;
    assert!(all(clones, request(&table)).await.is_empty());
    mutate(&clones.here, &table, 40, vec![put("3")]).await;
    assert_eq!(all(clones, request(&table)).await.len(), 1);
    mutate(&clones.here, &table, 50, vec![Mutation::DeleteRange { start: None, end: None }]).await;
    assert!(all(clones, request(&table)).await.is_empty());
}

async fn the_latest_timestamp_stays_in_whatever_order_writes_come<S: Store>(
    Clones { here, there }: &Clones<S>,
) {
    let table = create(here, "lww", SortKeyType::String).await;
    let at = mutate(here, &table, 2000, vec![put("a", "late")]).await;
    mutate(there, &table, 1000, vec![put("a", "early"), put("b", "early")]).await;
    assert_eq!(value(here, &table, "a").await.as_deref(), Some("late"));
    assert_eq!(at, moment(2000), "a token's time is the write's time");
    let row = there.get(&table, "p".to_owned(), text("a"), Consistency::Quorum).await.unwrap();
    assert_eq!(row.write_time, moment(2000));

    mutate(here, &table, 3000, vec![delete("a"), delete("never")]).await;
    mutate(there, &table, 2500, vec![put("a", "before the delete"), put("never", "before")]).await;
    assert_eq!(value(here, &table, "a").await, None);
    assert_eq!(value(here, &table, "never").await, None);
    mutate(there, &table, 3001, vec![put("a", "after the delete")]).await;
    assert_eq!(value(here, &table, "a").await.as_deref(), Some("after the delete"));
}

async fn a_delete_wins_a_tie<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "tie", SortKeyType::String).await;
    mutate(here, &table, 1000, vec![put("a", "1")]).await;
    mutate(there, &table, 1000, vec![delete("a")]).await;
    mutate(here, &table, 1000, vec![delete("b")]).await;
    mutate(there, &table, 1000, vec![put("b", "1")]).await;
    assert_eq!((value(here, &table, "a").await, value(there, &table, "b").await), (None, None));
}

async fn of_puts_at_one_timestamp_the_same_one_stays_in_any_order<S: Store>(
    Clones { here, there }: &Clones<S>,
) {
    let table = create(here, "ties", SortKeyType::String).await;
    let now = Micros::now().0;
    let (small, large) = (|key: &str| put(key, "1"), |key: &str| put(key, "22"));
    let (ends, later) = (|key: &str| put_for(key, "3", 1000), |key: &str| put_for(key, "4", 2000));
    let ended = |key: &str| put_for(key, "5", 1);
    for (key, first, second, expected) in [
        ("a", small("a"), large("a"), Some("22")),
        ("b", large("b"), small("b"), Some("22")),
        ("c", ends("c"), large("c"), Some("3")),
        ("d", large("d"), ends("d"), Some("3")),
        ("e", ends("e"), later("e"), Some("4")),
        ("f", later("f"), ends("f"), Some("4")),
        ("g", ended("g"), large("g"), None),
        ("h", large("h"), ended("h"), None),
    ] {
        let at = if expected.is_none() { now - 10_000_000 } else { now };
        mutate_at(here, &table, at, vec![first]).await;
        mutate_at(there, &table, at, vec![second]).await;
        assert_eq!(value(here, &table, key).await.as_deref(), expected, "{key}");
    }
}

async fn a_repeat_changes_nothing<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    let table = create(here, "repeat", SortKeyType::String).await;
    let now = Micros::now().0;
    mutate_at(here, &table, now - 9_000_000, vec![put("b", "old"), put("d", "old")]).await;
    let write = || vec![put_for("a", "1", 100), delete("b"), delete_range("c", "z"), put("d", "new")];
    let token = token(now - 5_000_000);
    here.mutate(&table, "p".to_owned(), write(), &token).await.unwrap();
    let before = all(clones, request(&table)).await;
    assert_eq!(before.len(), 2, "{before:?}");
    there.mutate(&table, "p".to_owned(), write(), &token).await.unwrap();
    assert_eq!(all(clones, request(&table)).await, before, "nor does the row end at another time");
    let end = before[0].expire_time;
    assert_eq!(end, Some(Micros(now - 5_000_000 + 100_000_000)), "it ends at the write's time and its ttl");

    mutate_at(here, &table, now - 1_000_000, vec![put("b", "newer"), put("d", "newer")]).await;
    there.mutate(&table, "p".to_owned(), write(), &token).await.unwrap();
    assert_eq!(value(here, &table, "b").await.as_deref(), Some("newer"), "a late repeat does not undo");
    assert_eq!(value(here, &table, "d").await.as_deref(), Some("newer"));
}

async fn a_token_in_milliseconds_is_refused_and_writes_nothing<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "unit", SortKeyType::String).await;
    let token = token(Micros::now().0 / 1000);
    let refused = here.mutate(&table, "p".to_owned(), vec![put("a", "1")], &token).await;
    assert!(
        matches!(
            refused,
            Err(Error::Invalid(shoal_kit::Invalid { reason: shoal_kit::reason::TOKEN_IN_THE_PAST, .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(value(there, &table, "a").await, None);
}

async fn deleted_ranges_hide_older_puts_that_come_later<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    for of in [SortKeyType::String, SortKeyType::Int64, SortKeyType::Bytes] {
        let table = create(here, "ranges", of).await;
        let key = |digit: u8| match of {
            SortKeyType::Int64 => Value::Int(i64::from(digit) - 5),
            SortKeyType::Bytes => Value::Bytes(vec![digit].into()),
            SortKeyType::String | SortKeyType::None => Value::String(digit.to_string()),
        };
        let put =
            |digit: u8| Mutation::Put { sort_key: Some(key(digit)), attributes: holding("x"), ttl: None };
        let range = |start: Option<u8>, end: Option<u8>| Mutation::DeleteRange {
            start: start.map(key),
            end: end.map(key),
        };
        let left = async |expected: &[u8]| {
            let found = keys(clones, request(&table)).await;
            let expected: Vec<Value> = expected.iter().map(|digit| key(*digit)).collect();
            assert_eq!(found, expected, "{of:?}");
        };
        let puts = || (1..=9).map(put).collect::<Vec<_>>();

        mutate(here, &table, 1000, puts()).await;
        mutate(there, &table, 2001, vec![range(Some(3), Some(5)), range(Some(8), None)]).await;
        left(&[1, 2, 5, 6, 7]).await;
        mutate(here, &table, 1500, puts()).await;
        left(&[1, 2, 5, 6, 7]).await;
        mutate(there, &table, 3001, vec![range(None, Some(2)), range(Some(4), Some(9))]).await;
        mutate(here, &table, 1501, puts()).await;
        left(&[2]).await;
        mutate(here, &table, 2500, puts()).await;
        left(&[2, 3, 9]).await;
        // An older range below newer ones changes only what is between them.
        mutate(there, &table, 2601, vec![range(None, None)]).await;
        left(&[]).await;
        mutate(here, &table, 2999, puts()).await;
        left(&[2, 3, 9]).await;
        mutate(here, &table, 3001, puts()).await;
        left(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
        // Nothing is in these.
        mutate(here, &table, 5000, vec![range(Some(5), Some(5)), range(Some(7), Some(3))]).await;
        left(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    }
}

async fn a_put_into_a_range_deleted_by_the_same_write_stays<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "replace", SortKeyType::String).await;
    mutate(&clones.here, &table, 1000, vec![put("a", "old"), put("b", "old"), put("c", "old")]).await;
    let replace = vec![put("b", "new"), delete_range("", ""), put("d", "new")];
    mutate(&clones.there, &table, 2000, replace).await;
    assert_eq!(keys(clones, request(&table)).await, [text("b"), text("d")].map(Option::unwrap));
}

async fn a_row_ends_with_its_ttl<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    let table = unique("ttl");
    let ttl = Some(Duration::from_secs(50));
    here.create_table(&table, SortKeyType::String, WriteMode::LastWriteWins, ttl).await.unwrap();
    let now = Micros::now().0;
    let past = now - 100_000_000;
    // Put 100 s ago by their token: the one for 50 s has ended, the one for 1000 s has not.
    mutate_at(here, &table, past, vec![put("default", "1"), put_for("own", "1", 1000)]).await;
    mutate_at(here, &table, past - 5, vec![put_for("default", "older", 1000)]).await;
    assert_eq!(value(there, &table, "default").await, None, "and it hides what is older");
    let rows = all(clones, request(&table)).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].expire_time, Some(Micros(past + 1_000_000_000)));

    // One that ends while we look.
    mutate_at(here, &table, now - 49_000_000, vec![put("soon", "1")]).await;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while value(there, &table, "soon").await.is_some() {
        assert!(std::time::Instant::now() < until, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = Micros::now().0 - now;
    assert!(ended >= 1_000_000, "{ended} µs is before its end");
    assert_eq!(all(clones, request(&table)).await.len(), 1);
}

async fn rows_are_ordered_by_their_sort_key<S: Store>(clones: &Clones<S>) {
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec().into());
    let string = |text: &str| Value::String(text.to_owned());
    let long = "x".repeat(1024);
    for (of, mut ordered) in [
        (SortKeyType::Int64, [i64::MIN, -256, -1, 0, 1, 255, 256, i64::MAX].map(Value::Int).to_vec()),
        (
            SortKeyType::Bytes,
            vec![
                bytes(&[0]),
                bytes(&[0, 0]),
                bytes(&[0, 1]),
                bytes(&[127]),
                bytes(&[128]),
                bytes(&[255, 255]),
            ],
        ),
        (
            SortKeyType::String,
            vec![
                string("\0"),
                string("A"),
                string("a"),
                string("a\0"),
                string("aa"),
                string(&long),
                string("z"),
                string("ä"),
                string("\u{ffff}"),
                string("\u{10000}"),
            ],
        ),
    ] {
        let table = create(&clones.here, "order", of).await;
        let mut shuffled = ordered.clone();
        fastrand::Rng::with_seed(7).shuffle(&mut shuffled);
        let puts = shuffled.into_iter();
        let puts = puts
            .map(|key| Mutation::Put { sort_key: Some(key), attributes: holding("x"), ttl: None })
            .collect();
        mutate(&clones.here, &table, 1000, puts).await;
        let all_of = |descending, page_size| QueryRequest { descending, page_size, ..request(&table) };
        assert_eq!(keys(clones, all_of(false, 0)).await, ordered);
        assert_eq!(keys(clones, all_of(false, 1)).await, ordered);
        assert_eq!(keys(clones, all_of(false, 3)).await, ordered);
        ordered.reverse();
        assert_eq!(keys(clones, all_of(true, 0)).await, ordered);
        assert_eq!(keys(clones, all_of(true, 2)).await, ordered);
    }
}

async fn ranges_have_a_first_key_and_one_after_the_last<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "bounds", SortKeyType::String).await;
    let names = ["a", "ab", "aba", "abb", "ac", "b"];
    mutate(&clones.here, &table, 1000, names.iter().map(|name| put(name, "x")).collect()).await;
    let check = async |request: QueryRequest, expected: &[&str]| {
        let found = keys(clones, request.clone()).await;
        let expected: Vec<Value> = expected.iter().map(|name| text(name).unwrap()).collect();
        assert_eq!(found, expected, "{request:?}");
        let backwards = QueryRequest { descending: true, page_size: 2, ..request };
        let mut found = keys(clones, backwards).await;
        found.reverse();
        assert_eq!(found, expected, "backwards");
    };
    let base = || request(&table);
    check(QueryRequest { start: text("ab"), end: text("ac"), ..base() }, &["ab", "aba", "abb"]).await;
    check(QueryRequest { start: text("abc"), ..base() }, &["ac", "b"]).await;
    check(QueryRequest { end: text("ab"), ..base() }, &["a"]).await;
    check(QueryRequest { start: text("b"), end: text("a"), ..base() }, &[]).await;
    check(QueryRequest { start: text("b"), end: text("b"), ..base() }, &[]).await;
    check(QueryRequest { prefix: text("ab"), ..base() }, &["ab", "aba", "abb"]).await;
    check(QueryRequest { prefix: text(""), ..base() }, &names).await;
    check(QueryRequest { prefix: text("zz"), ..base() }, &[]).await;
}

async fn pages_go_on_at_another_clone<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "pages", SortKeyType::Int64).await;
    for chunk in 0..3 {
        let puts = (0..100).map(|i| Mutation::Put {
            sort_key: Some(Value::Int(chunk * 100 + i)),
            attributes: holding("x"),
            ttl: None,
        });
        mutate(&clones.here, &table, 1000, puts.collect()).await;
    }
    let expected: Vec<Value> = (0..300).map(Value::Int).collect();
    for page_size in [7, 100, 300, 1000, i32::MAX] {
        assert_eq!(
            keys(clones, QueryRequest { page_size, ..request(&table) }).await,
            expected,
            "{page_size}"
        );
    }
    let (page, token) = clones.here.query(request(&table), Consistency::Eventual).await.unwrap();
    assert_eq!(page.len(), 100);
    let reason = async |request: QueryRequest| match clones.there.query(request, Consistency::Quorum).await {
        Err(Error::Invalid(shoal_kit::Invalid { reason, .. })) => reason,
        other => panic!("{other:?}"),
    };
    let on = || QueryRequest { page_token: token.clone(), ..request(&table) };
    assert_eq!(reason(QueryRequest { descending: true, ..on() }).await, "INVALID_PAGE_TOKEN");
    assert_eq!(reason(QueryRequest { partition_key: "q".into(), ..on() }).await, "INVALID_PAGE_TOKEN");
    assert_eq!(reason(QueryRequest { end: Some(Value::Int(7)), ..on() }).await, "INVALID_PAGE_TOKEN");
    assert_eq!(reason(QueryRequest { page_token: "nonsense".into(), ..on() }).await, "INVALID_PAGE_TOKEN");
    assert_eq!(reason(QueryRequest { page_size: -1, ..request(&table) }).await, "INVALID_PAGE_SIZE");
}

async fn a_page_ends_at_a_mebibyte<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "large", SortKeyType::Int64).await;
    let row = |i: i64, bytes: usize| {
        let value = Value::Bytes(vec![u8::try_from(i).unwrap(); bytes].into());
        let attributes = [("v".to_owned(), value)].into_iter().collect();
        Mutation::Put { sort_key: Some(Value::Int(i)), attributes, ttl: None }
    };
    for i in 0..8 {
        mutate(&clones.here, &table, 1000, vec![row(i, 400_000)]).await;
    }
    mutate(&clones.here, &table, 1000, vec![row(8, (1 << 20) - 100), row(9, 400)]).await;
    let mut sizes = Vec::new();
    let mut request = request(&table);
    loop {
        let (page, next) = clones.there.query(request.clone(), Consistency::Quorum).await.unwrap();
        sizes.push(page.len());
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    assert_eq!(sizes, [2, 2, 2, 2, 1, 1]);
}

async fn several_rows_are_read_at_once<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "batch", SortKeyType::String).await;
    let key = |partition: &str, key: &str| (partition.to_owned(), text(key));
    for partition in ["p", "q"] {
        let puts = vec![put("a", &format!("{partition}a")), put("b", &format!("{partition}b"))];
        here.mutate(&table, partition.to_owned(), puts, "").await.unwrap();
    }
    let read = async |keys| there.batch_get(&table, keys, Consistency::Quorum).await;
    let rows = read(vec![key("q", "b"), key("p", "x"), key("p", "a"), key("q", "b")]).await.unwrap();
    let values: Vec<_> = rows.iter().map(|row| row.as_ref().map(value_of)).collect();
    let expected = [Some("qb"), None, Some("pa"), Some("qb")].map(|value| value.map(str::to_owned));
    assert_eq!(values, expected);

    for i in 0..4 {
        let attributes = [("v".to_owned(), Value::Bytes(vec![1; 900_000].into()))].into_iter().collect();
        let put = Mutation::Put { sort_key: text(&format!("large{i}")), attributes, ttl: None };
        here.mutate(&table, "p".to_owned(), vec![put], "").await.unwrap();
    }
    let large = (0..4).map(|i| key("p", &format!("large{i}"))).collect();
    assert_eq!(read(large).await.unwrap().len(), 2, "the rest has to be asked for again");

    let refused = async |keys| match read(keys).await {
        Err(Error::Invalid(shoal_kit::Invalid { field, .. })) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(vec![]).await, "keys");
    assert_eq!(refused(vec![key("p", "a"); 101]).await, "keys");
    assert_eq!(refused(vec![key("p", "a"), key("", "a")]).await, "keys[1].partition_key");
    assert_eq!(refused(vec![key("p", "a"), ("p".to_owned(), None)]).await, "keys[1].sort_key");
}

async fn a_write_is_seen_whole<S: Store>(clones: &Clones<S>) {
    let table = Arc::new(create(&clones.here, "whole", SortKeyType::String).await);
    let writing = {
        let (data, table) = (clones.here.clone(), table.clone());
        tokio::spawn(async move {
            for turn in 0..60 {
                let value = turn.to_string();
                let write = vec![delete_range("", ""), put("a", &value), put("m", &value), put("z", &value)];
                data.mutate(&table, "p".to_owned(), write, "").await.unwrap();
            }
        })
    };
    let mut seen = BTreeSet::new();
    while !writing.is_finished() {
        let (rows, _) = clones.there.query(request(&table), Consistency::Quorum).await.unwrap();
        let values: Vec<String> = rows.iter().map(value_of).collect();
        assert!(values.is_empty() && seen.is_empty() || values.len() == 3, "{values:?}");
        assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
        seen.extend(values);
    }
    writing.await.unwrap();
    assert!(seen.len() > 1, "the reader saw only {seen:?}");
}

/// Many readers of one row share reads; none may be given one that began before what it knows was done.
async fn a_read_shows_every_write_answered_before_it<S: Store>(clones: &Clones<S>) {
    let table = Arc::new(create(&clones.here, "fresh", SortKeyType::String).await);
    let done = Arc::new(AtomicU64::new(0));
    mutate(&clones.here, &table, 1, vec![put("a", "0")]).await;
    let writing = {
        let (data, table, done) = (clones.here.clone(), table.clone(), done.clone());
        tokio::spawn(async move {
            for turn in 1..=100 {
                data.mutate(&table, "p".to_owned(), vec![put("a", &format!("{turn}"))], "").await.unwrap();
                done.store(turn, Ordering::SeqCst);
            }
        })
    };
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (data, table, done) = (clones.there.clone(), table.clone(), done.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while done.load(Ordering::SeqCst) < 100 {
                    let known = done.load(Ordering::SeqCst);
                    let found: u64 = value(&data, &table, "a").await.unwrap().parse().unwrap();
                    assert!(found >= known, "read {found}, but {known} was done");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    writing.await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}
