//! Attribute values, in the form in which they are stored. Field numbers are part of the stored format: new ones may be added,
//! and none is ever reused.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

/// A typed scalar.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Value {
    /// UTF-8 text.
    #[prost(string, tag = "1")]
    String(String),
    /// A signed 64-bit integer.
    #[prost(int64, tag = "2")]
    Int(i64),
    /// An IEEE 754 double.
    #[prost(double, tag = "3")]
    Double(f64),
    /// A boolean.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// Opaque bytes.
    #[prost(bytes = "bytes", tag = "5")]
    Bytes(Bytes),
    /// A point in time.
    #[prost(message, tag = "6")]
    Time(Time),
    /// Several values: a composite sort key. No attribute is one, so none is stored.
    #[prost(message, tag = "7")]
    List(List),
}

/// Values in an order.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Stored>,
}

impl List {
    /// Returns the values.
    pub(crate) fn into_values(self) -> Vec<Value> {
        self.values.into_iter().filter_map(|stored| stored.value).collect()
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl FromIterator<Value> for List {
    fn from_iter<I: IntoIterator<Item = Value>>(values: I) -> Self {
        Self { values: values.into_iter().map(|value| Stored { value: Some(value) }).collect() }
    }
}

/// Type of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ValueType {
    /// UTF-8 text.
    String,
    /// Signed 64-bit integers.
    Int64,
    /// IEEE 754 doubles.
    Double,
    /// Booleans.
    Bool,
    /// Opaque bytes.
    Bytes,
    /// Points in time.
    Timestamp,
}

impl ValueType {
    /// All types.
    pub(crate) const ALL: [ValueType; 6] =
        [Self::String, Self::Int64, Self::Double, Self::Bool, Self::Bytes, Self::Timestamp];

    /// Returns the type of a value; none of a list.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(_) => Some(Self::String),
            Value::Int(_) => Some(Self::Int64),
            Value::Double(_) => Some(Self::Double),
            Value::Bool(_) => Some(Self::Bool),
            Value::Bytes(_) => Some(Self::Bytes),
            Value::Time(_) => Some(Self::Timestamp),
            Value::List(_) => None,
        }
    }

    /// Returns the name of the type in the API and in stored definitions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::String => "STRING",
            Self::Int64 => "INT64",
            Self::Double => "DOUBLE",
            Self::Bool => "BOOL",
            Self::Bytes => "BYTES",
            Self::Timestamp => "TIMESTAMP",
        }
    }

    /// Returns the type of a name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.name() == name)
    }

    /// Returns the field of a value that holds one of this type.
    pub(crate) fn value_field(self) -> &'static str {
        match self {
            Self::String => "string_value",
            Self::Int64 => "int_value",
            Self::Double => "double_value",
            Self::Bool => "bool_value",
            Self::Bytes => "bytes_value",
            Self::Timestamp => "time_value",
        }
    }
}

/// A point in time: seconds and nanoseconds since 1970, UTC. Nanoseconds count forward.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Time {
    /// The seconds.
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    /// The nanoseconds, 0 to 999 999 999.
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

/// The attributes of a row, ordered by name, so that equal attributes have equal bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Attributes {
    #[prost(btree_map = "string, message", tag = "1")]
    by_name: BTreeMap<String, Stored>,
}

/// A value as a message, because protobuf maps cannot hold a oneof.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5, 6, 7")]
    value: Option<Value>,
}

impl Value {
    /// Compares two values, an integer with a double by number; none if their kinds differ otherwise, or a double is NaN.
    pub(crate) fn order(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Double(b)) => order_numbers(*a, *b),
            (Value::Double(a), Value::Int(b)) => order_numbers(*b, *a).map(Ordering::reverse),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Time(a), Value::Time(b)) => Some((a.seconds, a.nanos).cmp(&(b.seconds, b.nanos))),
            _ => None,
        }
    }
}

/// Compares an integer with a double exactly: no integer is rounded to a double; none for NaN.
fn order_numbers(int: i64, double: f64) -> Option<Ordering> {
    const BEHIND_ALL: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= BEHIND_ALL {
        return Some(Ordering::Less);
    }
    if double < -BEHIND_ALL {
        return Some(Ordering::Greater);
    }
    // Within the range of integers, so nothing but the fraction is cut off.
    let whole = double.trunc() as i64;
    Some(int.cmp(&whole).then(0.0_f64.partial_cmp(&double.fract())?))
}

impl Attributes {
    /// Returns the value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.by_name.get(name)?.value.as_ref()
    }

    /// Sets an attribute; the last value of a name stays.
    pub(crate) fn insert(&mut self, name: String, value: Value) {
        self.by_name.insert(name, Stored { value: Some(value) });
    }

    /// Takes the value of a name.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Value> {
        self.by_name.remove(name)?.value
    }

    /// Returns names and values, ordered by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.by_name.iter().filter_map(|(name, stored)| Some((name.as_str(), stored.value.as_ref()?)))
    }

    /// Returns whether there is an attribute of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Returns the number of attributes.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl IntoIterator for Attributes {
    type Item = (String, Value);
    type IntoIter = Box<dyn Iterator<Item = (String, Value)> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.by_name.into_iter().filter_map(|(name, stored)| Some((name, stored.value?))))
    }
}

impl FromIterator<(String, Value)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        let mut attributes = Self::default();
        for (name, value) in pairs {
            attributes.insert(name, value);
        }
        attributes
    }
}
