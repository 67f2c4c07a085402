//! Options of a table beyond its keys: what its writes do besides. Their stored form may grow; a table that has any is of a layout
//! that earlier releases refuse, because they would leave it out.

use std::time::Duration;

use prost::Message as _;
use shoal_kit::{Invalid, reason};

use crate::clock::WriteTimestamp;
use crate::table::schema::{AttributeSchema, StoredSchema};
use crate::table::view::{self, StoredView, View};

/// Shortest time for which changes are kept, and the default.
const RETENTION_SECONDS_MIN: u32 = 24 * 3600;
/// Longest time for which changes are kept.
const RETENTION_SECONDS_MAX: u32 = 14 * 24 * 3600;
/// Time by which a feed begins before its table is there: clocks of other clones may be behind by as much.
const SINCE_SLACK_MICROS: i64 = 60_000_000;
/// Number of shards of a new change feed.
const SHARDS: u16 = 4;

/// Options of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// The change feed, if the table has one.
    pub(crate) change_feed: Option<ChangeFeed>,
    /// The attributes that rows may have, if the table says it.
    pub(crate) attribute_schema: Option<AttributeSchema>,
    /// The views, also those that end.
    pub(crate) views: Vec<View>,
}

/// Change feed of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChangeFeed {
    /// Set if changes also hold the rows that were there before.
    pub(crate) old_rows: bool,
    /// The seconds for which changes are kept.
    pub(crate) retention_seconds: u32,
    /// The number of shards that partitions are spread over.
    pub(crate) shards: u16,
    /// The time from which on writes are in the feed.
    pub(crate) since: WriteTimestamp,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    change_feed: Option<StoredFeed>,
    #[prost(message, repeated, tag = "2")]
    views: Vec<StoredView>,
    #[prost(message, optional, tag = "3")]
    attribute_schema: Option<StoredSchema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredFeed {
    #[prost(bool, tag = "1")]
    old_rows: bool,
    #[prost(uint32, tag = "2")]
    retention_seconds: u32,
    #[prost(uint32, tag = "3")]
    shards: u32,
    #[prost(int64, tag = "4")]
    since_micros: i64,
}

impl Options {
    /// Returns the stored form; empty for a table without options.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let change_feed = self.change_feed.map(|feed| StoredFeed {
            old_rows: feed.old_rows,
            retention_seconds: feed.retention_seconds,
            shards: feed.shards.into(),
            since_micros: feed.since.0,
        });
        let attribute_schema = self.attribute_schema.as_ref().map(AttributeSchema::stored);
        let views = self.views.iter().map(View::stored).collect();
        Stored { change_feed, views, attribute_schema }.encode_to_vec()
    }

    /// Reads the stored form; none if it is none.
    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
        let Stored { change_feed, views, attribute_schema } = Stored::decode(stored).ok()?;
        let change_feed = match change_feed {
            None => None,
            Some(feed) => Some(ChangeFeed {
                old_rows: feed.old_rows,
                retention_seconds: feed.retention_seconds,
                shards: u16::try_from(feed.shards).ok().filter(|shards| *shards > 0)?,
                since: WriteTimestamp(feed.since_micros),
            }),
        };
        let attribute_schema = match attribute_schema {
            None => None,
            Some(stored) => Some(AttributeSchema::of_stored(stored)?),
        };
        let views = views.into_iter().map(View::of_stored).collect::<Option<_>>()?;
        Some(Self { change_feed, attribute_schema, views })
    }

    /// Returns the differences of `existing` to these options.
    pub(crate) fn difference(&self, existing: &Self) -> Vec<String> {
        // When a feed began and its shards are no choice of a caller.
        let said = |options: &Self| options.change_feed.map(|feed| (feed.old_rows, feed.retention_seconds));
        let text = match said(existing) {
            None => "no change_feed".to_owned(),
            Some((old_rows, seconds)) => format!("change_feed of {seconds} s, old_rows {old_rows}"),
        };
        // Views are changed by UpdateTable, so they tell no definitions apart.
        let mut differences = if said(self) == said(existing) { Vec::new() } else { vec![text] };
        if self.attribute_schema != existing.attribute_schema {
            let is = if existing.attribute_schema.is_some() { "another" } else { "no" };
            differences.push(format!("{is} attribute_schema"));
        }
        differences
    }

    /// Replaces the views: those that are declared alike stay, others end.
    pub(super) fn replace_views(&mut self, wanted: &[View]) {
        self.views = view::replaced(&self.views, wanted);
    }
}

