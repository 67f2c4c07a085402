//! Attribute values, in the form in which they are stored. Field numbers are part of the stored format: new ones may be added,
//! and none is ever reused.

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
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5, 6")]
    value: Option<Value>,
}

impl Attributes {
    /// Sets an attribute; the last value of a name stays.
    pub(crate) fn insert(&mut self, name: String, value: Value) {
        self.by_name.insert(name, Stored { value: Some(value) });
    }

    /// Returns names and values, ordered by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.by_name.iter().filter_map(|(name, stored)| Some((name.as_str(), stored.value.as_ref()?)))
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
