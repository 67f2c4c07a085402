//! The embedded store over a restart of its process.

use shoal_session::Engine;

use super::mesh::{Clone, create, get, revoke, settings};

#[tokio::test]
async fn data_folder_has_sessions_and_keys() {
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

#[tokio::test]
async fn lost_keys_beside_sessions_refuse_start() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&format!("data_dir = '{}'", dir.path().display()));
    let clone = Clone::on(&settings, Engine::open(&settings).await.unwrap()).await;
    let kept = create(&clone.client, "u").await.unwrap();
    clone.stop().await;
    let (keys, elsewhere) = (dir.path().join("session/keys.toml"), dir.path().join("kept.toml"));
    std::fs::rename(&keys, &elsewhere).unwrap();
    for _ in 0..2 {
        let refused = format!("{:#}", Engine::open(&settings).await.unwrap_err());
        assert!(refused.contains("keys.toml is missing") && refused.contains("restore it"), "{refused}");
        assert!(!keys.exists());
    }
    std::fs::rename(&elsewhere, &keys).unwrap();
    let clone = Clone::on(&settings, Engine::open(&settings).await.unwrap()).await;
    assert_eq!(get(&clone.client, &kept.token).await.unwrap(), kept.session.unwrap());
    clone.stop().await;
}
