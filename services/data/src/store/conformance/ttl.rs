//! Time to live: when a row ends.

use std::time::Duration;

use super::{Clones, all, mutate_at, put, put_for, request, unique, value};
use crate::clock::WriteTimestamp;
use crate::store::Store;
use crate::table::{SortKeyType, WriteMode};

pub(super) async fn a_row_ends_with_its_ttl<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    let table = unique("ttl");
    let ttl = Some(Duration::from_secs(50));
    here.create_table(&table, SortKeyType::String, WriteMode::LastWriteWins, ttl).await.unwrap();
    let now = WriteTimestamp::now().0;
    let past = now - 100_000_000;
    // Put 100 s ago by their token: the one for 50 s has ended, the one for 1000 s has not.
    mutate_at(here, &table, past, vec![put("default", "1"), put_for("own", "1", 1000)]).await;
    mutate_at(here, &table, past - 5, vec![put_for("default", "older", 1000)]).await;
    assert_eq!(value(there, &table, "default").await, None, "and it hides what is older");
    let rows = all(clones, request(&table)).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].expire_time, Some(WriteTimestamp(past + 1_000_000_000)));

    // One that ends while we look.
    mutate_at(here, &table, now - 49_000_000, vec![put("soon", "1")]).await;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while value(there, &table, "soon").await.is_some() {
        assert!(std::time::Instant::now() < until, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = WriteTimestamp::now().0 - now;
    assert!(ended >= 1_000_000, "{ended} µs is before its end");
    assert_eq!(all(clones, request(&table)).await.len(), 1);
}
