//! A file of targets, read again every second. A bad file keeps the old list and is warned about once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::{Poke, publish};
use crate::source::parse_file;
use crate::target::Target;

/// How often the file is read. Its content is compared, not only its time: two writes within one tick of a file
/// system's clock carry the same time.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest file that is read: 1024 lines with room for comments.
const BYTES_MAX: u64 = 256 * 1024;

/// Follows `path` until the last receiver is gone.
pub(super) async fn follow(path: PathBuf, poke: Poke, sender: &watch::Sender<Arc<[Target]>>) {
    let mut seen: Option<Result<String, String>> = None;
    loop {
        let now = read(&path).await.map_err(|error| error.to_string());
        if seen.as_ref() != Some(&now) {
            match now
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|text| parse_file(text).map_err(|e| e.to_string()))
            {
                Ok(targets) => {
                    let count = targets.len();
                    if publish(sender, targets) {
                        tracing::info!(path = %path.display(), count, "targets read");
                    }
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "target file refused; the old list stays");
                }
            }
            seen = Some(now);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = poke.poked() => {
                // A poke is a hint that comes with every failed connection: never faster than ten a second.
                tokio::time::sleep(INTERVAL / 10).await;
            }
            () = sender.closed() => return,
        }
    }
}

async fn read(path: &Path) -> io::Result<String> {
    let file = tokio::fs::File::open(path).await?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("longer than {BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))
}
