//! The target of a request as a URI: its authority and path, by its pseudo-fields and its `host` (RFC 9113 §8.3.1).
//!
//! Clients put more into `:authority` than a host: a list of addresses, the path of a socket, nothing. A proxy does not need
//! it; an authority that no server would understand is not sent on.

use http::HeaderValue;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};

use crate::message::Malformed;

/// Addresses that a connection remembers, so that the same one is not parsed for each call.
const ADDRESSES: usize = 16;

/// The longest address that is remembered: sixteen of the longest possible would be megabytes.
pub(crate) const REMEMBERED_BYTES_MAX: usize = 256;

/// A memory of the last few values.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    known: Vec<T>,
    /// The index of the value to be forgotten next.
    next: usize,
}

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent { known: Vec::new(), next: 0 }
    }
}

impl<T> Recent<T> {
    pub(crate) fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.known.iter().find(|known| is_it(known))
    }

    pub(crate) fn remember(&mut self, one: T) {
        if self.known.len() < ADDRESSES {
            self.known.push(one);
        } else {
            self.known[self.next] = one;
            self.next = (self.next + 1) % ADDRESSES;
        }
    }
}

/// The addresses of a connection's last calls.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Recent<Known>);

#[derive(Debug)]
struct Known {
    authority: Option<HeaderValue>,
    path: HeaderValue,
    uri: Uri,
}

impl Addresses {
    /// Returns the URI, without scheme and authority if there is no authority or one that names no host.
    pub(crate) fn uri(
        &mut self,
        scheme: &HeaderValue,
        authority: Option<HeaderValue>,
        path: HeaderValue,
    ) -> Result<Uri, Malformed> {
        let plain = *scheme == "http";
        let known = self.0.find(|known| known.path == path && known.authority == authority);
        if let Some(known) = known.filter(|_| plain) {
            return Ok(known.uri.clone());
        }
        let uri = parse(scheme, authority.as_ref(), &path)?;
        let short = path.len() + authority.as_ref().map_or(0, HeaderValue::len) <= REMEMBERED_BYTES_MAX;
        if plain && short {
            self.0.remember(Known { authority, path, uri: uri.clone() });
        }
        Ok(uri)
    }
}

/// Returns the authority of a request: `:authority`, which must name the same as `host` if both are there, or else `host`.
/// An empty one counts as absent.
pub(crate) fn named(
    authority: Option<HeaderValue>,
    host: Option<HeaderValue>,
    scheme: &HeaderValue,
) -> Result<Option<HeaderValue>, Malformed> {
    let said = |value: &HeaderValue| !value.is_empty();
    let authority = authority.filter(said);
    let Some(host) = host.filter(said) else { return Ok(authority) };
    match authority {
        Some(authority) if !is_same(authority.as_bytes(), host.as_bytes(), scheme) => Err(Malformed),
        Some(authority) => Ok(Some(authority)),
        None => Ok(Some(host)),
    }
}

/// Returns whether both name the same, in any case of letters, with the scheme's port or without (RFC 9110 §4.2.3).
fn is_same(authority: &[u8], host: &[u8], scheme: &HeaderValue) -> bool {
    let port: &[u8] = if *scheme == "https" { b":443" } else { b":80" };
    let [authority, host] = [authority, host].map(|name| name.strip_suffix(port).unwrap_or(name));
    authority.eq_ignore_ascii_case(host)
}

fn parse(
    scheme: &HeaderValue,
    authority: Option<&HeaderValue>,
    path: &HeaderValue,
) -> Result<Uri, Malformed> {
    // A path is never empty, nor an address; `*` is for OPTIONS. A fragment is never sent.
    let absolute = path.as_bytes().starts_with(b"/") && !path.as_bytes().contains(&b'#');
    if scheme.is_empty() || (!absolute && path != "*") {
        return Err(Malformed);
    }
    let mut parts = http::uri::Parts::default();
    let scheme = Scheme::try_from(scheme.as_bytes()).map_err(|_| Malformed)?;
    parts.path_and_query = Some(PathAndQuery::try_from(path.as_bytes()).map_err(|_| Malformed)?);
    if let Some(authority) = authority.map(HeaderValue::as_bytes) {
        check_authority(authority)?;
        if names_a_host(authority) {
            parts.authority = Some(Authority::try_from(authority).map_err(|_| Malformed)?);
            // A URI of a scheme and a path alone cannot be said.
            parts.scheme = Some(scheme);
        }
    }
    Uri::from_parts(parts).map_err(|_| Malformed)
}

/// Checks that the octets may stand in an authority (RFC 3986 §3.2). User information must not (RFC 9113 §8.3.1).
pub(crate) fn check_authority(authority: &[u8]) -> Result<(), Malformed> {
    let may_stand = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(octet);
    if authority.iter().all(may_stand) { Ok(()) } else { Err(Malformed) }
}

/// Returns whether the authority is one that every server takes: a name or an address, and optionally a port.
fn names_a_host(authority: &[u8]) -> bool {
    let (host, rest) = if let Some(rest) = authority.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|&octet| octet == b']') else { return false };
        let (address, rest) = (&rest[..end], &rest[end + 1..]);
        let is_address = |octet: &u8| octet.is_ascii_hexdigit() || b":.".contains(octet);
        (!address.is_empty() && address.iter().all(is_address), rest)
    } else {
        let end = authority.iter().position(|&octet| octet == b':').unwrap_or(authority.len());
        let (name, rest) = authority.split_at(end);
        let is_name = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~".contains(octet);
        (!name.is_empty() && name.iter().all(is_name), rest)
    };
    host && match rest {
        [] => true,
        [b':', port @ ..] => {
            port.iter().all(u8::is_ascii_digit)
                && str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
        }
        _ => false,
    }
}
