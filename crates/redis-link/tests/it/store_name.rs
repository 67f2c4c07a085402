//! The name that a Redis has of itself.

use shoal_redis_link::StoreName;

use crate::server::Server;

#[tokio::test]
async fn all_clones_read_same_name() {
    let (Some(server), Some(other)) = (Server::start().await, Server::start().await) else { return };
    let first = StoreName::new(server.link().await, "s:store-id");
    let second = StoreName::new(server.link().await, "s:store-id");
    let (a, b) = tokio::join!(first.read(), second.read());
    let name = a.unwrap().unwrap();
    assert_eq!(b.unwrap().as_ref(), Some(&name));
    let elsewhere = StoreName::new(other.link().await, "s:store-id").read().await.unwrap().unwrap();
    assert_ne!(name, elsewhere);
}

#[tokio::test]
async fn emptied_redis_keeps_its_name() {
    let Some(mut server) = Server::start().await else { return };
    let link = server.link().await;
    let first = StoreName::new(link.clone(), "s:store-id");
    let other = server.link().await;
    let second = StoreName::new(other.clone(), "s:store-id");
    let name = first.read().await.unwrap().unwrap();
    assert_eq!(second.read().await.unwrap().as_ref(), Some(&name));
    let () = link.query(&redis::cmd("FLUSHALL")).await.unwrap();
    assert_eq!(second.read().await.unwrap().as_ref(), Some(&name));
    assert_eq!(first.read().await.unwrap().as_ref(), Some(&name));

    server.stop();
    server.restart().await;
    for link in [&link, &other] {
        link.ready(crate::server::PATIENCE).await.unwrap();
    }
    let renewed = first.read().await.unwrap().unwrap();
    assert_ne!(renewed, name);
    assert_eq!(second.read().await.unwrap(), Some(renewed));
}

#[tokio::test]
async fn redis_without_name_is_still_reached() {
    let Some(server) = Server::start_with(&["--maxmemory", "1"]).await else { return };
    let name = StoreName::new(server.link().await, "s:store-id");
    assert_eq!(name.read().await.unwrap(), None);
}

#[tokio::test]
async fn silent_redis_is_not_reached() {
    let Some(mut server) = Server::start().await else { return };
    let name = StoreName::new(server.link().await, "s:store-id");
    server.stop();
    assert!(name.read().await.is_err());
}

#[tokio::test]
async fn denying_redis_is_not_reached() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let name = StoreName::new(link.clone(), "s:store-id");
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("default").arg("-@read");
    let () = link.query(&acl).await.unwrap();
    assert!(name.read().await.is_err());
}
