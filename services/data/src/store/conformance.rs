//! The suite that every store must pass, checked through the service's logic as callers see it. Each check works in tables of
//! its own, so all of them may share an engine.

mod blob;
mod composite;
mod conditional;
mod delete_range;
mod feed;
pub(crate) mod history;
mod page_token;
mod paging;
mod query;
mod row;
mod schema;
mod table;
mod timestamp;
mod ttl;
mod view;
mod visibility;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::read::QueryRequest;
use crate::row::Row;
use crate::store::{Consistency, Store};
use crate::table::{Definition, Options, SortKeyType, Table, TableName, WriteMode};
use crate::value::{Attributes, Value};

/// Makes a table that needs no store.
pub(crate) fn table(name: &str, sort_key_type: SortKeyType) -> Table {
    let definition = Definition {
        name: TableName::parse(name, "name").unwrap(),
        sort_key_type,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
        description: String::new(),
        options: Options::default(),
    };
    Table { definition, id: Uuid::from_u128(7), create_time: WriteTimestamp(1) }
}

/// Two clones on one engine; what one writes the other must show.
pub(crate) struct Clones<S> {
    pub(crate) here: Data<S>,
    pub(crate) there: Data<S>,
}

/// Runs every check.
pub(crate) async fn run<S: Store>(clones: &Clones<S>) {
    table::a_table_is_created_once(clones).await;
    table::racing_creations_agree(clones).await;
    table::new_table_works_on_other_clones(clones).await;
    table::tables_are_listed_by_name(clones).await;
    table::updates_reach_every_clone(clones).await;
    table::updates_at_once_all_stay(clones).await;
    table::a_dropped_table_leaves_nothing(clones).await;
    row::rows_come_back_as_they_were_put(clones).await;
    row::no_sort_key_means_one_row(clones).await;
    timestamp::latest_timestamp_wins_in_any_order(clones).await;
    timestamp::a_delete_wins_a_tie(clones).await;
    timestamp::tied_ends_come_before_content(clones).await;
    timestamp::tied_writes_leave_one_whole(clones).await;
    timestamp::a_repeat_changes_nothing(clones).await;
    timestamp::token_in_milliseconds_writes_nothing(clones).await;
    delete_range::deleted_ranges_hide_older_puts(clones).await;
    delete_range::put_survives_range_delete_beside_it(clones).await;
    ttl::a_row_ends_with_its_ttl(clones).await;
    page_token::clones_agree_on_a_key(clones).await;
    page_token::token_outlives_new_keys(clones).await;
    paging::pages_are_the_whole(clones).await;
    paging::scan_reads_tables_of_each_kind(clones).await;
    paging::scan_ends_when_told(clones).await;
    paging::scan_messages_have_their_limit(clones).await;
    paging::late_scans_keep_their_place(clones).await;
    paging::count_is_as_query_would_be(clones).await;
    query::rows_are_ordered_by_sort_key(clones).await;
    query::range_includes_start_excludes_end(clones).await;
    query::pages_continue_on_another_clone(clones).await;
    query::late_pages_end_early(clones).await;
    query::a_page_ends_at_a_mebibyte(clones).await;
    row::several_rows_are_read_at_once(clones).await;
    feed::a_watch_shows_new_and_old_rows(clones).await;
    feed::applied_conditional_writes_are_shown(clones).await;
    feed::a_partition_is_watched_alone(clones).await;
    feed::refused_range_leaves_nothing(clones).await;
    feed::old_rows_have_few_bytes(clones).await;
    feed::the_largest_record_is_stored(clones).await;
    feed::moving_watch_misses_nothing(clones).await;
    feed::feed_is_switched_on_and_off(clones).await;
    composite::composite_keys_sort_by_their_parts(clones).await;
    composite::composite_keys_take_conditions(clones).await;
    schema::rows_must_fit_the_schema(clones).await;
    schema::schema_is_changed_on_every_clone(clones).await;
    visibility::a_write_is_seen_whole(clones).await;
    visibility::a_page_shows_one_write(clones).await;
    visibility::reads_show_every_answered_write(clones).await;
    conditional::conditions_decide_about_the_write(clones).await;
    conditional::every_sort_key_takes_conditions(clones).await;
    conditional::a_repeat_gets_the_first_answer(clones).await;
    conditional::write_modes_never_mix(clones).await;
    conditional::one_of_racing_creators_wins(clones).await;
    conditional::an_ended_row_is_absent(clones).await;
    conditional::late_locks_hold_their_time(clones).await;
    conditional::a_token_is_of_one_write(clones).await;
    conditional::a_refusal_names_its_condition(clones).await;
    conditional::increments_are_exact(clones).await;
    conditional::increments_keep_the_row(clones).await;
    blob::blobs_come_back_whole(clones).await;
    blob::a_cut_upload_shows_nothing(clones).await;
    blob::replaced_blobs_never_mix(clones).await;
    blob::unnamed_chunks_are_cleared(clones).await;
    blob::a_clock_step_clears_nothing(clones).await;
    blob::a_bad_note_is_passed(clones).await;
    blob::damaged_chunks_are_data_loss(clones).await;
    blob::blobs_keep_their_bounds(clones).await;
}

