//! The names of gRPC's status codes, as the specification spells them. It has no dependencies, so that the load generator, which knows
//! nothing else of the services' plumbing, reads the same list as they do.

/// Names of the status codes, each at its number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Returns the name of a status code, for example `NOT_FOUND`.
#[must_use]
pub fn name(code: u16) -> Option<&'static str> {
    CODES.get(usize::from(code)).copied()
}

/// Returns the status code with a name, in either case.
#[must_use]
pub fn of_name(name: &str) -> Option<u16> {
    CODES.iter().position(|code| code.eq_ignore_ascii_case(name)).and_then(|code| u16::try_from(code).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        for number in 0..17 {
            assert_eq!(name(number).and_then(of_name), Some(number));
        }
        assert_eq!((name(5), name(17)), (Some("NOT_FOUND"), None));
        assert_eq!((of_name("not_found"), of_name("LOST")), (Some(5), None));
    }
}
