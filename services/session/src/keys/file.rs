//! The keys that a clone is given: by the configuration, or by a file in the embedded database's folder, made at first
//! use.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::keys::keyring::{Keyring, KeysText};

/// The file of generated keys, beside the database's files.
pub(crate) const FILE: &str = "keys.toml";

/// Returns the keys given inline or else those in the named file; `None` if neither is given.
pub(crate) fn configured(keys: &KeysText, keys_file: Option<&Path>) -> anyhow::Result<Option<Arc<Keyring>>> {
    let keyring = match keys_file {
        _ if !keys.is_empty() => Keyring::parse(keys)?,
        None => return Ok(None),
        Some(path) => {
            Keyring::parse(&read(path)?).with_context(|| format!("keys_file {}", path.display()))?
        }
    };
    Ok(Some(Arc::new(keyring)))
}

/// Returns the keys in `path`, which are made if the file is missing and `needed` says that no session needs the ones
/// that were in it. The caller has the directory for itself.
pub(crate) fn load_or_generate(
    path: &Path,
    needed: impl FnOnce() -> anyhow::Result<bool>,
) -> anyhow::Result<Arc<Keyring>> {
    if path.try_exists().with_context(|| format!("session keys in {}", path.display()))? {
        return Ok(Arc::new(Keyring::parse(&read(path)?)?));
    }
    if needed()? {
        anyhow::bail!(
            "{} is missing beside sessions that need its keys: restore it, or give the keys in the configuration; with other \
             keys all of them would be lost",
            path.display()
        );
    }
    let text = KeysText::generate();
    write(path, &toml::to_string(&text)?)
        .with_context(|| format!("session keys cannot be written to {}", path.display()))?;
    Ok(Arc::new(Keyring::parse(&text)?))
}

/// Writes the file whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    // One that was left has a mode of its own.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<KeysText> {
    let context = || format!("session keys in {}", path.display());
    let mode = std::fs::metadata(path).with_context(context)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "session keys can be read by others: chmod 600");
    }
    let text = std::fs::read_to_string(path).with_context(context)?;
    // The parser's error would repeat the line, which is a key.
    toml::from_str(&text)
        .map_err(|_| anyhow::anyhow!("is not a TOML file of bucket, check, derive and pepper"))
        .with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_made_once_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(path.with_extension("new"), "half").unwrap();
        let first = load_or_generate(&path, || Ok(false)).unwrap();
        let again = load_or_generate(&path, || Ok(true)).unwrap();
        assert_eq!(first.check(b"body"), again.check(b"body"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn broken_key_file_error_hides_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "check = hunter2").unwrap();
        let error = format!("{:?}", load_or_generate(&path, || Ok(false)).unwrap_err());
        assert!(error.contains("keys.toml") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn keys_of_the_environment_beat_the_file() {
        let keys = KeysText::generate();
        let nowhere = Some(Path::new("/nowhere"));
        let ours = configured(&keys, nowhere).unwrap().unwrap();
        assert_eq!(ours.check(b"body"), Keyring::parse(&keys).unwrap().check(b"body"));
        assert!(configured(&KeysText::default(), nowhere).is_err());
    }
}
