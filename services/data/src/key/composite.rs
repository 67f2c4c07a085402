//! The encoding of composite sort keys: bytes that sort like the tuples of their parts, and from which the parts can be read
//! again. The form is part of the stored layout and stands in docs/data.md.
//!
//! Each part ends by itself, so the keys that begin with some values are those that begin with the bytes of these values:
//!
//! | type | bytes |
//! |---|---|
//! | STRING, BYTES | the bytes, each 00 as 00 FF, then 00 01 |
//! | INT64 | 8, big endian, the sign bit flipped |
//! | DOUBLE | 8, big endian: the sign bit flipped, or all bits if it is negative |
//! | BOOL | 00 or 01 |
//! | TIMESTAMP | the seconds as an INT64, then 4 with the nanoseconds, big endian |
//!
//! The bytes of a descending part are all inverted.

use bytes::Bytes;
use shoal_kit::{Invalid, reason};

use crate::table::{KeyPart, KeyParts};
use crate::value::{Time, Value, ValueType};

const ESCAPED: [u8; 2] = [0, 0xff];
const END: [u8; 2] = [0, 1];

/// Encodes the values of the first parts.
///
/// # Errors
/// INVALID_ARGUMENT when there are more values than parts, or one is of another type than its part or NaN.
pub(super) fn encode(parts: &KeyParts, values: &[Value], field: &str) -> Result<Vec<u8>, Invalid> {
    if values.len() > parts.len() {
        let problem = format!("has {} values; the table's sort keys are ({parts})", values.len());
        return Err(Invalid::new(reason::INVALID_SORT_KEY, field.to_owned(), problem));
    }
    let mut bytes = Vec::new();
    for (at, (part, value)) in parts.iter().zip(values).enumerate() {
        let start = bytes.len();
        if !encode_part(part.of, value, &mut bytes) {
            let (wanted, found) = (part.of.value_field(), ValueType::of(value).map(ValueType::value_field));
            let problem = match found {
                Some(found) if found == wanted => "is NaN, which has no place in an order".to_owned(),
                found => format!(
                    "the table's sort keys are ({parts}): set {wanted}, not {}",
                    found.unwrap_or("list_value")
                ),
            };
            let field = format!("{field}.list_value.values[{at}]");
            return Err(Invalid::new(reason::SORT_KEY_TYPE_MISMATCH, field, problem));
        }
        if part.descending {
            bytes[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    Ok(bytes)
}

/// Appends the ascending form of a value. Returns `false` if it has none of this type.
fn encode_part(of: ValueType, value: &Value, to: &mut Vec<u8>) -> bool {
    match (of, value) {
        (ValueType::String, Value::String(text)) => encode_bytes(text.as_bytes(), to),
        (ValueType::Bytes, Value::Bytes(bytes)) => encode_bytes(bytes, to),
        (ValueType::Int64, Value::Int(int)) => to.extend(ordered(*int)),
        (ValueType::Bool, Value::Bool(bool)) => to.push((*bool).into()),
        (ValueType::Double, Value::Double(double)) if !double.is_nan() => {
            // There is one zero, so that equal numbers are one key.
            let bits = if *double == 0.0 { 0 } else { double.to_bits() };
            let flipped = if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) };
            to.extend(flipped.to_be_bytes());
        }
        (ValueType::Timestamp, Value::Time(time)) => {
            to.extend(ordered(time.seconds));
            to.extend(time.nanos.to_be_bytes());
        }
        _ => return false,
    }
    true
}

fn encode_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            0 => to.extend(ESCAPED),
            byte => to.push(*byte),
        }
    }
    to.extend(END);
}

