//! Rows as JSON, without loss: what is printed can be read back as the same values.
//!
//! Text, booleans and integers are themselves. A double is a number with a fraction or an exponent. The rest are objects with one
//! key: `{"bytes": BASE64}`, `{"time": RFC 3339}`, and `{"double": TEXT}` for doubles that JSON has no exact number for. A composite sort key is a list.

use std::collections::HashMap;

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Map, Value as Json, json};
use shoal_proto::data::v1::Row;
use shoal_proto::r#type::v1::value::Kind;
use shoal_proto::r#type::v1::{ListValue, Value};

use crate::typed;

/// Returns a row as an object.
pub(crate) fn row(row: &Row) -> Json {
    let mut object = Map::new();
    object.insert("partition_key".to_owned(), json!(row.partition_key));
    if let Some(sort_key) = &row.sort_key {
        object.insert("sort_key".to_owned(), value(sort_key));
    }
    // Sorted by name, so that two rows can be compared line by line.
    let attributes: Map<_, _> = row.attributes.iter().map(|(name, of)| (name.clone(), value(of))).collect();
    object.insert("attributes".to_owned(), Json::Object(attributes));
    for (name, time) in [("write_time", &row.write_time), ("expire_time", &row.expire_time)] {
        if let Some(time) = time {
            object.insert(name.to_owned(), json!(time.to_string()));
        }
    }
    if let Some(key) = &row.view_sort_key {
        object.insert("view_sort_key".to_owned(), value(key));
    }
    Json::Object(object)
}

/// Returns a value as JSON; null for a value of no kind.
pub(crate) fn value(value: &Value) -> Json {
    match &value.kind {
        None => Json::Null,
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::IntValue(number)) => json!(number),
        Some(Kind::DoubleValue(number)) => double(*number),
        Some(Kind::BoolValue(is)) => json!(is),
        Some(Kind::BytesValue(bytes)) => json!({ "bytes": typed::base64(bytes) }),
        Some(Kind::TimeValue(time)) => json!({ "time": time.to_string() }),
        Some(Kind::ListValue(list)) => list.values.iter().map(self::value).collect(),
    }
}

fn double(number: f64) -> Json {
    // The parser may be off by one in the last place.
    let exact = |json: &Json| {
        let again: Option<f64> = serde_json::from_str(&json.to_string()).ok();
        json.is_f64() && again.is_some_and(|again| again.to_bits() == number.to_bits())
    };
    match json!(number) {
        json if exact(&json) => json,
        _ => json!({ "double": number.to_string() }),
    }
}

/// Parses a value.
///
/// # Errors
/// When the JSON is none of the forms that [`value`] makes.
pub(crate) fn parse_value(json: &Json) -> anyhow::Result<Value> {
    let kind = match json {
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Bool(is) => Kind::BoolValue(*is),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Kind::IntValue(integer),
            None if number.is_f64() => Kind::DoubleValue(number.as_f64().unwrap_or_default()),
            None => bail!("{number} is no 64-bit integer"),
        },
        Json::Object(object) if object.len() == 1 => {
            let text = |of: &str| object.get(of).and_then(Json::as_str);
            if let Some(text) = text("bytes") {
                Kind::BytesValue(typed::bytes(text).with_context(|| format!("`{text}` is not base64"))?)
            } else if let Some(text) = text("time") {
                Kind::TimeValue(typed::time(text).with_context(|| format!("`{text}` is no RFC 3339 time"))?)
            } else if let Some(text) = text("double") {
                Kind::DoubleValue(text.parse().with_context(|| format!("`{text}` is no number"))?)
            } else {
                bail!("{json} is no value: an object has one of bytes, time and double, with text")
            }
        }
        _ => bail!(
            "{json} is no value: text, a number, true, false, or an object such as {{\"bytes\": BASE64}} or {{\"time\": RFC 3339}}"
        ),
    };
    Ok(typed::value(kind))
}

/// Parses a sort key: a value, or a list of values.
///
/// # Errors
/// When the JSON is none of the forms that [`value`] makes.
pub(crate) fn parse_sort_key(json: &Json) -> anyhow::Result<Value> {
    let Json::Array(values) = json else { return parse_value(json) };
    let values = values.iter().map(parse_value).collect::<Result<_, _>>()?;
    Ok(typed::value(Kind::ListValue(ListValue { values })))
}

/// Parses an object of attributes.
///
/// # Errors
/// When it is no object, or one of its values is none.
pub(crate) fn parse_attributes(json: &Json) -> anyhow::Result<HashMap<String, Value>> {
    let object = json.as_object().ok_or_else(|| anyhow!("{json} is no JSON object of attributes"))?;
    let parse = |(name, json): (&String, &Json)| {
        let value = parse_value(json).with_context(|| format!("attribute {name}"))?;
        Ok((name.clone(), value))
    };
    object.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn every_value_comes_back_the_same() {
        let doubles =
            [0.0, -0.0, 1.0, 0.1, f64::MAX, f64::MIN_POSITIVE, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
        let random =
            std::iter::repeat_with(|| f64::from_bits(fastrand::u64(..))).filter(|x| !x.is_nan()).take(20_000);
        let kinds = doubles
            .into_iter()
            .chain(random)
            .map(Kind::DoubleValue)
            .chain([i64::MIN, -1, 0, i64::MAX].map(Kind::IntValue))
            .chain(["", "ä\n\"", "1", "null"].map(|text| Kind::StringValue(text.to_owned())))
            .chain([vec![], vec![0, 255]].map(|bytes| Kind::BytesValue(bytes.into())))
            .chain([true, false].map(Kind::BoolValue))
            .chain(
                [0, 1, -62_135_596_800, 253_402_300_799]
                    .map(|seconds| Kind::TimeValue(Timestamp { seconds, nanos: 999_999_999 })),
            );
        for kind in kinds {
            let text = value(&typed::value(kind.clone())).to_string();
            let again = parse_value(&serde_json::from_str(&text).unwrap()).unwrap().kind.unwrap();
            if let (Kind::DoubleValue(one), Kind::DoubleValue(other)) = (&kind, &again) {
                assert_eq!(one.to_bits(), other.to_bits(), "{text}");
            }
            assert_eq!(kind, again, "{text}");
        }
        let nan = value(&typed::value(Kind::DoubleValue(f64::NAN)));
        assert!(matches!(parse_value(&nan).unwrap().kind, Some(Kind::DoubleValue(again)) if again.is_nan()));
    }

    #[test]
    fn other_json_is_refused() {
        for bad in ["null", "[]", "{}", r#"{"bytes": 5}"#, r#"{"bytes": "?"}"#, "18446744073709551615"] {
            assert!(parse_value(&serde_json::from_str(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
