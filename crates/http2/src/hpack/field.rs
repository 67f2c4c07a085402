//! The field of a header block: a name that an HTTP/2 message may use, and its value.

use http::header::{HeaderName, HeaderValue};

/// The octets that §4.1 adds to name and value for an entry's bookkeeping.
pub const ENTRY_OVERHEAD: usize = 32;

/// Names outside the static table that nearly every gRPC call carries. A clone of a static touches no reference count, and
/// its address is the same on every connection.
static KNOWN_NAMES: [HeaderName; 9] = [
    HeaderName::from_static("te"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Values that nearly every gRPC call carries, kept as statics for the same reason.
static KNOWN_VALUES: [HeaderValue; 10] = [
    HeaderValue::from_static(""),
    HeaderValue::from_static("0"),
    HeaderValue::from_static("200"),
    HeaderValue::from_static("POST"),
    HeaderValue::from_static("http"),
    HeaderValue::from_static("gzip"),
    HeaderValue::from_static("https"),
    HeaderValue::from_static("identity"),
    HeaderValue::from_static("trailers"),
    HeaderValue::from_static("application/grpc"),
];

/// The name of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:status`
    Status,
    /// `:protocol` (RFC 8441)
    Protocol,
    /// An ordinary field.
    Header(HeaderName),
    /// Marks a name or value that HTTP/2 does not allow: an upper-case letter, an unknown pseudo-header, a control character
    /// in the value (RFC 9113 §8.2.1). The block is well-formed HPACK, the message it belongs to is malformed.
    Malformed,
    /// Marks an ordinary field with white space around its value, which HTTP/2 does not allow either. It is told apart
    /// because honest peers send such fields, and proxies pass them on.
    Padded,
}

impl Name {
    /// Returns the name as it travels; empty for [`Name::Malformed`] and [`Name::Padded`].
    pub fn as_str(&self) -> &str {
        match self {
            Name::Method => ":method",
            Name::Scheme => ":scheme",
            Name::Authority => ":authority",
            Name::Path => ":path",
            Name::Status => ":status",
            Name::Protocol => ":protocol",
            Name::Header(name) => name.as_str(),
            Name::Malformed | Name::Padded => "",
        }
    }

    /// Parses a literal name.
    pub(super) fn parse(wire: &[u8]) -> Name {
        match wire {
            b":method" => Name::Method,
            b":scheme" => Name::Scheme,
            b":authority" => Name::Authority,
            b":path" => Name::Path,
            b":status" => Name::Status,
            b":protocol" => Name::Protocol,
            _ => match KNOWN_NAMES.iter().find(|known| known.as_str().as_bytes() == wire) {
                Some(known) => Name::Header(known.clone()),
                // The http crate takes the quotation mark, which is no token character (RFC 9110 §5.6.2).
                None if wire.contains(&b'"') => Name::Malformed,
                None => HeaderName::from_lowercase(wire).map_or(Name::Malformed, Name::Header),
            },
        }
    }
}

/// A field of a header block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name.
    pub name: Name,
    /// The value; a clone counts a reference. `is_sensitive()` for a field that travels "never indexed" (§6.2.3). Empty if
    /// the name is [`Name::Malformed`] or [`Name::Padded`].
    pub value: HeaderValue,
}

impl Field {
    /// Returns the size of the field in a table and in SETTINGS_MAX_HEADER_LIST_SIZE: name, value and 32 octets (§4.1).
    pub fn size(&self) -> usize {
        self.name.as_str().len() + self.value.len() + ENTRY_OVERHEAD
    }

    /// Makes a field that marks its message as malformed.
    pub(super) fn malformed() -> Field {
        Field { name: Name::Malformed, value: const { HeaderValue::from_static("") } }
    }

    /// Makes a field that only the white space around its value makes malformed.
    pub(super) fn padded() -> Field {
        Field { name: Name::Padded, ..Field::malformed() }
    }
}

/// Returns the static value with these octets, if there is one.
pub(super) fn known_value(wire: &[u8]) -> Option<HeaderValue> {
    KNOWN_VALUES.iter().find(|known| known.as_bytes() == wire).cloned()
}
