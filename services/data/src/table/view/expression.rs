//! Expressions over a row that make the keys of a view: attributes, the row's own keys and literals, joined by `+`.
//!
//! ```text
//! key   = term { "+" term }
//! term  = NAME | `NAME` | 'text' | partition_key() | sort_key() | sort_key(1) | lower(term) | day(term)
//! ```

use std::iter::Peekable;
use std::str::CharIndices;

use crate::table::SortKeyType;
use crate::value::{Attributes, Time, Value};

/// Longest expression.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 256;
/// Most terms of an expression, and most functions around one of them.
const TERMS_MAX: usize = 16;

/// A row as expressions see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowRef<'a> {
    /// The key of its partition.
    pub(crate) partition: &'a str,
    /// Its sort key, if the table has them.
    pub(crate) sort_key: Option<&'a Value>,
    /// Its attributes.
    pub(crate) attributes: &'a Attributes,
}

/// An expression that makes a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyExpression {
    terms: Vec<Term>,
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term {
    /// An attribute of the row.
    Attribute(String),
    /// A text.
    Literal(String),
    /// The key of the row's partition.
    PartitionKey,
    /// The sort key of the row, or a value of a composite one, counted from one.
    SortKey(Option<u8>),
    /// A text in lower case.
    Lower(Box<Term>),
    /// The day of a time, in UTC, as `2026-11-30`.
    Day(Box<Term>),
}

impl KeyExpression {
    /// Reads an expression.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("has {} bytes, at most {EXPRESSION_BYTES_MAX} are allowed", text.len()));
        }
        let mut reader = Reader::new(text);
        let mut terms = vec![reader.term(0)?];
        while reader.takes('+') {
            if terms.len() == TERMS_MAX {
                return Err(format!("has more than {TERMS_MAX} terms"));
            }
            terms.push(reader.term(0)?);
        }
        reader.end()?;
        Ok(Self { terms })
    }

    /// Checks that rows with such sort keys can have the key.
    ///
    /// # Errors
    /// A text that says what cannot be.
    pub(crate) fn fits(&self, of: SortKeyType) -> Result<(), String> {
        self.terms.iter().try_for_each(|term| term.fits(of))
    }

    /// Returns the only term; none if several are joined.
    pub(crate) fn single(&self) -> Option<&Term> {
        match &self.terms[..] {
            [term] => Some(term),
            _ => None,
        }
    }

    /// Returns the text for a row; none if it lacks an attribute, or one has no text.
    pub(crate) fn text(&self, row: RowRef<'_>) -> Option<String> {
        let mut text = String::new();
        for term in &self.terms {
            text.push_str(&term.text(row)?);
        }
        Some(text)
    }

    /// Returns the value of the only term for a row.
    pub(crate) fn value(&self, row: RowRef<'_>) -> Option<Value> {
        self.single()?.value(row)
    }
}