impl ChangeFeed {
    /// Makes the feed of a table that gets one at `now`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the retention is shorter or longer than it may be.
    pub(crate) fn parse(
        old_rows: bool,
        retention: Option<Duration>,
        now: WriteTimestamp,
    ) -> Result<Self, Invalid> {
        let seconds = retention.map_or(u64::from(RETENTION_SECONDS_MIN), |retention| retention.as_secs());
        let range = RETENTION_SECONDS_MIN..=RETENTION_SECONDS_MAX;
        let seconds = u32::try_from(seconds).ok().filter(|seconds| range.contains(seconds));
        let Some(retention_seconds) = seconds else {
            return Err(Invalid::new(
                reason::INVALID_RETENTION,
                "table.change_feed.retention",
                format!("must be {RETENTION_SECONDS_MIN} to {RETENTION_SECONDS_MAX} seconds"),
            ));
        };
        let since = WriteTimestamp(now.0 - SINCE_SLACK_MICROS);
        Ok(Self { old_rows, retention_seconds, shards: SHARDS, since })
    }

    /// Returns the feed as it begins at `now` at a table that is there, whose writes before were not recorded.
    #[must_use]
    pub(crate) fn begun_at(self, now: WriteTimestamp) -> Self {
        Self { since: now, ..self }
    }

    /// Returns this feed with what a caller may choose of another one. Changes that a shorter retention has ended are not kept by
    /// a longer one.
    pub(super) fn changed_to(self, to: Self) -> Self {
        let kept = WriteTimestamp(to.since.0 - i64::from(self.retention_seconds) * 1_000_000);
        let since =
            if to.retention_seconds > self.retention_seconds { self.since.max(kept) } else { self.since };
        Self { since, shards: self.shards, ..to }
    }

    /// Returns the oldest place from which on every change is still kept at `now`.
    pub(crate) fn oldest(&self, now: WriteTimestamp) -> WriteTimestamp {
        WriteTimestamp(now.0 - i64::from(self.retention_seconds) * 1_000_000).max(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_decode_as_encoded() {
        let now = WriteTimestamp(1_800_000_000_000_000);
        let feed = ChangeFeed::parse(true, Some(Duration::from_secs(90_000)), now).unwrap();
        let options = Options { change_feed: Some(feed), ..Options::default() };
        assert_eq!(Options::decode(&options.encode()), Some(options.clone()));
        assert!(Options::default().encode().is_empty());
        assert_eq!(options.difference(&Options::default()), ["no change_feed"]);
        let later = ChangeFeed { since: WriteTimestamp(now.0 + 1), shards: 9, ..feed };
        assert!(options.difference(&Options { change_feed: Some(later), ..Options::default() }).is_empty());
    }

    #[test]
    fn longer_retention_keeps_nothing_that_ended() {
        let day = Duration::from_secs(24 * 3600);
        let feed = |days, now| ChangeFeed::parse(false, Some(day * days), WriteTimestamp(now)).unwrap();
        let began = 100_000_000_000_000;
        let later = began + 40 * 24 * 3600 * 1_000_000;
        let longer = feed(1, began).changed_to(feed(14, later).begun_at(WriteTimestamp(later)));
        assert_eq!(
            (longer.retention_seconds, longer.since.0),
            (14 * 24 * 3600, later - 24 * 3600 * 1_000_000)
        );
        let shorter = feed(14, began).changed_to(feed(1, later).begun_at(WriteTimestamp(later)));
        assert_eq!((shorter.retention_seconds, shorter.since), (24 * 3600, feed(14, began).since));
    }

    #[test]
    fn a_day_is_the_least_retention() {
        let now = WriteTimestamp(100_000_000_000_000);
        for seconds in [0, 24 * 3600 - 1, 15 * 24 * 3600, u64::MAX] {
            assert!(ChangeFeed::parse(false, Some(Duration::from_secs(seconds)), now).is_err(), "{seconds}");
        }
        let feed = ChangeFeed::parse(false, None, now).unwrap();
        assert_eq!(feed.oldest(now).0, now.0 - SINCE_SLACK_MICROS, "it holds nothing from before it began");
        let later = WriteTimestamp(now.0 + 90_000_000_000);
        assert_eq!(later.0 - feed.oldest(later).0, 24 * 3600 * 1_000_000);
    }
}
