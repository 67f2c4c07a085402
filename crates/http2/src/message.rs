//! Header fields as messages of HTTP: what makes a message malformed (RFC 9113 §8), and in what order a message's fields are
//! written.

pub(crate) mod target;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::hpack::{ENTRY_OVERHEAD, Encoder, Field, Index, ListTooLong, Name};
use crate::message::target::{Addresses, Recent};

/// The number of fields of a usual call. A table for more of them is larger than what allocators give out at once (a
/// kilobyte), and there are three in a call.
const FIELDS_USUAL: usize = 6;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that are not indexed like others. Those that differ from call to call would only drive out of the peer's table
/// those that do not. Those that prove who somebody is are in no table and by no other hop put into one: all callers share
/// it, and who sees how long a block becomes could guess at what it holds (RFC 7541 §7.1).
static APART: [(HeaderName, Index); 11] = [
    (HeaderName::from_static("grpc-timeout"), Index::No),
    (HeaderName::from_static("traceparent"), Index::No),
    (HeaderName::from_static("tracestate"), Index::No),
    (HeaderName::from_static("grpc-message"), Index::No),
    (HeaderName::from_static("grpc-status-details-bin"), Index::No),
    (HeaderName::from_static("grpc-previous-rpc-attempts"), Index::No),
    (CONTENT_LENGTH, Index::No),
    (http::header::AUTHORIZATION, Index::Never),
    (http::header::PROXY_AUTHORIZATION, Index::Never),
    (http::header::COOKIE, Index::Never),
    (http::header::SET_COOKIE, Index::Never),
];

/// Marks a request whose path or authority came "never indexed": it must be sent on so (RFC 7541 §6.2.3).
#[derive(Clone, Copy, Debug)]
struct SecretTarget;

/// The error of a message that breaks a rule of RFC 9113 §8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A header list that is being read, field by field.
#[derive(Debug)]
pub(crate) struct Fields {
    method: Option<HeaderValue>,
    scheme: Option<HeaderValue>,
    authority: Option<HeaderValue>,
    path: Option<HeaderValue>,
    status: Option<HeaderValue>,
    /// The `host` field, which tells a request's target like `:authority` and is read with it. It is never a header to its
    /// receiver.
    host: Option<HeaderValue>,
    headers: HeaderMap,
    too_long: Option<ListTooLong>,
    malformed: bool,
    padded: bool,
}

impl Fields {
    pub(crate) fn new() -> Fields {
        Fields {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            status: None,
            host: None,
            headers: HeaderMap::new(),
            too_long: None,
            malformed: false,
            padded: false,
        }
    }

    /// Adds the next field, in order.
    pub(crate) fn push(&mut self, field: Field) {
        let Field { name, value } = field;
        let pseudo = match name {
            Name::Header(name) => return self.header(name, value),
            Name::Method => &mut self.method,
            Name::Scheme => &mut self.scheme,
            Name::Authority => &mut self.authority,
            Name::Path => &mut self.path,
            Name::Status => &mut self.status,
            // We have not announced that we know extended CONNECT (RFC 8441 §4).
            Name::Protocol | Name::Malformed => return self.malformed = true,
            Name::Padded => {
                self.padded = true;
                return self.malformed = true;
            }
        };
        // Each at most once, and before all others (§8.3).
        let twice = pseudo.replace(value).is_some();
        self.malformed |= twice || self.host.is_some() || !self.headers.is_empty();
    }

    fn header(&mut self, name: HeaderName, value: HeaderValue) {
        if is_of_connection(&name) || (name == TE && value != "trailers") {
            self.malformed = true;
            return;
        }
        if name == HOST {
            self.malformed |= self.host.replace(value).is_some();
            return;
        }
        if self.headers.capacity() == 0 {
            self.headers.reserve(FIELDS_USUAL);
        }
        // Fails for more than thirty thousand names, which no list within its limit has.
        self.malformed |= self.headers.try_append(name, value).is_err();
    }

