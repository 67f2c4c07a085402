//! Deleted ranges: what they hide, and for which timestamps.

use super::{Clones, create, delete_range, holding, keys, mutate, put, request, text};
use crate::mutation::Mutation;
use crate::store::Store;
use crate::table::SortKeyType;
use crate::value::Value;

pub(super) async fn deleted_ranges_hide_older_puts<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    for of in [SortKeyType::String, SortKeyType::Int64, SortKeyType::Bytes] {
        let table = create(here, "ranges", of).await;
        let key = |digit: u8| match of {
            SortKeyType::Int64 => Value::Int(i64::from(digit) - 5),
            SortKeyType::Bytes => Value::Bytes(vec![digit].into()),
            _ => Value::String(digit.to_string()),
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
        mutate(here, &table, 5000, vec![range(Some(5), Some(5)), range(Some(7), Some(7))]).await;
        left(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    }
}

pub(super) async fn put_survives_range_delete_beside_it<S: Store>(clones: &Clones<S>) {
    let table = create(&clones.here, "replace", SortKeyType::String).await;
    mutate(&clones.here, &table, 1000, vec![put("a", "old"), put("b", "old"), put("c", "old")]).await;
    let replace = vec![put("b", "new"), delete_range("", ""), put("d", "new")];
    mutate(&clones.there, &table, 2000, replace).await;
    assert_eq!(keys(clones, request(&table)).await, [text("b"), text("d")].map(Option::unwrap));
}
