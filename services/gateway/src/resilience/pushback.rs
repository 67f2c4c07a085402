//! `grpc-retry-pushback-ms` (gRFC A6): what an endpoint says of further attempts.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// Its header.
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The wish of an endpoint that sent the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// The next attempt not before this has passed.
    After(Duration),
    /// Make no further attempt.
    Never,
}

impl Pushback {
    /// Reads the pushback of an answer; none when it says nothing. Anything but a number of milliseconds says not to repeat at
    /// all.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Pushback> {
        let value = headers.get(PUSHBACK)?;
        let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        Some(millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_pause_anything_else_stops() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(PUSHBACK, http::HeaderValue::from_static(value));
            Pushback::of(&headers)
        };
        assert_eq!(of("250"), Some(Pushback::After(Duration::from_millis(250))));
        assert_eq!((of("-1"), of("soon")), (Some(Pushback::Never), Some(Pushback::Never)));
        assert_eq!(Pushback::of(&HeaderMap::new()), None);
    }
}