    /// Marks the message as malformed for another reason than its fields.
    pub(crate) fn mark_malformed(&mut self) {
        self.malformed = true;
    }

    /// Returns whether white space surrounds a value, which is an honest peer's mistake.
    pub(crate) fn is_padded(&self) -> bool {
        self.padded
    }

    /// Notes that the list is longer than allowed, and its other fields are not here.
    pub(crate) fn cut(&mut self, too_long: ListTooLong) {
        self.too_long = Some(too_long);
    }

    /// Returns the limit that the list is above, if it is. Only the beginning of the list is here then.
    pub(crate) fn too_long(&self) -> Option<ListTooLong> {
        self.too_long
    }

    /// Returns the value of `content-length`, if it is there.
    pub(crate) fn content_length(&self) -> Result<Option<u64>, Malformed> {
        let mut lengths = self.headers.get_all(CONTENT_LENGTH).iter();
        let Some(first) = lengths.next() else { return Ok(None) };
        if lengths.any(|length| length != first) {
            return Err(Malformed);
        }
        let digits = first.to_str().ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or(Malformed)
    }

    /// Makes a request of the fields (§8.3.1).
    pub(crate) fn into_request(self, addresses: &mut Addresses) -> Result<Request<()>, Malformed> {
        if self.malformed || self.status.is_some() {
            return Err(Malformed);
        }
        let method = self.method.ok_or(Malformed)?;
        let method = match method.as_bytes() {
            b"POST" => Method::POST,
            other => Method::from_bytes(other).map_err(|_| Malformed)?,
        };
        let secret = [&self.authority, &self.path].into_iter().flatten().any(HeaderValue::is_sensitive);
        let uri = if method == Method::CONNECT {
            // An authority, and neither scheme nor path (§8.5).
            if self.scheme.is_some() || self.path.is_some() {
                return Err(Malformed);
            }
            let authority = self.authority.ok_or(Malformed)?;
            target::check_authority(authority.as_bytes())?;
            Uri::from(Authority::try_from(authority.as_bytes()).map_err(|_| Malformed)?)
        } else {
            let scheme = self.scheme.ok_or(Malformed)?;
            let path = self.path.ok_or(Malformed)?;
            if path == "*" && method != Method::OPTIONS {
                return Err(Malformed);
            }
            addresses.uri(&scheme, target::named(self.authority, self.host, &scheme)?, path)?
        };
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        if secret {
            request.extensions_mut().insert(SecretTarget);
        }
        Ok(request)
    }

    /// Makes a response of the fields (§8.3.2).
    pub(crate) fn into_response(mut self) -> Result<Response<()>, Malformed> {
        let requests = [&self.method, &self.scheme, &self.authority, &self.path];
        if self.malformed || requests.iter().any(|pseudo| pseudo.is_some()) {
            return Err(Malformed);
        }
        let status = self.status.ok_or(Malformed)?;
        let status = match status.as_bytes() {
            b"200" => StatusCode::OK,
            other => StatusCode::from_bytes(other).map_err(|_| Malformed)?,
        };
        if let Some(host) = self.host {
            // Of no meaning here, and thus not ours to leave out.
            self.headers.append(HOST, host);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.headers;
        Ok(response)
    }

    /// Makes trailers of the fields. Trailers have no pseudo-fields (§8.1), and no say in where a request goes (RFC 9110
    /// §6.5.1).
    pub(crate) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        let pseudo = [&self.method, &self.scheme, &self.authority, &self.path, &self.status];
        if self.malformed || pseudo.iter().any(|pseudo| pseudo.is_some()) {
            return Err(Malformed);
        }
        Ok(self.headers)
    }
}

/// Returns whether the field is about one connection and must not be in HTTP/2 (§8.2.2).
fn is_of_connection(name: &HeaderName) -> bool {
    name == CONNECTION
        || name == TRANSFER_ENCODING
        || name == UPGRADE
        || name == KEEP_ALIVE
        || name == PROXY_CONNECTION
}

