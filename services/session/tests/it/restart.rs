//! The embedded store over a restart of its process.

use shoal_session::Engine;

use super::mesh::{Clone, create, get, revoke, settings};

#[tokio::test]
async fn sessions_and_keys_are_in_the_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&format!("data_dir = '{}'", dir.path().display()));
    let (kept, ended) = {
        let engine = Engine::open(&settings).await.unwrap();
        assert_eq!(engine.describe(), format!("embedded {}", dir.path().join("session").display()));
        let (a, b) = tokio::join!(
            Clone::on(&settings, engine.for_clone(&settings).await.unwrap()),
            Clone::on(&settings, engine.for_clone(&settings).await.unwrap())
        );
        drop(engine);
        let (kept, ended) = (create(&a.client, "u").await.unwrap(), create(&b.client, "u").await.unwrap());
        revoke(&a.client, &ended.token).await.unwrap();
        assert_eq!(get(&b.client, &kept.token).await.unwrap(), kept.session.clone().unwrap());
        a.stop().await;
        b.stop().await;
        (kept, ended)
    };
    let clone = Clone::on(&settings, Engine::open(&settings).await.unwrap()).await;
    assert_eq!(get(&clone.client, &kept.token).await.unwrap(), kept.session.unwrap());
    assert_eq!(get(&clone.client, &ended.token).await.unwrap_err().code(), tonic::Code::NotFound);
    clone.stop().await;
}
