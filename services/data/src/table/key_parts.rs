//! Parts of composite sort keys, as a table declares them.

use std::fmt;

use shoal_kit::{Invalid, reason};

use crate::value::ValueType;

/// Most parts of a composite sort key.
pub(crate) const KEY_PARTS_MAX: usize = 8;

/// Part of a composite sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyPart {
    /// The type of its values.
    pub(crate) of: ValueType,
    /// Set if greater values come first.
    pub(crate) descending: bool,
}

/// Parts of a composite sort key in their order: one to [`KEY_PARTS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyParts([Option<KeyPart>; KEY_PARTS_MAX]);

impl KeyParts {
    /// Checks the number of parts.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there are none or too many.
    pub(crate) fn new(parts: &[KeyPart], field: &'static str) -> Result<Self, Invalid> {
        let problem = format!("must have 1 to {KEY_PARTS_MAX} parts, has {}", parts.len());
        Self::of_parts(parts).ok_or_else(|| Invalid::new(reason::INVALID_SORT_KEY_PARTS, field, problem))
    }

    fn of_parts(parts: &[KeyPart]) -> Option<Self> {
        let mut all = [None; KEY_PARTS_MAX];
        all.get_mut(..parts.len())?.iter_mut().zip(parts).for_each(|(place, part)| *place = Some(*part));
        (!parts.is_empty()).then_some(Self(all))
    }

    /// Returns the parts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = KeyPart> {
        self.0.iter().copied().flatten()
    }

    /// Returns the number of parts.
    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    /// Reads the stored form, which is also the one for people: `STRING, INT64 DESC`.
    pub(crate) fn of_text(text: &str) -> Option<Self> {
        let part = |text: &str| {
            let (name, descending) = text.strip_suffix(" DESC").map_or((text, false), |name| (name, true));
            Some(KeyPart { of: ValueType::of_name(name)?, descending })
        };
        let parts: Vec<KeyPart> = text.split(", ").map(part).collect::<Option<_>>()?;
        Self::of_parts(&parts)
    }
}

impl fmt::Display for KeyParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let order = if part.descending { " DESC" } else { "" };
            write!(f, "{comma}{}{order}", part.of.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_written() {
        for text in ["STRING", "STRING, INT64 DESC", "DOUBLE DESC, BOOL, BYTES, TIMESTAMP DESC"] {
            assert_eq!(KeyParts::of_text(text).unwrap().to_string(), text);
        }
        for text in ["", "STRING,INT64", "LATER", "STRING ASC", &["BOOL"; 9].join(", ")] {
            assert_eq!(KeyParts::of_text(text), None, "{text}");
        }
        let bool = KeyPart { of: ValueType::Bool, descending: false };
        assert!(KeyParts::new(&[], "f").is_err() && KeyParts::new(&[bool; 9], "f").is_err());
        assert_eq!(KeyParts::new(&[bool; 8], "f").unwrap().len(), 8);
    }
}
