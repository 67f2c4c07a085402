//! Files that are damaged, cut or missing at a start: what was acknowledged is there, or the start is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use shoal_embedded::{Database, OpenError};
use tempfile::TempDir;

const GROUPS: u32 = 12;
pub(crate) const JOURNAL: &str = "0.jnl";
pub(crate) const LEDGER: &str = "ledger";

pub(crate) async fn put(database: &Database, keyspace: &str, key: u32, value: Vec<u8>) {
    let keyspace = database.keyspace(keyspace).unwrap();
    database.write(move |tx| tx.put(&keyspace, key.to_be_bytes(), value)).await.unwrap();
}

/// A database of two keyspaces with a group for each key, closed.
async fn written() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(dir.path()).unwrap();
    database.keyspace("other").unwrap();
    for key in 0..GROUPS {
        put(&database, "k", key, vec![b'x'; 100]).await;
    }
    database.close().await;
    // A second start cuts off the room that was never written, which makes copies small.
    Database::open(dir.path()).unwrap().close().await;
    dir
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file but the one that names its holder.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if !path.ends_with("holder") {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// Opens a copy of `dir` after `damage`: the refusal, if it is refused; all of it is there otherwise.
fn opened_after(dir: &Path, damage: impl FnOnce(&Path)) -> Option<String> {
    let copied = tempfile::tempdir().unwrap();
    copy(dir, copied.path());
    damage(copied.path());
    match Database::open(copied.path()) {
        Ok(database) => {
            assert_eq!(database.keyspace("k").unwrap().prefix("").count(), GROUPS as usize);
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// The refusal of a copy of `dir` after `damage`, which has changed nothing and comes again.
#[track_caller]
fn refused(dir: &Path, damage: impl FnOnce(&Path)) -> String {
    let copied = tempfile::tempdir().unwrap();
    copy(dir, copied.path());
    damage(copied.path());
    let before = files(copied.path());
    let mut texts = [(), ()].map(|()| match Database::open(copied.path()) {
        Err(error @ OpenError::Damaged { .. }) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(database) => {
            let found = database.keyspace("k").unwrap().prefix("").count();
            panic!("started with {found} of {GROUPS}")
        }
    });
    assert!(before == files(copied.path()), "a refused start changes nothing");
    for part in ["restore a copy", "move it away", copied.path().to_str().unwrap()] {
        assert!(texts[0].contains(part), "{:?} does not say {part:?}", texts[0]);
    }
    assert_eq!(texts[0], texts[1]);
    std::mem::take(&mut texts[0])
}

pub(crate) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

pub(crate) fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Bytes of the journal that were written.
pub(crate) fn used(dir: &Path) -> u64 {
    let bytes = fs::read(dir.join(JOURNAL)).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

#[tokio::test]
async fn cut_or_missing_journal_is_refused() {
    let dir = written().await;
    let dir = dir.path();
    assert!(refused(dir, |dir| fs::remove_file(dir.join(JOURNAL)).unwrap()).contains("journal"));
    let used = used(dir);
    for length in [used / 2, used * 3 / 4, used - 1] {
        let text = refused(dir, |dir| cut(&dir.join(JOURNAL), length));
        assert!(text.contains(JOURNAL), "{text}");
    }
    // What an empty journal lacks is known once the tables are open.
    for length in [0, 1, 40] {
        let text = opened_after(dir, |dir| cut(&dir.join(JOURNAL), length)).unwrap();
        assert!(text.contains(&format!("0 of the {GROUPS} groups")), "{text}");
    }
    let text = opened_after(dir, |dir| {
        cut(&dir.join(JOURNAL), 0);
        cut(&dir.join(JOURNAL), 64 << 20);
    });
    assert!(text.unwrap().contains(&format!("0 of the {GROUPS} groups")));
}

#[tokio::test]
async fn flipped_journal_bytes_lose_no_group() {
    let dir = written().await;
    let dir = dir.path();
    let used = used(dir);
    for at in (0..used).filter(|at| *at < 120 || at % 7 == 0 || used - at < 40) {
        let text = opened_after(dir, |dir| flip(&dir.join(JOURNAL), at));
        assert!(text.as_ref().is_none_or(|text| text.contains("is damaged")), "byte {at}: {text:?}");
        let last_seqno = text.is_some() || used - at > 100;
        assert!(last_seqno, "byte {at}: only the last group's place in the order may change unseen");
    }
}

/// The bytes of the first whole group, as a crash could leave them at the end of the journal.
fn group(dir: &Path) -> Vec<u8> {
    let mut bytes = fs::read(dir.join(JOURNAL)).unwrap();
    let end = bytes.windows(4).position(|window| window == b"FJL\x03").unwrap();
    bytes.truncate(end + 4);
    bytes
}

/// What was cut off the journals of `dir`, in order.
fn cut_off(dir: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(dir.join("cut")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[tokio::test]
async fn torn_last_write_is_cut_and_kept() {
    let dir = written().await;
    let (used, whole) = (used(dir.path()), group(dir.path()));
    let mut torn: Vec<_> =
        [1, 5, 13, 20, whole.len() - 1].iter().map(|length| whole[..*length].to_vec()).collect();
    // A power cut may leave the end of a write and not its middle.
    torn.push([&whole[..30], &[0; 4], &whole[34..]].concat());
    for tail in torn {
        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        let journal = File::options().write(true).open(copied.path().join(JOURNAL)).unwrap();
        journal.write_all_at(&tail, used).unwrap();
        journal.set_len(used + 100_000).unwrap();
        for _ in 0..2 {
            let database = Database::open(copied.path()).unwrap_or_else(|error| panic!("{tail:?}: {error}"));
            assert_eq!(database.keyspace("k").unwrap().prefix("").count(), GROUPS as usize);
            database.close().await;
            let kept = tail[..=tail.iter().rposition(|byte| *byte != 0).unwrap()].to_vec();
            assert_eq!(cut_off(copied.path()), [kept]);
        }
    }
}

#[tokio::test]
async fn kept_tails_are_bounded() {
    let dir = written().await;
    for tail in 1..=20 {
        let journal = File::options().write(true).open(dir.path().join(JOURNAL)).unwrap();
        journal.write_all_at(&[tail], used(dir.path())).unwrap();
        drop(Database::open(dir.path()).unwrap());
    }
    let kept = cut_off(dir.path());
    assert_eq!(kept, (5..=20).map(|tail| vec![tail]).collect::<Vec<_>>(), "the newest stay");
}

#[tokio::test]
async fn a_damaged_beginning_spares_the_rest() {
    let dir = written().await;
    for at in [0, 1, 13, 20, 40] {
        let text = refused(dir.path(), |dir| flip(&dir.join(JOURNAL), at));
        assert!(text.contains("damaged at byte 0"), "{text}");
    }
    let text = refused(dir.path(), |dir| {
        let file = File::options().write(true).open(dir.join(JOURNAL)).unwrap();
        file.write_all_at(&[0; 1000], 0).unwrap();
    });
    assert!(text.contains("damaged at byte 0"), "{text}");
}

#[tokio::test]
async fn missing_or_damaged_ledger_is_refused() {
    let dir = written().await;
    let dir = dir.path();
    assert!(refused(dir, |dir| fs::remove_file(dir.join(LEDGER)).unwrap()).contains("ledger"));
    for length in [0, 10, 4096, 8192, 8200] {
        assert!(refused(dir, |dir| cut(&dir.join(LEDGER), length)).contains("ledger"), "{length}");
    }
    assert!(refused(dir, |dir| flip(&dir.join(LEDGER), 8195)).contains("ledger"));
    for slot in [0, 4096] {
        assert_eq!(
            opened_after(dir, |dir| flip(&dir.join(LEDGER), slot + 10)),
            None,
            "the other slot stands"
        );
    }
}

#[tokio::test]
async fn missing_keyspace_or_list_is_refused() {
    let dir = written().await;
    let dir = dir.path();
    let keyspaces = dir.join("keyspaces");
    for entry in fs::read_dir(&keyspaces).unwrap() {
        let id = entry.unwrap().file_name();
        let keyspace = Path::new("keyspaces").join(id);
        refused(dir, |dir| fs::remove_dir_all(dir.join(&keyspace)).unwrap());
        refused(dir, |dir| fs::remove_file(dir.join(&keyspace).join("current")).unwrap());
        refused(dir, |dir| cut(&dir.join(&keyspace).join("current"), 9));
        for at in 0..24 {
            refused(dir, |dir| flip(&dir.join(&keyspace).join("current"), at));
        }
        let version = fs::read_dir(dir.join(&keyspace)).unwrap().map(|entry| entry.unwrap().file_name());
        let version = version.filter_map(|name| name.into_string().ok()).find(|name| name.starts_with('v'));
        let version = keyspace.join(version.unwrap());
        refused(dir, |dir| fs::remove_file(dir.join(&version)).unwrap());
        for at in (0..fs::metadata(dir.join(&version)).unwrap().len()).step_by(11) {
            refused(dir, |dir| flip(&dir.join(&version), at));
        }
    }
    refused(dir, |dir| fs::remove_dir_all(dir.join("keyspaces")).unwrap());
    refused(dir, |dir| fs::remove_file(dir.join("version")).unwrap());
}

/// Values that are not stored packed.
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let random = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    random.take(bytes / 8).flatten().collect()
}

pub(crate) fn journals(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut journals: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect();
    journals.sort();
    journals
}

/// Writes until `done` says so of the directory, once more to what is the newest journal then, and closes. Returns how many keys.
pub(crate) async fn fill(dir: &Path, done: impl Fn(&Path) -> bool) -> u32 {
    let database = Database::open(dir).unwrap();
    let mut keys = 0;
    let mut is_done = false;
    while !is_done {
        assert!(keys < 400, "the engine takes no other journal");
        is_done = done(dir);
        put(&database, "k", keys, noise(keys, 2 << 20)).await;
        keys += 1;
    }
    database.close().await;
    keys
}

#[tokio::test]
async fn missing_journal_among_several_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fill(dir, |dir| journals(dir).len() == 2).await;
    let journals = journals(dir);
    assert_eq!(journals.len(), 2, "the first one has what is in no table");
    for journal in journals {
        // Opening changes files, so each look is at links of its own.
        let copied = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
        link(dir, copied.path());
        fs::remove_file(copied.path().join(journal.file_name().unwrap())).unwrap();
        let refused = Database::open(copied.path());
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "without {journal:?}: {refused:?}");
    }
}

#[tokio::test]
async fn removed_journals_are_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let keys = fill(dir, |dir| dir.join("1.jnl").exists() && !dir.join(JOURNAL).exists()).await;
    for _ in 0..2 {
        let database = Database::open(dir).unwrap();
        assert_eq!(database.keyspace("k").unwrap().prefix("").count(), keys as usize);
        database.close().await;
    }
}

/// The files of a database that is closed, under another name.
fn link(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            link(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).unwrap();
        }
    }
}
