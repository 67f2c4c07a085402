//! Builds of views: the rows that a table had before a view are added to it in the background. A clone that builds a view holds a
//! lease on it, and notes after some steps how far it is; when the lease runs out another clone goes on from there.
//!
//! A view goes through these states, each of which any clone brings about: declared (its hidden table is made), building (every
//! write keeps it; once all clones know that, the table is scanned), ready; and when it is dropped, dropping (once no clone keeps it
//! any more, its hidden table is dropped).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::store::{Build, Consistency, Scan, Store};
use crate::table::{BEHIND_HIDDEN, Table, TableChange, View, ViewState};

/// Interval at which a clone looks for views to build; up to half as much again is added by chance.
const EVERY: Duration = Duration::from_secs(10);
/// Time for which a clone that builds holds a view without saying so again.
const LEASE: Duration = Duration::from_secs(30);
/// Interval at which a clone that builds notes how far it is, and holds the view for another [`LEASE`].
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// Parts that a table is divided into for a build.
const PARTS: usize = 32;
/// Tables that are listed at once.
const BATCH: usize = 500;

/// A clone that builds views.
#[derive(Debug, Clone)]
pub(crate) struct Builder<S> {
    data: Data<S>,
    id: Uuid,
    lease: Duration,
    checkpoint_every: Duration,
    settle: Duration,
}

/// Builds views until dropped.
pub(crate) async fn build_views_forever<S: Store>(data: Data<S>) {
    let builder = Builder::new(data);
    loop {
        if let Err(error) = builder.round().await {
            metrics::counter!("shoal_data_view_build_failures_total").increment(1);
            tracing::warn!(%error, "building views failed; it is tried again");
        }
        let pause = EVERY.mul_f64(1.0 + fastrand::f64() / 2.0);
        let _ = tokio::time::timeout(pause, builder.data.views_changed.notified()).await;
    }
}

impl<S: Store> Data<S> {
    /// Returns the builds of a table's views that are not ready, by their ids.
    ///
    /// # Errors
    /// Errors of the store.
    pub(crate) async fn builds(&self, table: &Table) -> Result<HashMap<Uuid, Build>, Error> {
        let mut builds = HashMap::new();
        for view in table.views().filter(|view| view.state != ViewState::Ready) {
            builds.extend(self.store.build(view.id).await?.map(|build| (view.id, build)));
        }
        Ok(builds)
    }
}

impl<S: Store> Builder<S> {
    /// Builds the views of a store.
    pub(crate) fn new(data: Data<S>) -> Self {
        let settle = data.store.view_settle_time();
        Self { data, id: Uuid::new_v4(), lease: LEASE, checkpoint_every: CHECKPOINT_EVERY, settle }
    }

    /// Holds views for `lease` alone, and notes its place after each step.
    #[cfg(test)]
    pub(crate) fn hasty(self, lease: Duration, settle: Duration) -> Self {
        Self { lease, settle: self.settle.min(settle), checkpoint_every: Duration::ZERO, ..self }
    }

    /// Looks once at all views, and does what is to be done with each that no other clone holds.
    ///
    /// # Errors
    /// Errors of the store: of the listing, or the last of those that a view met.
    pub(crate) async fn round(&self) -> Result<(), Error> {
        let (mut after, mut outcome) = (BEHIND_HIDDEN.to_owned(), Ok(()));
        loop {
            let tables = self.data.store.tables(&after, BATCH).await?;
            let Some(last) = tables.last() else { return outcome };
            after = last.definition.name.to_string();
            for table in tables {
                for view in table.definition.options.views.clone() {
                    match self.advance(&table, view).await {
                        // Another clone did it first, or the table was dropped.
                        Ok(()) | Err(Error::TableNotFound(_)) => {}
                        Err(error) => outcome = Err(error),
                    }
                }
            }
        }
    }

    /// Brings a view as far as it can come.
    async fn advance(&self, table: &Table, mut view: View) -> Result<(), Error> {
        if view.state == ViewState::Declared {
            self.data.store.make_view(table, &view).await?;
            self.note(table, &view, Some(ViewState::Building)).await?;
            view.state = ViewState::Building;
        }
        match view.state {
            ViewState::Building => self.build(table, &view).await,
            ViewState::Dropping => self.end(table, &view).await,
            ViewState::Declared | ViewState::Ready => Ok(()),
        }
    }

