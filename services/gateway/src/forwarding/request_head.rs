//! The head of a call: what is accepted, until when it may take, and what of it is sent on.
//!
//! Connection-specific headers need no removing here: a request that carries one is refused (RFC 9113 §8.2.2).

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CONTENT_TYPE, TE};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use shoal_balance::{format_timeout, parse_timeout};
use shoal_kit::sampling::TRACEPARENT;
use tokio::time::Instant;

use crate::config::Deadline;
use crate::error::Error;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// The kind of a request, before anything is done with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A gRPC call.
    Grpc,
    /// `GET /`: a person or a probe.
    Page,
    /// Neither, by its method.
    WrongMethod,
    /// Neither, by its content type.
    WrongContent,
}

/// Tells them apart.
pub(crate) fn kind(parts: &Parts) -> Kind {
    if parts.method != Method::POST {
        let page = matches!(parts.method, Method::GET | Method::HEAD) && parts.uri.path() == "/";
        return if page { Kind::Page } else { Kind::WrongMethod };
    }
    let mut said = parts.headers.get_all(CONTENT_TYPE).iter();
    let content_type = said.next().map_or(&b""[..], HeaderValue::as_bytes);
    // `application/grpc`, with `+proto` or parameters; not `application/grpc-web`, which has other frames. One alone: of
    // two, whoever is next might go by the other.
    match content_type.strip_prefix(b"application/grpc") {
        Some([] | [b'+' | b';', ..]) if said.next().is_none() => Kind::Grpc,
        _ => Kind::WrongContent,
    }
}

/// Returns whether a request whose headers were cut off is taken for a call: its content type may be what is missing.
pub(crate) fn is_call(kind: &Kind, parts: &Parts) -> bool {
    *kind == Kind::Grpc || (parts.method == Method::POST && !parts.headers.contains_key(CONTENT_TYPE))
}

/// The head of a gRPC call.
pub(crate) struct RequestHead {
    request: Request<()>,
    /// Set if the request names its authority; if not, each attempt has the address of its endpoint as authority.
    is_absolute: bool,
    started: Instant,
    /// The time that the call may take, and when that is over.
    pub(crate) deadline: Option<(Duration, Instant)>,
}

impl RequestHead {
    /// Reads the caller's deadline, within the configured bounds.
    pub(crate) fn read(parts: Parts, started: Instant, bounds: &Deadline) -> Result<RequestHead, Error> {
        let mut request = Request::from_parts(parts, ());
        let is_absolute = request.uri().authority().is_some() && request.uri().scheme().is_some();
        let headers = request.headers_mut();
        let asked = match headers.get(GRPC_TIMEOUT) {
            None => None,
            Some(value) => Some(parse_timeout(value).ok_or_else(|| Error::MalformedTimeout {
                value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            })?),
        };
        let allowed = match (asked.or(bounds.default), bounds.max) {
            (Some(asked), Some(max)) => Some(asked.min(max)),
            (asked, max) => asked.or(max),
        };
        // A timeout too long for the clock is none.
        let deadline = allowed.and_then(|allowed| Some((allowed, started.checked_add(allowed)?)));
        if let Some(trace) = headers.get_mut(TRACEPARENT) {
            // No two calls have the same: HPACK would fill its table with them.
            trace.set_sensitive(true);
        }
        // Some proxies before us take it off; servers ask for it before they send trailers.
        headers.entry(TE).or_insert(HeaderValue::from_static("trailers"));
        Ok(RequestHead { request, is_absolute, started, deadline })
    }

    /// `/package.Service/Method`.
    pub(crate) fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The caller's headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Returns whether the request says how its messages are compressed.
    pub(crate) fn is_encoded(&self) -> bool {
        self.headers().get(GRPC_ENCODING).is_some_and(|encoding| encoding != "identity")
    }

    /// Puts the call into a trace of its own.
    pub(crate) fn set_trace(&mut self, parent: HeaderValue) {
        let headers = self.request.headers_mut();
        headers.insert(TRACEPARENT, parent);
        // The state of another trace does not belong to this one.
        headers.remove(TRACESTATE);
    }

