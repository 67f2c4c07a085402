//! Blobs: whole or not at all, whatever becomes of the upload, of the row or of the chunks.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use shoal_kit::Invalid;

use super::{Clones, create, delete, mutate_at, put, text, unique};
use crate::blob::{Blob, BlobRange, BlobStart, CHUNK_BYTES, Unnamed};
use crate::clock::WriteTimestamp;
use crate::data::{BLOBS_MAX, Data};
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::{Mutation, Write};
use crate::store::{Consistency, Partitions, Store};
use crate::table::{SortKeyType, TableName, WriteMode};
use crate::value::{Attributes, Value};
use crate::write_token::WriteToken;

fn start(table: &str, key: &str) -> BlobStart {
    BlobStart {
        table: table.to_owned(),
        partition_key: "p".to_owned(),
        sort_key: text(key),
        content_type: "image/png".to_owned(),
        ..BlobStart::default()
    }
}

/// Makes bytes of which no two chunks are alike.
fn content(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| seed ^ (i % 251) as u8 ^ (i / CHUNK_BYTES) as u8).collect()
}

/// Makes the messages of an upload, as large as they may be.
fn messages(content: &Bytes) -> BoxStream<'static, Result<Bytes, Error>> {
    let content = content.clone();
    let parts = (0..content.len())
        .step_by(1 << 20)
        .map(move |at| Ok(content.slice(at..content.len().min(at + (1 << 20)))));
    stream::iter(parts).boxed()
}

async fn upload<S: Store>(data: &Data<S>, table: &str, key: &str, bytes: &Bytes) -> Blob {
    data.put_blob(start(table, key), messages(bytes)).await.unwrap()
}

async fn download<S: Store>(
    data: &Data<S>,
    table: &str,
    key: &str,
    range: BlobRange,
) -> Result<(Blob, Vec<u8>), Error> {
    let (blob, bytes) = data.get_blob(table, "p".to_owned(), text(key), range).await?;
    let mut bytes = std::pin::pin!(bytes);
    let mut all = Vec::new();
    while let Some(next) = bytes.next().await {
        let (at, bytes) = next?;
        assert_eq!(at, range.offset.cast_unsigned() + all.len() as u64);
        all.extend_from_slice(&bytes);
    }
    Ok((blob, all))
}

async fn whole<S: Store>(data: &Data<S>, table: &str, key: &str) -> Result<Vec<u8>, Error> {
    Ok(download(data, table, key, BlobRange::default()).await?.1)
}

/// Returns the time at which uploads that began now are old enough to be cleared away.
fn later() -> WriteTimestamp {
    WriteTimestamp::now().plus_seconds(3 * 3600)
}

/// Returns the names of the partitions with the chunks of a table, in order.
async fn stored<S: Store>(data: &Data<S>, table: &str) -> Vec<String> {
    let table = data.table(table, "table").await.unwrap();
    let chunks = data.store.table(&TableName::of_chunks(table.id)).await.unwrap();
    let mut names = Vec::new();
    for place in data.store.parts(&chunks, "", 1).await.unwrap() {
        let mut place = Some(place);
        while let Some(from) = place {
            let list = Partitions {
                table: chunks.clone(),
                prefix: String::new(),
                place: from,
                limit: 100,
                consistency: Consistency::Quorum,
                until: None,
            };
            let page = data.store.partitions(list).await.unwrap();
            names.extend(page.keys.iter().map(|key| key.as_str().to_owned()));
            place = page.next;
        }
    }
    names.sort();
    names
}

pub(super) async fn blobs_come_back_whole<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "blobs", SortKeyType::String).await;
    for len in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7] {
        let bytes = content(1, len);
        let put = upload(here, &table, "a", &bytes).await;
        assert_eq!(put.sha256[..], Sha256::digest(&bytes)[..]);
        let (got, found) = download(there, &table, "a", BlobRange::default()).await.unwrap();
        assert_eq!(got, put);
        assert_eq!((got.size, got.content_type.as_str()), (len as u64, "image/png"));
        assert!(found == bytes, "{len} bytes");
    }
    let bytes = content(1, 3 * CHUNK_BYTES + 7);
    let chunk = CHUNK_BYTES as i64;
    for (offset, length) in
        [(0, 5), (3, chunk), (chunk, chunk), (chunk - 1, 2), (3 * chunk, 0), (bytes.len() as i64, 0)]
    {
        let (_, found) = download(there, &table, "a", BlobRange { offset, length }).await.unwrap();
        let end = if length == 0 { bytes.len() } else { (offset + length) as usize };
        assert!(found == bytes[offset as usize..end], "{length} bytes from {offset} on");
    }
    // What stands beside the table is nobody's to see.
    let (tables, _) = here.tables(1000, "").await.unwrap();
    assert!(tables.iter().all(|table| !table.definition.name.is_hidden()));
    let (keys, _) = here.partitions(&table, String::new(), 0, "", None).await.unwrap();
    assert_eq!(keys.len(), 1);
}

