//! The plainest store, to compare the real ones with: it forgets nothing, and every read goes through all writes of a
//! partition.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::conditional::{ConditionalWrite, Found, Outcome, Replacement, WriteHash};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::{Change, Write};
use crate::page_key::PageKey;
use crate::row::{Page, PageBuilder, Row};
use crate::store::{
    Build, Consistency, FeedPage, FeedRead, FeedStore, KeyStore, Lookup, Lookups, PartitionPage, Partitions,
    Query, ReadStore, Scan, ScanPage, ScanStore, TableStore, ViewStore, WriteStore,
};
use crate::table::{ChangeFeed, Definition, Table, TableChange, TableName, View};
use crate::view_entry::EntryKey;

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    tables: Arc<Mutex<BTreeMap<TableName, Arc<Table>>>>,
    writes: Arc<Mutex<Vec<Write>>>,
    conditional: Arc<Mutex<HashMap<(Uuid, PartitionKey), Conditional>>>,
    keys: Arc<Mutex<Vec<PageKey>>>,
    keys_away: Arc<AtomicBool>,
}

/// A partition of a conditional table.
#[derive(Debug, Default)]
struct Conditional {
    rows: BTreeMap<SortKey, (WriteTimestamp, Option<bytes::Bytes>)>,
    applied: HashMap<WriteHash, (WriteTimestamp, bytes::Bytes)>,
}

/// Returns what decides between two puts of a row: time, end, cell.
type Rank = (WriteTimestamp, Option<WriteTimestamp>, bytes::Bytes);

impl Model {
    fn rows(&self, table: Uuid, partition: &PartitionKey, range: &SortRange) -> Vec<(SortKey, Rank)> {
        if let Some(partition) = self.conditional.lock().unwrap().get(&(table, partition.clone())) {
            let rows = partition.rows.iter().filter(|(key, _)| holds(range, key));
            let rows =
                rows.filter_map(|(key, (stamp, cell))| Some((key.clone(), (*stamp, None, cell.clone()?))));
            return rows.collect();
        }
        let writes = self.writes.lock().unwrap();
        let ours = || writes.iter().filter(|write| write.table.id == table && write.partition == *partition);
        let mut puts: BTreeMap<SortKey, Rank> = BTreeMap::new();
        for write in ours() {
            for change in &write.changes {
                let Change::Put { sort_key, cell, expire_time } = change else { continue };
                let rank = (write.stamp(), *expire_time, cell.clone());
                let best = puts.entry(sort_key.clone()).or_insert_with(|| rank.clone());
                *best = best.clone().max(rank);
            }
        }
        puts.retain(|key, (stamp, expire_time, _)| {
            let deleted = ours().any(|write| {
                write.changes.iter().any(|change| match change {
                    Change::Put { .. } => false,
                    Change::Delete { sort_key } => sort_key == key && write.stamp() >= *stamp,
                    Change::DeleteRange { range } => holds(range, key) && write.range_stamp() >= *stamp,
                })
            });
            !deleted && holds(range, key) && expire_time.is_none_or(|at| at > WriteTimestamp::now())
        });
        puts.into_iter().collect()
    }
}

impl Model {
    /// Lets the keys of page tokens be found nearby alone, as where a majority of replicas is away.
    pub(crate) fn take_keys_away(&self, away: bool) {
        self.keys_away.store(away, Ordering::SeqCst);
    }

    fn partitions_of(&self, table: Uuid, prefix: &str) -> Vec<PartitionKey> {
        let writes = self.writes.lock().unwrap();
        let ours = writes.iter().filter(|write| write.table.id == table);
        let mut keys: Vec<_> = ours.map(|write| write.partition.clone()).collect();
        keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        keys.dedup();
        keys.retain(|key| key.as_str().starts_with(prefix));
        keys
    }
}

fn holds(range: &SortRange, key: &SortKey) -> bool {
    range.start.as_ref().is_none_or(|start| start <= key) && range.end.as_ref().is_none_or(|end| key < end)
}

impl TableStore for Model {
    async fn create_table(&self, definition: Definition, now: WriteTimestamp) -> Result<Table, Error> {
        let table = Table { definition, id: Uuid::new_v4(), create_time: now };
        self.tables.lock().unwrap().insert(table.definition.name.clone(), Arc::new(table.clone()));
        Ok(table)
    }

