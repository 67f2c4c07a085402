//! Rows and tokens that outlive a clone.

use std::path::Path;

use shoal_data::Engine;
use shoal_proto::data::v1::{QueryRequest, SortKeyType};

use crate::mesh::{Client, TestClone, create, get, mutate, put, settings, text};

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

#[tokio::test]
async fn restored_copy_serves_the_same_rows() {
    let (source, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let toml = |dir: &Path| format!("data_dir = '{}'\n", dir.display());
    let clone = TestClone::start(&toml(source.path())).await;
    create(&clone.client, "t", SortKeyType::String).await;
    mutate(&clone.client, "t", vec![put("a", "1"), put("b", "2"), put("c", "3")]).await.unwrap();
    let (_, token) = page(&clone.client, "").await;
    clone.stop().await;
    copy(source.path(), copied.path());
    let clone = TestClone::start(&toml(copied.path())).await;
    let row = get(&clone.client, "t", "a").await.unwrap();
    assert_eq!(row.attributes["v"], text("1"));
    let (rows, next) = page(&clone.client, &token).await;
    assert_eq!((rows.len(), next.as_str()), (1, ""), "tokens of the source hold");
    mutate(&clone.client, "t", vec![put("d", "4")]).await.unwrap();
    clone.stop().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}