/// Runs the checks of views, which take long enough to be a test of their own.
pub(crate) async fn run_views<S: Store>(clones: &Clones<S>) {
    view::bad_declarations_are_refused(clones).await;
    view::values_of_composite_keys_are_keys(clones).await;
    view::pages_of_views_are_the_whole(clones).await;
    view::views_follow_random_writes(clones).await;
    view::racing_writes_keep_every_entry(clones).await;
    view::large_writes_keep_views(clones).await;
    view::conditional_writes_keep_views(clones).await;
    view::entries_end_with_their_rows(clones).await;
    view::views_of_old_rows_are_built(clones).await;
    view::views_are_added_and_dropped(clones).await;
}

/// Makes a name or nonce that no other check uses.
fn unique(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}_{}_{count:06}", std::process::id())
}

async fn create<S: Store>(data: &Data<S>, what: &str, of: SortKeyType) -> String {
    let name = unique(what);
    data.create_table(&name, of, WriteMode::LastWriteWins, None).await.unwrap();
    name
}

pub(crate) fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.to_owned()))
}

pub(crate) fn holding(value: &str) -> Attributes {
    [("v".to_owned(), Value::String(value.to_owned()))].into_iter().collect()
}

fn put(key: &str, value: &str) -> Mutation {
    Mutation::Put { sort_key: text(key), attributes: holding(value), ttl: None }
}

fn put_for(key: &str, value: &str, seconds: u64) -> Mutation {
    Mutation::Put { sort_key: text(key), attributes: holding(value), ttl: Some(Duration::from_secs(seconds)) }
}

fn delete(key: &str) -> Mutation {
    Mutation::Delete { sort_key: text(key) }
}

fn delete_range(start: &str, end: &str) -> Mutation {
    let bound = |key: &str| if key.is_empty() { None } else { text(key) };
    Mutation::DeleteRange { start: bound(start), end: bound(end) }
}

fn token(micros: i64) -> String {
    format!("{micros}-{}", unique("n"))
}

/// Returns the time `micros` after a moment that has passed for all checks of this process.
pub(crate) fn moment(micros: i64) -> WriteTimestamp {
    static BASE: OnceLock<i64> = OnceLock::new();
    WriteTimestamp(BASE.get_or_init(|| WriteTimestamp::now().0 - 3_600_000_000) + micros)
}

/// Writes at a [`moment`].
async fn mutate<S: Store>(data: &Data<S>, table: &str, at: i64, mutations: Vec<Mutation>) -> WriteTimestamp {
    mutate_at(data, table, moment(at).0, mutations).await
}

async fn mutate_at<S: Store>(
    data: &Data<S>,
    table: &str,
    at: i64,
    mutations: Vec<Mutation>,
) -> WriteTimestamp {
    data.mutate(table, "p".to_owned(), mutations, &token(at)).await.unwrap()
}

async fn value<S: Store>(data: &Data<S>, table: &str, key: &str) -> Option<String> {
    match data.get(table, "p".to_owned(), text(key), Consistency::Quorum).await {
        Ok(row) => Some(value_of(&row)),
        Err(Error::RowNotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

fn value_of(row: &Row) -> String {
    match row.attributes.iter().next() {
        Some((_, Value::String(text))) => text.clone(),
        other => panic!("{other:?}"),
    }
}

fn request(table: &str) -> QueryRequest {
    QueryRequest { table: table.to_owned(), partition_key: "p".to_owned(), ..QueryRequest::default() }
}

/// Makes a query of all rows of a partition.
pub(crate) fn query_of(table: &str, partition: &str) -> QueryRequest {
    QueryRequest { table: table.to_owned(), partition_key: partition.to_owned(), ..QueryRequest::default() }
}

/// Returns all rows of a query of one clone.
pub(crate) async fn all_rows<S: Store>(data: &Data<S>, mut request: QueryRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    loop {
        let (page, next) = data.query(request.clone(), Consistency::Quorum).await.unwrap();
        rows.extend(page);
        if next.is_empty() {
            return rows;
        }
        request.page_token = next;
    }
}

/// Returns all rows of a query, page by page, each page from the other clone.
async fn all<S: Store>(clones: &Clones<S>, mut request: QueryRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for turn in 0.. {
        let data = if turn % 2 == 0 { &clones.there } else { &clones.here };
        let (page, next) = data.query(request.clone(), Consistency::Quorum).await.unwrap();
        rows.extend(page);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    rows
}

async fn keys<S: Store>(clones: &Clones<S>, request: QueryRequest) -> Vec<Value> {
    let rows = all(clones, request).await;
    rows.into_iter().map(|row| row.sort_key.into_value().unwrap()).collect()
}
