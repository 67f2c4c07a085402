//! The read path: cache miss → data service → filled → hit.

use shoal_proto::cache::v1 as cache;
use shoal_proto::data::v1 as data;
use shoal_proto::r#type::v1::{Value, value};

use crate::harness::engines::need;
use crate::harness::up::Up;

async fn a_miss_reads_the_row_and_fills(engines: &[&str]) {
    use prost::Message as _;

    let up = Up::start(&[&["--ephemeral"], engines].concat()).await;
    let table = format!("read_path_{}", fastrand::u32(..));
    let mut rows = shoal_client::data(up.channel());
    let mut objects = shoal_client::cache(up.channel());
    let definition = data::Table {
        name: table.clone(),
        sort_key_type: data::SortKeyType::None.into(),
        ..Default::default()
    };
    rows.create_table(data::CreateTableRequest { table: Some(definition) }).await.expect("a table");
    let put = async |rows: &mut data::data_service_client::DataServiceClient<_>, name: &str| {
        let name = Value { kind: Some(value::Kind::StringValue(name.to_owned())) };
        let put =
            data::mutation::Put { attributes: [("name".to_owned(), name)].into(), ..Default::default() };
        let mutation = data::Mutation { kind: Some(data::mutation::Kind::Put(put)) };
        let mutate = data::MutateRequest {
            table: table.clone(),
            partition_key: "ada".into(),
            mutations: vec![mutation],
            ..Default::default()
        };
        rows.mutate(mutate).await.expect("written");
    };
    let mut get = async || {
        let request =
            cache::GetObjectRequest { kind: format!("data.{table}"), id: "ada".into(), ..Default::default() };
        let answer = objects.get_object(request).await.expect("an object").into_inner();
        let row = data::Row::decode(answer.value).expect("a row");
        let Some(value::Kind::StringValue(name)) = row.attributes["name"].kind.clone() else {
            panic!("{row:?}")
        };
        (name, answer.from_cache)
    };

    put(&mut rows, "Ada").await;
    assert_eq!(get().await, ("Ada".to_owned(), false), "a miss is loaded");
    for _ in 0..4 {
        assert_eq!(get().await, ("Ada".to_owned(), true), "then every clone hits");
    }
    put(&mut rows, "Ada Lovelace").await;
    let delete = cache::DeleteRequest { namespace: format!("object.data.{table}"), key: "ada".into() };
    shoal_client::cache(up.channel()).delete(delete).await.expect("deleted");
    assert_eq!(get().await, ("Ada Lovelace".to_owned(), false), "after Delete the new row is loaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn miss_fills_cache_on_embedded_engines() {
    a_miss_reads_the_row_and_fills(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn miss_fills_cache_on_real_engines() {
    let (redis, cassandra) = (need!("SHOAL_TEST_REDIS"), need!("SHOAL_TEST_CASSANDRA"));
    a_miss_reads_the_row_and_fills(&["--redis", &redis, "--cassandra", &cassandra]).await;
}
