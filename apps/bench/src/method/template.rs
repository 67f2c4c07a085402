//! Requests as JSON with placeholders. A template is compiled once: checked against the message's type, and encoded there and
//! then if all calls are alike.

use std::borrow::Cow;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor};
use serde_json::Value;

use super::placeholder::Placeholder;
use super::similar::suggestion;
use crate::load::call::framed;
use crate::load::target::{Content, Draw};

/// Requests that are made of a template to see that it is valid.
const TRIED: u64 = 100;

/// Parts of a template, in their order.
#[derive(Debug)]
enum Part {
    Text(String),
    Value {
        placeholder: Placeholder,
        /// True within a JSON string, where the value is escaped; elsewhere it is JSON itself.
        quoted: bool,
    },
}

/// Compiles a template for requests of a type. `seed` is that of the requests that are tried.
///
/// # Errors
/// When a placeholder is wrong, the text is not JSON, or not that of such a message; the error names the field.
pub(super) fn compile(text: &str, message: &MessageDescriptor, seed: u64) -> anyhow::Result<Content> {
    let parts = parts(text)?;
    if parts.iter().all(|part| matches!(part, Part::Text(_))) {
        return Ok(Content::Fixed(framed(&parsed(text, message)?)));
    }
    for number in 0..TRIED {
        let mut draw = Draw::new(seed, number);
        let text = filled(&parts, &mut draw);
        parsed(&text, message)
            .with_context(|| format!("with its placeholders filled in: {}", shown(&text)))?;
    }
    let message = message.clone();
    Ok(Content::Made(Box::new(move |draw| {
        let text = filled(&parts, draw);
        // Tried above; what is wrong in a later line of a file becomes an empty request.
        read(&text, &message).map(|message| framed(&message)).unwrap_or_else(|_| Bytes::from_static(&[0; 5]))
    })))
}

/// Splits a template at its placeholders.
fn parts(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut quoted = false;
    while let Some(at) = rest.find("{{") {
        let before = &rest[..at];
        // `{"a":{{` is a placeholder too: JSON never has two opening braces together.
        let Some(end) = rest[at..].find("}}") else {
            bail!("`{}` has no closing `}}}}`", shown(&rest[at..]));
        };
        quoted = in_string(before, quoted);
        parts.push(Part::Text(before.to_owned()));
        parts.push(Part::Value { placeholder: Placeholder::parse(&rest[at + 2..at + end])?, quoted });
        rest = &rest[at + end + 2..];
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

/// Returns true if a JSON string is open after `text`.
fn in_string(text: &str, mut open: bool) -> bool {
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if open => escaped = true,
            b'"' => open = !open,
            _ => {}
        }
    }
    open
}

fn filled(parts: &[Part], draw: &mut Draw) -> String {
    let mut out = String::with_capacity(128);
    let mut value = String::new();
    for (nth, part) in parts.iter().enumerate() {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Value { placeholder, quoted: false } => placeholder.write(nth, draw, &mut out),
            Part::Value { placeholder, quoted: true } => {
                value.clear();
                placeholder.write(nth, draw, &mut value);
                out.push_str(&escaped(&value));
            }
        }
    }
    out
}

fn escaped(value: &str) -> Cow<'_, str> {
    let plain = value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if plain {
        return Cow::Borrowed(value);
    }
    let quoted = Value::from(value).to_string();
    Cow::Owned(quoted[1..quoted.len() - 1].to_owned())
}

fn read(text: &str, message: &MessageDescriptor) -> Result<DynamicMessage, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(message.clone(), &mut json)?;
    json.end()?;
    Ok(message)
}

/// Reads a message; an error names the field.
fn parsed(text: &str, message: &MessageDescriptor) -> anyhow::Result<DynamicMessage> {
    let error = match read(text, message) {
        Ok(message) => return Ok(message),
        Err(error) => error,
    };
    let value: Value = serde_json::from_str(text).with_context(|| format!("not JSON: {}", shown(text)))?;
    explain(&value, message, "")?;
    Err(error).with_context(|| format!("not a {}", message.full_name()))
}

/// Fails at the first field that is wrong. `path` leads to the message, and ends with a dot if it is not empty.
fn explain(value: &Value, message: &MessageDescriptor, path: &str) -> anyhow::Result<()> {
    let Value::Object(fields) = value else {
        bail!("{} must be an object with the fields of {}", place(path), message.full_name());
    };
    for (name, value) in fields {
        let field = message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name));
        let Some(field) = field else {
            let names: Vec<String> = message.fields().map(|field| field.name().to_owned()).collect();
            bail!(
                "{} has no field `{name}` ({}): {}",
                message.full_name(),
                place(&format!("{path}{name}.")),
                suggestion(name, &names)
            );
        };
        let path = format!("{path}{name}");
        // Messages with a JSON form of their own (timestamps and the like) are taken whole.
        if let Kind::Message(inner) = field.kind()
            && inner.package_name() != "google.protobuf"
        {
            match value {
                Value::Array(items) if field.is_list() => {
                    for (n, item) in items.iter().enumerate() {
                        explain(item, &inner, &format!("{path}[{n}]."))?;
                    }
                    continue;
                }
                Value::Object(_) if !field.is_list() && !field.is_map() => {
                    explain(value, &inner, &format!("{path}."))?;
                    continue;
                }
                _ => {}
            }
        }
        let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        let kind = if field.is_list() { "a list of " } else { "" };
        DynamicMessage::deserialize(message.clone(), alone)
            .with_context(|| format!("field `{path}` ({kind}{:?})", field.kind()))?;
    }
    Ok(())
}

