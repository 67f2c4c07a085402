//! Disks that fill up and fail: a refused write was not done, reads go on, and writes succeed again as soon as the disk allows,
//! in the same process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shoal_embedded::{Database, Error, Keyspace};

const PATIENCE: Duration = Duration::from_secs(30);
const DIR: &str = "SHOAL_EMBEDDED_LIMITED_DIR";

/// A small file system in memory.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts a disk. Returns `None`, and says so, without the right to mount, which a container may not give.
    fn mount(size: &str) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], dir.path());
        if !mounted {
            eprintln!("\n*** SKIPPED: cannot mount a tmpfs; run as root ***\n");
            return None;
        }
        Some(Disk(dir))
    }

    fn grow(&self, size: &str) {
        assert!(mount(&["-o", &format!("remount,size={size}")], self.0.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    Command::new("mount")
        .args(arguments)
        .arg(at)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

async fn put(database: &Database, keyspace: &Keyspace, key: u32, bytes: usize) -> Result<(), Error> {
    let keyspace = keyspace.clone();
    // What repeats itself would be stored packed.
    let mut seed = u64::from(key) + 1;
    let random = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    });
    let value: Vec<u8> = random.take(bytes).collect();
    database.write(move |tx| tx.put(&keyspace, key.to_be_bytes(), value)).await
}

fn keys(keyspace: &Keyspace) -> Vec<u32> {
    let key = |pair: Result<(shoal_embedded::Slice, _), Error>| {
        u32::from_be_bytes(pair.unwrap().0[..].try_into().unwrap())
    };
    keyspace.prefix("").map(key).collect()
}

async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn writes_resume_once_disk_has_room() {
    let Some(disk) = Disk::mount("96m") else { return };
    let dir = disk.0.path().join("d");
    let database = Database::open(&dir).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let key = acknowledged.len() as u32;
        match put(&database, &keyspace, key, 500_000).await {
            Ok(()) => acknowledged.push(key),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 500, "never full");
    };
    assert!(matches!(refused, Error::Full(_)), "{refused:?}");
    assert!(refused.to_string().contains("MiB are free"), "{refused}");
    for _ in 0..20 {
        let again = put(&database, &keyspace, u32::MAX, 1).await;
        assert!(matches!(again, Err(Error::Full(_))), "{again:?}");
    }
    let inner = keyspace.clone();
    let only_reads = database.write(move |tx| tx.get(&inner, 0u32.to_be_bytes()).unwrap().is_some()).await;
    assert!(only_reads.unwrap(), "what writes nothing needs no room");
    assert_eq!(keys(&keyspace), acknowledged, "reads go on, and nothing that was refused is there");
    assert!(database.ready().unwrap_err().contains("is full"));

    disk.grow("400m");
    eventually("it is ready again by itself", async || database.ready().ok()).await;
    put(&database, &keyspace, acknowledged.len() as u32, 500_000).await.unwrap();
    acknowledged.push(acknowledged.len() as u32);
    database.close().await;
    drop(keyspace);
    let database = Database::open(&dir).unwrap();
    assert_eq!(keys(&database.keyspace("k").unwrap()), acknowledged);
}

/// A child that may write files of so many bytes only, as on a disk of which nobody says that it is full.
struct Limited {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Limited {
    fn start(dir: &Path) -> Limited {
        // The signal would end it; the refusal of the write is what is wanted.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "failing_disk::child_writes_as_told", "--nocapture"])
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Limited { child, lines }
    }

    /// The child's answer to a command.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let found =
            self.lines.by_ref().find_map(|line| Some(line.unwrap().strip_prefix("answer ")?.to_owned()));
        found.unwrap()
    }

    fn limit(&self, bytes: &str) {
        let (pid, limit) = (self.child.id().to_string(), format!("--fsize={bytes}:unlimited"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn only_tried_writes_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Limited::start(dir.path());
    let mut acknowledged = Vec::new();
    for key in 0..50 {
        assert_eq!(child.ask(&format!("put {key}")), "ok");
        acknowledged.push(key.to_string());
    }
    child.limit("1000");
    let first = child.ask("put 1000");
    assert!(first.starts_with("unknown"), "it was tried: {first}");
    let mut certain = Vec::new();
    for key in 1001..1020u32 {
        let refused = child.ask(&format!("put {key}"));
        match refused.split(' ').next() {
            Some("full") => certain.push(key),
            // The files were opened again meanwhile, and it was tried.
            first => assert_eq!(first, Some("unknown"), "{refused}"),
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(certain.len() > 10, "what is not tried is not unknown: {certain:?}");
    assert_eq!(child.ask("ready").split(' ').next(), Some("no"));
    let found = child.ask("keys");
    assert!(
        acknowledged.iter().all(|key| found.split(',').any(|found| found == key)),
        "reads go on: {found}"
    );
    child.limit("unlimited");
    let deadline = Instant::now() + PATIENCE;
    while child.ask("put 2000") != "ok" {
        assert!(Instant::now() < deadline, "never written again");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(child.ask("ready"), "yes");
    acknowledged.push("2000".to_owned());
    let found = child.ask("keys");
    assert!(acknowledged.iter().all(|key| found.split(',').any(|found| found == key)), "{found}");
    drop(child);
    let database = Database::open(dir.path()).unwrap();
    let stored = keys(&database.keyspace("k").unwrap());
    assert!(acknowledged.iter().all(|key| stored.contains(&key.parse().unwrap())), "{stored:?}");
    assert!(stored.iter().all(|key| !certain.contains(key)), "what was refused is not there: {stored:?}");
}

/// Run by the test above in a process of its own; does nothing otherwise.
#[test]
fn child_writes_as_told() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let database = Database::open(dir.as_ref()).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let answer = match line.split_once(' ') {
            Some(("put", key)) => {
                match runtime.block_on(put(&database, &keyspace, key.parse().unwrap(), 5_000)) {
                    Ok(()) => "ok".to_owned(),
                    Err(Error::Engine(error)) => format!("unknown {error:?}"),
                    Err(Error::Full(why)) => format!("full {why}"),
                    Err(Error::Reopening) => "full for a moment".to_owned(),
                    Err(error) => format!("{error:?}"),
                }
            }
            _ if line == "ready" => {
                database.ready().map_or_else(|why| format!("no {why}"), |()| "yes".to_owned())
            }
            _ => keys(&keyspace).iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        println!("answer {answer}");
    }
}
