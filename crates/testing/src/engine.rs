//! The engines that a test needs: named by `SHOAL_TEST_…` variables, and required by `SHOAL_TEST_REQUIRE=1` alone.

/// Returns the value of a variable that names an engine. Without it the caller skips its test, which is said here; if engines are
/// required it panics.
#[must_use]
pub fn engine_of(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        assert!(!engines_are_required(), "{variable} is not set, and SHOAL_TEST_REQUIRE=1");
        eprintln!("SKIPPED: {variable} is not set");
    }
    value
}

/// Returns whether a test without its engine fails.
#[must_use]
pub fn engines_are_required() -> bool {
    requires(std::env::var("SHOAL_TEST_REQUIRE").ok().as_deref())
}

fn requires(value: Option<&str>) -> bool {
    value == Some("1")
}

#[cfg(test)]
mod tests {
    use super::requires;

    #[test]
    fn only_one_requires_engines() {
        assert!(requires(Some("1")));
        for value in [None, Some(""), Some("0"), Some("no")] {
            assert!(!requires(value), "{value:?}");
        }
    }
}
