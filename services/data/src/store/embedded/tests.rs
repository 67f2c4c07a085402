//! The embedded store: conformance, what is durable, what is cleared away.

use shoal_embedded::Database;

use super::*;
use crate::data::Data;
use crate::store::conformance::{self, Clones};

fn clones(store: &Embedded) -> Clones<Embedded> {
    Clones { here: Data::new(store.clone()), there: Data::new(store.clone()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let store = Embedded::new(Database::ephemeral().unwrap()).unwrap();
    conformance::run(&clones(&store)).await;
}
