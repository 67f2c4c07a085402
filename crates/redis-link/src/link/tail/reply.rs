//! Reads replies of XREAD by hand, because the driver's type for them rejects keys that are not UTF-8.

use redis::Value;

use super::Entry;

/// Reads `[[key, [[id, [name, value, ...]], ...]], ...]`, or nil when nothing came in time.
pub(super) fn parse(reply: Value) -> Option<Vec<(Vec<u8>, Vec<Entry>)>> {
    let streams = match reply {
        Value::Nil => return Some(Vec::new()),
        Value::Array(streams) => streams,
        _ => return None,
    };
    streams
        .into_iter()
        .map(|stream| {
            let [key, entries] = array(stream)?.try_into().ok()?;
            let entries = array(entries)?.into_iter().map(entry).collect::<Option<_>>()?;
            Some((bytes(key)?, entries))
        })
        .collect()
}

fn entry(value: Value) -> Option<Entry> {
    let [id, fields] = array(value)?.try_into().ok()?;
    let fields = match fields {
        // The entry was deleted while it was read.
        Value::Nil => Vec::new(),
        fields => array(fields)?,
    };
    let mut pairs = Vec::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let Some(name) = fields.next() {
        pairs.push((bytes(name)?, bytes(fields.next()?)?));
    }
    Some(Entry { id: String::from_utf8(bytes(id)?).ok()?, fields: pairs })
}

fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn entries_keep_order_and_repeated_names() {
        let fields = Value::Array(vec![text("a"), text("1"), text("a"), text("2")]);
        let entries = Value::Array(vec![Value::Array(vec![text("5-0"), fields])]);
        let reply = Value::Array(vec![Value::Array(vec![text("key"), entries])]);
        let pair = |value: &str| (b"a".to_vec(), value.as_bytes().to_vec());
        let entry = Entry { id: "5-0".into(), fields: vec![pair("1"), pair("2")] };
        assert_eq!(parse(reply), Some(vec![(b"key".to_vec(), vec![entry])]));
        assert_eq!(parse(Value::Nil), Some(Vec::new()), "nothing came");
        assert_eq!(parse(Value::Int(1)), None);
    }
}