    async fn table(&self, name: &TableName) -> Result<Arc<Table>, Error> {
        let tables = self.tables.lock().unwrap();
        tables.get(name).cloned().ok_or_else(|| Error::TableNotFound(name.to_string()))
    }

    async fn update_table(&self, name: &TableName, change: TableChange) -> Result<Table, Error> {
        let mut tables = self.tables.lock().unwrap();
        let table = tables.get_mut(name).ok_or_else(|| Error::TableNotFound(name.to_string()))?;
        let mut changed = Table::clone(table);
        changed.definition = change.applied_to(&changed.definition);
        *table = Arc::new(changed.clone());
        Ok(changed)
    }

    async fn drop_table(&self, name: &TableName, create_time: Option<WriteTimestamp>) -> Result<(), Error> {
        let mut tables = self.tables.lock().unwrap();
        let found = tables.get(name).ok_or_else(|| Error::TableNotFound(name.to_string()))?;
        if create_time.is_some_and(|at| at != found.create_time) {
            return Err(Error::TableChanged(name.to_string()));
        }
        tables.remove(name);
        Ok(())
    }

    async fn tables(&self, after: &str, limit: usize) -> Result<Vec<Table>, Error> {
        let tables = self.tables.lock().unwrap();
        let names = tables.values().filter(|table| table.definition.name.as_str() > after);
        Ok(names.take(limit).map(|table| Table::clone(table)).collect())
    }
}

impl KeyStore for Model {
    async fn page_keys(&self) -> Result<Vec<PageKey>, Error> {
        if self.keys_away.load(Ordering::SeqCst) {
            return Err(Error::ReadFailed { engine: "model", detail: "its keys are away".to_owned() });
        }
        Ok(self.keys.lock().unwrap().clone())
    }

    async fn page_keys_nearby(&self) -> Result<Vec<PageKey>, Error> {
        Ok(self.keys.lock().unwrap().clone())
    }

    async fn add_page_key(&self, key: PageKey) -> Result<PageKey, Error> {
        let mut keys = self.keys.lock().unwrap();
        if let Some(stands) = keys.iter().find(|stands| stands.id == key.id) {
            return Ok(stands.clone());
        }
        keys.push(key.clone());
        Ok(key)
    }
}

impl ReadStore for Model {
    fn achieved(&self, _: &Table, _: Consistency) -> Consistency {
        Consistency::Strong
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Row>, Error> {
        let rows = self.rows(lookup.table.id, &lookup.partition, &SortRange::default());
        match rows.into_iter().find(|(key, _)| *key == lookup.sort_key) {
            Some((key, (stamp, _, cell))) => Row::of_cell(key, &cell, stamp, WriteTimestamp::now()),
            None => Ok(None),
        }
    }

    async fn get_many(&self, lookups: Lookups) -> Result<Vec<Option<Row>>, Error> {
        let Lookups { table, keys, consistency } = lookups;
        let mut rows = Vec::new();
        for (partition, sort_key) in keys {
            rows.push(self.get(Lookup { table: table.clone(), partition, sort_key, consistency }).await?);
        }
        Ok(rows)
    }

    async fn query(&self, query: Query) -> Result<Page, Error> {
        let mut rows = self.rows(query.table.id, &query.partition, &query.range);
        if query.descending {
            rows.reverse();
        }
        let mut page = PageBuilder::new(query.limit, WriteTimestamp::now());
        for (key, (stamp, _, cell)) in rows {
            if !page.offer(key, &cell, stamp)? {
                return Ok(page.finish(true));
            }
        }
        Ok(page.finish(false))
    }
}

impl WriteStore for Model {
    async fn mutate(&self, write: Write) -> Result<(), Error> {
        self.writes.lock().unwrap().push(write);
        Ok(())
    }

