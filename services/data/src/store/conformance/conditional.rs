//! Conditional tables: conditions, repeats, races, and increments.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{
    Clones, all, create, delete, delete_range, holding, put, put_for, request, text, token, unique, value_of,
};
use crate::clock::WriteTimestamp;
use crate::conditional::{Comparison, Condition, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::row::Row;
use crate::store::{Consistency, Store};
use crate::table::{SortKeyType, WriteMode};
use crate::value::{Attributes, Value};

async fn create_conditional<S: Store>(data: &Data<S>, what: &str, of: SortKeyType) -> String {
    let name = unique(what);
    data.create_table(&name, of, WriteMode::Conditional, None).await.unwrap();
    name
}

async fn check<S: Store>(
    data: &Data<S>,
    table: &str,
    conditions: Vec<(&str, Condition)>,
    mutations: Vec<Mutation>,
    token: &str,
) -> Outcome {
    let conditions: Vec<_> = conditions.into_iter().map(|(key, condition)| (text(key), condition)).collect();
    // Writes of other tests of the partition may come first for long, which is for the caller to repeat.
    loop {
        let outcome =
            data.check_and_mutate(table, "p".to_owned(), conditions.clone(), mutations.clone(), token).await;
        match outcome {
            Err(Error::Contended { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            outcome => return outcome.unwrap(),
        }
    }
}

fn now_token() -> String {
    token(WriteTimestamp::now().0)
}

fn equals(value: &str) -> Condition {
    let value = Value::String(value.to_owned());
    Condition::Attribute { name: "v".to_owned(), comparison: Comparison::Equal, value }
}

#[track_caller]
fn applied(outcome: &Outcome) -> WriteTimestamp {
    let Outcome::Applied { write_time, .. } = outcome else { panic!("{outcome:?}") };
    *write_time
}

#[track_caller]
fn refused(outcome: Outcome) -> Vec<Row> {
    let Outcome::Refused { rows, .. } = outcome else { panic!("{outcome:?}") };
    rows
}

async fn strong<S: Store>(data: &Data<S>, table: &str, key: &str) -> Option<Row> {
    match data.get(table, "p".to_owned(), text(key), Consistency::Strong).await {
        Ok(row) => Some(row),
        Err(Error::RowNotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

pub(super) async fn conditions_decide_about_the_write<S: Store>(clones: &Clones<S>) {
    let Clones { here, there } = clones;
    let table = create_conditional(here, "check", SortKeyType::String).await;
    let created = check(here, &table, vec![("a", Condition::Absent)], vec![put("a", "1")], "").await;
    let written = applied(&created);
    let row = strong(there, &table, "a").await.unwrap();
    assert_eq!((value_of(&row), row.write_time), ("1".to_owned(), written));

    let rows = refused(check(there, &table, vec![("a", Condition::Absent)], vec![put("a", "2")], "").await);
    assert_eq!(rows, [row], "the row that is in the way comes back");
    let both = || vec![("a", equals("1")), ("b", Condition::Absent)];
    assert!(applied(&check(there, &table, both(), vec![put("b", "1"), put("c", "1")], "").await) > written);
    let rows = refused(check(here, &table, both(), vec![delete("c"), put("d", "1")], "").await);
    let keys: Vec<_> = rows.iter().map(value_of).collect();
    assert_eq!(keys, ["1", "1", "1"], "a, b and c, and no d");
    assert!(strong(there, &table, "d").await.is_none());

    applied(&check(here, &table, vec![("a", Condition::WrittenAt(written))], vec![put("a", "2")], "").await);
    refused(check(here, &table, vec![("a", Condition::WrittenAt(written))], vec![put("a", "3")], "").await);
    let size = |bytes| Condition::Size { name: "v".to_owned(), comparison: Comparison::Less, bytes };
    refused(check(there, &table, vec![("a", size(1))], vec![delete("a")], "").await);
    applied(&check(there, &table, vec![("a", size(2))], vec![delete("a")], "").await);
    assert!(strong(here, &table, "a").await.is_none());
    applied(&check(here, &table, vec![("a", Condition::Absent)], vec![put("a", "4")], "").await);
    applied(&check(here, &table, vec![], vec![put("a", "5")], "").await);
    let rows = all(clones, request(&table)).await;
    let found: Vec<_> = rows.iter().map(value_of).collect();
    assert_eq!(found, ["5", "1", "1"], "rows only, and not what is remembered of writes");
}

pub(super) async fn every_sort_key_takes_conditions<S: Store>(clones: &Clones<S>) {
    for (of, keys) in [
        (SortKeyType::Int64, vec![Some(Value::Int(-5)), Some(Value::Int(i64::MIN)), Some(Value::Int(7))]),
        (SortKeyType::Bytes, vec![Some(Value::Bytes(vec![0].into())), Some(Value::Bytes(vec![255].into()))]),
        (SortKeyType::None, vec![None]),
    ] {
        let table = create_conditional(&clones.here, "keys", of).await;
        let puts = |value: &str| -> Vec<Mutation> {
            let put = |key: &Option<Value>| Mutation::Put {
                sort_key: key.clone(),
                attributes: holding(value),
                ttl: None,
            };
            keys.iter().map(put).collect()
        };
        let absent: Vec<_> = keys.iter().map(|key| (key.clone(), Condition::Absent)).collect();
        for (clone, expected) in [(&clones.here, true), (&clones.there, false)] {
            let outcome =
                clone.check_and_mutate(&table, "p".to_owned(), absent.clone(), puts("1"), "").await.unwrap();
            assert_eq!(matches!(outcome, Outcome::Applied { .. }), expected, "{of:?}: {outcome:?}");
        }
        assert_eq!(all(clones, request(&table)).await.len(), keys.len(), "{of:?}");
    }
}

pub(super) async fn a_repeat_gets_the_first_answer<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "again", SortKeyType::String).await;
    let token = now_token();
    let write = || vec![put("a", "1"), delete("b")];
    let first = check(here, &table, vec![("a", Condition::Absent)], write(), &token).await;
    applied(&first);
    applied(&check(there, &table, vec![], vec![put("a", "2"), put("b", "2")], "").await);
    for clone in [there, here] {
        let again = check(clone, &table, vec![("a", Condition::Absent)], write(), &token).await;
        assert_eq!(again, first);
    }
    assert_eq!(value_of(&strong(here, &table, "a").await.unwrap()), "2", "it was not applied again");
    assert_eq!(value_of(&strong(here, &table, "b").await.unwrap()), "2");

    let old = super::token(WriteTimestamp::now().0 - 3_700_000_000);
    let refused = here.check_and_mutate(&table, "p".to_owned(), vec![], write(), &old).await;
    let Err(Error::Invalid(invalid)) = refused else { panic!("{refused:?}") };
    assert_eq!(invalid.reason, shoal_kit::reason::TOKEN_IN_THE_PAST, "the first one may be forgotten");
}

pub(super) async fn write_modes_never_mix<S: Store>(Clones { here, .. }: &Clones<S>) {
    let conditional = create_conditional(here, "mode", SortKeyType::String).await;
    let last_write_wins = create(here, "mode", SortKeyType::String).await;
    let put = || vec![put("a", "1")];
    let wrong = |outcome: Result<(), Error>| {
        assert!(matches!(outcome, Err(Error::WrongWriteMode { .. })), "{outcome:?}");
    };
    wrong(here.mutate(&conditional, "p".to_owned(), put(), "").await.map(|_| ()));
    wrong(here.check_and_mutate(&last_write_wins, "p".to_owned(), vec![], put(), "").await.map(|_| ()));
    let one = || Value::Int(1);
    let increment =
        here.increment(&last_write_wins, "p".to_owned(), text("a"), "n".to_owned(), one(), "").await;
    wrong(increment.map(|_| ()));
    let range =
        here.check_and_mutate(&conditional, "p".to_owned(), vec![], vec![delete_range("", "")], "").await;
    assert!(matches!(range, Err(Error::Invalid(_))), "{range:?}");
    let twice = vec![delete("a"), delete("a")];
    let twice = here.check_and_mutate(&conditional, "p".to_owned(), vec![], twice, "").await;
    assert!(matches!(twice, Err(Error::Invalid(_))), "{twice:?}");
}

pub(super) async fn one_of_racing_creators_wins<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "race", SortKeyType::String).await;
    let mut racers = Vec::new();
    for i in 0..12 {
        let (data, table) = (if i % 2 == 0 { here } else { there }.clone(), table.clone());
        racers.push(tokio::spawn(async move {
            let create = vec![put("a", &i.to_string())];
            matches!(
                check(&data, &table, vec![("a", Condition::Absent)], create, "").await,
                Outcome::Applied { .. }
            )
        }));
    }
    let mut winners = Vec::new();
    for (i, racer) in racers.into_iter().enumerate() {
        if racer.await.unwrap() {
            winners.push(i.to_string());
        }
    }
    assert_eq!(winners, [value_of(&strong(here, &table, "a").await.unwrap())]);
}

pub(super) async fn an_ended_row_is_absent<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "ended", SortKeyType::String).await;
    let before = WriteTimestamp::now();
    let token = now_token();
    applied(&check(here, &table, vec![], vec![put_for("a", "1", 1), put_for("b", "1", 5_000)], &token).await);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while strong(there, &table, "a").await.is_some() {
        assert!(std::time::Instant::now() < until, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(WriteTimestamp::now() >= before.plus_seconds(1), "it ended before its time");
    refused(check(there, &table, vec![("a", Condition::Exists)], vec![put("c", "1")], "").await);
    refused(check(there, &table, vec![("b", Condition::Absent)], vec![put("c", "1")], "").await);
    applied(&check(there, &table, vec![("a", Condition::Absent)], vec![put("a", "2")], "").await);
    assert_eq!(value_of(&strong(here, &table, "a").await.unwrap()), "2");
    let end = strong(here, &table, "b").await.unwrap().expire_time.unwrap();
    assert!((before.plus_seconds(5_000)..=WriteTimestamp::now().plus_seconds(5_000)).contains(&end));
}

/// A lock that is taken at last under a token from long before must hold as long as any other.
pub(super) async fn late_locks_hold_their_time<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "lock", SortKeyType::String).await;
    let free = || vec![("lock", Condition::Absent)];
    let old = token(WriteTimestamp::now().0 - 40_000_000);
    applied(&check(here, &table, free(), vec![put("lock", "other")], "").await);
    refused(check(here, &table, free(), vec![put_for("lock", "mine", 30)], &old).await);
    applied(&check(there, &table, vec![], vec![delete("lock")], "").await);
    let written = applied(&check(here, &table, free(), vec![put_for("lock", "mine", 30)], &old).await);
    let row = strong(there, &table, "lock").await.expect("the lock is held");
    assert!(row.expire_time.unwrap() >= written.plus_seconds(30));
    refused(check(there, &table, free(), vec![put_for("lock", "third", 30)], "").await);

    // A row that has ended may be forgotten, and the next write of it comes later all the same.
    let first = check(here, &table, vec![], vec![put_for("short", "1", 1)], "").await;
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while strong(there, &table, "short").await.is_some() {
        assert!(std::time::Instant::now() < until, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let older = token(WriteTimestamp::now().0 - 60_000_000);
    let second =
        check(there, &table, vec![("short", Condition::Absent)], vec![put("short", "2")], &older).await;
    assert!(applied(&second) > applied(&first));
}

/// A token names one write: another request under it is told so, and a repeat is not.
pub(super) async fn a_token_is_of_one_write<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "token", SortKeyType::String).await;
    let token = now_token();
    let free = vec![("a", Condition::Absent)];
    let first = check(here, &table, free.clone(), vec![put("a", "1")], &token).await;
    applied(&first);
    let add = |attribute: &str, delta| {
        let (data, table, token, attribute) =
            (there.clone(), table.clone(), token.clone(), attribute.to_owned());
        async move {
            data.increment(&table, "p".to_owned(), text("a"), attribute, Value::Int(delta), &token).await
        }
    };
    let others = [
        (free.clone(), vec![put("a", "2")]),
        (free.clone(), vec![put("b", "1")]),
        (free.clone(), vec![put_for("a", "1", 5)]),
        (free.clone(), vec![delete("a")]),
        (vec![], vec![put("a", "1")]),
        (vec![("a", Condition::Exists)], vec![put("a", "1")]),
        (vec![("a", equals("1"))], vec![put("a", "1")]),
    ];
    let told = |outcome: Result<(), Error>, what: &str| {
        let Err(Error::Invalid(invalid)) = outcome else { panic!("{what}: {outcome:?}") };
        assert_eq!(invalid.reason, shoal_kit::reason::INVALID_IDEMPOTENCY_TOKEN, "{what}");
    };
    for (conditions, mutations) in others {
        let what = format!("{conditions:?} {mutations:?}");
        let conditions = conditions.into_iter().map(|(key, condition)| (text(key), condition)).collect();
        let other = there.check_and_mutate(&table, "p".to_owned(), conditions, mutations, &token).await;
        told(other.map(drop), &what);
    }
    told(add("n", 1).await.map(drop), "Increment");
    assert_eq!(check(there, &table, free, vec![put("a", "1")], &token).await, first);

    let token = now_token();
    let add = |attribute: &str, delta| {
        let (data, table, token, attribute) =
            (there.clone(), table.clone(), token.clone(), attribute.to_owned());
        async move {
            data.increment(&table, "p".to_owned(), text("a"), attribute, Value::Int(delta), &token).await
        }
    };
    let sum = add("n", 1).await.unwrap();
    told(add("n", 2).await.map(drop), "another delta");
    told(add("m", 1).await.map(drop), "another attribute");
    assert_eq!(add("n", 1).await.unwrap(), sum);
}