pub(super) async fn a_cut_upload_shows_nothing<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "cut", SortKeyType::String).await;
    let old = content(1, CHUNK_BYTES + 9);
    let began = || messages(&content(2, 2 << 20));
    // The stream breaks, the caller leaves, and neither has put anything.
    let broken = began().chain(stream::iter([Err(Error::Internal("gone".to_owned()))]));
    assert!(here.put_blob(start(&table, "a"), broken).await.is_err());
    assert!(matches!(whole(there, &table, "a").await, Err(Error::BlobNotFound)));
    upload(here, &table, "a", &old).await;
    let silent = began().chain(stream::pending());
    let left = tokio::time::timeout(Duration::from_secs(3), here.put_blob(start(&table, "a"), silent)).await;
    assert!(left.is_err());
    assert!(whole(there, &table, "a").await.unwrap() == old);
    let before = stored(here, &table).await;
    assert_eq!(before.len(), 6, "three uploads with a note and a partition of chunks each: {before:?}");
    sweep(there, WriteTimestamp::now()).await;
    assert_eq!(stored(here, &table).await, before, "an upload may still be published");
    sweep(there, later()).await;
    assert_eq!(stored(here, &table).await.len(), 2);
    assert!(whole(there, &table, "a").await.unwrap() == old);
}

pub(super) async fn replaced_blobs_never_mix<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "replaced", SortKeyType::String).await;
    let (old, new) = (content(1, 3 * CHUNK_BYTES), content(2, 2 * CHUNK_BYTES));
    upload(here, &table, "a", &old).await;
    let open = async || {
        there.get_blob(&table, "p".to_owned(), text("a"), BlobRange::default()).await.unwrap().1.boxed()
    };
    let (mut cut, mut kept) = (open().await, open().await);
    let (_, first) = cut.next().await.unwrap().unwrap();
    assert!(first == old.slice(..CHUNK_BYTES));
    upload(here, &table, "a", &new).await;
    let mut all = Vec::new();
    while let Some(next) = kept.next().await {
        all.extend_from_slice(&next.unwrap().1);
    }
    assert!(all == old, "the old blob is read to its end");
    sweep(here, later()).await;
    assert!(matches!(cut.next().await, Some(Err(Error::BlobChanged))));
    assert!(cut.next().await.is_none());
    assert!(whole(there, &table, "a").await.unwrap() == new);
    // A repeat is the same write, and an older one changes nothing.
    let token = format!("{}-{}", WriteTimestamp::now().0 + 1_000_000, unique("n"));
    let with = |token: &str| BlobStart { token: token.to_owned(), ..start(&table, "a") };
    let first = here.put_blob(with(&token), messages(&old)).await.unwrap();
    let again = there.put_blob(with(&token), messages(&old)).await.unwrap();
    assert_eq!(first.write_time, again.write_time);
    here.put_blob(with("1700000000000000-old"), messages(&new)).await.unwrap();
    sweep(here, later()).await;
    assert_eq!(stored(here, &table).await.len(), 2);
    assert!(whole(there, &table, "a").await.unwrap() == old);
}

/// Sweeps twice, long enough one after the other.
async fn sweep<S: Store>(data: &Data<S>, now: WriteTimestamp) {
    let (mut unnamed, at) = (Unnamed::default(), std::time::Instant::now());
    data.sweep_blobs(&mut unnamed, now, at).await.unwrap();
    data.sweep_blobs(&mut unnamed, now, at + Duration::from_secs(2 * 3600)).await.unwrap();
}

