//! Names of namespaces, keys and tags: parsed once at the edge, valid from then on.

use std::sync::Arc;

use shoal_kit::Invalid;
use shoal_kit::reason;

use crate::limit::{
    INVALIDATED_TAGS_MAX, KEY_BYTES_MAX, KIND_LENGTH_MAX, NAMESPACE_LENGTH_MAX, OBJECT_PREFIX, TABLE_PREFIX,
    TAG_BYTES_MAX, TAGS_MAX,
};

/// A namespace: 1 to 64 characters of `[A-Za-z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NamespaceName(Arc<str>);

impl NamespaceName {
    /// Parses a namespace's name.
    ///
    /// # Errors
    /// Returns an error if it is empty, too long, or has other characters.
    pub(crate) fn parse(name: &str) -> Result<Self, Invalid> {
        check_name("namespace", name, NAMESPACE_LENGTH_MAX)?;
        Ok(Self(name.into()))
    }

    /// Returns the namespace in which the objects of a kind are kept.
    ///
    /// # Errors
    /// Returns an error if the kind is empty, too long, or has other characters than a namespace may.
    pub(crate) fn of_kind(kind: &str) -> Result<Self, Invalid> {
        check_name("kind", kind, KIND_LENGTH_MAX)?;
        Ok(Self(format!("{OBJECT_PREFIX}{kind}").into()))
    }

    /// Returns the name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl NamespaceName {
    /// Returns whether its keys are ids of rows.
    fn is_of_rows(&self) -> bool {
        self.0.strip_prefix(OBJECT_PREFIX).is_some_and(|kind| kind.starts_with(TABLE_PREFIX))
    }
}

/// Returns the key of the partition in the id of a row, if that is not the id itself.
fn partition_of(id: &str) -> Option<Arc<str>> {
    let partition = id.split_once('/').map_or(id, |(partition, _)| partition);
    let plain = unescaped(partition)?;
    (plain != id).then(|| plain.into())
}

