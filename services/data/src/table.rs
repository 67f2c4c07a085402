//! Tables: names and definitions.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use shoal_kit::{Invalid, reason};
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::value::Attributes;

mod key_parts;
mod options;
mod schema;
mod view;

#[cfg(test)]
pub(crate) use key_parts::KEY_PARTS_MAX;
pub(crate) use key_parts::{KeyPart, KeyParts};
pub(crate) use options::{ChangeFeed, Options};
pub(crate) use schema::{AttributeRule, AttributeSchema};
pub(crate) use view::{NewView, RowRef, View, ViewState, check_views, parse_views};

/// Longest name of a table: with the prefix of the engine's table it stays below Cassandra's 48.
const NAME_BYTES_MAX: usize = 40;

/// Beginning of the names of hidden tables.
const HIDDEN: char = '0';
/// Name behind those of hidden tables and before all others.
pub(crate) const BEHIND_HIDDEN: &str = "1";

/// Longest description of a table.
const DESCRIPTION_BYTES_MAX: usize = 1024;

/// Longest time to live: Cassandra 5 in its default storage mode keeps none that ends after 2038.
const TTL_SECONDS_MAX: u32 = 10 * 366 * 24 * 3600;

/// Name of a table, checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TableName(String);

/// Type of a table's sort keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SortKeyType {
    /// UTF-8 text.
    String,
    /// Signed 64-bit integers.
    Int64,
    /// Bytes, ordered as unsigned numbers.
    Bytes,
    /// Absent: each partition has one row.
    None,
    /// Several values, ordered part by part.
    Composite(KeyParts),
}

/// Beginning of the stored name of composite sort keys, behind which the parts stand.
const COMPOSITE: &str = "COMPOSITE(";

/// Rule that decides between several writes of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WriteMode {
    /// The write with the highest timestamp stays.
    LastWriteWins,
    /// Writes of a partition come one after the other, and each may depend on what the rows hold.
    Conditional,
}

/// A time to live in whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ttl(u32);

/// Definition of a table, as a caller gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    /// The name of the table.
    pub(crate) name: TableName,
    /// The type of its sort keys.
    pub(crate) sort_key_type: SortKeyType,
    /// The rule that decides between several writes of a row.
    pub(crate) write_mode: WriteMode,
    /// The time to live of rows whose put names none.
    pub(crate) default_ttl: Option<Ttl>,
    /// The description for people. It does not tell definitions apart.
    pub(crate) description: String,
    /// Options of the table: work that its writes do besides.
    pub(crate) options: Options,
}

/// A change of a table's definition: of what is given here, and of nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TableChange {
    /// The new default time to live; `Some(None)` stands for none.
    pub(crate) default_ttl: Option<Option<Ttl>>,
    /// The new description.
    pub(crate) description: Option<String>,
    /// The new attribute schema; `Some(None)` stands for none.
    pub(crate) attribute_schema: Option<Option<AttributeSchema>>,
    /// The new change feed; `Some(None)` stands for none.
    pub(crate) change_feed: Option<Option<ChangeFeed>>,
    /// The views that the table has from now on; those that it has already stay.
    pub(crate) views: Option<Vec<View>>,
    /// The new states of views by their ids; none stands for the end of a view.
    pub(crate) view_states: Vec<(Uuid, Option<ViewState>)>,
}

/// A table that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// The definition that it was created with.
    pub(crate) definition: Definition,
    /// The id of the table. It is never used for another table, also not for one of the same name.
    pub(crate) id: Uuid,
    /// The time when the table was created.
    pub(crate) create_time: WriteTimestamp,
}