impl Term {
    /// Checks that rows with such sort keys can have the value.
    ///
    /// # Errors
    /// A text that says what cannot be.
    pub(super) fn fits(&self, of: SortKeyType) -> Result<(), String> {
        match (self, of) {
            (Term::Lower(term) | Term::Day(term), _) => term.fits(of),
            (Term::SortKey(None), SortKeyType::Composite(parts)) => {
                Err(format!("has sort_key(), which is several values ({parts}); take one with sort_key(1)"))
            }
            (Term::SortKey(Some(at)), SortKeyType::Composite(parts))
                if (1..=parts.len()).contains(&usize::from(*at)) =>
            {
                Ok(())
            }
            (Term::SortKey(Some(at)), SortKeyType::Composite(parts)) => {
                Err(format!("has sort_key({at}), and the table's sort keys have {} values", parts.len()))
            }
            (Term::SortKey(Some(at)), _) => Err(format!(
                "has sort_key({at}), and the table's sort_key_type is {}: use sort_key()",
                of.name()
            )),
            (Term::SortKey(None), SortKeyType::None) => {
                Err("has sort_key(), and the table's sort_key_type is NONE".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Returns the value for a row; none if it lacks the attribute.
    pub(crate) fn value(&self, row: RowRef<'_>) -> Option<Value> {
        match self {
            Term::Attribute(name) => row.attributes.get(name).cloned(),
            Term::Literal(text) => Some(Value::String(text.clone())),
            Term::PartitionKey => Some(Value::String(row.partition.to_owned())),
            Term::SortKey(None) => row.sort_key.cloned(),
            Term::SortKey(Some(at)) => match row.sort_key? {
                Value::List(list) => {
                    list.clone().into_values().into_iter().nth(usize::from(*at).checked_sub(1)?)
                }
                _ => None,
            },
            Term::Lower(_) | Term::Day(_) => self.text(row).map(Value::String),
        }
    }

    fn text(&self, row: RowRef<'_>) -> Option<String> {
        match self {
            Term::Lower(of) => Some(of.text(row)?.to_lowercase()),
            Term::Day(of) => match of.value(row)? {
                Value::Time(time) => Some(day(time)),
                _ => None,
            },
            term => match term.value(row)? {
                Value::String(text) => Some(text),
                Value::Int(int) => Some(int.to_string()),
                Value::Bool(bool) => Some(bool.to_string()),
                Value::Double(_) | Value::Bytes(_) | Value::Time(_) | Value::List(_) => None,
            },
        }
    }
}

/// Returns the date of a time in the proleptic Gregorian calendar. The algorithm is Howard Hinnant's `civil_from_days`.
fn day(time: Time) -> String {
    let days = time.seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Reads the words of an expression or a filter.
pub(super) struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, chars: text.char_indices().peekable() }
    }

    /// Reads a term; `depth` functions stand around it.
    pub(super) fn term(&mut self, depth: usize) -> Result<Term, String> {
        if depth > TERMS_MAX {
            return Err(format!("has more than {TERMS_MAX} functions around a term"));
        }
        match self.peek() {
            Some('\'') => self.quoted('\'').map(Term::Literal),
            Some('`') => self.quoted('`').and_then(attribute),
            _ => {
                let Some(name) = self.name() else {
                    return Err(self.unexpected("an attribute, a text or a function"));
                };
                if !self.takes('(') {
                    return attribute(name.to_owned());
                }
                let term = match name {
                    "partition_key" => Term::PartitionKey,
                    "sort_key" => Term::SortKey(self.number()?),
                    "lower" => Term::Lower(Box::new(self.term(depth + 1)?)),
                    "day" => Term::Day(Box::new(self.term(depth + 1)?)),
                    other => {
                        return Err(format!(
                            "has no function `{other}`; there are partition_key(), sort_key(), sort_key(1), lower() and day()"
                        ));
                    }
                };
                if self.takes(')') { Ok(term) } else { Err(self.unexpected("`)`")) }
            }
        }
    }

    /// Reads the number of a value of a sort key, if one stands here.
    fn number(&mut self) -> Result<Option<u8>, String> {
        self.skip_spaces();
        let Some(word) = self.word(|c, _| c.is_ascii_digit()) else { return Ok(None) };
        word.parse().map(Some).map_err(|_| format!("has no value {word} of a sort key"))
    }

    /// Reads a name as attributes, functions and words have it.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        self.skip_spaces();
        self.word(|c, first| {
            c.is_ascii_alphabetic() || c == '_' || !first && (c.is_ascii_digit() || c == '.' || c == '-')
        })
    }

    /// Reads the characters of which `of` is true; the second argument tells the first.
    pub(super) fn word(&mut self, of: impl Fn(char, bool) -> bool) -> Option<&'a str> {
        let start = self.at();
        let mut first = true;
        while let Some((_, c)) = self.chars.peek()
            && of(*c, first)
        {
            first = false;
            self.chars.next();
        }
        (!first).then(|| &self.text[start..self.at()])
    }