pub(super) async fn a_refusal_names_its_condition<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "why", SortKeyType::String).await;
    let large = |key: &str| {
        let bytes = Value::Bytes(vec![7; 900 << 10].into());
        let attributes = [("v".to_owned(), bytes)].into_iter().collect();
        Mutation::Put { sort_key: text(key), attributes, ttl: None }
    };
    for key in ["a", "b", "c"] {
        applied(&check(here, &table, vec![], vec![large(key)], "").await);
    }
    let conditions = vec![
        ("a", Condition::Exists),
        ("b", Condition::Absent),
        ("c", Condition::Absent),
        ("d", Condition::Exists),
    ];
    match check(there, &table, conditions, vec![put("d", "1")], "").await {
        Outcome::Refused { condition, rows, left_out } => {
            assert_eq!((condition, rows.len(), left_out), (1, 2, true), "clients take no larger answer");
        }
        other => panic!("{other:?}"),
    }
    match check(there, &table, vec![("d", Condition::Exists)], vec![put("d", "1")], "").await {
        Outcome::Refused { condition, rows, left_out } => {
            assert_eq!((condition, rows.len(), left_out), (0, 0, false));
        }
        other => panic!("{other:?}"),
    }
}

pub(super) async fn increments_are_exact<S: Store>(Clones { here, there }: &Clones<S>) {
    const TASKS: i64 = 6;
    const EACH: i64 = 8;
    let table = create_conditional(here, "count", SortKeyType::String).await;
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (here, there, table) = (here.clone(), there.clone(), table.clone());
        tasks.push(tokio::spawn(async move {
            let mut sums = Vec::new();
            for turn in 1..=EACH {
                let token = now_token();
                // Each is sent three times by two clones, as a hedged and a repeated call are.
                let send = async |data: &Data<S>| loop {
                    let delta = Value::Int(turn);
                    let sum = data
                        .increment(&table, "p".to_owned(), text("a"), "n".to_owned(), delta, &token)
                        .await;
                    match sum {
                        Err(
                            Error::Contended { .. } | Error::OutcomeUnknown { .. } | Error::ReadFailed { .. },
                        ) => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        sum => return sum.unwrap(),
                    }
                };
                let (first, second) = tokio::join!(send(&here), send(&there));
                let third = send(if task % 2 == 0 { &here } else { &there }).await;
                assert_eq!((&first, &first), (&second, &third), "one answer");
                sums.push(first.1);
            }
            sums
        }));
    }
    let mut sums = BTreeSet::new();
    for task in tasks {
        for sum in task.await.unwrap() {
            let Value::Int(sum) = sum else { panic!("{sum:?}") };
            assert!(sums.insert(sum), "two increments made {sum}");
        }
    }
    let total = TASKS * EACH * (EACH + 1) / 2;
    let row = strong(there, &table, "a").await.unwrap();
    assert_eq!(row.attributes, [("n".to_owned(), Value::Int(total))].into_iter().collect::<Attributes>());
    assert_eq!(sums.last(), Some(&total));
}

