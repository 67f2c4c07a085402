//! The text of an error with its causes, for people.

/// Joins an error and its causes with colons. Leaves out a cause whose text the error above it repeats.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut above = text.clone();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !above.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        above = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file: {source}")]
    struct Repeats {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_said_only_once() {
        let repeats = anyhow::Error::new(Repeats { source: std::io::Error::other("it is gone") });
        assert_eq!(chain(&repeats.context("session")), "session: cannot read the file: it is gone");
        let two = anyhow::anyhow!("it is gone").context("cannot read the file");
        assert_eq!(chain(&two), "cannot read the file: it is gone");
    }
}
