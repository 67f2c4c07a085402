//! The real engines and tools, as `scripts/test` names them.

/// Returns the value of a variable. Without it the test is skipped loudly, or fails where engines are required.
pub(crate) fn value_of(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Some(value),
        _ => {
            assert!(
                std::env::var("SHOAL_TEST_REQUIRE").as_deref() != Ok("1"),
                "{variable} is not set and engines are required"
            );
            eprintln!("SKIPPED: {variable} is not set; run scripts/test for the real engines");
            None
        }
    }
}

/// Returns from the test when an engine is missing.
macro_rules! need {
    ($variable:literal) => {
        match $crate::harness::engines::value_of($variable) {
            Some(value) => value,
            None => return,
        }
    };
}
pub(crate) use need;
