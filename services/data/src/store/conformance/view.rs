//! Views: what they show is what the rows of their table say, in both read modes, while the table is written and while they are
//! built.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Clones, all_rows, delete, delete_range, query_of, text, token, unique};
use crate::clock::WriteTimestamp;
use crate::conditional::{Condition, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::key::SortKey;
use crate::mutation::Mutation;
use crate::read::{QueryRequest, ReadMode, ViewRow};
use crate::store::{Consistency, Store};
use crate::table::{KeyParts, NewView, SortKeyType, TableChange, ViewState, WriteMode, parse_views};
use crate::tables::NewTable;
use crate::value::{Attributes, Value};
use crate::view_build::Builder;

/// Longest time until a build must have come to its end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lease of the builders in these checks.
const LEASE: Duration = Duration::from_millis(300);
/// Time until every clone of these checks knows a view.
const SETTLE: Duration = Duration::from_secs(7);
const PARTITIONS: [&str; 3] = ["p", "q", "r"];
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TEAMS: [&str; 3] = ["red", "green", "blue"];

/// Returns the views of these checks: by team and score, and of those that are open by name.
fn views() -> Vec<NewView> {
    let by_team = NewView {
        name: "by_team".to_owned(),
        partition: "lower(team)".to_owned(),
        sort: "score".to_owned(),
        sort_key_type: Some(SortKeyType::Int64),
        ..NewView::default()
    };
    let open = NewView {
        name: "open".to_owned(),
        partition: "'open'".to_owned(),
        sort: "team + '/' + sort_key()".to_owned(),
        filter: "open = true and score >= 2".to_owned(),
        attributes: vec!["team".to_owned()],
        ..NewView::default()
    };
    vec![by_team, open]
}

fn row(team: &str, score: i64, open: bool) -> Attributes {
    [
        ("team".to_owned(), Value::String(team.to_owned())),
        ("score".to_owned(), Value::Int(score)),
        ("open".to_owned(), Value::Bool(open)),
    ]
    .into_iter()
    .collect()
}

fn put(key: &str, attributes: Attributes) -> Mutation {
    Mutation::Put { sort_key: text(key), attributes, ttl: None }
}

async fn viewed<S: Store>(data: &Data<S>, write_mode: WriteMode, views: Vec<NewView>) -> String {
    let name = unique("views");
    let new = NewTable {
        name: name.clone(),
        sort_key_type: SortKeyType::String,
        write_mode,
        default_ttl: None,
        description: String::new(),
        change_feed: None,
        attribute_schema: None,
        views,
    };
    data.create(new).await.unwrap();
    name
}

fn of_view(table: &str, view: &str, partition: &str, read_mode: ReadMode) -> QueryRequest {
    QueryRequest { read_mode, ..query_of(&format!("{table}.{view}"), partition) }
}

/// Returns all rows of a query of a view.
async fn rows_of<S: Store>(data: &Data<S>, mut request: QueryRequest) -> Vec<ViewRow> {
    let mut rows = Vec::new();
    loop {
        let page = data.query_view(request.clone(), Consistency::Quorum).await.unwrap();
        assert_eq!(page.age.is_some(), request.read_mode == ReadMode::Eventual && !page.rows.is_empty());
        rows.extend(page.rows);
        if page.next.is_empty() {
            return rows;
        }
        request.page_token = page.next;
    }
}

/// A row of a view: its place, and what it shows.
type Shown = ((Value, String, String), (i64, Attributes));

fn shown(row: ViewRow) -> Shown {
    let SortKey::Text(key) = row.row.sort_key else { panic!("a text") };
    let place = (row.view_sort_key.unwrap(), row.partition.as_str().to_owned(), key);
    (place, (row.row.write_time.0, row.row.attributes))
}

fn ordered(rows: &[Shown]) -> Vec<Shown> {
    let mut rows = rows.to_vec();
    rows.sort_by(|((a, ap, ak), _), ((b, bp, bk), _)| a.order(b).unwrap().then((ap, ak).cmp(&(bp, bk))));
    rows
}

/// Tells from the rows of a table what its views must show, without the code of views.
async fn expected<S: Store>(data: &Data<S>, table: &str) -> BTreeMap<(&'static str, String), Vec<Shown>> {
    let mut views: BTreeMap<(&'static str, String), Vec<Shown>> = BTreeMap::new();
    for partition in PARTITIONS {
        for row in all_rows(data, query_of(table, partition)).await {
            let SortKey::Text(key) = row.sort_key else { panic!("a text") };
            let get = |name: &str| row.attributes.get(name).cloned();
            let (team, score) = match (get("team"), get("score")) {
                (Some(Value::String(team)), Some(Value::Int(score))) => (team, score),
                _ => continue,
            };
            let at = |sort: Value| (sort, partition.to_owned(), key.clone());
            let write_time = row.write_time.0;
            let all = views.entry(("by_team", team.to_lowercase())).or_default();
            all.push((at(Value::Int(score)), (write_time, row.attributes.clone())));
            if get("open") == Some(Value::Bool(true)) && score >= 2 {
                let only = [("team".to_owned(), Value::String(team.clone()))].into_iter().collect();
                let open = views.entry(("open", "open".to_owned())).or_default();
                open.push((at(Value::String(format!("{team}/{key}"))), (write_time, only)));
            }
        }
    }
    for rows in views.values_mut() {
        *rows = ordered(rows);
    }
    views
}

/// Compares the views with the rows of the table: VERIFIED shows the same; EVENTUAL at least that, and the same if it is `exact`.
async fn compare<S: Store>(data: &Data<S>, table: &str, exact: bool, what: &str) {
    let expected = expected(data, table).await;
    let keys =
        TEAMS.map(|team| ("by_team", team.to_owned())).into_iter().chain([("open", "open".to_owned())]);
    for (view, partition) in keys {
        let wanted = expected.get(&(view, partition.clone())).cloned().unwrap_or_default();
        let read = async |mode| {
            let rows = rows_of(data, of_view(table, view, &partition, mode)).await;
            rows.into_iter().map(shown).collect::<Vec<_>>()
        };
        // EVENTUAL first: VERIFIED removes what is stale.
        let eventual = read(ReadMode::Eventual).await;
        let verified = read(ReadMode::Verified).await;
        assert_eq!(verified, wanted, "{what}: {view} of {partition}");
        assert_eq!(eventual, ordered(&eventual), "{what}: {view} of {partition} in order");
        if exact {
            assert_eq!(eventual, wanted, "{what}: {view} of {partition} as it is");
        } else {
            let places: Vec<_> = eventual.iter().map(|(place, _)| place).collect();
            assert!(wanted.iter().all(|(place, _)| places.contains(&place)), "{what}: {view} of {partition}");
        }
    }
}

fn mutations(rng: &mut Rng) -> Vec<Mutation> {
    let mut keys = KEYS.to_vec();
    rng.shuffle(&mut keys);
    let mut mutations: Vec<Mutation> = keys[..rng.usize(1..4)]
        .iter()
        .map(|key| match rng.u8(0..6) {
            0 => delete(key),
            1 => put(key, [("other".to_owned(), Value::Int(1))].into_iter().collect()),
            _ => {
                let team = TEAMS[rng.usize(..TEAMS.len())];
                let team = if rng.bool() { team.to_uppercase() } else { team.to_owned() };
                put(key, row(&team, rng.i64(0..4), rng.bool()))
            }
        })
        .collect();
    if rng.u8(0..6) == 0 {
        let (one, other) = (KEYS[rng.usize(..6)], KEYS[rng.usize(..6)]);
        mutations.push(delete_range(one.min(other), one.max(other)));
    }
    mutations
}

pub(super) async fn views_follow_random_writes<S: Store>(Clones { here, there }: &Clones<S>) {
    for seed in 0..6 {
        let mut rng = Rng::with_seed(seed);
        let table = viewed(here, WriteMode::LastWriteWins, views()).await;
        let base = WriteTimestamp::now().0 - 60_000_000;
        // Half of the seeds write in order, the others at few timestamps, so that many come late or are equal.
        let in_order = seed % 2 == 0;
        for i in 0..30 {
            let at = if in_order { base + i * 10 } else { base + rng.i64(0..20) };
            let data = if rng.bool() { here } else { there };
            let partition = PARTITIONS[rng.usize(..3)].to_owned();
            data.mutate(&table, partition, mutations(&mut rng), &token(at)).await.unwrap();
            if i % 6 == 5 {
                compare(there, &table, in_order, &format!("seed {seed}, write {i}")).await;
            }
        }
    }
}

pub(super) async fn racing_writes_keep_every_entry<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::LastWriteWins, views()).await;
    let write = async |data: &Data<S>, seed: u64| {
        let mut rng = Rng::with_seed(seed);
        for _ in 0..25 {
            data.mutate(&table, "p".to_owned(), mutations(&mut rng), "").await.unwrap();
        }
    };
    futures::join!(write(here, 1), write(there, 2), write(here, 3), write(there, 4));
    compare(here, &table, false, "after the race").await;
}