    async fn note(&self, table: &Table, view: &View, state: Option<ViewState>) -> Result<(), Error> {
        let change = TableChange { view_states: vec![(view.id, state)], ..TableChange::default() };
        self.data.store.update_table(&table.definition.name, change).await.map(drop)
    }

    /// Takes hold of a view, for some time more than the lease. Returns its build, unless another clone holds it.
    async fn take(&self, view: &View, more: Duration) -> Result<Option<Build>, Error> {
        let found = self.data.store.build(view.id).await?;
        let now = WriteTimestamp::now();
        let ours = |build: &Build| build.owner == self.id.as_bytes();
        if found.as_ref().is_some_and(|build| !ours(build) && build.leased_until > now.0) {
            return Ok(None);
        }
        let build = self.held(found.clone().unwrap_or_default(), more);
        let taken = self.data.store.replace_build(view.id, found, Some(build.clone())).await?;
        Ok(taken.then_some(build))
    }

    fn held(&self, build: Build, more: Duration) -> Build {
        let until = i64::try_from((self.lease + more).as_micros()).unwrap_or(i64::MAX / 4);
        let leased_until = WriteTimestamp::now().0.saturating_add(until);
        Build { owner: self.id.as_bytes().to_vec(), leased_until, ..build }
    }

    /// Drops the hidden table of a view, once no write keeps it.
    async fn end(&self, table: &Table, view: &View) -> Result<(), Error> {
        let Some(build) = self.take(view, self.settle).await? else { return Ok(()) };
        tokio::time::sleep(self.settle).await;
        self.data.store.drop_view(view).await?;
        self.note(table, view, None).await?;
        self.data.store.replace_build(view.id, Some(build), None).await.map(drop)
    }

    /// Builds a view, or goes on with what another clone has begun.
    async fn build(&self, table: &Table, view: &View) -> Result<(), Error> {
        let Some(mut saved) = self.take(view, self.settle).await? else { return Ok(()) };
        if saved.parts == 0 {
            // From now on every clone's writes keep the view, and a write that did not has ended.
            tokio::time::sleep(self.settle).await;
            let places = self.data.store.parts(table, "", PARTS).await?;
            let parts = u32::try_from(places.len()).unwrap_or(u32::MAX);
            let Some(begun) = self.save(view, &saved, Build { parts, places, ..saved.clone() }).await? else {
                return Ok(());
            };
            saved = begun;
        }
        let shared = Arc::new(table.clone());
        let (mut build, mut noted, mut seen) = (saved.clone(), Instant::now(), None);
        while let Some(place) = build.places.first().cloned() {
            let (table, prefix, consistency) = (shared.clone(), String::new(), Consistency::Quorum);
            let scan = Scan { table, prefix, place, consistency, seen, until: None };
            let page = self.data.store.scan(scan).await?;
            seen = page.seen;
            let rows = page.rows.len() as u64;
            build.entries += self.data.store.add_entries(shared.clone(), view, page.rows).await? as u64;
            build.rows += rows;
            metrics::counter!("shoal_data_view_build_rows_total").increment(rows);
            match page.next {
                Some(next) => build.places[0] = next,
                None => drop(build.places.remove(0)),
            }
            if noted.elapsed() >= self.checkpoint_every || build.places.is_empty() {
                let Some(again) = self.save(view, &saved, build).await? else {
                    tracing::info!(view = %view.name, "another clone goes on with the build of a view");
                    return Ok(());
                };
                (saved, build, noted) = (again.clone(), again, Instant::now());
            }
        }
        self.note(table, view, Some(ViewState::Ready)).await?;
        tracing::info!(table = %table.definition.name, view = %view.name, rows = saved.rows, "a view is built");
        self.data.store.replace_build(view.id, Some(saved), None).await.map(drop)
    }

    /// Notes how far a build is, and holds it for another lease. Returns nothing if another clone holds it.
    async fn save(&self, view: &View, found: &Build, build: Build) -> Result<Option<Build>, Error> {
        let build = self.held(build, Duration::ZERO);
        let saved = self.data.store.replace_build(view.id, Some(found.clone()), Some(build.clone())).await?;
        Ok(saved.then_some(build))
    }
}
