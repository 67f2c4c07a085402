//! Sort keys typed on a command line, and the definition of composite ones as text.

use anyhow::{Context as _, anyhow, ensure};
use shoal_proto::data::v1::{KeyPart, SortKeyType, Table, ValueType};
use shoal_proto::r#type::v1::value::Kind;
use shoal_proto::r#type::v1::{ListValue, Value};

use crate::{json, typed};

/// Parses a sort key of a table, or the first values of a composite one: a JSON list of values, as rows are printed.
///
/// # Errors
/// When the table has sort keys of another type, or none.
pub(crate) fn sort_key(table: &Table, text: &str) -> anyhow::Result<Value> {
    if table.sort_key_type() != SortKeyType::Composite {
        return typed::sort_key(table, text);
    }
    let parts = parts_text(&table.sort_key_parts);
    let said = || format!("sort keys of {} are JSON lists of ({parts}), and `{text}` is none", table.name);
    let parsed = serde_json::from_str(text).with_context(said)?;
    let Some(Kind::ListValue(list)) = json::parse_sort_key(&parsed).with_context(said)?.kind else {
        return Err(anyhow!(said()));
    };
    ensure!(list.values.len() <= table.sort_key_parts.len(), "{}", said());
    let values = list.values.into_iter().zip(&table.sort_key_parts);
    let values = values.map(|(value, part)| match (value.kind, part.r#type()) {
        // JSON has no other way to write a whole double.
        (Some(Kind::IntValue(int)), ValueType::Double) => typed::value(Kind::DoubleValue(int as f64)),
        (kind, _) => Value { kind },
    });
    Ok(typed::value(Kind::ListValue(ListValue { values: values.collect() })))
}

/// Returns the parts as text: `STRING, INT64 DESC`.
pub(crate) fn parts_text(parts: &[KeyPart]) -> String {
    let part = |part: &KeyPart| {
        format!("{}{}", type_name(part.r#type()), if part.descending { " DESC" } else { "" })
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Returns the name of a type, as `INT64`.
pub(crate) fn type_name(of: ValueType) -> &'static str {
    of.as_str_name().trim_start_matches("VALUE_TYPE_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composite_keys_are_typed_as_lists() {
        let part = |of: ValueType, descending| KeyPart { r#type: of.into(), descending };
        let parts = vec![
            part(ValueType::String, false),
            part(ValueType::Int64, true),
            part(ValueType::Double, false),
        ];
        assert_eq!(parts_text(&parts), "STRING, INT64 DESC, DOUBLE");
        let of = SortKeyType::Composite.into();
        let table = Table { sort_key_type: of, sort_key_parts: parts, ..Table::default() };
        let values = |text| match sort_key(&table, text).unwrap().kind {
            Some(Kind::ListValue(list)) => list.values,
            other => panic!("{other:?}"),
        };
        let text = || typed::value(Kind::StringValue("a".to_owned()));
        let (int, double) = (typed::value(Kind::IntValue(-5)), typed::value(Kind::DoubleValue(2.0)));
        assert_eq!(values(r#"["a", -5, 2]"#), [text(), int, double]);
        assert_eq!(values(r#"["a"]"#), [text()]);
        for bad in ["a", "\"a\"", "[1,2,3,4]", "[", "{}"] {
            assert!(sort_key(&table, bad).is_err(), "{bad}");
        }
    }
}
