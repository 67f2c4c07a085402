//! The TOML file of the configuration. Its content is in no message: a line that does not parse may hold a secret.

use std::path::Path;

use anyhow::{anyhow, ensure};
use figment::Figment;
use figment::providers::{Format as _, Toml};

/// Reads a file.
///
/// # Errors
/// When it cannot be read or is not TOML, with the line and the column.
pub(super) fn read(path: &Path) -> anyhow::Result<Figment> {
    let shown = path.display();
    ensure!(path.exists(), "configuration file {shown} does not exist");
    ensure!(!path.is_dir(), "configuration file {shown} is a folder");
    let text = std::fs::read_to_string(path)
        .map_err(|error| anyhow!("configuration file {shown} cannot be read: {error}"))?;
    if let Err(error) = toml::from_str::<toml::Table>(&text) {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        let problem = error.message().trim().replace('\n', ", ");
        return Err(anyhow!("{shown}: line {line}, column {column}: {problem}"));
    }
    Ok(Figment::from(Toml::file_exact(path)))
}

/// Returns the line and the column, from 1, of a byte of a text.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = String::from_utf8_lossy(&text.as_bytes()[..at.min(text.len())]);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_say_where_and_quote_nothing() {
        for (text, place) in [
            ("a = 1\n[session.keys]\ncheck = \"1:SECRET\n", "line 3, column 18"),
            ("[session.keys]\ncheck = 1:SECRET\n", "line 2, column 10"),
            ("= SECRET", "line 1, column 1"),
            ("ä = 'ö\n", "line 1, column 1"),
            ("password = 'SECRET'\npassword = 'SECRET'\n", "line 2, column 1"),
        ] {
            let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
            std::fs::write(file.path(), text).expect("written");
            let error = read(file.path()).expect_err(text).to_string();
            assert!(error.contains(place) && !error.contains("SECRET") && !error.contains('\n'), "{error}");
        }
    }
}
