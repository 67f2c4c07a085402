//! The store on a real Cassandra, named by `SHOAL_TEST_CASSANDRA`.

use std::time::Duration;

use scylla::client::session_builder::SessionBuilder;

use super::*;
use crate::data::Data;
use crate::store::conformance::{self, Clones};

/// The contact points, or none after saying so; with `SHOAL_TEST_REQUIRE=1` they must be there.
fn contact_points() -> Option<Vec<String>> {
    match std::env::var("SHOAL_TEST_CASSANDRA") {
        Ok(points) => Some(points.split(',').map(str::to_owned).collect()),
        Err(_) if std::env::var("SHOAL_TEST_REQUIRE").is_ok_and(|value| value == "1") => {
            panic!("SHOAL_TEST_CASSANDRA is not set and SHOAL_TEST_REQUIRE=1")
        }
        Err(_) => {
            eprintln!("SKIPPED: SHOAL_TEST_CASSANDRA is not set; nothing was checked on a real Cassandra");
            None
        }
    }
}

/// A keyspace of one test's own, with limits that a busy machine keeps.
fn config(test: &str) -> Config {
    Config {
        keyspace: format!("shoal_test_{test}_{}", std::process::id()),
        statement_timeout: Duration::from_secs(15),
        silence_max: Duration::from_secs(15),
        ..Config::default()
    }
}

async fn drop_keyspace(points: &[String], keyspace: &str) {
    let session = SessionBuilder::new().known_nodes(points).build().await.unwrap();
    session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {keyspace}"), ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cassandra_store_conforms() {
    let Some(points) = contact_points() else { return };
    let config = config("conform");
    let here = Data::new(Cassandra::start(config.clone(), points.clone()));
    let there = Data::new(Cassandra::start(config.clone(), points.clone()));
    conformance::run(&Clones { here, there }).await;
    drop_keyspace(&points, &config.keyspace).await;
}