fn ordered(int: i64) -> [u8; 8] {
    (int.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Reads the values of the first parts; none if the bytes are not those of whole parts.
pub(super) fn decode(parts: &KeyParts, mut bytes: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    for part in parts.iter() {
        if bytes.is_empty() {
            break;
        }
        let mut from = Source { bytes, inverted: part.descending };
        values.push(decode_part(part, &mut from)?);
        bytes = from.bytes;
    }
    bytes.is_empty().then_some(values)
}

fn decode_part(part: KeyPart, from: &mut Source<'_>) -> Option<Value> {
    Some(match part.of {
        ValueType::String => Value::String(String::from_utf8(from.bytes_to_end()?).ok()?),
        ValueType::Bytes => Value::Bytes(Bytes::from(from.bytes_to_end()?)),
        ValueType::Int64 => Value::Int(from.int()?),
        ValueType::Bool => Value::Bool(match from.take()? {
            [0] => false,
            [1] => true,
            _ => return None,
        }),
        ValueType::Double => {
            let flipped = u64::from_be_bytes(from.take()?);
            let bits = if flipped >> 63 == 1 { flipped ^ (1 << 63) } else { !flipped };
            Value::Double(f64::from_bits(bits))
        }
        ValueType::Timestamp => {
            Value::Time(Time { seconds: from.int()?, nanos: i32::from_be_bytes(from.take()?) })
        }
    })
}

/// Bytes that are read from their beginning.
struct Source<'a> {
    bytes: &'a [u8],
    inverted: bool,
}

impl Source<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(if self.inverted { taken.map(|byte| !byte) } else { *taken })
    }

    fn int(&mut self) -> Option<i64> {
        Some((u64::from_be_bytes(self.take()?) ^ (1 << 63)).cast_signed())
    }

    fn bytes_to_end(&mut self) -> Option<Vec<u8>> {
        let mut found = Vec::new();
        loop {
            match self.take()? {
                [0] => match [0, self.take::<1>()?[0]] {
                    ESCAPED => found.push(0),
                    END => return Some(found),
                    _ => return None,
                },
                [byte] => found.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use fastrand::Rng;

    use super::*;
    use crate::table::KEY_PARTS_MAX;

    /// Values that are near each other's ends, and some by chance.
    fn value(rng: &mut Rng, of: ValueType) -> Value {
        const BYTES: [&[u8]; 9] =
            [b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"a", b"a\0", b"a\xff", b"\xff\xff"];
        const INTS: [i64; 9] = [i64::MIN, i64::MIN + 1, -256, -1, 0, 1, 255, i64::MAX - 1, i64::MAX];
        const DOUBLES: [f64; 9] = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -f64::MIN_POSITIVE,
            0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
        ];
        let at = rng.usize(..9);
        match of {
            ValueType::String => {
                let texts = ["", "\0", "\0\0", "\0\u{1}", "a", "a\0", "ab", "\u{7f}", "\u{10ffff}"];
                Value::String(texts[at].to_owned())
            }
            ValueType::Bytes if rng.bool() => {
                let mut bytes = vec![0; rng.usize(..6)];
                bytes.iter_mut().for_each(|byte| *byte = [0, 1, 255, rng.u8(..)][rng.usize(..4)]);
                Value::Bytes(bytes.into())
            }
            ValueType::Bytes => Value::Bytes(Bytes::from_static(BYTES[at])),
            ValueType::Int64 => Value::Int(if rng.bool() { INTS[at] } else { rng.i64(..) }),
            ValueType::Bool => Value::Bool(rng.bool()),
            ValueType::Double if rng.bool() => match f64::from_bits(rng.u64(..)) {
                nan if nan.is_nan() => Value::Double(-0.0),
                double => Value::Double(double),
            },
            ValueType::Double => Value::Double(DOUBLES[at]),
            ValueType::Timestamp => {
                let nanos = [0, 1, 255, 256, 999_999_999][rng.usize(..5)];
                Value::Time(Time { seconds: INTS[rng.usize(2..7)], nanos })
            }
        }
    }

    fn compare(a: &Value, b: &Value) -> Ordering {
        match (a, b) {
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b).unwrap(),
            (Value::Time(a), Value::Time(b)) => (a.seconds, a.nanos).cmp(&(b.seconds, b.nanos)),
            other => panic!("{other:?}"),
        }
    }

    /// Compares tuples: part by part, and one that ends first comes first.
    fn compare_tuples(parts: &KeyParts, a: &[Value], b: &[Value]) -> Ordering {
        let each = parts.iter().zip(a.iter().zip(b)).map(|(part, (a, b))| match part.descending {
            true => compare(a, b).reverse(),
            false => compare(a, b),
        });
        each.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
    }

    #[test]
    fn encodings_sort_like_their_tuples() {
        let seed = fastrand::u64(..);
        let mut rng = Rng::with_seed(seed);
        for _ in 0..500 {
            let parts: Vec<_> = (0..rng.usize(1..=KEY_PARTS_MAX))
                .map(|_| KeyPart {
                    of: ValueType::ALL[rng.usize(..ValueType::ALL.len())],
                    descending: rng.bool(),
                })
                .collect();
            let parts = KeyParts::new(&parts, "f").unwrap();
            let tuple = |rng: &mut Rng, len: usize| -> Vec<Value> {
                parts.iter().take(len).map(|part| value(rng, part.of)).collect()
            };
            for _ in 0..100 {
                // Many share their first values, and some are the first values of another.
                let mut a = tuple(&mut rng, parts.len());
                let mut b = tuple(&mut rng, parts.len());
                let shared = rng.usize(..=parts.len());
                b[..shared].clone_from_slice(&a[..shared]);
                a.truncate(rng.usize(..=parts.len()).max(shared));
                let (encoded, other) = (encode(&parts, &a, "f").unwrap(), encode(&parts, &b, "f").unwrap());
                let wanted = compare_tuples(&parts, &a, &b);
                assert_eq!(encoded.cmp(&other), wanted, "seed {seed}: ({parts}) {a:?} {b:?}");
                let begins = compare_tuples(&parts, &a, &b[..a.len()]).is_eq();
                assert_eq!(other.starts_with(&encoded), begins, "seed {seed}: ({parts}) {a:?} {b:?}");
                let decoded = decode(&parts, &encoded).unwrap();
                assert_eq!(compare_tuples(&parts, &decoded, &a), Ordering::Equal, "seed {seed}: {a:?}");
                assert_eq!(decoded.len(), a.len());
            }
        }
    }

    #[test]
    fn documented_bytes_are_those_stored() {
        let parts = KeyParts::of_text("STRING, INT64 DESC, BOOL, DOUBLE, TIMESTAMP").unwrap();
        let time = Value::Time(Time { seconds: 1, nanos: 2 });
        let values =
            [Value::String("a\0".to_owned()), Value::Int(-1), Value::Bool(true), Value::Double(-1.0), time];
        let bytes = encode(&parts, &values, "f").unwrap();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "6100ff0001800000000000000001400fffffffffffff800000000000000100000002");
        assert_eq!(decode(&parts, &bytes).unwrap(), values);
    }

    #[test]
    fn damaged_keys_are_not_decoded() {
        let parts = KeyParts::of_text("STRING, BOOL").unwrap();
        for damaged in [&b"a"[..], b"a\0", b"a\0\x02", b"\xff\0\x01", b"a\0\x01\x02", b"a\0\x01\x01\0"] {
            assert_eq!(decode(&parts, damaged), None, "{damaged:?}");
        }
        assert_eq!(decode(&parts, b"a\0\x01"), Some(vec![Value::String("a".to_owned())]));
    }

    #[test]
    fn values_of_other_types_are_refused() {
        let parts = KeyParts::of_text("STRING, DOUBLE").unwrap();
        let refused = |values: &[Value]| {
            let Invalid { reason, field, problem, .. } = encode(&parts, values, "sort_key").unwrap_err();
            (reason.as_str(), field.into_owned(), problem.into_owned())
        };
        let text = || Value::String("a".to_owned());
        let (reason, field, problem) = refused(&[text(), Value::Int(1)]);
        assert_eq!((reason, &*field), ("SORT_KEY_TYPE_MISMATCH", "sort_key.list_value.values[1]"));
        assert_eq!(problem, "the table's sort keys are (STRING, DOUBLE): set double_value, not int_value");
        assert_eq!(refused(&[text(), Value::Double(f64::NAN)]).0, "SORT_KEY_TYPE_MISMATCH");
        assert_eq!(refused(&[text(), Value::Double(1.0), text()]).0, "INVALID_SORT_KEY");
    }
}