impl TableName {
    /// Checks form and length.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the name has another form or is too long.
    pub(crate) fn parse(name: &str, field: &str) -> Result<Self, Invalid> {
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !letters || !begins || name.len() > NAME_BYTES_MAX {
            return Err(Invalid::new(
                reason::INVALID_TABLE_NAME,
                field.to_owned(),
                format!("must be 1 to {NAME_BYTES_MAX} characters of [a-z][a-z0-9_]*"),
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// Makes the name of the hidden table with the chunks of a table's blobs. Callers can name no such table, and it stands before
    /// all of theirs.
    pub(crate) fn of_chunks(table: Uuid) -> Self {
        Self(format!("{HIDDEN}{}", table.simple()))
    }

    /// Makes the name of the hidden table with the entries of a view.
    pub(crate) fn of_view(view: Uuid) -> Self {
        Self::of_chunks(view)
    }

    /// Returns whether the table is hidden.
    pub(crate) fn is_hidden(&self) -> bool {
        self.0.starts_with(HIDDEN)
    }

    /// Reads a name that was stored.
    pub(crate) fn of_stored(name: &str) -> Option<Self> {
        let hidden = name.strip_prefix(HIDDEN).and_then(|id| Uuid::try_parse(id).ok());
        hidden.map(Self::of_chunks).filter(|of| of.0 == name).or_else(|| Self::parse(name, "name").ok())
    }

    /// Returns the name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SortKeyType {
    /// All types of one value or none.
    pub(crate) const ALL: [SortKeyType; 4] = [Self::String, Self::Int64, Self::Bytes, Self::None];

    /// Returns the name of the type in the API and in stored definitions.
    pub(crate) fn name(self) -> Cow<'static, str> {
        match self {
            Self::String => "STRING".into(),
            Self::Int64 => "INT64".into(),
            Self::Bytes => "BYTES".into(),
            Self::None => "NONE".into(),
            Self::Composite(parts) => format!("{COMPOSITE}{parts})").into(),
        }
    }

    /// Returns the type of a name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name.strip_prefix(COMPOSITE).and_then(|parts| parts.strip_suffix(')')) {
            Some(parts) => KeyParts::of_text(parts).map(Self::Composite),
            None => Self::ALL.into_iter().find(|of| of.name() == name),
        }
    }

    /// Returns the field of a value that holds such a key.
    pub(crate) fn value_field(self) -> &'static str {
        match self {
            Self::String => "string_value",
            Self::Int64 => "int_value",
            Self::Bytes => "bytes_value",
            Self::None => "nothing",
            Self::Composite(_) => "list_value with a value for each part",
        }
    }
}

impl WriteMode {
    /// Returns the name of the mode in the API and in stored definitions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LastWriteWins => "LAST_WRITE_WINS",
            Self::Conditional => "CONDITIONAL",
        }
    }

    /// Returns the mode of a name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        [Self::LastWriteWins, Self::Conditional].into_iter().find(|mode| mode.name() == name)
    }
}

impl Ttl {
    /// Rounds up to whole seconds.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is zero or longer than ten years.
    pub(crate) fn parse(ttl: Duration, field: &str) -> Result<Self, Invalid> {
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        u32::try_from(seconds).ok().and_then(Self::of_seconds).ok_or_else(|| bad_ttl(field))
    }

    /// Makes a time to live that was stored.
    pub(crate) fn of_seconds(seconds: u32) -> Option<Self> {
        (1..=TTL_SECONDS_MAX).contains(&seconds).then_some(Self(seconds))
    }

    /// Returns the number of seconds.
    pub(crate) fn seconds(self) -> u32 {
        self.0
    }
}

/// Makes the refusal of a time to live.
pub(crate) fn bad_ttl(field: &str) -> Invalid {
    let text = format!(
        "must be more than 0 and at most {TTL_SECONDS_MAX} seconds (ten years), its seconds and nanos both positive"
    );
    Invalid::new(reason::INVALID_TTL, field.to_owned(), text)
}

/// Checks the length of a description.
///
/// # Errors
/// INVALID_ARGUMENT when it is too long.
pub(crate) fn check_description(description: &str) -> Result<(), Invalid> {
    if description.len() <= DESCRIPTION_BYTES_MAX {
        return Ok(());
    }
    Err(Invalid::new(
        reason::INVALID_DESCRIPTION,
        "table.description",
        format!("has at most {DESCRIPTION_BYTES_MAX} bytes, not {}", description.len()),
    ))
}

impl TableChange {
    /// Returns the definition after the change.
    pub(crate) fn applied_to(&self, definition: &Definition) -> Definition {
        let mut changed = definition.clone();
        if let Some(default_ttl) = self.default_ttl {
            changed.default_ttl = default_ttl;
        }
        if let Some(description) = &self.description {
            changed.description.clone_from(description);
        }
        if let Some(schema) = &self.attribute_schema {
            changed.options.attribute_schema.clone_from(schema);
        }
        if let Some(feed) = self.change_feed {
            changed.options.change_feed = feed.map(|feed| match definition.options.change_feed {
                Some(old) => old.changed_to(feed),
                None => feed,
            });
        }
        if let Some(views) = &self.views {
            changed.options.replace_views(views);
        }
        for (id, state) in &self.view_states {
            match state {
                None => changed.options.views.retain(|view| view.id != *id),
                Some(state) => {
                    let views = changed.options.views.iter_mut();
                    // A view that was dropped meanwhile stays dropped.
                    views
                        .filter(|view| view.id == *id && view.is_there())
                        .for_each(|view| view.state = *state);
                }
            }
        }
        changed
    }
}

