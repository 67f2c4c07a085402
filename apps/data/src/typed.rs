//! Values typed on a command line: attributes as `NAME=TEXT` or `NAME:TYPE=VALUE`, sort keys as their table has them.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost_types::Timestamp;
use shoal_proto::data::v1::{SortKeyType, Table};
use shoal_proto::r#type::v1::Value;
use shoal_proto::r#type::v1::value::Kind;

const TYPES: &str = "string, int, double, bool, bytes or time";

/// Makes a value of a kind.
pub(crate) fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

/// Parses attributes.
///
/// # Errors
/// When one has another form, its value is not of its type, or a name comes twice.
pub(crate) fn attributes(typed: &[String]) -> anyhow::Result<HashMap<String, Value>> {
    let mut attributes = HashMap::new();
    for text in typed {
        let (name, value) = attribute(text)?;
        if attributes.insert(name.clone(), value).is_some() {
            bail!("attribute {name} is given twice");
        }
    }
    Ok(attributes)
}

fn attribute(text: &str) -> anyhow::Result<(String, Value)> {
    let Some((name, given)) = text.split_once('=') else {
        bail!("`{text}` is no attribute: NAME=TEXT or NAME:TYPE=VALUE, with the type {TYPES}");
    };
    let Some((name, of)) = name.rsplit_once(':') else {
        return Ok((name.to_owned(), value(Kind::StringValue(given.to_owned()))));
    };
    let parsed = match of {
        "string" => Kind::StringValue(given.to_owned()),
        "int" => Kind::IntValue(given.parse().with_context(|| wrong(name, given, "a 64-bit integer"))?),
        "double" => Kind::DoubleValue(double(given).with_context(|| wrong(name, given, DOUBLE))?),
        "bool" => Kind::BoolValue(given.parse().with_context(|| wrong(name, given, "true or false"))?),
        "bytes" => Kind::BytesValue(bytes(given).with_context(|| wrong(name, given, "base64"))?),
        "time" => Kind::TimeValue(time(given).with_context(|| wrong(name, given, TIME))?),
        _ => bail!("`{text}`: {of} is no type; the types are {TYPES}"),
    };
    Ok((name.to_owned(), value(parsed)))
}

const DOUBLE: &str = "a double: a number up to 1.8e308, inf or nan";

/// Parses a double. Infinity has to be spelled.
fn double(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    (number.is_finite() || text.contains(['i', 'I', 'n', 'N'])).then_some(number)
}

const TIME: &str = "an RFC 3339 time such as 2026-03-01T10:00:00Z";

fn wrong(name: &str, given: &str, wanted: &str) -> String {
    format!("{name}: `{given}` is not {wanted}")
}

/// Parses base64.
///
/// # Errors
/// When it is none.
pub(crate) fn bytes(text: &str) -> anyhow::Result<Bytes> {
    Ok(STANDARD.decode(text)?.into())
}

/// Encodes bytes as base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Parses an RFC 3339 time.
///
/// # Errors
/// When it is none.
pub(crate) fn time(text: &str) -> anyhow::Result<Timestamp> {
    Ok(text.parse()?)
}

/// Returns the type of a table's sort keys.
pub(crate) fn sort_key_type(table: &Table) -> SortKeyType {
    match table.sort_key_type() {
        SortKeyType::Unspecified => SortKeyType::String,
        of => of,
    }
}

/// Parses a sort key of one value.
///
/// # Errors
/// When the table has sort keys of another type, or none.
pub(crate) fn sort_key(table: &Table, typed: &str) -> anyhow::Result<Value> {
    let name = &table.name;
    Ok(value(match sort_key_type(table) {
        SortKeyType::Int64 => Kind::IntValue(
            typed
                .parse()
                .with_context(|| format!("sort keys of {name} are integers, and `{typed}` is none"))?,
        ),
        SortKeyType::Bytes => Kind::BytesValue(
            bytes(typed)
                .with_context(|| format!("sort keys of {name} are bytes, and `{typed}` is no base64"))?,
        ),
        SortKeyType::None => bail!("{name} has no sort keys: leave `{typed}` out"),
        SortKeyType::String | SortKeyType::Unspecified | SortKeyType::Composite => {
            Kind::StringValue(typed.to_owned())
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Kind {
        attributes(&[text.to_owned()]).unwrap().into_values().next().unwrap().kind.unwrap()
    }

    fn refusal(texts: &[&str]) -> String {
        let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
        format!("{:#}", attributes(&texts).unwrap_err())
    }

    #[test]
    fn attributes_have_name_type_and_value() {
        assert_eq!(one("a=x=y"), Kind::StringValue("x=y".to_owned()));
        assert_eq!(one("a:string=5"), Kind::StringValue("5".to_owned()));
        assert_eq!(one("a:int=-5"), Kind::IntValue(-5));
        assert_eq!(one("a:double=1e3"), Kind::DoubleValue(1000.0));
        assert_eq!(one("a:bool=true"), Kind::BoolValue(true));
        assert_eq!(one("a:bytes=AAE="), Kind::BytesValue(vec![0, 1].into()));
        let time = Timestamp { seconds: 1, nanos: 5 };
        assert_eq!(one("a:time=1970-01-01T00:00:01.000000005Z"), Kind::TimeValue(time));
        assert!(attributes(&["x:y:int=1".to_owned()]).unwrap().contains_key("x:y"));
    }

    #[test]
    fn wrong_attributes_are_named() {
        for (texts, part) in [
            (&["a"][..], "`a` is no attribute"),
            (&["a:int=x"], "a: `x` is not a 64-bit integer"),
            (&["a:bool=yes"], "not true or false"),
            (&["a:bytes=?"], "not base64"),
            (&["a:time=now"], "not an RFC 3339 time"),
            (&["a:double=1e400"], "is not a double"),
            (&["a:float=1"], "float is no type; the types are string, int"),
            (&["a=1", "a:int=1"], "a is given twice"),
        ] {
            let refusal = refusal(texts);
            assert!(refusal.contains(part), "{refusal}");
        }
    }

    #[test]
    fn sort_keys_follow_their_table() {
        let table =
            |of: SortKeyType| Table { name: "t".into(), sort_key_type: of.into(), ..Table::default() };
        let parsed = |of, typed: &str| sort_key(&table(of), typed).map(|value| value.kind.unwrap());
        assert_eq!(parsed(SortKeyType::Unspecified, "5").unwrap(), Kind::StringValue("5".to_owned()));
        assert_eq!(parsed(SortKeyType::Int64, "-5").unwrap(), Kind::IntValue(-5));
        assert_eq!(parsed(SortKeyType::Bytes, "AA==").unwrap(), Kind::BytesValue(vec![0].into()));
        for (of, part) in [
            (SortKeyType::Int64, "are integers"),
            (SortKeyType::Bytes, "no base64"),
            (SortKeyType::None, "no sort keys"),
        ] {
            let refusal = format!("{:#}", parsed(of, "x").unwrap_err());
            assert!(refusal.contains(part), "{refusal}");
        }
    }
}
