//! Queries: order, bounds and pages.

use std::time::Instant;

use super::{Clones, create, holding, keys, mutate, put, request, text};
use crate::error::Error;
use crate::mutation::Mutation;
use crate::read::QueryRequest;
use crate::store::{Consistency, Store};
use crate::table::SortKeyType;
use crate::value::Value;

pub(super) async fn rows_are_ordered_by_sort_key<S: Store>(clones: &Clones<S>) {
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

pub(super) async fn range_includes_start_excludes_end<S: Store>(clones: &Clones<S>) {
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
    let inverted = QueryRequest { start: text("b"), end: text("a"), ..base() };
    let refused = clones.here.query(inverted, Consistency::Quorum).await;
    let Err(Error::Invalid(invalid)) = refused else { panic!("{refused:?}") };
    assert_eq!(invalid.reason, shoal_kit::reason::INVERTED_RANGE);
    check(QueryRequest { start: text("b"), end: text("b"), ..base() }, &[]).await;
    check(QueryRequest { prefix: text("ab"), ..base() }, &["ab", "aba", "abb"]).await;
    check(QueryRequest { prefix: text(""), ..base() }, &names).await;
    check(QueryRequest { prefix: text("zz"), ..base() }, &[]).await;
}

pub(super) async fn pages_continue_on_another_clone<S: Store>(clones: &Clones<S>) {
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

pub(super) async fn late_pages_end_early<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "late", SortKeyType::Int64).await;
    for chunk in 0..6 {
        let puts = (0..100).map(|i| Mutation::Put {
            sort_key: Some(Value::Int(chunk * 100 + i)),
            attributes: holding("x"),
            ttl: None,
        });
        mutate(&clones.here, &table, 1000, puts.collect()).await;
    }
    let late = QueryRequest { page_size: 600, until: Some(Instant::now()), ..request(&table) };
    let (page, next) = clones.there.query(late.clone(), Consistency::Quorum).await.unwrap();
    assert!(!page.is_empty() && page.len() < 600 && !next.is_empty(), "{} rows", page.len());
    assert_eq!(keys(clones, late).await, (0..600).map(Value::Int).collect::<Vec<_>>());
}

pub(super) async fn a_page_ends_at_a_mebibyte<S: Store>(clones: &Clones<S>) {
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