/// Returns the key of a partition as the data service has it: in an id a `/` of it is written `%2F` and a `%` is written `%25`, and
/// nothing else is escaped. `None` if it is not written so.
pub(crate) fn unescaped(partition: &str) -> Option<String> {
    let mut plain = String::with_capacity(partition.len());
    let mut rest = partition;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let (escaped, after) = after.split_at_checked(2)?;
        plain.push(match escaped {
            "2F" => '/',
            "25" => '%',
            _ => return None,
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// A key in its namespace: 1 to 1024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    namespace: NamespaceName,
    name: Arc<str>,
    /// The text that decides the shard; `None`: the name. Of a row it is the key of its partition, so that a write of the partition
    /// stamps one shard.
    route: Option<Arc<str>>,
}

impl Key {
    /// Parses the key of an entry.
    ///
    /// # Errors
    /// Returns an error if it is empty or too long.
    pub(crate) fn parse(namespace: NamespaceName, key: &str) -> Result<Self, Invalid> {
        Self::named(namespace, "key", key)
    }

    /// Parses the id of an object; the object is kept under it.
    ///
    /// # Errors
    /// Returns an error if it is empty or too long.
    pub(crate) fn of_object(namespace: NamespaceName, id: &str) -> Result<Self, Invalid> {
        Self::named(namespace, "id", id)
    }

    fn named(namespace: NamespaceName, field: &'static str, name: &str) -> Result<Self, Invalid> {
        if name.is_empty() || name.len() > KEY_BYTES_MAX {
            return Err(Invalid::new(
                reason::INVALID_KEY,
                field,
                format!("must be 1 to {KEY_BYTES_MAX} bytes, not {}", name.len()),
            ));
        }
        let route = namespace.is_of_rows().then(|| partition_of(name)).flatten();
        Ok(Self { namespace, name: name.into(), route })
    }

    /// Puts the key into the shard of another text.
    #[cfg(test)]
    pub(crate) fn routed(self, route: &str) -> Self {
        Self { route: Some(route.into()), ..self }
    }

    /// Returns the namespace.
    pub(crate) fn namespace(&self) -> &NamespaceName {
        &self.namespace
    }

    /// Returns the text that decides the shard.
    pub(crate) fn route(&self) -> &str {
        self.route.as_deref().unwrap_or(&self.name)
    }

    /// Returns the key itself.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Tags of an entry: at most 16, each 1 to 256 bytes, without repeats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tags(Vec<String>);

impl Tags {
    /// Parses tags; a repeated one counts once.
    ///
    /// # Errors
    /// Returns an error if there are too many, or one is empty or too long.
    pub(crate) fn parse(tags: Vec<String>) -> Result<Self, Invalid> {
        if tags.len() > TAGS_MAX {
            let problem = format!("at most {TAGS_MAX} tags an entry, not {}", tags.len());
            return Err(Invalid::new(reason::TOO_MANY_TAGS, "tags", problem));
        }
        let mut kept: Vec<String> = Vec::with_capacity(tags.len());
        for tag in tags {
            check_tag(&tag)?;
            if !kept.contains(&tag) {
                kept.push(tag);
            }
        }
        Ok(Self(kept))
    }

    /// Parses the tags to invalidate.
    ///
    /// # Errors
    /// Returns an error if there are too many, or one is empty or too long.
    pub(crate) fn parse_many(tags: &[String]) -> Result<(), Invalid> {
        if tags.len() > INVALIDATED_TAGS_MAX {
            let problem = format!("at most {INVALIDATED_TAGS_MAX} tags a call, not {}", tags.len());
            return Err(Invalid::new(reason::TOO_MANY_TAGS, "tags", problem));
        }
        tags.iter().try_for_each(|tag| check_tag(tag))
    }

    /// Takes tags read back from an entry, which were parsed when it was written.
    pub(crate) fn trusted(tags: Vec<String>) -> Self {
        Self(tags)
    }

    /// Returns the tags.
    pub(crate) fn as_slice(&self) -> &[String] {
        &self.0
    }
}

fn check_tag(tag: &str) -> Result<(), Invalid> {
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
        let problem = format!("each must be 1 to {TAG_BYTES_MAX} bytes, not {}", tag.len());
        return Err(Invalid::new(reason::INVALID_TAG, "tags", problem));
    }
    Ok(())
}

fn check_name(field: &'static str, name: &str, length_max: usize) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > length_max || !name.bytes().all(allowed) {
        let problem = format!("must be 1 to {length_max} characters of [A-Za-z0-9_.-]");
        return Err(Invalid::new(reason::INVALID_NAME, field, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlong_names_are_refused() {
        for bad in ["", "a b", "ä", "{x}", &"n".repeat(65)] {
            let invalid = NamespaceName::parse(bad).expect_err(bad);
            assert!(invalid.problem.contains("64"), "{}", invalid.problem);
        }
        assert!(NamespaceName::parse(&"n".repeat(64)).is_ok());
        assert!(NamespaceName::of_kind(&"k".repeat(57)).is_ok());
        assert!(NamespaceName::of_kind(&"k".repeat(58)).is_err(), "object.KIND would be no namespace");
    }

    #[test]
    fn keys_are_bounded_in_bytes() {
        let namespace = NamespaceName::parse("n").expect("valid");
        assert!(Key::parse(namespace.clone(), &"é".repeat(512)).is_ok());
        for bad in [String::new(), "é".repeat(513)] {
            assert!(Key::parse(namespace.clone(), &bad).is_err());
        }
    }

    #[test]
    fn tags_are_bounded_and_kept_once() {
        let tags = Tags::parse(vec!["a".into(), "b".into(), "a".into()]).expect("valid");
        assert_eq!(tags.as_slice(), ["a", "b"]);
        assert!(Tags::parse(vec![String::new()]).is_err());
        assert!(Tags::parse(vec!["t".repeat(257)]).is_err());
        assert!(Tags::parse((0..17).map(|i| i.to_string()).collect()).is_err());
    }
}
