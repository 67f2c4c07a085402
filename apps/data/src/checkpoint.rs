//! Progress of an export or an import: a small file beside the exported one, replaced as a whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value as Json;

/// The shortest time between two checkpoints.
const EVERY: Duration = Duration::from_secs(1);

/// A checkpoint file.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    written_at: Instant,
}

impl Checkpoint {
    /// Names the checkpoint of `file` for a kind of run.
    pub(crate) fn of(file: &Path, kind: &str) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{kind}-checkpoint"));
        Self { path: name.into(), written_at: Instant::now() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the checkpoint; `None` if there is none.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Json>> {
        let said = || format!("{} is no checkpoint; remove it to begin again", self.path.display());
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(serde_json::from_str(&text).with_context(said)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(said),
        }
    }

    /// Returns whether the last checkpoint is old enough for another.
    pub(crate) fn is_due(&self) -> bool {
        self.written_at.elapsed() >= EVERY
    }

    /// Replaces the checkpoint, durably.
    pub(crate) fn write(&mut self, state: &Json) -> anyhow::Result<()> {
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let written = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(state.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        written().with_context(|| format!("cannot write {}", self.path.display()))?;
        self.written_at = Instant::now();
        Ok(())
    }

    /// Removes the checkpoint of a run that is complete.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checkpoints_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::of(&dir.path().join("orders.jsonl"), "export");
        assert_eq!(checkpoint.read().unwrap(), None);
        for bytes in [1, 2] {
            checkpoint.write(&json!({ "bytes": bytes })).unwrap();
            assert_eq!(checkpoint.read().unwrap().unwrap()["bytes"], bytes);
        }
        fs::write(checkpoint.path(), "x").unwrap();
        assert!(checkpoint.read().unwrap_err().to_string().contains("remove it to begin again"));
        checkpoint.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
