//! The keys of page tokens, in a partition of the registry beside the tables.

use scylla::statement::Consistency;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::page_key::PageKey;
use crate::store::KeyStore;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::registry::{Attempts, answer, records, transact};
use crate::store::cassandra::schema::{KEY_SPACE, READY, REGISTRY, Record};

/// Most keys that are read: there is a new one each month.
const KEYS_MAX: i32 = 10_000;

impl KeyStore for CassandraStore {
    async fn page_keys(&self) -> Result<Vec<PageKey>, Error> {
        self.keys_at(Consistency::LocalQuorum).await
    }

    async fn page_keys_nearby(&self) -> Result<Vec<PageKey>, Error> {
        self.keys_at(Consistency::One).await
    }

    async fn add_page_key(&self, key: PageKey) -> Result<PageKey, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let name = format!("{:010}", key.id);
        let none: Option<i64> = None;
        let mut attempts = Attempts::new();
        let stands = loop {
            let values = (
                KEY_SPACE,
                name.clone(),
                key.secret,
                READY,
                "",
                "",
                none,
                key.create_time.0,
                1,
                "",
                Vec::<u8>::new(),
            );
            let added = async {
                transact(link, &connected, "INSERT", |session| &session.registry.insert, values).await?;
                // Applied or not, the registry has the row now. SERIAL shows it even if its commit is under way.
                let (session, place) = (connected.clone(), (KEY_SPACE, name.clone()));
                let read = async move {
                    let mut one = session.registry.one.clone();
                    one.set_consistency(Consistency::Serial);
                    answer(session.session.execute_unpaged(&one, place).await?)
                };
                let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
                records(result)?.into_iter().next().map(key_of).transpose()
            };
            if let Some(outcome) = attempts.settled(link, added.await).await {
                break outcome?;
            }
        };
        stands.ok_or_else(|| Error::Internal("a key of page tokens was added and is not there".to_owned()))
    }
}

impl CassandraStore {
    async fn keys_at(&self, consistency: Consistency) -> Result<Vec<PageKey>, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let read = async move {
            let mut page = connected.registry.page.clone();
            page.set_consistency(consistency);
            answer(connected.session.execute_unpaged(&page, (KEY_SPACE, "", KEYS_MAX)).await?)
        };
        let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
        records(result)?.into_iter().map(key_of).collect()
    }
}

fn key_of(record: Record) -> Result<PageKey, Error> {
    let (name, secret, _, _, _, _, create_time, ..) = record;
    let id = name.parse().map_err(|_| Error::DataLoss(format!("a key of page tokens is called `{name}`")))?;
    Ok(PageKey { id, secret, create_time: WriteTimestamp(create_time) })
}
