//! Reads the engine's journal before the engine does, without changing it. The engine treats everything after the first
//! unreadable group as the remains of a crash, cuts it off, and starts with less.
//!
//! The format is the engine's (version 3): a batch is a start (count of items, sequence number), the items, and an end (checksum
//! of the items, magic bytes). Every group of this crate has one item in the keyspace of [`crate::commit`]: its number and the
//! sequence number of the previous group, so that a missing group is noticed anywhere in the journal.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::commit::{self, Commit};
use crate::trouble::Trouble;

pub(crate) const EXTENSION: &str = "jnl";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = *b"FJL\x03";

/// Zeros to compare with: the unwritten part of a journal file, which is most of a young one, is zero.
const ZEROS: [u8; 4096] = [0; 4096];

const BUFFER_BYTES: usize = 256 * 1024;

/// A group that is whole in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) commit: Commit,
    /// The engine's sequence number of the group.
    pub(crate) seqno: u64,
}

impl Group {
    /// Returns whether no group is missing between `last` and this one. Of the first one in the journal nothing is known.
    fn follows(self, last: Option<Group>) -> bool {
        let Commit { number, previous_seqno } = self.commit;
        let follows =
            last.is_none_or(|last| last.commit.number + 1 == number && last.seqno == previous_seqno);
        // Nothing is before the first.
        follows && (self.seqno > previous_seqno || number == 1)
    }
}

/// The contents of all journal files together.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) first: Option<Group>,
    pub(crate) last: Option<Group>,
    /// The file that ends the journal, and the byte at which its whole groups end.
    pub(crate) end: String,
    /// What files hold behind their whole groups: the remains of a crash, if nothing is missing.
    pub(crate) tails: Vec<Tail>,
}

/// Bytes behind the last whole group of a journal file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) path: PathBuf,
    pub(crate) begin: u64,
    /// The byte behind the last one that is not zero.
    pub(crate) end: u64,
}

impl Journal {
    /// Reads all files of the journal in `dir`. `commits` is the number of the keyspace that counts the groups.
    pub(crate) fn read(dir: &Path, commits: u64) -> Result<Journal, Trouble> {
        let mut journal = Journal::default();
        let files = files(dir)?;
        if files.is_empty() {
            return Err(Trouble::damaged("its journal (*.jnl) is missing"));
        }
        for pair in files.windows(2) {
            if pair[0].0 + 1 != pair[1].0 {
                return Err(Trouble::damaged(format!(
                    "its journal file {}.{EXTENSION} is missing",
                    pair[0].0 + 1
                )));
            }
        }
        for (id, path) in files {
            journal.add(&format!("{id}.{EXTENSION}"), &path, commits)?;
        }
        Ok(journal)
    }

    fn add(&mut self, name: &str, path: &Path, commits: u64) -> Result<(), Trouble> {
        let mut reader = Reader::open(path)?;
        loop {
            let at = reader.position;
            let Some(batch) = reader.batch(commits)? else {
                if reader.has_group_behind(at, commits)? {
                    return Err(Trouble::damaged(format!(
                        "its journal file {name} is damaged at byte {at}, and has more behind it"
                    )));
                }
                self.end = format!("{name} at byte {at}");
                let written = reader.written_until(at)?;
                if written > at {
                    self.tails.push(Tail { path: path.to_owned(), begin: at, end: written });
                }
                return Ok(());
            };
            let Some(commit) = batch.commit else { continue };
            let group = Group { commit, seqno: batch.seqno };
            if !group.follows(self.last) {
                return Err(Trouble::damaged(format!(
                    "its journal file {name} has at byte {at} a group that does not follow the one before"
                )));
            }
            self.first.get_or_insert(group);
            self.last = Some(group);
        }
    }
}

/// Cuts the journal in `dir` before the first write that is damaged or missing, and removes the files behind it. `commits` is the
/// number of the keyspace that counts the groups, if it is known.
pub(crate) fn cut_to_whole(dir: &Path, commits: Option<u64>) -> io::Result<()> {
    let counted = commits.is_some();
    // No keyspace has this number.
    let commits = commits.unwrap_or(u64::MAX);
    let mut last = None;
    let mut whole = true;
    for (_, path) in files(dir)? {
        if !whole {
            fs::remove_file(&path)?;
            continue;
        }
        let mut reader = Reader::open(&path)?;
        let end = loop {
            let at = reader.position;
            let Some(batch) = reader.batch(commits)? else {
                // With a count the next file tells whether something is missing.
                whole = counted || reader.written_until(at)? == at;
                break at;
            };
            let group = batch.commit.map(|commit| Group { commit, seqno: batch.seqno });
            if group.is_some_and(|group| !group.follows(last)) {
                whole = false;
                break at;
            }
            last = group.or(last);
        };
        File::options().write(true).open(&path)?.set_len(end)?;
    }
    Ok(())
}

/// Returns the journal's files in the order of their numbers. The engine writes to the last one.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        // The engine refuses any other name by itself.
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        files.extend(id.map(|id| (id, path)));
    }
    files.sort_unstable_by_key(|(id, _)| *id);
    Ok(files)
}

/// A batch whose checksum is right.
struct Batch {
    seqno: u64,
    commit: Option<Commit>,
}

