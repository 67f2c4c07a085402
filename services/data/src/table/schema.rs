//! The attribute schema of a table: which attributes its rows have, and of which types.

use std::collections::BTreeMap;

use prost::Message as _;
use shoal_kit::{Invalid, reason};

use crate::value::{Attributes, Value, ValueType};

/// Most attributes that a schema names.
const ATTRIBUTES_MAX: usize = 256;
/// Longest name of an attribute.
const NAME_BYTES_MAX: usize = 255;
/// Most bytes of a schema in its stored form: each clone keeps it with the table's definition.
const SCHEMA_BYTES_MAX: usize = 16 << 10;
/// Highest limit of an attribute's bytes: no row is larger.
const VALUE_BYTES_MAX: u32 = 1 << 20;
/// Beginning of the names that are the service's own, in the rows of blobs.
const RESERVED: &str = "blob.";

/// Rules for one attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttributeRule {
    /// The type of its values.
    pub(crate) of: ValueType,
    /// Set if every row has it.
    pub(crate) required: bool,
    /// The most bytes of a value that is text or bytes; none for any.
    pub(crate) bytes_max: Option<u32>,
}

/// Attributes that the rows of a table may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttributeSchema {
    rules: BTreeMap<String, AttributeRule>,
    closed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredSchema {
    #[prost(btree_map = "string, message", tag = "1")]
    rules: BTreeMap<String, StoredRule>,
    #[prost(bool, tag = "2")]
    closed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRule {
    #[prost(string, tag = "1")]
    of: String,
    #[prost(bool, tag = "2")]
    required: bool,
    #[prost(uint32, optional, tag = "3")]
    bytes_max: Option<u32>,
}

impl AttributeSchema {
    /// Checks the rules. In a closed schema rows have no other attributes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there are too many, one has a bad name or limit, or all together are too large.
    pub(crate) fn parse(rules: BTreeMap<String, AttributeRule>, closed: bool) -> Result<Self, Invalid> {
        const FIELD: &str = "table.attribute_schema";
        let bad = |problem: String| Invalid::new(reason::INVALID_ATTRIBUTE_SCHEMA, FIELD, problem);
        if rules.len() > ATTRIBUTES_MAX {
            return Err(bad(format!("names {} attributes; it may name {ATTRIBUTES_MAX}", rules.len())));
        }
        for (name, rule) in &rules {
            if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
                return Err(bad(format!("names have 1 to {NAME_BYTES_MAX} bytes, one has {}", name.len())));
            }
            if name.starts_with(RESERVED) {
                return Err(bad(format!("`{name}`: names with `{RESERVED}` are the service's own")));
            }
            match rule.bytes_max {
                Some(_) if !matches!(rule.of, ValueType::String | ValueType::Bytes) => {
                    return Err(bad(format!("`{name}`: only STRING and BYTES have bytes_max")));
                }
                Some(max) if !(1..=VALUE_BYTES_MAX).contains(&max) => {
                    return Err(bad(format!("`{name}`: bytes_max is 1 to {VALUE_BYTES_MAX}")));
                }
                _ => {}
            }
        }
        let schema = Self { rules, closed };
        match schema.stored().encoded_len() {
            0..=SCHEMA_BYTES_MAX => Ok(schema),
            bytes => Err(bad(format!("has {bytes} bytes; it may have {SCHEMA_BYTES_MAX}"))),
        }
    }

    /// Returns the rules by the names of the attributes.
    pub(crate) fn rules(&self) -> &BTreeMap<String, AttributeRule> {
        &self.rules
    }

    /// Returns whether rows have no other attributes.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Checks the attributes of a row that is put; `field` is the field of the request that has them.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, which names the attribute, what the schema wants and what was found.
    pub(crate) fn check(&self, attributes: &Attributes, field: &str) -> Result<(), Invalid> {
        for (name, value) in attributes.iter() {
            self.check_one(name, value, field)?;
        }
        let missing = |(_, rule): &(&String, &AttributeRule)| rule.required;
        match self.rules.iter().filter(missing).find(|(name, _)| !attributes.has(name)) {
            Some((name, rule)) => Err(violated(field, name, rule.of.name(), "nothing", "is required")),
            None => Ok(()),
        }
    }

    /// Checks one attribute.
    ///
    /// # Errors
    /// As of [`AttributeSchema::check`].
    pub(crate) fn check_one(&self, name: &str, value: &Value, field: &str) -> Result<(), Invalid> {
        let found = ValueType::of(value).map_or("LIST", ValueType::name);
        let Some(rule) = self.rules.get(name) else {
            return match self.closed {
                true => Err(violated(field, name, "no such attribute", found, "the schema does not name it")),
                false => Ok(()),
            };
        };
        if ValueType::of(value) != Some(rule.of) {
            let problem = format!("is of another type: set {}", rule.of.value_field());
            return Err(violated(field, name, rule.of.name(), found, &problem));
        }
        let bytes = match value {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => return Ok(()),
        };
        match rule.bytes_max {
            Some(max) if bytes as u64 > u64::from(max) => {
                let (wanted, found) = (format!("at most {max} bytes"), format!("{bytes} bytes"));
                Err(violated(field, name, &wanted, &found, "is too large"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn stored(&self) -> StoredSchema {
        let rule = |rule: &AttributeRule| StoredRule {
            of: rule.of.name().to_owned(),
            required: rule.required,
            bytes_max: rule.bytes_max,
        };
        let rules = self.rules.iter().map(|(name, of)| (name.clone(), rule(of))).collect();
        StoredSchema { rules, closed: self.closed }
    }

    pub(super) fn of_stored(stored: StoredSchema) -> Option<Self> {
        let rule = |(name, rule): (String, StoredRule)| {
            let StoredRule { of, required, bytes_max } = rule;
            Some((name, AttributeRule { of: ValueType::of_name(&of)?, required, bytes_max }))
        };
        let rules = stored.rules.into_iter().map(rule).collect::<Option<_>>()?;
        Some(Self { rules, closed: stored.closed })
    }
}

/// Makes the refusal of an attribute.
fn violated(field: &str, name: &str, wanted: &str, found: &str, problem: &str) -> Invalid {
    let text =
        format!("attribute `{name}` {problem}; the table's attribute_schema wants {wanted}, found {found}");
    Invalid::new(reason::ATTRIBUTE_SCHEMA_VIOLATED, field.to_owned(), text)
        .with("attribute", name)
        .with("wanted", wanted)
        .with("found", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(of: ValueType) -> AttributeRule {
        AttributeRule { of, required: false, bytes_max: None }
    }

    fn schema(closed: bool) -> AttributeSchema {
        let name = AttributeRule { required: true, bytes_max: Some(4), ..rule(ValueType::String) };
        let rules = [("name".to_owned(), name), ("age".to_owned(), rule(ValueType::Int64))];
        AttributeSchema::parse(rules.into(), closed).unwrap()
    }

    fn check(schema: &AttributeSchema, attributes: &[(&str, Value)]) -> Result<(), [String; 3]> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        schema.check(&attributes, "f").map_err(|invalid| {
            assert_eq!(invalid.reason.as_str(), "ATTRIBUTE_SCHEMA_VIOLATED");
            let said = |key| invalid.metadata.iter().find(|(of, _)| *of == key).unwrap().1.clone();
            ["attribute", "wanted", "found"].map(said)
        })
    }

    #[test]
    fn attributes_must_be_as_declared() {
        let text = |text: &str| Value::String(text.to_owned());
        let refusal = |wanted: [&str; 3]| Err(wanted.map(str::to_owned));
        for closed in [false, true] {
            let schema = schema(closed);
            assert_eq!(check(&schema, &[("name", text("ada")), ("age", Value::Int(1))]), Ok(()));
            assert_eq!(check(&schema, &[("name", text("ada"))]), Ok(()));
            assert_eq!(check(&schema, &[("age", Value::Int(1))]), refusal(["name", "STRING", "nothing"]));
            let found = check(&schema, &[("name", text("ada")), ("age", Value::Double(1.0))]);
            assert_eq!(found, refusal(["age", "INT64", "DOUBLE"]));
            let found = check(&schema, &[("name", text("adas!"))]);
            assert_eq!(found, refusal(["name", "at most 4 bytes", "5 bytes"]));
            let unknown = check(&schema, &[("name", text("ada")), ("x", Value::Bool(true))]);
            assert_eq!(unknown, if closed { refusal(["x", "no such attribute", "BOOL"]) } else { Ok(()) });
        }
    }

    #[test]
    fn schemas_keep_to_their_limits() {
        let parse = |name: &str, rule| AttributeSchema::parse([(name.to_owned(), rule)].into(), true);
        let bytes = |max| AttributeRule { bytes_max: Some(max), ..rule(ValueType::Bytes) };
        assert!(parse("a", bytes(1)).is_ok() && parse("a", bytes(VALUE_BYTES_MAX)).is_ok());
        assert!(parse("a", bytes(0)).is_err() && parse("a", bytes(VALUE_BYTES_MAX + 1)).is_err());
        assert!(parse("a", AttributeRule { bytes_max: Some(5), ..rule(ValueType::Int64) }).is_err());
        for name in ["", "blob.size", &"x".repeat(256)] {
            assert!(parse(name, rule(ValueType::Bool)).is_err(), "{name}");
        }
        let many = |n: usize, name: &str| {
            let rules = (0..n).map(|i| (format!("{name}{i}"), rule(ValueType::Bool))).collect();
            AttributeSchema::parse(rules, false)
        };
        assert!(many(256, "a").is_ok() && many(257, "a").is_err());
        assert!(many(256, &"x".repeat(80)).is_err(), "larger than a definition may be");
    }

    #[test]
    fn schema_is_stored_and_read() {
        let schema = schema(true);
        assert_eq!(AttributeSchema::of_stored(schema.stored()), Some(schema));
        let later = StoredRule { of: "LATER".to_owned(), ..StoredRule::default() };
        let rules = [("a".to_owned(), later)].into();
        assert_eq!(AttributeSchema::of_stored(StoredSchema { rules, closed: false }), None);
    }
}