    /// Reads a text in quotes, which are doubled inside.
    pub(super) fn quoted(&mut self, quote: char) -> Result<String, String> {
        self.chars.next();
        let mut text = String::new();
        while let Some((_, c)) = self.chars.next() {
            if c != quote {
                text.push(c);
            } else if self.chars.peek().is_some_and(|(_, next)| *next == quote) {
                text.push(quote);
                self.chars.next();
            } else {
                return Ok(text);
            }
        }
        Err(format!("a text is not closed with {quote}"))
    }

    /// Returns the next character that is no space.
    pub(super) fn peek(&mut self) -> Option<char> {
        self.skip_spaces();
        self.chars.peek().map(|(_, c)| *c)
    }

    /// Takes the next character if it is this one.
    pub(super) fn takes(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.chars.next();
        }
        found
    }

    /// Takes these characters if they stand here.
    pub(super) fn takes_word(&mut self, wanted: &str) -> bool {
        self.skip_spaces();
        let at = self.at();
        let found = self.text[at..].starts_with(wanted);
        if found {
            self.chars.nth(wanted.chars().count().saturating_sub(1));
        }
        found
    }

    /// Refuses anything that is left.
    pub(super) fn end(&mut self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end")),
        }
    }

    /// Says what stands in the place of something else.
    pub(super) fn unexpected(&mut self, wanted: &str) -> String {
        match self.peek() {
            None => format!("ends where {wanted} should be"),
            Some(c) => format!("has `{c}` at byte {} where {wanted} should be", self.at()),
        }
    }

    fn skip_spaces(&mut self) {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    fn at(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }
}

fn attribute(name: String) -> Result<Term, String> {
    if name.is_empty() {
        Err("names an attribute without a name".to_owned())
    } else {
        Ok(Term::Attribute(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(expression: &str) -> Option<String> {
        let attributes: Attributes = [
            ("email", Value::String("Ada@X.org".to_owned())),
            ("n", Value::Int(-7)),
            ("ok", Value::Bool(true)),
            ("odd name", Value::String("odd".to_owned())),
            ("at", Value::Time(Time { seconds: 1_795_996_800 - 1, nanos: 0 })),
            ("d", Value::Double(0.5)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let sort_key = Value::String("s".to_owned());
        let row = RowRef { partition: "p", sort_key: Some(&sort_key), attributes: &attributes };
        KeyExpression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}")).text(row)
    }

    #[test]
    fn terms_are_joined_as_text() {
        assert_eq!(evaluated("lower(email)").as_deref(), Some("ada@x.org"));
        assert_eq!(evaluated("partition_key() + '/' +sort_key()").as_deref(), Some("p/s"));
        assert_eq!(evaluated("n+ok + 'it''s'").as_deref(), Some("-7trueit's"));
        assert_eq!(evaluated("`odd name`").as_deref(), Some("odd"));
        assert_eq!(evaluated("day(at)").as_deref(), Some("2026-11-29"));
        for absent in ["none", "n + none", "d", "at", "day(n)"] {
            assert_eq!(evaluated(absent), None, "{absent}");
        }
    }

    #[test]
    fn days_follow_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400, "2000-02-29"),
            (-62_135_596_800, "0001-01-01"),
        ] {
            assert_eq!(day(Time { seconds, nanos: 0 }), text);
        }
    }

    #[test]
    fn malformed_expressions_say_why() {
        for (bad, why) in [
            ("", "ends where"),
            ("a b", "where the end should be"),
            ("a +", "ends where"),
            ("'a", "not closed"),
            ("upper(a)", "no function `upper`"),
            ("lower(a", "`)`"),
            ("``", "without a name"),
            ("ä", "at byte 0"),
            (&"a+".repeat(17), "more than 16 terms"),
            (&"a".repeat(257), "at most 256"),
            (&"lower(".repeat(40), "more than 16 functions"),
        ] {
            let error = KeyExpression::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