    /// When the call arrived.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The request as attempt number `attempt` (from 1) sends it to `endpoint`: with the time that remains. None when none does.
    pub(crate) fn attempt(
        &mut self,
        attempt: u32,
        endpoint: SocketAddr,
    ) -> Result<Option<&mut Request<()>>, Error> {
        if !self.is_absolute {
            *self.request.uri_mut() = self.absolute(endpoint)?;
        }
        let headers = self.request.headers_mut();
        if let Some((_, deadline)) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            headers.insert(GRPC_TIMEOUT, format_timeout(left));
        }
        if attempt > 1 {
            headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempt - 1));
        }
        Ok(Some(&mut self.request))
    }

    /// The request for the gateway's own services.
    pub(crate) fn into_request(self) -> Request<()> {
        self.request
    }

    /// The caller's `:authority` is kept if it names a host; for any other, or none, the endpoint gets its own address.
    fn absolute(&self, endpoint: SocketAddr) -> Result<Uri, Error> {
        let mut parts = self.request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Authority::try_from(endpoint.to_string()).ok();
        Uri::from_parts(parts).map_err(|error| Error::Unforwardable { detail: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)), 9);

    const ELSEWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 8);

    fn parts(method: Method, uri: &'static str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_static(uri);
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    fn head(headers: &[(&'static str, &'static str)], bounds: Deadline) -> RequestHead {
        let parts = parts(Method::POST, "http://mesh/a.B/C", headers);
        RequestHead::read(parts, Instant::now(), &bounds).expect("valid")
    }

    #[test]
    fn only_posts_of_grpc_are_calls() {
        let kind_of = |method, uri, kind| super::kind(&parts(method, uri, &[("content-type", kind)]));
        for (content_type, expected) in [
            ("application/grpc", Kind::Grpc),
            ("application/grpc+proto", Kind::Grpc),
            ("application/grpc;charset=x", Kind::Grpc),
            ("application/grpc-web", Kind::WrongContent),
            ("application/json", Kind::WrongContent),
        ] {
            assert_eq!(kind_of(Method::POST, "http://m/a.B/C", content_type), expected, "{content_type}");
        }
        assert_eq!(kind(&parts(Method::POST, "http://m/a.B/C", &[])), Kind::WrongContent);
        for second in ["application/json", "application/grpc"] {
            let two = [("content-type", "application/grpc"), ("content-type", second)];
            assert_eq!(kind(&parts(Method::POST, "http://m/a.B/C", &two)), Kind::WrongContent, "{second}");
        }
        assert_eq!(kind_of(Method::GET, "http://m/", ""), Kind::Page);
        assert_eq!(kind_of(Method::GET, "http://m/a.B/C", "application/grpc"), Kind::WrongMethod);
    }

    #[test]
    fn remaining_time_is_forwarded() {
        let waited = Duration::from_millis(400);
        let arrived = Instant::now().checked_sub(waited).expect("a clock that runs");
        let parts = parts(Method::POST, "http://mesh/a.B/C", &[("grpc-timeout", "1S")]);
        let mut head = RequestHead::read(parts, arrived, &Deadline::default()).expect("valid");
        let request = head.attempt(1, ENDPOINT).expect("valid").expect("in time");
        let left = parse_timeout(&request.headers()["grpc-timeout"]).expect("a timeout");
        assert!(left <= Duration::from_millis(600) && left > Duration::from_millis(500), "{left:?}");
    }

    #[test]
    fn configuration_sets_and_bounds_deadlines() {
        let bounds = Deadline { default: Some(Duration::from_secs(5)), max: Some(Duration::from_secs(30)) };
        let allowed =
            |headers: &[_], bounds| head(headers, bounds).deadline.map(|(allowed, _)| allowed.as_secs());
        assert_eq!(allowed(&[], Deadline::default()), None);
        assert_eq!(allowed(&[], bounds), Some(5));
        assert_eq!(allowed(&[("grpc-timeout", "10S")], bounds), Some(10));
        assert_eq!(allowed(&[("grpc-timeout", "2H")], bounds), Some(30));
        let bad = parts(Method::POST, "http://m/a.B/C", &[("grpc-timeout", "1x")]);
        let error = RequestHead::read(bad, Instant::now(), &bounds).err().expect("malformed");
        assert_eq!(error, Error::MalformedTimeout { value: "1x".into() });
    }

    #[test]
    fn headers_pass_and_trailers_are_requested() {
        let mut head = head(&[("x-a", "1"), ("x-a", "2"), ("user-agent", "t")], Deadline::default());
        let request = head.attempt(1, ENDPOINT).expect("valid").expect("in time");
        assert_eq!(request.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(request.headers()["te"], "trailers");
        assert!(!request.headers().contains_key("grpc-previous-rpc-attempts"));
        let again = head.attempt(3, ENDPOINT).expect("valid").expect("in time");
        assert_eq!(again.headers()["grpc-previous-rpc-attempts"], "2");
    }

    #[test]
    fn own_trace_has_no_foreign_state() {
        let mut head = head(&[("traceparent", "garbage"), ("tracestate", "a=b")], Deadline::default());
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        head.set_trace(HeaderValue::from_static(parent));
        let request = head.attempt(1, ENDPOINT).expect("valid").expect("in time");
        assert_eq!(request.headers().get_all("traceparent").iter().collect::<Vec<_>>(), [parent]);
        assert!(!request.headers().contains_key("tracestate"));
    }

    #[test]
    fn unique_values_are_not_indexed() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let mut head = head(&[("traceparent", parent), ("grpc-timeout", "1S")], Deadline::default());
        let request = head.attempt(1, ENDPOINT).expect("valid").expect("in time");
        for (name, sensitive) in [("traceparent", true), ("grpc-timeout", true), ("te", false)] {
            assert_eq!(request.headers()[name].is_sensitive(), sensitive, "{name}");
        }
    }

    #[test]
    fn an_authority_is_kept_or_made() {
        for (uri, endpoint, expected) in [
            ("http://mesh/a.B/C", ENDPOINT, "mesh"),
            ("/a.B/C", ENDPOINT, "127.0.0.1:9"),
            ("/a.B/C", ELSEWHERE, "[::1]:8"),
        ] {
            let head = RequestHead::read(parts(Method::POST, uri, &[]), Instant::now(), &Deadline::default());
            let mut head = head.expect("valid");
            for _ in 0..2 {
                let request = head.attempt(1, endpoint).expect("valid").expect("in time");
                assert_eq!(request.uri().authority().map(Authority::as_str), Some(expected), "{uri}");
            }
        }
    }

    #[test]
    fn each_attempt_names_its_own_endpoint() {
        let parts = parts(Method::POST, "/a.B/C", &[]);
        let mut head = RequestHead::read(parts, Instant::now(), &Deadline::default()).expect("valid");
        for (endpoint, expected) in [(ENDPOINT, "127.0.0.1:9"), (ELSEWHERE, "[::1]:8")] {
            let request = head.attempt(1, endpoint).expect("valid").expect("in time");
            assert_eq!(request.uri().authority().map(Authority::as_str), Some(expected));
        }
    }
}
