//! Write timestamps: which of several writes of a row stays, and that a repeat changes nothing.

use super::{
    Clones, all, create, delete, delete_range, moment, mutate, mutate_at, put, put_for, request, text, token,
    value, value_of,
};
use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::store::{Consistency, Store};
use crate::table::SortKeyType;

pub(super) async fn latest_timestamp_wins_in_any_order<S: Store>(Clones { here, there }: &Clones<S>) {
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

pub(super) async fn a_delete_wins_a_tie<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "tie", SortKeyType::String).await;
    mutate(here, &table, 1000, vec![put("a", "1")]).await;
    mutate(there, &table, 1000, vec![delete("a")]).await;
    mutate(here, &table, 1000, vec![delete("b")]).await;
    mutate(there, &table, 1000, vec![put("b", "1")]).await;
    assert_eq!((value(here, &table, "a").await, value(there, &table, "b").await), (None, None));
}

pub(super) async fn tied_ends_come_before_content<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "ties", SortKeyType::String).await;
    let now = WriteTimestamp::now().0;
    let stays = |key: &str| put(key, "22");
    let (ends, later) = (|key: &str| put_for(key, "3", 1000), |key: &str| put_for(key, "4", 2000));
    let ended = |key: &str| put_for(key, "5", 1);
    for (key, first, second, expected) in [
        ("c", ends("c"), stays("c"), Some("3")),
        ("d", stays("d"), ends("d"), Some("3")),
        ("e", ends("e"), later("e"), Some("4")),
        ("f", later("f"), ends("f"), Some("4")),
        ("g", ended("g"), stays("g"), None),
        ("h", stays("h"), ended("h"), None),
    ] {
        let at = if expected.is_none() { now - 10_000_000 } else { now };
        mutate_at(here, &table, at, vec![first]).await;
        mutate_at(there, &table, at, vec![second]).await;
        assert_eq!(value(here, &table, key).await.as_deref(), expected, "{key}");
    }
}

/// Two writes with one timestamp leave what they would have left one after the other, whatever their nonces and order.
pub(super) async fn tied_writes_leave_one_whole<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "whole", SortKeyType::String).await;
    let first = || vec![put("a", "1"), put("b", "2"), put("c", "1")];
    let second = || vec![put("a", "2"), put("b", "1"), put("c", "2")];
    let deleting = || vec![put("a", "2"), delete("b"), put("c", "1")];
    let clearing = || vec![delete_range("b", "z"), put("a", "3"), put("c", "3")];
    let ending =
        |value: &'static str| move || ["a", "b", "c"].map(|key| put_for(key, value, 100_000)).to_vec();
    let state = |values: [Option<&str>; 3]| values.map(|value| value.map(str::to_owned));
    let (one, two) = (state([Some("1"), Some("2"), Some("1")]), state([Some("2"), Some("1"), Some("2")]));
    let deleted = state([Some("2"), None, Some("1")]);
    let both_ends = [state([Some("5"); 3]), state([Some("6"); 3])];
    type Writes<'a> = &'a dyn Fn() -> Vec<crate::mutation::Mutation>;
    type Case<'a> = (Writes<'a>, Writes<'a>, Vec<[Option<String>; 3]>);
    let cases: [Case<'_>; 5] = [
        (&first, &second, vec![one.clone(), two]),
        (&first, &deleting, vec![deleted.clone()]),
        // The range is deleted first, and all three rows are put behind it.
        (&first, &clearing, vec![one]),
        (&deleting, &clearing, vec![deleted]),
        (&ending("5"), &ending("6"), both_ends.to_vec()),
    ];
    for (case, (left, right, expected)) in cases.iter().enumerate() {
        for nonce in 0..12 {
            let at = moment(1_000).0;
            let partition = format!("{case}-{nonce}");
            // Callers with one nonce are told apart by what they write.
            let nonces =
                if nonce % 3 == 0 { ["same".to_owned(), "same".to_owned()] } else { [token(at), token(at)] };
            let nonces = nonces.map(|nonce| format!("{at}-{nonce}"));
            let mut writes = [(left, &nonces[0], here), (right, &nonces[1], there)];
            if nonce % 2 == 0 {
                writes.reverse();
            }
            for (write, token, clone) in writes {
                clone.mutate(&table, partition.clone(), write(), token).await.unwrap();
            }
            let mut found = Vec::new();
            for key in ["a", "b", "c"] {
                let row = here.get(&table, partition.clone(), text(key), Consistency::Quorum).await;
                found.push(row.ok().map(|row| value_of(&row)));
            }
            assert!(expected.iter().any(|expected| found == *expected), "case {case}, {nonce}: {found:?}");
        }
    }
}

pub(super) async fn a_repeat_changes_nothing<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    let table = create(here, "repeat", SortKeyType::String).await;
    let now = WriteTimestamp::now().0;
    mutate_at(here, &table, now - 9_000_000, vec![put("b", "old"), put("d", "old")]).await;
    let write = || vec![put_for("a", "1", 100), delete("b"), delete_range("c", "z"), put("d", "new")];
    let token = token(now - 5_000_000);
    here.mutate(&table, "p".to_owned(), write(), &token).await.unwrap();
    let before = all(clones, request(&table)).await;
    assert_eq!(before.len(), 2, "{before:?}");
    there.mutate(&table, "p".to_owned(), write(), &token).await.unwrap();
    assert_eq!(all(clones, request(&table)).await, before, "nor does the row end at another time");
    let end = before[0].expire_time;
    assert_eq!(
        end,
        Some(WriteTimestamp(now - 5_000_000 + 100_000_000)),
        "it ends at the write's time and its ttl"
    );

    mutate_at(here, &table, now - 1_000_000, vec![put("b", "newer"), put("d", "newer")]).await;
    there.mutate(&table, "p".to_owned(), write(), &token).await.unwrap();
    assert_eq!(value(here, &table, "b").await.as_deref(), Some("newer"), "a late repeat does not undo");
    assert_eq!(value(here, &table, "d").await.as_deref(), Some("newer"));
}

pub(super) async fn token_in_milliseconds_writes_nothing<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "unit", SortKeyType::String).await;
    let token = token(WriteTimestamp::now().0 / 1000);
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