fn place(path: &str) -> String {
    match path.trim_end_matches('.') {
        "" => "the request".to_owned(),
        path => format!("at `{path}`"),
    }
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(200).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    use prost::Message as _;
    use prost_reflect::DescriptorPool;

    fn message(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(shoal_proto::DESCRIPTOR_SET).expect("descriptors");
        pool.get_message_by_name(name).expect("a message")
    }

    fn error(name: &str, json: &str) -> String {
        format!("{:#}", compile(json, &message(name), 1).expect_err("wrong"))
    }

    /// Makes the requests of the first calls, decoded.
    fn requests<M: prost::Message + Default>(name: &str, json: &str, calls: u64) -> Vec<M> {
        let Content::Made(make) = compile(json, &message(name), 1).expect("valid") else {
            panic!("{json} has no placeholders");
        };
        (0..calls).map(|n| M::decode(&make(&mut Draw::new(1, n))[5..]).expect("a message")).collect()
    }

    const GET: &str = "shoal.cache.v1.GetRequest";

    #[test]
    fn calls_without_placeholders_are_alike() {
        let content = compile(r#"{"namespace": "a", "key": "b"}"#, &message(GET), 1).expect("valid");
        let expected = shoal_proto::cache::v1::GetRequest {
            namespace: "a".into(),
            key: "b".into(),
            ..Default::default()
        };
        assert!(matches!(content, Content::Fixed(bytes) if bytes[5..] == expected.encode_to_vec()));
    }

    #[test]
    fn placeholders_are_filled_for_each_call() {
        let json = r#"{"namespace": "n", "key": "user-{{seq}}-{{ zipf:3:1.1 }}"}"#;
        let made: Vec<shoal_proto::cache::v1::GetRequest> = requests(GET, json, 3);
        let keys: Vec<&str> = made.iter().map(|request| &request.key[..7]).collect();
        assert_eq!(keys, ["user-0-", "user-1-", "user-2-"]);
    }

    #[test]
    fn bare_placeholders_are_numbers() {
        let json = r#"{"table":"t","partition_key":"p","page_size":{{seq}}}"#;
        let made: Vec<shoal_proto::data::v1::QueryRequest> = requests("shoal.data.v1.QueryRequest", json, 3);
        assert_eq!(made[2].page_size, 2);
    }

    #[test]
    fn lines_are_escaped_in_strings() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "say \"hi\"\nback\\slash\n").expect("written");
        let json = format!(r#"{{"key": "{{{{line:{}}}}}"}}"#, file.path().display());
        let made: Vec<shoal_proto::cache::v1::GetRequest> = requests(GET, &json, 2);
        assert_eq!([&made[0].key, &made[1].key], ["say \"hi\"", "back\\slash"]);
    }

    #[test]
    fn errors_name_the_field() {
        let unknown = error(GET, r#"{"namespaces": "a"}"#);
        assert!(
            unknown.contains("has no field `namespaces` (at `namespaces`): did you mean `namespace`?"),
            "{unknown}"
        );
        let kind = error(GET, r#"{"key": 5}"#);
        assert!(kind.contains("field `key` (string): invalid type: integer `5`"), "{kind}");
        let mutate = "shoal.data.v1.MutateRequest";
        let nested = error(mutate, r#"{"mutations": [{"put": {}}, {"putt": {}}]}"#);
        assert!(nested.contains("`putt` (at `mutations[1].putt`): did you mean `put`?"), "{nested}");
        let list = error(mutate, r#"{"mutations": 7}"#);
        assert!(list.contains("field `mutations` (a list of shoal.data.v1.Mutation)"), "{list}");
        let filled = error("shoal.data.v1.QueryRequest", r#"{"page_size": "{{uuid}}"}"#);
        assert!(
            filled.contains("with its placeholders filled in")
                && filled.contains("field `page_size` (int32)"),
            "{filled}"
        );
    }

    #[test]
    fn text_that_is_not_json_is_shown() {
        let text = error(GET, "{namespace: 1}");
        assert!(text.contains("not JSON: {namespace: 1}: key must be a string at line 1 column 2"), "{text}");
        assert!(error(GET, r#"{"key": "{{seq"}"#).contains("has no closing `}}`"));
        assert!(error(GET, "[]").contains("the request must be an object"));
    }
}