/// A wall clock that has made a step takes no upload that is under way, and an upload whose chunks were cleared away shows nothing.
pub(super) async fn a_clock_step_clears_nothing<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "step", SortKeyType::String).await;
    let bytes = content(7, CHUNK_BYTES + 100);
    let mut unnamed = Unnamed::default();
    let mut at = std::time::Instant::now();
    for hours in [0, 1, 3] {
        at += Duration::from_secs(hours * 600);
        let all = bytes.clone();
        let (swept, unnamed) = (there.clone(), &mut unnamed);
        let sent = stream::once(async move { Ok(all) }).chain(stream::once(async move {
            swept.sweep_blobs(unnamed, later(), at).await.unwrap();
            Ok(Bytes::new())
        }));
        here.put_blob::<Error>(start(&table, "a"), sent.boxed()).await.unwrap();
        assert_eq!(whole(there, &table, "a").await.unwrap(), bytes, "it is whole though the clock was ahead");
    }
    // The clone stands still so long that a sweeper takes the upload for one that was left.
    let sent = stream::once(async { Ok(bytes.clone()) }).chain(stream::once(async {
        sweep(there, later()).await;
        Ok(Bytes::new())
    }));
    let refused = here.put_blob::<Error>(start(&table, "b"), sent.boxed()).await;
    assert!(matches!(refused, Err(Error::BlobTooSlow { .. })), "{refused:?}");
    assert!(matches!(whole(there, &table, "b").await, Err(Error::BlobNotFound)));
}

/// A note that cannot be read holds up no other upload.
pub(super) async fn a_bad_note_is_passed<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "note", SortKeyType::String).await;
    upload(here, &table, "a", &content(1, 10)).await;
    let chunks = TableName::of_chunks(here.table(&table, "table").await.unwrap().id);
    let chunks = here.store.table(&chunks).await.unwrap();
    let bad = Mutation::Put { sort_key: Some(Value::Int(0)), attributes: Attributes::default(), ttl: None };
    for number in 0..8 {
        let upload = PartitionKey::parse(format!("{:016x}{number:016x}", 1)).unwrap();
        here.write_hidden(&chunks, upload, bad.clone()).await.unwrap();
    }
    here.mutate(&table, "p".to_owned(), vec![delete("a")], "").await.unwrap();
    sweep(there, later()).await;
    let left = stored(here, &table).await;
    assert_eq!(left.len(), 8, "only the unreadable ones are left: {left:?}");
}

pub(super) async fn unnamed_chunks_are_cleared<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "swept", SortKeyType::String).await;
    for key in ["deleted", "overwritten", "ended", "stays"] {
        upload(here, &table, key, &content(3, 10)).await;
    }
    let ends = BlobStart { ttl: Some(Duration::from_secs(1)), ..start(&table, "ended") };
    let ends = here.put_blob(ends, messages(&content(4, 10))).await.unwrap().expire_time.unwrap();
    let now = WriteTimestamp::now().0;
    mutate_at(here, &table, now, vec![delete("deleted"), put("overwritten", "row")]).await;
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !matches!(whole(there, &table, "ended").await, Err(Error::BlobNotFound)) {
        assert!(std::time::Instant::now() < until, "it does not end at {ends:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(whole(there, &table, "overwritten").await, Err(Error::BlobNotFound)));
    sweep(there, later()).await;
    assert_eq!(stored(here, &table).await.len(), 2);
    assert!(whole(there, &table, "stays").await.is_ok());
    let chunks = TableName::of_chunks(here.table(&table, "table").await.unwrap().id);
    here.drop_table(&table, None).await.unwrap();
    sweep(here, later()).await;
    assert!(matches!(here.store.table(&chunks).await, Err(Error::TableNotFound(_))));
}

pub(super) async fn damaged_chunks_are_data_loss<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create(here, "damage", SortKeyType::String).await;
    let bytes = content(5, 2 * CHUNK_BYTES);
    upload(here, &table, "a", &bytes).await;
    let of = here.table(&table, "table").await.unwrap();
    let chunks = here.store.table(&TableName::of_chunks(of.id)).await.unwrap();
    let partition = stored(here, &table).await.into_iter().find(|name| name.ends_with("/0")).unwrap();
    let change = async |mutation| {
        let token = WriteToken::generate(here.clock.next().unwrap());
        let partition = PartitionKey::parse(partition.clone()).unwrap();
        here.store
            .mutate(Write::parse(chunks.clone(), partition, token, vec![mutation]).unwrap())
            .await
            .unwrap();
    };
    let chunk = |data: Vec<u8>, checked: &[u8]| {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(checked, 1).cast_signed();
        let attributes: Attributes =
            [("d".to_owned(), Value::Bytes(data.into())), ("h".to_owned(), Value::Int(hash))]
                .into_iter()
                .collect();
        Mutation::Put { sort_key: Some(Value::Int(1)), attributes, ttl: None }
    };
    let right = bytes[CHUNK_BYTES..].to_vec();
    let mut wrong = right.clone();
    wrong[77] ^= 1;
    let damaged = async |range| match download(there, &table, "a", range).await {
        Err(Error::BlobDamaged(detail)) => detail,
        other => panic!("{:?}", other.map(|(blob, _)| blob)),
    };
    change(chunk(wrong.clone(), &right)).await;
    let second = BlobRange { offset: CHUNK_BYTES as i64 + 5, length: 1 };
    for range in [BlobRange::default(), second] {
        assert!(damaged(range).await.contains("chunk 1"));
    }
    change(chunk(wrong.clone(), &wrong)).await;
    assert!(damaged(BlobRange::default()).await.contains("SHA-256"), "the whole is checked besides");
    change(chunk(right.clone(), &right)).await;
    assert!(whole(there, &table, "a").await.unwrap() == bytes);
    change(Mutation::Delete { sort_key: Some(Value::Int(1)) }).await;
    assert!(damaged(BlobRange::default()).await.contains("lost"));
}

