//! Attribute schemas: every call that writes rows keeps to them, at every clone that knows of them.

use std::time::{Duration, Instant};

use super::{Clones, put, text, unique, value};
use crate::blob::BlobStart;
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::store::Store;
use crate::table::{AttributeRule, AttributeSchema, SortKeyType, TableChange, WriteMode};
use crate::tables::NewTable;
use crate::value::{Attributes, Value, ValueType};

fn schema(of: ValueType) -> AttributeSchema {
    let rule = |of, required| AttributeRule { of, required, bytes_max: None };
    let rules = [("v".to_owned(), rule(of, true)), ("n".to_owned(), rule(ValueType::Int64, false))];
    AttributeSchema::parse(rules.into(), true).unwrap()
}

async fn create<S: Store>(data: &Data<S>, write_mode: WriteMode) -> String {
    let name = unique("schema");
    let plain = NewTable::plain(&name, SortKeyType::String, write_mode);
    data.create(NewTable { attribute_schema: Some(schema(ValueType::String)), ..plain }).await.unwrap();
    name
}

fn of(attributes: Attributes) -> Mutation {
    Mutation::Put { sort_key: text("bad"), attributes, ttl: None }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    match outcome {
        Err(Error::Invalid(invalid)) => assert_eq!(invalid.reason.as_str(), "ATTRIBUTE_SCHEMA_VIOLATED"),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn rows_must_fit_the_schema<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = create(here, WriteMode::LastWriteWins).await;
    let mutate = async |mutations| there.mutate(&name, "p".to_owned(), mutations, "").await;
    let unknown: Attributes = [("x".to_owned(), Value::Bool(true))].into_iter().collect();
    let wrong: Attributes = [("v".to_owned(), Value::Int(1))].into_iter().collect();
    for bad in [Attributes::default(), unknown, wrong] {
        refused(mutate(vec![put("a", "1"), of(bad)]).await);
        assert_eq!(value(here, &name, "a").await, None, "all or nothing");
    }
    mutate(vec![put("a", "1")]).await.unwrap();
    assert_eq!(value(here, &name, "a").await.as_deref(), Some("1"));
    // The row of a blob has the service's own attributes.
    let (table, partition_key, sort_key) = (name.clone(), "p".to_owned(), text("blob"));
    let start = BlobStart { table, partition_key, sort_key, ..BlobStart::default() };
    let bytes = futures::stream::iter([Ok::<_, Error>(bytes::Bytes::from_static(b"abc"))]);
    assert_eq!(here.put_blob(start, bytes).await.unwrap().size, 3);

    let name = create(here, WriteMode::Conditional).await;
    let check =
        async |mutations| there.check_and_mutate(&name, "p".to_owned(), Vec::new(), mutations, "").await;
    refused(check(vec![of(Attributes::default())]).await);
    check(vec![put("a", "1")]).await.unwrap();
    let increment = async |row: &str, attribute: &str, delta| {
        there.increment(&name, "p".to_owned(), text(row), attribute.to_owned(), delta, "").await
    };
    refused(increment("a", "x", Value::Int(1)).await);
    refused(increment("a", "n", Value::Double(1.0)).await);
    refused(increment("new", "n", Value::Int(1)).await);
    assert_eq!(increment("a", "n", Value::Int(2)).await.unwrap().1, Value::Int(2));
}

pub(super) async fn schema_is_changed_on_every_clone<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("schema");
    here.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
    let old: Attributes = [("old".to_owned(), Value::Bool(true))].into_iter().collect();
    let before = vec![Mutation::Put { sort_key: text("old"), attributes: old.clone(), ttl: None }];
    there.mutate(&name, "p".to_owned(), before.clone(), "").await.unwrap();
    let wanted = schema(ValueType::String);
    let change = |schema| TableChange { attribute_schema: Some(schema), ..TableChange::default() };
    let changed = here.update_table(&name, change(Some(wanted.clone()))).await.unwrap();
    assert_eq!(changed.attribute_schema(), Some(&wanted));
    // Its options were written, and no other change undoes them.
    let described = TableChange { description: Some("typed".to_owned()), ..TableChange::default() };
    assert_eq!(here.update_table(&name, described).await.unwrap().attribute_schema(), Some(&wanted));
    let until = Instant::now() + Duration::from_secs(20);
    while there.table(&name, "name").await.unwrap().attribute_schema().is_none() {
        assert!(Instant::now() < until, "the other clone does not learn of it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    refused(there.mutate(&name, "p".to_owned(), before.clone(), "").await);
    let row = there.get(&name, "p".to_owned(), text("old"), crate::store::Consistency::Quorum).await.unwrap();
    assert_eq!(row.attributes, old, "rows that were there stay");
    there.mutate(&name, "p".to_owned(), vec![put("a", "1")], "").await.unwrap();
    let same = NewTable::plain(&name, SortKeyType::String, WriteMode::LastWriteWins);
    let exists = here.create(same).await;
    assert!(matches!(exists, Err(Error::TableExists { .. })), "{exists:?}");
    assert_eq!(here.update_table(&name, change(None)).await.unwrap().attribute_schema(), None);
    here.mutate(&name, "p".to_owned(), before, "").await.unwrap();
}
