//! Conditions on a row, and whether a row meets them.

use std::cmp::Ordering;

use crate::clock::WriteTimestamp;
use crate::row::Row;
use crate::value::Value;

/// Relation between what a row holds and what the caller gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Both are of one kind, or both numbers, and equal.
    Equal,
    /// Values that differ, are of different kinds, or one that the row does not have.
    NotEqual,
    /// The row's is less.
    Less,
    /// The row's is less or equal.
    LessOrEqual,
    /// The row's is greater.
    Greater,
    /// The row's is greater or equal.
    GreaterOrEqual,
}

/// A condition on one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition {
    /// The row exists.
    Exists,
    /// The row does not exist.
    Absent,
    /// An attribute compares to a value.
    Attribute {
        /// The name of the attribute.
        name: String,
        /// The relation.
        comparison: Comparison,
        /// The value at its right side.
        value: Value,
    },
    /// The number of bytes of an attribute of text or bytes compares to a number.
    Size {
        /// The name of the attribute.
        name: String,
        /// The relation.
        comparison: Comparison,
        /// The number at its right side.
        bytes: i64,
    },
    /// The row was written at this time.
    WrittenAt(WriteTimestamp),
}

impl Comparison {
    /// Returns the name of the relation, which never changes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Comparison::Equal => "EQUAL",
            Comparison::NotEqual => "NOT_EQUAL",
            Comparison::Less => "LESS",
            Comparison::LessOrEqual => "LESS_OR_EQUAL",
            Comparison::Greater => "GREATER",
            Comparison::GreaterOrEqual => "GREATER_OR_EQUAL",
        }
    }

    /// Returns whether the relation holds; `None` stands for values that have no order.
    fn holds(self, ordering: Option<Ordering>) -> bool {
        match self {
            Comparison::Equal => ordering == Some(Ordering::Equal),
            Comparison::NotEqual => ordering != Some(Ordering::Equal),
            Comparison::Less => ordering == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => ordering == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Condition {
    /// Returns whether a row, or its absence, meets the condition.
    pub(crate) fn holds(&self, row: Option<&Row>) -> bool {
        match self {
            Condition::Exists => row.is_some(),
            Condition::Absent => row.is_none(),
            Condition::Attribute { name, comparison, value } => {
                let found = row.and_then(|row| row.attributes.get(name));
                comparison.holds(found.and_then(|found| found.order(value)))
            }
            Condition::Size { name, comparison, bytes } => {
                let size = row.and_then(|row| row.attributes.get(name)).and_then(size);
                comparison.holds(size.map(|size| size.cmp(bytes)))
            }
            Condition::WrittenAt(at) => row.is_some_and(|row| row.write_time == *at),
        }
    }
}

fn size(value: &Value) -> Option<i64> {
    let bytes = match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => return None,
    };
    i64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SortKey;

    fn row() -> Row {
        let attributes = [
            ("i".to_owned(), Value::Int(5)),
            ("s".to_owned(), Value::String("abc".to_owned())),
            ("d".to_owned(), Value::Double(f64::NAN)),
        ];
        Row {
            sort_key: SortKey::Unit,
            attributes: attributes.into_iter().collect(),
            write_time: WriteTimestamp(7),
            expire_time: None,
        }
    }

    #[test]
    fn values_of_one_kind_compare() {
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        let holds = |name: &str, comparison, value: &Value| {
            let condition = Condition::Attribute { name: name.to_owned(), comparison, value: value.clone() };
            condition.holds(Some(&row()))
        };
        let all = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual];
        for (name, value, expected) in [
            ("i", Value::Int(5), [true, false, false, true, false, true]),
            ("i", Value::Int(6), [false, true, true, true, false, false]),
            ("i", Value::Int(4), [false, true, false, false, true, true]),
            ("i", Value::Double(5.0), [true, false, false, true, false, true]),
            ("i", Value::Double(5.5), [false, true, true, true, false, false]),
            ("i", Value::Double(4.5), [false, true, false, false, true, true]),
            ("i", Value::Double(f64::NAN), [false, true, false, false, false, false]),
            ("i", Value::Double(f64::INFINITY), [false, true, true, true, false, false]),
            ("s", Value::Int(5), [false, true, false, false, false, false]),
            ("d", Value::Double(f64::NAN), [false, true, false, false, false, false]),
            ("none", Value::Int(5), [false, true, false, false, false, false]),
        ] {
            assert_eq!(all.map(|comparison| holds(name, comparison, &value)), expected, "{name} {value:?}");
        }
    }

    #[test]
    fn integers_are_never_rounded() {
        // 2^53 + 1 is no double: as doubles the two would be equal.
        assert_eq!(
            Value::Int((1 << 53) + 1).order(&Value::Double(9_007_199_254_740_992.0)),
            Some(Ordering::Greater)
        );
        assert_eq!(
            Value::Int(i64::MAX).order(&Value::Double(9_223_372_036_854_775_808.0)),
            Some(Ordering::Less)
        );
        assert_eq!(
            Value::Int(i64::MIN).order(&Value::Double(-9_223_372_036_854_775_808.0)),
            Some(Ordering::Equal)
        );
        assert_eq!(Value::Int(-5).order(&Value::Double(-5.5)), Some(Ordering::Greater));
        assert_eq!(Value::Int(0).order(&Value::Double(-0.0)), Some(Ordering::Equal));
        assert_eq!(Value::Int(i64::MIN).order(&Value::Double(f64::NEG_INFINITY)), Some(Ordering::Greater));
    }

    #[test]
    fn absence_sizes_and_times_are_judged() {
        let size = |bytes| Condition::Size { name: "s".to_owned(), comparison: Comparison::Equal, bytes };
        assert!(size(3).holds(Some(&row())) && !size(2).holds(Some(&row())) && !size(3).holds(None));
        assert!(Condition::Exists.holds(Some(&row())) && !Condition::Exists.holds(None));
        assert!(Condition::Absent.holds(None) && !Condition::Absent.holds(Some(&row())));
        assert!(Condition::WrittenAt(WriteTimestamp(7)).holds(Some(&row())));
        assert!(!Condition::WrittenAt(WriteTimestamp(8)).holds(Some(&row())));
    }
}