impl Definition {
    /// Returns the differences of `existing` to this definition that make it another table; none if it is the same one. What
    /// UpdateTable changes without touching a row, the default time to live and the description, makes no other table: a service
    /// that creates its tables at each start goes on after an UpdateTable.
    pub(crate) fn difference(&self, existing: &Definition) -> Option<String> {
        let mut differences = Vec::new();
        if self.sort_key_type != existing.sort_key_type {
            differences.push(format!("sort_key_type {}", existing.sort_key_type.name()));
        }
        if self.write_mode != existing.write_mode {
            differences.push(format!("write_mode {}", existing.write_mode.name()));
        }
        differences.extend(self.options.difference(&existing.options));
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

impl Table {
    /// Refuses a call that is for tables of another write mode.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when the table has not this mode.
    pub(crate) fn require(&self, mode: WriteMode, call: &'static str) -> Result<(), Error> {
        let found = self.definition.write_mode;
        if found == mode {
            return Ok(());
        }
        let advice = match found {
            WriteMode::Conditional if call == "PutBlob" => {
                "blobs need a table with write_mode LAST_WRITE_WINS: put it into another table, and keep its key here"
            }
            WriteMode::Conditional => {
                "write it with CheckAndMutate (without conditions it always writes) or Increment"
            }
            WriteMode::LastWriteWins => {
                "write it with Mutate, and keep rows that need conditions in a table with write_mode CONDITIONAL"
            }
        };
        let table = self.definition.name.to_string();
        Err(Error::WrongWriteMode { table, mode: found.name(), advice, call })
    }

    /// Checks the attributes of a row that is put against the schema, if the table has one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, which names the attribute, what the schema wants and what was found.
    pub(crate) fn check_attributes(&self, attributes: &Attributes, field: &str) -> Result<(), Invalid> {
        self.attribute_schema().map_or(Ok(()), |schema| schema.check(attributes, field))
    }

    /// Returns the attribute schema, if the table has one.
    pub(crate) fn attribute_schema(&self) -> Option<&AttributeSchema> {
        self.definition.options.attribute_schema.as_ref()
    }

    /// Returns the change feed, if the table has one.
    pub(crate) fn change_feed(&self) -> Option<&ChangeFeed> {
        self.definition.options.change_feed.as_ref()
    }

    /// Returns the views that its writes keep.
    pub(crate) fn kept_views(&self) -> impl Iterator<Item = &View> {
        self.definition.options.views.iter().filter(|view| view.is_kept())
    }

    /// Returns whether its writes keep views.
    pub(crate) fn has_views(&self) -> bool {
        self.kept_views().next().is_some()
    }

    /// Returns the views that callers see.
    pub(crate) fn views(&self) -> impl Iterator<Item = &View> {
        self.definition.options.views.iter().filter(|view| view.is_there())
    }

    /// Returns the table for a repeated creation.
    ///
    /// # Errors
    /// ALREADY_EXISTS when `wanted` is another definition.
    pub(crate) fn if_same(self, wanted: &Definition) -> Result<Self, Error> {
        match wanted.difference(&self.definition) {
            None => Ok(self),
            Some(difference) => Err(Error::TableExists { name: self.definition.name.0, difference }),
        }
    }
}

impl View {
    /// Returns the hidden table of the view's entries. It is in no list of tables: it belongs to the view's table.
    pub(crate) fn table(&self) -> Table {
        let definition = Definition {
            name: TableName::of_view(self.id),
            sort_key_type: SortKeyType::Bytes,
            write_mode: WriteMode::LastWriteWins,
            default_ttl: None,
            description: String::new(),
            options: Options::default(),
        };
        Table { definition, id: self.id, create_time: WriteTimestamp(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for good in ["a", "users", "u_2", &"x".repeat(40)] {
            assert_eq!(TableName::parse(good, "name").unwrap().as_str(), good);
        }
        for bad in ["", "_a", "2a", "A", "a-b", "a.b", "ä", "a b", "a\"", &"x".repeat(41)] {
            assert!(TableName::parse(bad, "name").is_err(), "{bad}");
        }
    }

    #[test]
    fn ttl_rounds_up_to_seconds() {
        let parse = |ttl| Ttl::parse(ttl, "ttl").map(Ttl::seconds);
        assert_eq!(parse(Duration::from_nanos(1)).unwrap(), 1);
        assert_eq!(parse(Duration::from_millis(1500)).unwrap(), 2);
        assert_eq!(parse(Duration::from_secs(2)).unwrap(), 2);
        for bad in [Duration::ZERO, Duration::from_secs(u64::MAX), Duration::from_secs(11 * 366 * 24 * 3600)]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