    async fn write_conditionally(&self, write: ConditionalWrite) -> Result<Outcome, Error> {
        let mut partitions = self.conditional.lock().unwrap();
        let partition = partitions.entry((write.table.id, write.partition.clone())).or_default();
        if let Some((write_time, applied)) = partition.applied.get(&write.hash()) {
            return write.remembered(*write_time, applied);
        }
        let now = WriteTimestamp::now();
        let found = write.rows.iter().map(|key| match partition.rows.get(key) {
            None => Ok(Found::default()),
            Some((stamp, cell)) => {
                let row = cell.as_ref().map(|cell| Row::of_cell(key.clone(), cell, *stamp, now));
                Ok(Found { row: row.transpose()?.flatten(), last_write: Some(*stamp) })
            }
        });
        let found: Vec<Found> = found.collect::<Result<_, Error>>()?;
        let decision = match write.decide(&found, now)? {
            Ok(decision) => decision,
            Err(condition) => return Ok(ConditionalWrite::refused(condition, found)),
        };
        for (place, replacement) in decision.changes {
            let cell = match replacement {
                Replacement::Put { cell, .. } => Some(cell),
                Replacement::Delete => None,
            };
            partition.rows.insert(write.rows[place].clone(), (decision.write_time, cell));
        }
        let outcome = write.remembered(decision.write_time, &decision.applied)?;
        partition.applied.insert(write.hash(), (decision.write_time, decision.applied));
        Ok(outcome)
    }
}

/// Places of the model are the last key that was seen, after a byte that says that there is one.
impl ScanStore for Model {
    async fn parts(&self, _table: &Table, _prefix: &str, _parts: usize) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![Vec::new()])
    }

    async fn scan(&self, scan: Scan) -> Result<ScanPage, Error> {
        let mut page = ScanPage::default();
        for partition in self.partitions_of(scan.table.id, &scan.prefix) {
            for (key, (stamp, _, cell)) in self.rows(scan.table.id, &partition, &SortRange::default()) {
                let row = Row::of_cell(key, &cell, stamp, WriteTimestamp::now())?;
                page.rows.extend(row.map(|row| (partition.clone(), row)));
            }
        }
        Ok(page)
    }

    async fn partitions(&self, list: Partitions) -> Result<PartitionPage, Error> {
        let keys = self.partitions_of(list.table.id, &list.prefix).into_iter();
        let keys = keys.filter(|key| !self.rows(list.table.id, key, &SortRange::default()).is_empty());
        let mut keys: Vec<_> = keys.filter(|key| key.as_str().as_bytes() > &list.place[..]).collect();
        let more = keys.len() > list.limit;
        keys.truncate(list.limit);
        let last = keys.last().map(|key| key.as_str().as_bytes().to_vec());
        Ok(PartitionPage { keys, next: last.filter(|_| more) })
    }
}

/// The model keeps no feed: nothing is compared with it.
impl FeedStore for Model {
    fn feed_shards(&self, _: &ChangeFeed, _: Option<&PartitionKey>) -> Vec<u16> {
        vec![0]
    }

    fn feed_start(&self, table: &Table) -> Result<i64, Error> {
        Ok(table.create_time.0)
    }

    fn check_places(&self, table: &Table, mut places: impl Iterator<Item = i64>) -> Result<(), Error> {
        let oldest = table.change_feed().map(|feed| feed.oldest(WriteTimestamp::now()));
        match oldest.filter(|oldest| places.any(|place| place < oldest.0)) {
            Some(oldest) => Err(Error::ChangesGone { oldest }),
            None => Ok(()),
        }
    }

    async fn changes(&self, _: FeedRead) -> Result<FeedPage, Error> {
        Err(Error::Internal("the model keeps no feed".to_owned()))
    }
}

/// The model keeps no views: what they have to hold is told from its rows.
impl ViewStore for Model {
    fn view_settle_time(&self) -> Duration {
        Duration::ZERO
    }

    async fn make_view(&self, _: &Table, _: &View) -> Result<(), Error> {
        Ok(())
    }

    async fn drop_view(&self, _: &View) -> Result<(), Error> {
        Ok(())
    }

    async fn add_entries(
        &self,
        _: Arc<Table>,
        _: &View,
        _: Vec<(PartitionKey, Row)>,
    ) -> Result<usize, Error> {
        Ok(0)
    }

    async fn remove_entries(&self, _: &View, _: Vec<(EntryKey, WriteTimestamp)>) -> Result<(), Error> {
        Ok(())
    }

    async fn build(&self, _: Uuid) -> Result<Option<Build>, Error> {
        Ok(None)
    }

    async fn replace_build(&self, _: Uuid, _: Option<Build>, _: Option<Build>) -> Result<bool, Error> {
        Ok(true)
    }
}
