//! Attributes: typed values by name, how they are kept, and the limits that one session's attributes obey together.

use std::collections::BTreeMap;

/// Bytes in the name of an attribute or of a metadata entry.
pub(crate) const NAME_BYTES_MAX: usize = 128;
/// Names in one `remove`: more than a session can have makes no sense.
pub(crate) const REMOVE_MAX: usize = 256;

/// A typed scalar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
    Double(f64),
    Bool(bool),
    Bytes(bytes::Bytes),
    /// Seconds and nanoseconds since the Unix epoch.
    Time(i64, i32),
}

pub(crate) type Attributes = BTreeMap<String, Value>;

/// A change of some attributes; all others stay as they are, whoever writes them meanwhile.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Change {
    pub(crate) set: Attributes,
    pub(crate) remove: Vec<String>,
}

/// Limits on all attributes of a session together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) count_max: usize,
    /// The most bytes of names and encoded values.
    pub(crate) bytes_max: usize,
}

/// The limit that a change would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    Count,
    Bytes,
}

impl Value {
    /// Encodes the value: one byte for the type, then the value, numbers big-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (tag, body): (u8, &[u8]) = match self {
            Value::Text(text) => (b's', text.as_bytes()),
            Value::Int(int) => (b'i', &int.to_be_bytes()),
            Value::Double(double) => (b'd', &double.to_bits().to_be_bytes()),
            Value::Bool(bool) => (b'b', &[u8::from(*bool)]),
            Value::Bytes(bytes) => (b'x', bytes),
            Value::Time(seconds, nanos) => {
                let mut body = [0; 12];
                body[..8].copy_from_slice(&seconds.to_be_bytes());
                body[8..].copy_from_slice(&nanos.to_be_bytes());
                return [&[b't'][..], &body].concat();
            }
        };
        let mut encoded = Vec::with_capacity(1 + body.len());
        encoded.push(tag);
        encoded.extend_from_slice(body);
        encoded
    }

    /// Reads what [`Value::encode`] wrote; returns `None` for anything else.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Value> {
        let (tag, body) = encoded.split_first()?;
        Some(match tag {
            b's' => Value::Text(String::from_utf8(body.to_vec()).ok()?),
            b'i' => Value::Int(i64::from_be_bytes(body.try_into().ok()?)),
            b'd' => Value::Double(f64::from_bits(u64::from_be_bytes(body.try_into().ok()?))),
            b'b' => Value::Bool(*body.first()? != 0),
            b'x' => Value::Bytes(bytes::Bytes::copy_from_slice(body)),
            b't' => {
                let (seconds, nanos) = body.split_at_checked(8)?;
                Value::Time(
                    i64::from_be_bytes(seconds.try_into().ok()?),
                    i32::from_be_bytes(nanos.try_into().ok()?),
                )
            }
            _ => return None,
        })
    }

    fn encoded_len(&self) -> usize {
        1 + match self {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Int(_) | Value::Double(_) => 8,
            Value::Bool(_) => 1,
            Value::Time(..) => 12,
        }
    }
}

impl Change {
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Applies the whole change to `attributes`, or nothing and returns the limit that would be passed.
    pub(crate) fn apply(&self, attributes: &Attributes, limits: Limits) -> Result<Attributes, Passed> {
        let mut changed = attributes.clone();
        for name in &self.remove {
            changed.remove(name);
        }
        changed.extend(self.set.iter().map(|(name, value)| (name.clone(), value.clone())));
        limits.check(&changed).map(|()| changed)
    }
}

impl Limits {
    pub(crate) fn check(&self, attributes: &Attributes) -> Result<(), Passed> {
        if attributes.len() > self.count_max {
            return Err(Passed::Count);
        }
        let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.encoded_len()).sum();
        if bytes > self.bytes_max { Err(Passed::Bytes) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_with_their_length() {
        for value in [
            Value::Text("ü".into()),
            Value::Text(String::new()),
            Value::Int(i64::MIN),
            Value::Double(-0.5),
            Value::Bool(true),
            Value::Bool(false),
            Value::Bytes(vec![0, 255].into()),
            Value::Time(-1, 999_999_999),
        ] {
            let encoded = value.encode();
            assert_eq!(encoded.len(), value.encoded_len(), "{value:?}");
            assert_eq!(Value::decode(&encoded), Some(value));
        }
        for wrong in [&b""[..], b"?", b"i123", b"s\xff", b"t", b"b"] {
            assert_eq!(Value::decode(wrong), None);
        }
    }

    #[test]
    fn change_applies_whole_or_not() {
        let limits = Limits { count_max: 2, bytes_max: 20 };
        let has = Attributes::from([("a".into(), Value::Int(1)), ("b".into(), Value::Bool(true))]);
        let change = |set: &[(&str, Value)], remove: &[&str]| Change {
            set: set.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        };
        let check =
            |change: Change| change.apply(&has, limits).map(|now| now.into_keys().collect::<Vec<_>>());
        assert_eq!(check(change(&[("c", Value::Bool(true))], &["a"])), Ok(vec!["b".into(), "c".into()]));
        assert_eq!(check(change(&[("c", Value::Bool(true))], &[])), Err(Passed::Count));
        assert_eq!(
            check(change(&[("b", Value::Text("12345678".into()))], &[])),
            Ok(vec!["a".into(), "b".into()])
        );
        assert_eq!(check(change(&[("b", Value::Text("123456789".into()))], &[])), Err(Passed::Bytes));
        assert_eq!(
            check(change(&[("a", Value::Int(2))], &["a"])),
            Ok(vec!["a".into(), "b".into()]),
            "set wins"
        );
    }
}
