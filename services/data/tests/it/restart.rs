//! Rows and tokens that outlive a clone.

use shoal_data::Engine;
use shoal_proto::data::v1::{QueryRequest, SortKeyType};

use crate::mesh::{Client, TestClone, create, get, mutate, put, settings};

async fn page(client: &Client, page_token: &str) -> (Vec<String>, String) {
    let query = QueryRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        page_size: 2,
        page_token: page_token.to_owned(),
        ..QueryRequest::default()
    };
    let page = client.clone().query(query).await.unwrap().into_inner();
    (page.rows.iter().map(|row| format!("{:?}", row.sort_key)).collect(), page.next_page_token)
}

#[tokio::test]
async fn clones_share_one_durable_store() {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("data_dir = '{}'\n", dir.path().display());
    let settings = settings(&toml);
    let token = {
        let engine = Engine::open(&settings).await.unwrap();
        assert_eq!(engine.describe(), format!("embedded {}", dir.path().join("data").display()));
        let second = engine.for_clone(&settings).await.unwrap();
        let (here, there) = (TestClone::on(&settings, engine).await, TestClone::on(&settings, second).await);
        create(&here.client, "t", SortKeyType::String).await;
        mutate(&there.client, "t", vec![put("a", "1"), put("b", "2"), put("c", "3")]).await.unwrap();
        assert!(get(&here.client, "t", "a").await.is_ok());
        let (_, token) = page(&here.client, "").await;
        here.stop().await;
        there.stop().await;
        token
    };
    let clone = TestClone::start(&toml).await;
    let (rows, next) = page(&clone.client, &token).await;
    assert_eq!((rows.len(), next.as_str()), (1, ""));
    assert!(rows[0].contains("\"c\""), "{rows:?}");
    clone.stop().await;
}
