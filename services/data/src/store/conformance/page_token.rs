//! Page tokens: one key for all clones, and no key that is forgotten.

use super::{Clones, create, mutate, put, request};
use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::page_key::PageKey;
use crate::read::QueryRequest;
use crate::store::{Consistency, Store};
use crate::table::SortKeyType;

pub(super) async fn clones_agree_on_a_key<S: Store>(Clones { here, there }: &Clones<S>) {
    let now = WriteTimestamp::now();
    let newest = here.store.page_keys().await.unwrap().iter().map(|key| key.id).max().unwrap_or(0);
    let new = || PageKey { id: newest + 1, ..PageKey::due(None, now).unwrap() };
    let (ours, theirs) = tokio::join!(here.store.add_page_key(new()), there.store.add_page_key(new()));
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!(ours, theirs);
    for data in [here, there] {
        let keys = data.store.page_keys().await.unwrap();
        assert_eq!(keys.iter().filter(|key| key.id == newest + 1).collect::<Vec<_>>(), [&ours]);
    }
}

pub(super) async fn token_outlives_new_keys<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "token", SortKeyType::String).await;
    mutate(here, &table, 1, vec![put("a", "x"), put("b", "x"), put("c", "x")]).await;
    let first = QueryRequest { page_size: 1, ..request(&table) };
    let (_, token) = here.query(first.clone(), Consistency::Quorum).await.unwrap();
    let newest = here.store.page_keys().await.unwrap().iter().map(|key| key.id).max().unwrap();
    let key = PageKey { id: newest + 1, ..PageKey::due(None, WriteTimestamp::now()).unwrap() };
    there.store.add_page_key(key).await.unwrap();

    let second = QueryRequest { page_token: token.clone(), ..first.clone() };
    let (rows, _) = there.query(second, Consistency::Quorum).await.unwrap();
    assert_eq!(rows.len(), 1);

    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = QueryRequest { page_token: String::from_utf8(bytes).unwrap(), ..first.clone() };
        match there.query(changed, Consistency::Quorum).await {
            Err(Error::Invalid(shoal_kit::Invalid { reason, .. })) => {
                assert_eq!(reason, "INVALID_PAGE_TOKEN");
            }
            other => panic!("{other:?}"),
        }
    }
}
