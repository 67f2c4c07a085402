//! What is kept of a damaged database when its operator accepts the loss.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use shoal_embedded::{Database, OpenError, repair};
use tempfile::TempDir;

use crate::damage::{JOURNAL, LEDGER, cut, files, fill, flip, journals, put, used};

const GROUPS: u32 = 12;
const KEYS: &str = "keys.toml";

/// A closed database in `data` of a directory of its own: two keyspaces, a group for each key, and a file of somebody else.
async fn written() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let database = Database::open(&dir).unwrap();
    put(&database, "other", 0, vec![b'y'; 10]).await;
    for key in 1..GROUPS {
        put(&database, "k", key, vec![b'x'; 100]).await;
    }
    database.close().await;
    fs::write(dir.join(KEYS), "secret").unwrap();
    (parent, dir)
}

/// Repairs `dir`, and returns how many pairs each keyspace has in the database that opens then.
async fn repaired(dir: &Path) -> BTreeMap<String, u64> {
    let before = files(dir);
    let found = repair(dir, false).await.unwrap().unwrap();
    assert!(found.aside.is_none());
    assert!(before == files(dir), "saying what can be kept changes nothing");
    let done = repair(dir, true).await.unwrap().unwrap();
    assert_eq!((&done.problem, &done.kept), (&found.problem, &found.kept));
    let aside = done.aside.unwrap();
    let kept_aside =
        files(&aside).into_iter().map(|(path, bytes)| (dir.join(path.strip_prefix(&aside).unwrap()), bytes));
    assert!(before == kept_aside.collect::<BTreeMap<_, _>>(), "the damaged directory is kept as it was");
    assert!(repair(dir, true).await.unwrap().is_none(), "nothing is wrong any more");
    let left = fs::read_dir(dir.parent().unwrap()).unwrap().count();
    assert_eq!(left, 2, "nothing else is left beside it");
    let database = Database::open(dir).unwrap();
    for kept in &done.kept {
        let found = database.keyspace(&kept.keyspace).unwrap().prefix("").map(Result::unwrap).count();
        assert_eq!(found as u64, kept.pairs);
    }
    put(&database, "k", 999, vec![]).await;
    database.close().await;
    done.kept.into_iter().map(|kept| (kept.keyspace, kept.pairs)).collect()
}

#[tokio::test]
async fn writes_before_a_damaged_one_are_kept() {
    let (_parent, dir) = written().await;
    flip(&dir.join(JOURNAL), used(&dir) / 2);
    let found = repair(&dir, false).await.unwrap().unwrap();
    assert!(found.problem.contains("damaged at byte"), "{}", found.problem);
    assert_eq!(found.acknowledged, Some(u64::from(GROUPS)));
    let kept = repaired(&dir).await;
    assert!((3..9).contains(&kept["k"]), "{kept:?}");
    assert_eq!(kept["other"], 1);
    assert_eq!(fs::read_to_string(dir.join(KEYS)).unwrap(), "secret", "what others keep there stays");
    let database = Database::open(&dir).unwrap();
    let keys = database.keyspace("k").unwrap().prefix("").map(|pair| pair.unwrap().0[3]).collect::<Vec<_>>();
    let expected = (1..=kept["k"] as u8).chain([231]).collect::<Vec<_>>();
    assert_eq!(keys, expected, "the first ones, and the one written since");
}

#[tokio::test]
async fn every_kind_of_damage_is_accepted() {
    type Damage = fn(&Path);
    let damages: [(Damage, u64); 7] = [
        (|dir| fs::remove_file(dir.join(JOURNAL)).unwrap(), 0),
        (|dir| cut(&dir.join(JOURNAL), used(dir) - 1), 10),
        (|dir| fs::remove_file(dir.join(LEDGER)).unwrap(), 11),
        (|dir| cut(&dir.join(LEDGER), 100), 11),
        (|dir| fs::remove_file(dir.join("version")).unwrap(), 11),
        (|dir| fs::remove_dir_all(dir.join("keyspaces")).unwrap(), 0),
        (
            |dir| {
                let file = File::options().write(true).open(dir.join(JOURNAL)).unwrap();
                file.write_all_at(&[0; 40], 0).unwrap();
            },
            0,
        ),
    ];
    for (i, (damage, expected)) in damages.into_iter().enumerate() {
        let (_parent, dir) = written().await;
        damage(&dir);
        let refused = Database::open(&dir).unwrap_err().to_string();
        assert!(refused.contains(&format!("shoal repair {}", dir.display())), "{refused}");
        let kept = repaired(&dir).await;
        assert_eq!(kept.get("k").copied().unwrap_or_default(), expected, "damage {i}");
    }
}

#[tokio::test]
async fn lost_keyspace_leaves_the_others() {
    let (_parent, dir) = written().await;
    // The engine's own is 0 and the count of groups 1.
    let other = dir.join("keyspaces/2");
    fs::remove_dir_all(other).unwrap();
    let found = repair(&dir, false).await.unwrap().unwrap();
    assert_eq!(found.missing, ["other"]);
    assert_eq!(repaired(&dir).await, BTreeMap::from([("k".to_owned(), u64::from(GROUPS) - 1)]));
}

#[tokio::test]
async fn pairs_around_a_damaged_table_are_kept() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let keys = fill(&dir, |dir| journals(dir).len() == 2).await;
    let tables = files(&dir).into_keys().filter(|path| path.parent().unwrap().ends_with("tables"));
    let table = tables.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    flip(&table, fs::metadata(&table).unwrap().len() / 2);
    let found = repair(&dir, false).await.unwrap().unwrap();
    assert!(found.problem.contains("a table is damaged"), "{}", found.problem);
    assert!(found.kept.iter().any(|kept| kept.torn));
    let kept = repaired(&dir).await;
    assert!((u64::from(keys) / 2..u64::from(keys)).contains(&kept["k"]), "{kept:?} of {keys}");
}

#[tokio::test]
async fn sound_database_is_left_alone() {
    let (parent, dir) = written().await;
    let before = files(&dir);
    assert!(repair(&dir, true).await.unwrap().is_none());
    assert!(before == files(&dir));
    let empty = parent.path().join("empty");
    for missing in [parent.path(), &empty] {
        let error = repair(missing, true).await.unwrap_err();
        assert!(error.to_string().contains("no database is in it"), "{error}");
    }
    let _held = Database::open(&dir).unwrap();
    let error = repair(&dir, true).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}
