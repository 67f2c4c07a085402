//! Filters: which rows of a table are in a view.
//!
//! ```text
//! filter    = condition { "and" condition }
//! condition = has(term) | term ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) literal
//! literal   = 'text' | -12 | 3.5 | true | false
//! ```

use std::cmp::Ordering;

use super::expression::{Reader, RowRef, Term};
use crate::table::SortKeyType;
use crate::value::Value;

/// Longest filter.
pub(crate) const FILTER_BYTES_MAX: usize = 1024;
/// Most conditions of a filter.
const CONDITIONS_MAX: usize = 16;

/// Conditions that all have to hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Has(Term),
    Compares(Term, Relation, Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(format!("has {} bytes, at most {FILTER_BYTES_MAX} are allowed", text.len()));
        }
        let mut reader = Reader::new(text);
        let mut conditions = vec![condition(&mut reader)?];
        while reader.peek().is_some() {
            if !reader.name().is_some_and(|word| word.eq_ignore_ascii_case("and")) {
                return Err(reader.unexpected("`and` or the end"));
            }
            if conditions.len() == CONDITIONS_MAX {
                return Err(format!("has more than {CONDITIONS_MAX} conditions"));
            }
            conditions.push(condition(&mut reader)?);
        }
        Ok(Self { conditions })
    }

    /// Checks that rows with such sort keys can have what is compared.
    ///
    /// # Errors
    /// A text that says what cannot be.
    pub(crate) fn fits(&self, of: SortKeyType) -> Result<(), String> {
        self.conditions.iter().try_for_each(|condition| match condition {
            Condition::Has(term) | Condition::Compares(term, ..) => term.fits(of),
        })
    }

    /// Returns whether a row is wanted. An attribute that the row lacks, or that is of another kind, is only `!=`.
    pub(crate) fn holds(&self, row: RowRef<'_>) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Has(term) => term.value(row).is_some(),
            Condition::Compares(term, relation, literal) => {
                relation.holds(term.value(row).and_then(|value| value.order(literal)))
            }
        })
    }
}

fn condition(reader: &mut Reader<'_>) -> Result<Condition, String> {
    if let Some(term) = has(reader)? {
        return Ok(Condition::Has(term));
    }
    let term = reader.term(0)?;
    let relation = relation(reader)?;
    Ok(Condition::Compares(term, relation, literal(reader)?))
}

/// Reads `has(term)`, if it stands here.
fn has(reader: &mut Reader<'_>) -> Result<Option<Term>, String> {
    if !reader.takes_word("has(") {
        return Ok(None);
    }
    let term = reader.term(0)?;
    if reader.takes(')') { Ok(Some(term)) } else { Err(reader.unexpected("`)`")) }
}

fn relation(reader: &mut Reader<'_>) -> Result<Relation, String> {
    reader.peek();
    match reader.word(|c, _| matches!(c, '=' | '!' | '<' | '>')) {
        Some("=") => Ok(Relation::Equal),
        Some("!=") => Ok(Relation::NotEqual),
        Some("<") => Ok(Relation::Less),
        Some("<=") => Ok(Relation::LessOrEqual),
        Some(">") => Ok(Relation::Greater),
        Some(">=") => Ok(Relation::GreaterOrEqual),
        Some(other) => Err(format!("has no relation `{other}`; there are = != < <= > >=")),
        None => Err(reader.unexpected("one of = != < <= > >=")),
    }
}

fn literal(reader: &mut Reader<'_>) -> Result<Value, String> {
    if reader.peek() == Some('\'') {
        return reader.quoted('\'').map(Value::String);
    }
    let wanted = "a literal ('text', a number, true or false)";
    let Some(word) = reader.word(|c, _| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')) else {
        return Err(reader.unexpected(wanted));
    };
    let number = word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match word {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        word if !number => Err(format!("has `{word}` where {wanted} should be")),
        word => {
            let int = word.parse().map(Value::Int);
            let double = word.parse::<f64>().ok().filter(|double| double.is_finite()).map(Value::Double);
            int.ok().or(double).ok_or_else(|| format!("has `{word}` where {wanted} should be"))
        }
    }
}

impl Relation {
    fn holds(self, ordering: Option<Ordering>) -> bool {
        match self {
            Relation::Equal => ordering == Some(Ordering::Equal),
            Relation::NotEqual => ordering != Some(Ordering::Equal),
            Relation::Less => ordering == Some(Ordering::Less),
            Relation::LessOrEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Relation::Greater => ordering == Some(Ordering::Greater),
            Relation::GreaterOrEqual => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Attributes;

    fn holds(filter: &str) -> bool {
        let attributes: Attributes = [
            ("status", Value::String("open".to_owned())),
            ("n", Value::Int(5)),
            ("d", Value::Double(2.5)),
            ("has", Value::Bool(true)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let sort_key = Value::Int(9);
        let row = RowRef { partition: "p", sort_key: Some(&sort_key), attributes: &attributes };
        Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).holds(row)
    }

    #[test]
    fn all_conditions_have_to_hold() {
        for yes in [
            "status = 'open'",
            "status='open' and n >= 5",
            "d > 2 AND d < 2.75",
            "has(n)",
            "has = true",
            "none != 3",
            "sort_key() = 9 and partition_key() <= 'q'",
            "n > -3",
            "n < 5.5 and n = 5.0",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in
            ["status = 'shut'", "status = 'open' and n > 5", "has(none)", "none = 3", "n = '5'", "n > 5.5"]
        {
            assert!(!holds(no), "{no}");
        }
    }

    #[test]
    fn malformed_filters_say_why() {
        for (bad, why) in [
            ("", "ends where"),
            ("a", "one of ="),
            ("a == 3", "no relation `==`"),
            ("a = b", "has `b`"),
            ("a = 1 or b = 2", "`and`"),
            ("a = 1 and", "ends where"),
            ("a = --1", "`--1`"),
            ("has(a", "`)`"),
            (&"a = 1 and ".repeat(20), "more than 16"),
            (&"a".repeat(1025), "at most 1024"),
        ] {
            let error = Filter::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