pub(super) async fn increments_keep_the_row<S: Store>(Clones { here, there }: &Clones<S>) {
    let table = create_conditional(here, "sum", SortKeyType::String).await;
    applied(&check(here, &table, vec![], vec![put_for("a", "text", 5_000)], "").await);
    let end = strong(here, &table, "a").await.unwrap().expire_time;
    let add = async |name: &str, delta| {
        there.increment(&table, "p".to_owned(), text("a"), name.to_owned(), delta, "").await
    };
    assert_eq!(add("n", Value::Int(-5)).await.unwrap().1, Value::Int(-5));
    assert_eq!(add("d", Value::Double(0.5)).await.unwrap().1, Value::Double(0.5));
    assert_eq!(add("d", Value::Double(0.25)).await.unwrap().1, Value::Double(0.75));
    let row = strong(here, &table, "a").await.unwrap();
    assert_eq!((row.attributes.len(), row.expire_time), (3, end));
    for (name, delta) in [("v", Value::Int(1)), ("n", Value::Double(1.0)), ("n", Value::Int(i64::MIN))] {
        let refused = add(name, delta.clone()).await;
        assert!(matches!(refused, Err(Error::NotIncremented { .. })), "{name} {delta:?}: {refused:?}");
    }
    let refused = add("n", Value::Bool(true)).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}
