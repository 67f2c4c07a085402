//! Reads a file of targets every second. A bad file keeps the old list and is warned about once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::{ReResolution, publish};
use crate::discovery::source::parse_file;
use crate::discovery::target::Target;

/// The interval between two reads of the file. The content is compared too, not only the time: two writes within one tick of a
/// file system's clock carry the same time.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest file that is read: 1024 lines with room for comments.
const BYTES_MAX: u64 = 256 * 1024;

/// Follows `path` until the last receiver is gone.
pub(super) async fn follow(
    path: PathBuf,
    re_resolution: ReResolution,
    sender: &watch::Sender<Arc<[Target]>>,
) {
    let mut watched = Watched { path, seen: None };
    loop {
        watched.look(sender).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = re_resolution.requested() => {
                // A request comes with every failed connection: the file is read at most ten times a second for it.
                tokio::time::sleep(INTERVAL / 10).await;
            }
            () = sender.closed() => return,
        }
    }
}

struct Watched {
    path: PathBuf,
    /// The text last read, or the error: it is logged once, not every second.
    seen: Option<Result<String, String>>,
}

impl Watched {
    /// Reads the file and publishes its targets if they are new and valid.
    async fn look(&mut self, sender: &watch::Sender<Arc<[Target]>>) {
        let now = read(&self.path).await.map_err(|error| error.to_string());
        if self.seen.as_ref() == Some(&now) {
            return;
        }
        let targets =
            now.as_ref().map_err(Clone::clone).and_then(|text| parse_file(text).map_err(|e| e.to_string()));
        let path = self.path.display();
        match targets {
            Ok(targets) => {
                let count = targets.len();
                if publish(sender, targets) {
                    tracing::info!(%path, count, "targets read");
                }
            }
            Err(error) => match sender.borrow().len() {
                0 => {
                    tracing::warn!(%path, error, "target file is invalid; no target is known until it is valid");
                }
                targets => {
                    tracing::warn!(%path, error, targets, "target file is invalid; the last valid list is kept");
                }
            },
        }
        self.seen = Some(now);
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        path: tempfile::TempPath,
        watched: Watched,
        sender: watch::Sender<Arc<[Target]>>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
            let watched = Watched { path: path.to_path_buf(), seen: None };
            Fixture { path, watched, sender: watch::Sender::new(Arc::from([])) }
        }

        async fn look(&mut self) -> Vec<String> {
            self.watched.look(&self.sender).await;
            self.sender.borrow().iter().map(Target::to_string).collect()
        }

        async fn write(&mut self, text: &str) -> Vec<String> {
            std::fs::write(&self.path, text).unwrap();
            self.look().await
        }
    }

    #[tokio::test]
    async fn sees_change_within_one_clock_tick() {
        let mut file = Fixture::new();
        assert_eq!(file.write("127.0.0.1:1\n").await, ["127.0.0.1:1"]);
        assert_eq!(file.write("127.0.0.1:2\n").await, ["127.0.0.1:2"]);
        assert_eq!(file.write("127.0.0.1:2 weight=3\n").await, ["127.0.0.1:2 weight=3"]);
    }

    #[tokio::test]
    async fn bad_file_keeps_old_list() {
        let mut file = Fixture::new();
        let good = ["127.0.0.1:1"];
        assert_eq!(file.write("127.0.0.1:1\n").await, good);
        for bad in ["127.0.0.2:1\nnonsense\n", "", "# nothing\n", &"#".repeat(BYTES_MAX as usize + 1)] {
            assert_eq!(file.write(bad).await, good);
        }
        std::fs::remove_file(&file.path).unwrap();
        assert_eq!(file.look().await, good);
        assert_eq!(file.write("127.0.0.1:3\n").await, ["127.0.0.1:3"]);
    }

    #[tokio::test]
    async fn rereads_file_on_its_interval() {
        let file = Fixture::new();
        std::fs::write(&file.path, "127.0.0.1:1\n").unwrap();
        let source = crate::Source::File(file.path.to_path_buf());
        let cancel = tokio_util::sync::CancellationToken::new();
        let mut targets = crate::discover(source, cancel.clone());
        for (text, port) in [("127.0.0.1:1\n", 1), ("127.0.0.1:2\n", 2)] {
            std::fs::write(&file.path, text).unwrap();
            let reached =
                targets.wait_for(|targets| targets.first().is_some_and(|t| t.address.port() == port));
            tokio::time::timeout(Duration::from_secs(10), reached)
                .await
                .expect("in time")
                .expect("still open");
        }
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(10), targets.changed()).await.unwrap().unwrap_err();
    }
}