pub(super) async fn pages_of_views_are_the_whole<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::LastWriteWins, views()).await;
    for (i, partition) in PARTITIONS.into_iter().enumerate() {
        let puts = KEYS.into_iter().enumerate().map(|(j, key)| {
            let score = i64::try_from((i + j) % 4).unwrap();
            put(key, row(if key < "d" { "red" } else { "blue" }, score, true))
        });
        here.mutate(&table, partition.to_owned(), puts.collect(), "").await.unwrap();
    }
    for mode in [ReadMode::Eventual, ReadMode::Verified] {
        let whole = rows_of(there, of_view(&table, "by_team", "red", mode)).await;
        assert_eq!(whole.len(), 9);
        for page_size in [1, 2, 4] {
            for descending in [false, true] {
                let request = of_view(&table, "by_team", "red", mode);
                let mut rows = rows_of(there, QueryRequest { page_size, descending, ..request }).await;
                if descending {
                    rows.reverse();
                }
                assert_eq!(rows, whole, "{mode:?} {page_size} {descending}");
            }
        }
        let (start, end) = (Some(Value::Int(1)), Some(Value::Int(3)));
        let request = QueryRequest { start, end, ..of_view(&table, "by_team", "red", mode) };
        let scores: BTreeSet<_> = rows_of(there, request.clone())
            .await
            .into_iter()
            .map(|row| shown(row).0.0)
            .map(|score| if let Value::Int(score) = score { score } else { panic!("{score:?}") })
            .collect();
        assert_eq!(scores, BTreeSet::from([1, 2]));
        let counted = there.count_view(request.clone(), Consistency::Quorum).await.unwrap();
        assert_eq!(counted, (rows_of(there, request).await.len(), String::new()));
        let prefix = text("red/b");
        let keys = rows_of(there, QueryRequest { prefix, ..of_view(&table, "open", "open", mode) }).await;
        assert!(!keys.is_empty() && keys.into_iter().all(|row| shown(row).0.2 == "b"));
    }
    let mut request = QueryRequest { page_size: 2, ..of_view(&table, "by_team", "red", ReadMode::Verified) };
    request.page_token = there.query_view(request.clone(), Consistency::Quorum).await.unwrap().next;
    request.partition_key = "blue".to_owned();
    let refused = there.query_view(request, Consistency::Quorum).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "the token of another partition");
}

