//! Cuts the remains of a crash off the journal, and keeps them: a write that was under way when the process or the machine ended
//! was never answered, but its bytes may be all that is left of it.
//!
//! The engine would cut them off without a word, or refuse to start when only the middle of the write is missing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::journal::Tail;

/// The directory that keeps what was cut off.
pub(crate) const DIRECTORY: &str = "cut";

/// The maximum number of kept files; the oldest one makes room. A file is at most as large as a group.
const FILES_MAX: usize = 16;

/// Cuts each tail off its file, keeps it and says so in the log.
pub(crate) fn cut(dir: &Path, tails: &[Tail]) -> io::Result<()> {
    for tail in tails {
        let (begin, bytes) = (tail.begin, tail.end - tail.begin);
        let journal = tail.path.display();
        match keep(dir, tail) {
            Ok(kept) => tracing::warn!(
                %journal, begin, bytes, kept = %kept.display(),
                "the journal ended in the middle of a write, as after a crash or a power cut: the write was never answered; its \
                 bytes were moved to a file of their own"
            ),
            // They are not worth a database that does not start, for example on a full disk.
            Err(error) => tracing::warn!(
                %journal, begin, bytes, %error,
                "the journal ended in the middle of a write, as after a crash or a power cut: the write was never answered; its \
                 bytes were cut off and could not be kept"
            ),
        }
        let file = File::options().write(true).open(&tail.path)?;
        file.set_len(begin)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Copies the tail to a file of its own, durably.
fn keep(dir: &Path, tail: &Tail) -> io::Result<PathBuf> {
    let kept = dir.join(DIRECTORY);
    fs::create_dir_all(&kept)?;
    make_room(&kept)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let name = tail.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = kept.join(format!("{now:013}-{name}-{}", tail.begin));
    let mut journal = File::open(&tail.path)?;
    journal.seek(SeekFrom::Start(tail.begin))?;
    let mut copy = File::create(&path)?;
    let copied = io::copy(&mut journal.take(tail.end - tail.begin), &mut copy).and_then(|_| copy.sync_all());
    if let Err(error) = copied {
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    File::open(&kept)?.sync_all()?;
    Ok(path)
}

/// Removes the oldest files until one more is not too many. Their names begin with the time.
fn make_room(kept: &Path) -> io::Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(kept)? {
        paths.push(entry?.path());
    }
    paths.sort_unstable();
    for path in paths.iter().take((paths.len() + 1).saturating_sub(FILES_MAX)) {
        fs::remove_file(path)?;
    }
    Ok(())
}