struct Reader {
    file: BufReader<File>,
    position: u64,
    length: u64,
    body: Vec<u8>,
}

impl Reader {
    fn open(path: &Path) -> io::Result<Reader> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Reader {
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            position: 0,
            length,
            body: Vec::new(),
        })
    }

    /// Reads the batch that begins here; `None` if it is not whole.
    fn batch(&mut self, commits: u64) -> io::Result<Option<Batch>> {
        let Some([START]) = self.array()? else { return Ok(None) };
        let Some(count) = self.array()?.map(u32::from_le_bytes) else { return Ok(None) };
        let Some(seqno) = self.array()?.map(u64::from_le_bytes) else { return Ok(None) };
        let mut batch = Batch { seqno, commit: None };
        let mut hash = Xxh3::new();
        for _ in 0..count {
            let Some([tag]) = self.array()? else { return Ok(None) };
            hash.update(&[tag]);
            let whole = match tag {
                ITEM => self.item(commits, &mut hash, &mut batch.commit)?,
                CLEAR => self.bytes(8)?.map(|keyspace| hash.update(keyspace)).is_some(),
                _ => false,
            };
            if !whole {
                return Ok(None);
            }
        }
        let Some([END]) = self.array()? else { return Ok(None) };
        let Some(checksum) = self.array()?.map(u64::from_le_bytes) else { return Ok(None) };
        let ended = self.array()? == Some(MAGIC) && checksum == hash.digest();
        Ok(ended.then_some(batch))
    }

    /// Reads an item behind its tag. Returns false if the item is not whole.
    fn item(&mut self, commits: u64, hash: &mut Xxh3, commit: &mut Option<Commit>) -> io::Result<bool> {
        // The kind of value, its compression, the keyspace, the lengths of the key, the value, and the value as it is stored.
        let Some(head) = self.array::<20>()? else { return Ok(false) };
        let [_, _, k0, k1, k2, k3, k4, k5, k6, k7, l0, l1, _, _, _, _, s0, s1, s2, s3] = head;
        let keyspace = u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]);
        let key_bytes = usize::from(u16::from_le_bytes([l0, l1]));
        let stored_bytes = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        hash.update(&head);
        let Some(body) = self.bytes(key_bytes + stored_bytes)? else { return Ok(false) };
        hash.update(body);
        let (key, value) = body.split_at(key_bytes);
        if keyspace == commits && key == commit::KEY {
            *commit = Commit::decode(value);
        }
        Ok(true)
    }

    fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        Ok(self.bytes(N)?.and_then(|bytes| bytes.try_into().ok()))
    }

    /// Reads the next `count` bytes; `None` if the file has fewer.
    fn bytes(&mut self, count: usize) -> io::Result<Option<&[u8]>> {
        if self.length.saturating_sub(self.position) < count as u64 {
            return Ok(None);
        }
        self.body.resize(count, 0);
        self.file.read_exact(&mut self.body)?;
        self.position += count as u64;
        Ok(Some(&self.body))
    }

    fn seek(&mut self, position: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }

    /// Returns the byte behind the last one after `position` that is not zero; `position` if there is none.
    fn written_until(&mut self, position: u64) -> io::Result<u64> {
        self.seek(position)?;
        let mut end = position;
        loop {
            let buffer = self.file.fill_buf()?;
            if buffer.is_empty() {
                return Ok(end);
            }
            if let Some(last) = last_written(buffer) {
                end = self.position + last as u64 + 1;
            }
            let used = buffer.len();
            self.file.consume(used);
            self.position += used as u64;
        }
    }

    /// Returns whether a whole group begins after `position`. A crash leaves none: each group is on the disk before the next
    /// one is written.
    fn has_group_behind(&mut self, position: u64, commits: u64) -> io::Result<bool> {
        self.seek(position)?;
        let mut matched = 0;
        loop {
            let buffer = self.file.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            if last_written(buffer).is_none() {
                matched = 0;
                let used = buffer.len();
                self.file.consume(used);
                self.position += used as u64;
                continue;
            }
            let mut used = 0;
            for byte in buffer {
                used += 1;
                // No byte occurs twice in it.
                matched = match *byte {
                    byte if byte == MAGIC[matched] => matched + 1,
                    byte if byte == MAGIC[0] => 1,
                    _ => 0,
                };
                if matched == MAGIC.len() {
                    break;
                }
            }
            self.file.consume(used);
            self.position += used as u64;
            if matched == MAGIC.len() {
                matched = 0;
                let at = self.position;
                if self.batch(commits)?.is_some_and(|batch| batch.commit.is_some()) {
                    return Ok(true);
                }
                self.seek(at)?;
            }
        }
    }
}

/// Returns the place of the last byte that is not zero.
fn last_written(bytes: &[u8]) -> Option<usize> {
    // Whole chunks are compared at once: most of a young journal is zero.
    let mut chunks = bytes.chunks(ZEROS.len()).enumerate();
    let (at, chunk) = chunks.rfind(|(_, chunk)| *chunk != &ZEROS[..chunk.len()])?;
    Some(at * ZEROS.len() + chunk.iter().rposition(|byte| *byte != 0)?)
}