pub(super) async fn large_writes_keep_views<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::LastWriteWins, views()).await;
    for (round, team) in ["red", "blue", "green"].into_iter().enumerate() {
        let puts = KEYS.into_iter().map(|key| {
            let mut attributes = row(team, i64::try_from(round).unwrap(), true);
            attributes.insert("large".to_owned(), Value::Bytes(vec![7; 40_000].into()));
            put(key, attributes)
        });
        here.mutate(&table, "p".to_owned(), puts.collect(), "").await.unwrap();
        compare(there, &table, true, team).await;
    }
    here.mutate(&table, "p".to_owned(), vec![delete_range("", "")], "").await.unwrap();
    compare(there, &table, true, "after the deletion").await;
}

pub(super) async fn conditional_writes_keep_views<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::Conditional, views()).await;
    let write = async |condition, mutations: Vec<Mutation>| {
        let conditions = vec![(text("a"), condition)];
        let outcome = here.check_and_mutate(&table, "p".to_owned(), conditions, mutations, "").await;
        matches!(outcome.unwrap(), Outcome::Applied { .. })
    };
    assert!(
        write(Condition::Absent, vec![put("a", row("red", 2, true)), put("b", row("blue", 3, true))]).await
    );
    compare(there, &table, true, "put").await;
    assert!(!write(Condition::Absent, vec![put("a", row("green", 2, true))]).await);
    assert!(write(Condition::Exists, vec![put("a", row("blue", 2, true))]).await);
    compare(there, &table, true, "moved").await;
    let increment = there.increment(&table, "p".to_owned(), text("a"), "score".to_owned(), Value::Int(1), "");
    increment.await.unwrap();
    compare(here, &table, true, "incremented").await;
    assert!(write(Condition::Exists, vec![delete("a")]).await);
    compare(there, &table, true, "deleted").await;
    // Several that meet leave every entry that a row has.
    let bump = async |data: &Data<S>, by: i64| {
        for _ in 0..8 {
            let key = text("b");
            data.increment(&table, "p".to_owned(), key, "score".to_owned(), Value::Int(by), "")
                .await
                .unwrap();
        }
    };
    futures::join!(bump(here, 1), bump(there, 2), bump(here, -2));
    compare(there, &table, false, "after the race").await;
}

