//! Rows: every kind of value and of sort key, one or several at a time.

use super::{Clones, all, create, holding, mutate, put, request, text, value_of};
use crate::error::Error;
use crate::mutation::Mutation;
use crate::store::{Consistency, Store};
use crate::table::SortKeyType;
use crate::value::{Attributes, Time, Value};

pub(super) async fn rows_come_back_as_they_were_put<S: Store>(Clones { here, there }: &Clones<S>) {
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

pub(super) async fn no_sort_key_means_one_row<S: Store>(clones: &Clones<S>) {
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

pub(super) async fn several_rows_are_read_at_once<S: Store>(Clones { here, there }: &Clones<S>) {
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