/// Checks whether a request can be sent at all. Returns the size of its header list (RFC 9113 §6.5.2), or why it cannot.
pub(crate) fn check_request(request: &Request<()>) -> Result<usize, &'static str> {
    let uri = request.uri();
    if uri.scheme().is_none() || uri.authority().is_none() {
        return Err("its URI has no scheme or no authority");
    }
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
    let pseudo = request.method().as_str().len() + uri.scheme_str().map_or(0, str::len) + authority + path;
    const PSEUDO_NAMES: usize = ":method".len() + ":scheme".len() + ":authority".len() + ":path".len();
    Ok(PSEUDO_NAMES + pseudo + 4 * ENTRY_OVERHEAD + check_headers(request.headers())?)
}

fn check_headers(headers: &HeaderMap) -> Result<usize, &'static str> {
    let mut size = 0;
    for (name, value) in headers {
        if is_of_connection(name) || (name == TE && value != "trailers") {
            return Err("it has a header that HTTP/2 forbids: it speaks of one connection");
        }
        size += name.as_str().len() + value.len() + ENTRY_OVERHEAD;
    }
    Ok(size)
}

/// The targets of a connection's last requests, as fields.
#[derive(Debug, Default)]
pub(crate) struct Targets(Recent<Target>);

#[derive(Clone, Debug)]
struct Target {
    authority: HeaderValue,
    path: HeaderValue,
}

impl Targets {
    /// Returns the fields of `uri`, remembered or made.
    fn of(&mut self, uri: &Uri) -> Option<Target> {
        let authority = uri.authority().map_or("", Authority::as_str);
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let known = self.0.find(|known| known.path == path && known.authority == authority);
        if let Some(known) = known {
            return Some(known.clone());
        }
        // Fails for no authority and no path that `http` has let through.
        let target = Target {
            authority: HeaderValue::from_str(authority).ok()?,
            path: HeaderValue::from_str(path).ok()?,
        };
        if path.len() + authority.len() <= target::REMEMBERED_BYTES_MAX {
            self.0.remember(target.clone());
        }
        Some(target)
    }
}

/// Writes the block of a request that was [checked](check_request).
pub(crate) fn encode_request(
    request: &Request<()>,
    targets: &mut Targets,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
    const POST: HeaderValue = HeaderValue::from_static("POST");
    const HTTP: HeaderValue = HeaderValue::from_static("http");
    encoder.begin(out);
    let method = match request.method() {
        &Method::POST => POST,
        // A method is a token.
        other => HeaderValue::from_str(other.as_str()).unwrap_or(POST),
    };
    encoder.field(&Name::Method, &method, Index::Yes, out);
    let scheme = match request.uri().scheme_str() {
        Some("https") => HeaderValue::from_static("https"),
        _ => HTTP,
    };
    encoder.field(&Name::Scheme, &scheme, Index::Yes, out);
    if let Some(target) = targets.of(request.uri()) {
        let secret = request.extensions().get::<SecretTarget>().is_some();
        let index = if secret { Index::Never } else { Index::Yes };
        encoder.field(&Name::Authority, &target.authority, index, out);
        encoder.field(&Name::Path, &target.path, index, out);
    }
    encode_headers(request.headers(), encoder, out);
}

/// Writes the block of a response.
pub(crate) fn encode_response(response: &Response<()>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    const OK: HeaderValue = HeaderValue::from_static("200");
    encoder.begin(out);
    let status = response.status();
    let status = if status == StatusCode::OK { OK } else { HeaderValue::from(status.as_u16()) };
    encoder.field(&Name::Status, &status, Index::Yes, out);
    encode_headers(response.headers(), encoder, out);
}

/// Writes the block of trailers.
pub(crate) fn encode_trailers(trailers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encode_headers(trailers, encoder, out);
}

fn encode_headers(headers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for (name, value) in headers {
        let apart = APART.iter().find(|(apart, _)| apart == name);
        encoder.header(name, value, apart.map_or(Index::Yes, |(_, index)| *index), out);
    }
}