pub(super) async fn blobs_keep_their_bounds<S: Store>(Clones { here, .. }: &Clones<S>) {
    let table = create(here, "bounds", SortKeyType::String).await;
    let small = here.clone().within(100, here.stream_idle_max);
    let bytes = content(6, 101);
    let refused = async |start: BlobStart, bytes: &Bytes| match small.put_blob(start, messages(bytes)).await {
        Err(Error::Invalid(Invalid { reason, field, .. })) => (reason.as_str(), field.to_string()),
        other => panic!("{other:?}"),
    };
    let blob = || start(&table, "a");
    let few = bytes.slice(..10);
    assert_eq!(refused(blob(), &bytes).await, ("BLOB_TOO_LARGE", "chunk".to_owned()));
    let with = BlobStart { size: Some(101), ..blob() };
    assert_eq!(refused(with, &few).await, ("BLOB_TOO_LARGE", "start.size".to_owned()));
    for size in [-1, 9, 11] {
        let with = BlobStart { size: Some(size), ..blob() };
        assert_eq!(refused(with, &few).await, ("INVALID_BLOB", "start.size".to_owned()));
    }
    for sha256 in [vec![0; 32], vec![0; 3]] {
        let with = BlobStart { sha256: sha256.into(), ..blob() };
        assert_eq!(refused(with, &few).await, ("INVALID_BLOB", "start.sha256".to_owned()));
    }
    let with = BlobStart { content_type: "x".repeat(256), ..blob() };
    assert_eq!(refused(with, &few).await, ("INVALID_BLOB", "start.content_type".to_owned()));
    let large = stream::iter([Ok::<_, Error>(content(6, (1 << 20) + 1))]);
    assert!(
        matches!(here.put_blob(blob(), large).await, Err(Error::Invalid(Invalid { field, .. })) if field == "chunk")
    );
    assert!(matches!(whole(here, &table, "a").await, Err(Error::BlobNotFound)), "nothing of it is visible");
    upload(here, &table, "a", &few).await;
    for range in [
        BlobRange { offset: 11, length: 0 },
        BlobRange { offset: -1, length: 0 },
        BlobRange { offset: 0, length: -1 },
    ] {
        let refused = download(here, &table, "a", range).await;
        assert!(
            matches!(refused, Err(Error::Invalid(Invalid { reason, .. })) if reason == "INVALID_BLOB_RANGE")
        );
    }
    let conditional = unique("bounds");
    here.create_table(&conditional, SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
    let refused = here.put_blob(start(&conditional, "a"), messages(&few)).await;
    assert!(matches!(refused, Err(Error::WrongWriteMode { .. })));
    let places = here.blobs.clone().try_acquire_many_owned(u32::try_from(BLOBS_MAX).unwrap()).unwrap();
    let refused = here.put_blob(blob(), messages(&few)).await;
    assert!(matches!(refused, Err(Error::TooManyBlobs { limit: BLOBS_MAX })));
    assert!(matches!(whole(here, &table, "a").await, Err(Error::TooManyBlobs { .. })));
    drop(places);
    assert!(whole(here, &table, "a").await.unwrap() == few);
}
