//! Copies of a directory: of a closed database, and of one at an instant, as a snapshot of a file system is.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use shoal_embedded::{Database, repair};

use crate::crash::{self, DIR, PARTS};
use crate::damage::{copy, files, put};

const WRITES: u64 = 200;

#[tokio::test]
async fn copy_of_closed_database_opens() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, copied) = (parent.path().join("data"), parent.path().join("copy"));
    let database = Database::open(&dir).unwrap();
    for key in 0..20 {
        put(&database, "k", key, vec![b'x'; 1000]).await;
    }
    database.close().await;
    let before = files(&dir);
    copy(&dir, &copied);
    assert!(repair(&copied, false).await.unwrap().is_none(), "nothing is wrong with the copy");
    let database = Database::open(&copied).unwrap();
    assert_eq!(database.keyspace("k").unwrap().prefix("").count(), 20);
    put(&database, "k", 20, vec![]).await;
    database.close().await;
    assert!(before == files(&dir), "a copy shares nothing with its source");
    let database = Database::open(&dir).unwrap();
    assert_eq!(database.keyspace("k").unwrap().prefix("").count(), 20);
}

#[test]
fn snapshot_has_every_acknowledged_write() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_writes_until_killed", "--nocapture"])
        .env(DIR, &dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    };
    for snapshot in 0..4 {
        let mut acknowledged = 0;
        let mut seen = 0;
        while seen < WRITES {
            if let Some(number) = lines.next().unwrap().unwrap().strip_prefix("acknowledged ") {
                acknowledged = acknowledged.max(number.parse().unwrap());
                seen += 1;
            }
        }
        // Nothing changes while it is copied.
        signal("-STOP");
        let copied = parent.path().join(format!("snapshot-{snapshot}"));
        copy(&dir, &copied);
        signal("-CONT");
        let last = last_whole(&copied);
        assert!(last >= acknowledged, "snapshot {snapshot}: acknowledged {acknowledged}, found {last}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Returns the last of the writes in a database of the crash test, of which none is missing or torn.
fn last_whole(dir: &Path) -> u64 {
    let database = Database::open(dir).unwrap();
    let stored = crash::numbers(&database);
    let last = stored.last().copied().unwrap_or(0);
    assert_eq!(stored, (1..=last).collect::<Vec<_>>());
    let parts = database.keyspace("parts").unwrap().prefix("").count();
    assert_eq!(parts as u64, last * u64::from(PARTS));
    last
}