pub(super) async fn entries_end_with_their_rows<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::LastWriteWins, views()).await;
    let short = |key: &str, seconds| Mutation::Put {
        sort_key: text(key),
        attributes: row("red", 3, true),
        ttl: Some(Duration::from_secs(seconds)),
    };
    let now = WriteTimestamp::now().0;
    here.mutate(&table, "p".to_owned(), vec![short("a", 2), short("b", 900)], &token(now)).await.unwrap();
    let until = Instant::now() + PATIENCE;
    for mode in [ReadMode::Eventual, ReadMode::Verified] {
        let kept = loop {
            let rows = rows_of(there, of_view(&table, "by_team", "red", mode)).await;
            if rows.len() == 1 {
                break rows;
            }
            assert!(Instant::now() < until && rows.len() == 2, "{rows:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(kept[0].row.expire_time, Some(WriteTimestamp(now + 900_000_000)));
    }
    compare(there, &table, true, "after the end").await;
}

/// Adds views to a table.
async fn add_views<S: Store>(data: &Data<S>, table: &str, views: Vec<NewView>) {
    let views = Some(parse_views(views, ViewState::Declared).unwrap());
    data.update_table(table, TableChange { views, ..TableChange::default() }).await.unwrap();
}

pub(super) async fn views_of_old_rows_are_built<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::LastWriteWins, Vec::new()).await;
    let mut rng = Rng::with_seed(7);
    for _ in 0..40 {
        let partition = PARTITIONS[rng.usize(..3)].to_owned();
        here.mutate(&table, partition, mutations(&mut rng), "").await.unwrap();
    }
    add_views(here, &table, views()).await;
    let refused =
        here.query_view(of_view(&table, "open", "open", ReadMode::Verified), Consistency::Quorum).await;
    assert!(matches!(refused, Err(Error::ViewBuilding { .. })), "{refused:?}");
    let builder = |data: &Data<S>| Builder::new(data.clone()).hasty(LEASE, SETTLE);
    let built = std::sync::atomic::AtomicBool::new(false);
    let is_built = || built.load(std::sync::atomic::Ordering::SeqCst);
    let writes = async |data: &Data<S>, seed| {
        let mut rng = Rng::with_seed(seed);
        while !is_built() {
            let partition = PARTITIONS[rng.usize(..3)].to_owned();
            data.mutate(&table, partition, mutations(&mut rng), "").await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let builds = async {
        // The clone that builds is killed twice, each time when it has noted that it is further.
        let mut before = None;
        for data in [here, there] {
            let killed = tokio::time::timeout(PATIENCE, async {
                let progress = async {
                    loop {
                        let now = progress(data, &table).await;
                        if now.is_some() && now != before {
                            return now;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                let building = builder(data);
                tokio::select! {
                    now = progress => now,
                    () = async { while building.round().await.is_ok() && !ready(data, &table).await {} } => None,
                }
            });
            before = killed.await.expect("a build that goes on");
        }
        let until = Instant::now() + PATIENCE;
        while !ready(here, &table).await {
            assert!(Instant::now() < until, "{:?}", progress(here, &table).await);
            builder(here).round().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        built.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    futures::join!(builds, writes(here, 8), writes(there, 9));
    let until = Instant::now() + PATIENCE;
    while !ready(there, &table).await {
        assert!(Instant::now() < until, "the other clone hears of it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    compare(there, &table, false, "built").await;
    assert_eq!(progress(here, &table).await, None, "a build that ended is forgotten");
}

async fn ready<S: Store>(data: &Data<S>, table: &str) -> bool {
    let table = data.table(table, "table").await.unwrap();
    table.views().all(|view| view.state == ViewState::Ready)
}

/// Returns how many places are left in the builds of a table, and the rows that were read; nothing before they have begun.
async fn progress<S: Store>(data: &Data<S>, table: &str) -> Option<Vec<(usize, u64)>> {
    let table = data.table(table, "table").await.unwrap();
    let builds = data.builds(&table).await.unwrap();
    let begun: Vec<_> = builds.values().filter(|build| build.parts > 0).collect();
    let mut places: Vec<_> = begun.iter().map(|build| (build.places.len(), build.rows)).collect();
    places.sort_unstable();
    (!places.is_empty()).then_some(places)
}

pub(super) async fn views_are_added_and_dropped<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = viewed(here, WriteMode::LastWriteWins, views()).await;
    here.mutate(&table, "p".to_owned(), vec![put("a", row("red", 3, true))], "").await.unwrap();
    // The same definition again is the same table, and so are its views.
    let [by_team, open] = <[NewView; 2]>::try_from(views()).unwrap();
    add_views(here, &table, vec![open.clone(), by_team.clone()]).await;
    assert!(ready(here, &table).await);
    let changed = NewView { filter: "score = 3".to_owned(), ..open };
    add_views(here, &table, vec![changed]).await;
    let gone =
        here.query_view(of_view(&table, "by_team", "red", ReadMode::Verified), Consistency::Quorum).await;
    assert!(matches!(gone, Err(Error::ViewNotFound(_))), "{gone:?}");
    let until = Instant::now() + PATIENCE;
    let builder = Builder::new(here.clone()).hasty(LEASE, SETTLE);
    let left = async || here.table(&table, "table").await.unwrap().definition.options.views.len();
    while left().await > 1 || !ready(here, &table).await {
        assert!(Instant::now() < until, "a view that was dropped ends");
        builder.round().await.unwrap();
    }
    let rows = rows_of(here, of_view(&table, "open", "open", ReadMode::Eventual)).await;
    assert_eq!(rows.len(), 1);
    add_views(here, &table, Vec::new()).await;
    while left().await > 0 {
        assert!(Instant::now() < until, "all views end");
        builder.round().await.unwrap();
    }
    there.mutate(&table, "p".to_owned(), vec![put("a", row("blue", 1, false))], "").await.unwrap();
}

pub(super) async fn bad_declarations_are_refused<S: Store>(Clones { here, .. }: &Clones<S>) {
    let declared = |change: fn(&mut NewView)| {
        let mut view = views().remove(0);
        change(&mut view);
        view
    };
    for (views, field) in [
        (vec![declared(|view| view.name = "By".to_owned())], "table.views[0].name"),
        (vec![declared(|view| view.partition = String::new())], "table.views[0].partition"),
        (vec![declared(|view| view.sort = "a +".to_owned())], "table.views[0].sort"),
        (vec![declared(|_| ()), declared(|view| view.filter = "a =".to_owned())], "table.views[1].filter"),
        (vec![declared(|view| view.attributes = vec![String::new()])], "table.views[0].attributes"),
        (vec![declared(|_| ()), declared(|_| ())], "table.views[1].name"),
        (vec![declared(|_| ()); 9], "table.views"),
    ] {
        let new = NewTable {
            name: unique("bad"),
            sort_key_type: SortKeyType::String,
            write_mode: WriteMode::LastWriteWins,
            default_ttl: None,
            description: String::new(),
            change_feed: None,
            attribute_schema: None,
            views,
        };
        match here.create(new).await {
            Err(Error::Invalid(invalid)) => assert_eq!(invalid.field, field, "{invalid}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    let table = viewed(here, WriteMode::LastWriteWins, views()).await;
    let name = here.query_view(of_view(&table, "none", "x", ReadMode::Verified), Consistency::Quorum).await;
    assert!(matches!(name, Err(Error::ViewNotFound(_))), "{name:?}");
    let wide: Vec<Mutation> = (0..90).map(|i| put(&format!("{i:03}"), row("red", 1, true))).collect();
    for round in 0..12 {
        let puts = wide.iter().cloned().map(|put| match put {
            Mutation::Put { sort_key: Some(Value::String(key)), attributes, ttl } => {
                Mutation::Put { sort_key: text(&format!("{round}/{key}")), attributes, ttl }
            }
            other => other,
        });
        here.mutate(&table, "wide".to_owned(), puts.collect(), "").await.unwrap();
    }
    let refused = here.mutate(&table, "wide".to_owned(), vec![delete_range("", "")], "").await;
    assert!(matches!(refused, Err(Error::RangeTooLarge { max: 1000 })), "{refused:?}");
}

fn by_parts(partition: &str, sort: &str, of: Option<SortKeyType>) -> NewView {
    NewView {
        name: "by_parts".to_owned(),
        partition: partition.to_owned(),
        sort: sort.to_owned(),
        sort_key_type: of,
        ..NewView::default()
    }
}

pub(super) async fn values_of_composite_keys_are_keys<S: Store>(Clones { here, there }: &Clones<S>) {
    let composite = SortKeyType::Composite(KeyParts::of_text("STRING, INT64 DESC").unwrap());
    let int = Some(SortKeyType::Int64);
    for (of, view, at) in [
        (composite, by_parts("sort_key()", "", None), "partition"),
        (composite, by_parts("sort_key(3)", "", None), "partition"),
        (composite, by_parts("'a' + lower(sort_key(0))", "", None), "partition"),
        (composite, by_parts("team", "sort_key()", int), "sort"),
        (composite, by_parts("team", "sort_key(1)", Some(composite)), "sort_key_type"),
        (SortKeyType::String, by_parts("sort_key(1)", "", None), "partition"),
        (SortKeyType::None, by_parts("team", "team + sort_key()", None), "sort"),
        (
            composite,
            NewView { filter: "sort_key() = 'a'".to_owned(), ..by_parts("team", "", None) },
            "filter",
        ),
    ] {
        let plain = NewTable::plain(&unique("parts"), of, WriteMode::LastWriteWins);
        let made = here.create(NewTable { views: vec![view.clone()], ..plain.clone() }).await;
        let table = here.create(plain).await.unwrap();
        let views = parse_views(vec![view.clone()], ViewState::Declared);
        let changed = match views {
            Ok(views) => {
                let change = TableChange { views: Some(views), ..TableChange::default() };
                there.update_table(table.definition.name.as_str(), change).await
            }
            Err(invalid) => Err(Error::Invalid(invalid)),
        };
        for refused in [made, changed] {
            let Err(Error::Invalid(invalid)) = refused else { panic!("{view:?}: {refused:?}") };
            assert_eq!(invalid.field, format!("table.views[0].{at}"), "{invalid}");
        }
    }
    let view = NewView {
        filter: "sort_key(1) != 'c'".to_owned(),
        ..by_parts("partition_key() + '/' + sort_key(1)", "sort_key(2)", int)
    };
    let plain = NewTable::plain(&unique("parts"), composite, WriteMode::LastWriteWins);
    let new = NewTable { views: vec![view], ..plain.clone() };
    let made = here.create(new).await.unwrap();
    assert_eq!(there.create(plain).await.unwrap(), made, "views tell no tables apart");
    let name = made.definition.name.as_str();
    let key = |(text, int): (&str, i64)| {
        Some(Value::List([Value::String(text.to_owned()), Value::Int(int)].into_iter().collect()))
    };
    let keys = [("a", 7), ("a", -5), ("b", 3), ("a", 7000), ("c", 1)];
    let puts = keys.map(|at| Mutation::Put { sort_key: key(at), attributes: row("red", 1, true), ttl: None });
    there.mutate(name, "p".to_owned(), puts.to_vec(), "").await.unwrap();
    let shown = async |partition: &str| {
        let rows = rows_of(here, of_view(name, "by_parts", partition, ReadMode::Verified)).await;
        rows.into_iter().map(|row| (row.row.sort_key.into_value(), row.view_sort_key)).collect::<Vec<_>>()
    };
    let of = |ints: &[i64]| Vec::from_iter(ints.iter().map(|int| (key(("a", *int)), Some(Value::Int(*int)))));
    assert_eq!(shown("p/a").await, of(&[-5, 7, 7000]));
    assert_eq!((shown("p/b").await.len(), shown("p/c").await.len()), (1, 0));
    let ended = Mutation::Delete { sort_key: key(("a", 7)) };
    here.mutate(name, "p".to_owned(), vec![ended], "").await.unwrap();
    assert_eq!(shown("p/a").await, of(&[-5, 7000]));
}
