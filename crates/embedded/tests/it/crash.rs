//! kill -9 of a process that acknowledges writes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shoal_embedded::Database;

use crate::Random;

pub(crate) const DIR: &str = "SHOAL_EMBEDDED_CRASH_DIR";

/// A group's other writes, which must be there whenever its number is.
pub(crate) const PARTS: u8 = 5;

/// Kills of a run in CI; `SHOAL_TEST_KILLS=200` for more.
const KILLS: usize = 24;

/// Kills of one database before the next one begins empty.
const KILLS_OF_ONE: usize = 8;

/// The acknowledged writes before a kill are fewer than this.
const WRITES_MAX: u64 = 300;

/// A kill comes at most this long after the last of them.
const DELAY_MICROS_MAX: u64 = 3_000;

#[test]
fn sigkill_loses_and_tears_nothing() {
    let kills = std::env::var("SHOAL_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut random = Random::seeded("sigkill_loses_and_tears_nothing");
    let mut dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0u64;
    let mut total = 0;
    for kill in 0..kills {
        if kill % KILLS_OF_ONE == 0 {
            dir = tempfile::tempdir().unwrap();
            acknowledged = 0;
        }
        let acknowledged_before = acknowledged;
        // Half of them come while the database is opened or first written.
        let count = if random.below(2) == 0 { random.below(4) } else { random.below(WRITES_MAX) };
        let delay = Duration::from_micros(random.below(DELAY_MICROS_MAX));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_writes_until_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref() {
            if seen == count {
                break;
            }
            // The test harness prints lines of its own.
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = acknowledged.max(number.parse().unwrap());
                seen += 1;
            }
        }
        std::thread::park_timeout(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen, count, "the child ended by itself");
        for line in lines {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = acknowledged.max(number.parse().unwrap_or(0));
            }
        }

        if random.below(2) == 0 {
            tear(dir.path(), &mut random);
        }

        let database = Database::open(dir.path()).unwrap();
        let (stored, parts) = (numbers(&database), database.keyspace("parts").unwrap());
        let last = stored.last().copied().unwrap_or(0);
        assert!(last >= acknowledged, "kill {kill}: acknowledged {acknowledged}, found {last}");
        assert_eq!(stored, (1..=last).collect::<Vec<_>>(), "none is missing before one that is there");
        assert_eq!(parts.prefix("").count() as u64, last * u64::from(PARTS), "transactions are whole");
        total += last - acknowledged_before;
        acknowledged = last;
    }
    eprintln!("{kills} kills, {total} writes, none lost");
}

/// Returns the numbers of the writes that are there.
pub(crate) fn numbers(database: &Database) -> Vec<u64> {
    let number = |key: shoal_embedded::Slice| u64::from_be_bytes(key[..].try_into().unwrap());
    database.keyspace("numbers").unwrap().prefix("").map(|pair| number(pair.unwrap().0)).collect()
}

/// Adds the beginning of a write to the newest journal, as a power cut would.
fn tear(dir: &Path, random: &mut Random) {
    let journals = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let journals = journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let Some(journal) = journals.max() else { return };
    let file = File::options().read(true).write(true).open(journal).unwrap();
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes).unwrap();
    let Some(used) = bytes.iter().rposition(|byte| *byte != 0) else { return };
    let group = bytes.windows(4).position(|window| window == b"FJL\x03").unwrap_or(used);
    let torn = 1 + random.below(group as u64) as usize;
    file.write_all_at(&bytes[..torn], used as u64 + 1).unwrap();
}

/// Files that a first start makes, in their order.
const MADE: [&str; 7] =
    ["holder", "ledger", "0.jnl", "version", "keyspaces/0/current", "keyspaces/1", "keyspaces/2"];

#[test]
fn a_killed_first_start_is_repeated() {
    for made in MADE {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_writes_until_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !dir.path().join(made).exists() {
            assert!(Instant::now() < deadline, "{made} was never made");
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let database = Database::open(dir.path()).unwrap_or_else(|error| panic!("after {made}: {error}"));
        database.keyspace("numbers").unwrap();
    }
}

/// Run by the tests above in a process of its own; does nothing otherwise.
#[test]
fn child_writes_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let database = Database::open(dir.as_ref()).unwrap();
        let writers: Vec<_> = (0..8).map(|_| tokio::spawn(write_for_ever(database.clone()))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Each transaction takes the next number, so that a lost one leaves a gap.
async fn write_for_ever(database: Database) {
    let (numbers, parts) = (database.keyspace("numbers").unwrap(), database.keyspace("parts").unwrap());
    loop {
        let (numbers, parts) = (numbers.clone(), parts.clone());
        let number = database
            .write(move |tx| {
                let last = tx.prefix(&numbers, "").next_back().map(|pair| pair.unwrap().0);
                let number = last.map_or(0, |key| u64::from_be_bytes(key[..].try_into().unwrap())) + 1;
                for part in 0..PARTS {
                    tx.put(&parts, [&number.to_be_bytes()[..], &[part]].concat(), "x");
                }
                tx.put(&numbers, number.to_be_bytes(), "x");
                number
            })
            .await
            .unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}
