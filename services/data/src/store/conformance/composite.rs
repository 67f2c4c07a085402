//! Composite sort keys: their order, ranges and prefixes are those of the tuples, on every engine.

use super::{Clones, unique};
use crate::clock::WriteTimestamp;
use crate::conditional::{Condition, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::read::QueryRequest;
use crate::store::{Consistency, Store};
use crate::table::{KeyParts, SortKeyType, WriteMode};
use crate::value::{Attributes, Value};

/// Rows in their order: text ascending, integers descending, bytes ascending.
const ROWS: [(&str, i64, &[u8]); 7] = [
    ("", 7, b""),
    ("a", 5, b"\0"),
    ("a", 5, b"\0\0"),
    ("a", -5, b"x"),
    ("a\0", 9, b"\xff"),
    ("ab", i64::MAX, b""),
    ("ab", i64::MIN, b"\xff\xff"),
];

fn list(values: impl IntoIterator<Item = Value>) -> Option<Value> {
    Some(Value::List(values.into_iter().collect()))
}

fn key((text, int, bytes): (&str, i64, &[u8])) -> Option<Value> {
    list([Value::String(text.to_owned()), Value::Int(int), Value::Bytes(bytes.to_vec().into())])
}

fn first(text: &str) -> Option<Value> {
    list([Value::String(text.to_owned())])
}

fn second(text: &str, int: i64) -> Option<Value> {
    list([Value::String(text.to_owned()), Value::Int(int)])
}

async fn create<S: Store>(data: &Data<S>, write_mode: WriteMode) -> String {
    let (name, parts) = (unique("composite"), KeyParts::of_text("STRING, INT64 DESC, BYTES").unwrap());
    let of = SortKeyType::Composite(parts);
    let made = data.create_table(&name, of, write_mode, None).await.unwrap();
    assert_eq!(made.definition.sort_key_type, of);
    name
}

fn put(row: usize) -> Mutation {
    Mutation::Put { sort_key: key(ROWS[row]), attributes: Attributes::default(), ttl: None }
}

/// Returns which of the rows a query finds, in pages of two.
async fn found<S: Store>(data: &Data<S>, mut query: QueryRequest) -> Vec<usize> {
    let mut places = Vec::new();
    (query.partition_key, query.page_size) = ("p".to_owned(), 2);
    loop {
        let (rows, next) = data.query(query.clone(), Consistency::Quorum).await.unwrap();
        for row in rows {
            let stored = row.sort_key.into_value();
            places.push(ROWS.iter().position(|row| key(*row) == stored).unwrap());
        }
        if next.is_empty() {
            return places;
        }
        query.page_token = next;
    }
}

pub(super) async fn composite_keys_sort_by_their_parts<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = create(here, WriteMode::LastWriteWins).await;
    let rows = [3, 0, 6, 2, 5, 1, 4].map(put).to_vec();
    here.mutate(&name, "p".to_owned(), rows, "").await.unwrap();
    let all = QueryRequest { table: name.clone(), ..QueryRequest::default() };
    assert_eq!(found(there, all.clone()).await, [0, 1, 2, 3, 4, 5, 6]);
    let descending = QueryRequest { descending: true, ..all.clone() };
    assert_eq!(found(there, descending.clone()).await, [6, 5, 4, 3, 2, 1, 0]);
    for (prefix, rows) in [
        (first("a"), &[1, 2, 3][..]),
        (second("a", 5), &[1, 2]),
        (second("a", 6), &[]),
        (first(""), &[0]),
        (key(ROWS[6]), &[6]),
        (list([]), &[0, 1, 2, 3, 4, 5, 6]),
    ] {
        let query = QueryRequest { prefix: prefix.clone(), ..all.clone() };
        assert_eq!(found(there, query).await, rows, "{prefix:?}");
        let query = QueryRequest { prefix: prefix.clone(), ..descending.clone() };
        assert!(found(there, query).await.iter().eq(rows.iter().rev()), "{prefix:?}");
    }
    let range = QueryRequest { start: second("a", 0), end: second("ab", 0), ..all.clone() };
    assert_eq!(found(there, range).await, [3, 4, 5], "INT64 is descending");
    let row = there.get(&name, "p".to_owned(), key(ROWS[4]), Consistency::Quorum).await.unwrap();
    assert_eq!(row.sort_key.into_value(), key(ROWS[4]));
    let partial = there.get(&name, "p".to_owned(), first("a"), Consistency::Quorum).await;
    assert!(matches!(partial, Err(Error::Invalid(_))), "{partial:?}");

    // A range of first values is deleted, and puts of the same write stay.
    let range = Mutation::DeleteRange { start: first("a"), end: first("a\0") };
    let at = WriteTimestamp::now().0 + 1_000_000;
    here.mutate(&name, "p".to_owned(), vec![range, put(2)], &format!("{at}-n")).await.unwrap();
    assert_eq!(found(there, all).await, [0, 2, 4, 5, 6]);
}

pub(super) async fn composite_keys_take_conditions<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = create(here, WriteMode::Conditional).await;
    let absent = || vec![(key(ROWS[4]), Condition::Absent)];
    let write = async |data: &Data<S>| {
        data.check_and_mutate(&name, "p".to_owned(), absent(), vec![put(4), put(1)], "").await.unwrap()
    };
    assert!(matches!(write(here).await, Outcome::Applied { .. }));
    let Outcome::Refused { rows, .. } = write(there).await else { panic!("applied twice") };
    let keys: Vec<_> = rows.into_iter().map(|row| row.sort_key.into_value()).collect();
    assert_eq!(keys, [key(ROWS[4]), key(ROWS[1])]);
    let (_, sum) = there
        .increment(&name, "p".to_owned(), key(ROWS[2]), "n".to_owned(), Value::Int(2), "")
        .await
        .unwrap();
    assert_eq!(sum, Value::Int(2));
    let all = QueryRequest { table: name.clone(), ..QueryRequest::default() };
    assert_eq!(found(here, all).await, [1, 2, 4]);
}
