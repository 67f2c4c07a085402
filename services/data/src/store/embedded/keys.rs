//! The keys of page tokens: under the id, the secret and the time when the key was made.

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::page_key::PageKey;
use crate::store::KeyStore;
use crate::store::embedded::{EmbeddedStore, write_failed};

impl KeyStore for EmbeddedStore {
    async fn page_keys(&self) -> Result<Vec<PageKey>, Error> {
        let keys = self.keyspaces.page_keys.range(Vec::new()..);
        keys.map(|pair| {
            let (id, stored) = pair?;
            decode(&id, &stored)
        })
        .collect()
    }

    async fn add_page_key(&self, key: PageKey) -> Result<PageKey, Error> {
        let keyspaces = self.keyspaces.clone();
        let added = self.database.write(move |tx| {
            let id = key.id.to_be_bytes().to_vec();
            if let Some(stands) = tx.get(&keyspaces.page_keys, &id)? {
                return decode(&id, &stands);
            }
            let stored = [&key.secret.as_bytes()[..], &key.create_time.0.to_be_bytes()].concat();
            tx.put(&keyspaces.page_keys, id, stored);
            Ok(key)
        });
        added.await.map_err(write_failed)?
    }
}

fn decode(id: &[u8], stored: &[u8]) -> Result<PageKey, Error> {
    let key = || {
        let (secret, create_time) = stored.split_first_chunk()?;
        Some(PageKey {
            id: u32::from_be_bytes(id.try_into().ok()?),
            secret: Uuid::from_bytes(*secret),
            create_time: WriteTimestamp(i64::from_be_bytes(create_time.try_into().ok()?)),
        })
    };
    key().ok_or_else(|| Error::DataLoss("a key of page tokens has an unknown form".to_owned()))
}
