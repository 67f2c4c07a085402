//! Views of a table: its rows under another key, kept by the writes of the table. A view is declared with expressions over the
//! rows; its entries stand in a hidden table of its own.

use shoal_kit::{Invalid, reason};
use uuid::Uuid;

use crate::table::{SortKeyType, TableName};
use crate::value::{Attributes, Value};

mod expression;
mod filter;

pub(crate) use expression::RowRef;

use expression::{KeyExpression, Term};
use filter::Filter;

/// Most views of a table: each adds up to two entries to every row that is written.
pub(crate) const VIEWS_MAX: usize = 8;
/// Most attributes of a projection.
const PROJECTED_MAX: usize = 64;
/// Longest key that a view gives a row, the same as of the rows of tables.
const KEY_BYTES_MAX: usize = 1024;

/// A view as the caller declares it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NewView {
    /// The name of the view.
    pub(crate) name: String,
    /// The expression of the partition keys.
    pub(crate) partition: String,
    /// The expression of the sort keys; empty for none.
    pub(crate) sort: String,
    /// The type of the sort keys; none for text, if there is an expression.
    pub(crate) sort_key_type: Option<SortKeyType>,
    /// The filter; empty for all rows that have the keys.
    pub(crate) filter: String,
    /// The attributes that entries have; empty for all.
    pub(crate) attributes: Vec<String>,
    /// Set if entries have no attributes.
    pub(crate) keys_only: bool,
}

/// State of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ViewState {
    /// The view is declared, and its hidden table may not be there. No write keeps it.
    Declared,
    /// Writes keep it, and the rows from before are being added.
    Building,
    /// Every row is in it that belongs there.
    Ready,
    /// The view was dropped, and its hidden table may still be there.
    Dropping,
}

/// A view of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// The declaration.
    pub(crate) declared: NewView,
    /// The name of the view, checked.
    pub(crate) name: TableName,
    /// The id of the view and of its hidden table. It is never used again.
    pub(crate) id: Uuid,
    /// The type of the sort keys.
    pub(crate) sort_key_type: SortKeyType,
    /// The state of the view.
    pub(crate) state: ViewState,
    partition: KeyExpression,
    sort: Option<KeyExpression>,
    filter: Option<Filter>,
}

impl Eq for View {}

/// The key of a row in a view.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ViewKey {
    /// The partition key.
    pub(crate) partition: String,
    /// The sort key; none if the view has none.
    pub(crate) sort_key: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredView {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    partition: String,
    #[prost(string, tag = "4")]
    sort: String,
    #[prost(string, tag = "5")]
    sort_key_type: String,
    #[prost(string, tag = "6")]
    filter: String,
    #[prost(string, repeated, tag = "7")]
    attributes: Vec<String>,
    #[prost(bool, tag = "8")]
    keys_only: bool,
    #[prost(string, tag = "9")]
    state: String,
}

impl ViewState {
    const ALL: [Self; 4] = [Self::Declared, Self::Building, Self::Ready, Self::Dropping];

    /// Returns the name of the state in stored definitions.
    fn name(self) -> &'static str {
        match self {
            Self::Declared => "DECLARED",
            Self::Building => "BUILDING",
            Self::Ready => "READY",
            Self::Dropping => "DROPPING",
        }
    }
}

impl View {
    /// Checks a declaration; `field` is the field of the request that has it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the path of the field.
    pub(crate) fn parse(declared: NewView, field: &str, id: Uuid, state: ViewState) -> Result<Self, Invalid> {
        let refused =
            |at: &str, text: String| Invalid::new(reason::INVALID_VIEW, format!("{field}.{at}"), text);
        let name = TableName::parse(&declared.name, &format!("{field}.name"))?;
        let partition =
            KeyExpression::parse(&declared.partition).map_err(|error| refused("partition", error))?;
        let sort = match declared.sort.trim() {
            "" => None,
            _ => Some(KeyExpression::parse(&declared.sort).map_err(|error| refused("sort", error))?),
        };
        let filter = match declared.filter.trim() {
            "" => None,
            _ => Some(Filter::parse(&declared.filter).map_err(|error| refused("filter", error))?),
        };
        let sort_key_type = match (&sort, declared.sort_key_type) {
            (None, None | Some(SortKeyType::None)) => SortKeyType::None,
            (Some(_), None | Some(SortKeyType::String)) => SortKeyType::String,
            (Some(sort), Some(of @ (SortKeyType::Int64 | SortKeyType::Bytes))) => {
                if !matches!(sort.single(), Some(Term::Attribute(_) | Term::SortKey(_))) {
                    let text = format!(
                        "of type {} must be one attribute, sort_key() or sort_key(1), unchanged",
                        of.name()
                    );
                    return Err(refused("sort", text));
                }
                of
            }
            (_, Some(SortKeyType::Composite(_))) => {
                let text = "cannot be COMPOSITE: join texts in sort, or take one value".to_owned();
                return Err(refused("sort_key_type", text));
            }
            (None, Some(of)) => {
                return Err(refused(
                    "sort",
                    format!("is required: the view's sort_key_type is {}", of.name()),
                ));
            }
            (Some(_), Some(SortKeyType::None)) => {
                return Err(refused("sort", "must be empty: the view's sort_key_type is NONE".to_owned()));
            }
        };
        if declared.attributes.len() > PROJECTED_MAX {
            let count = declared.attributes.len();
            return Err(refused(
                "attributes",
                format!("has {count} names, at most {PROJECTED_MAX} are allowed"),
            ));
        }
        if declared.attributes.iter().any(String::is_empty) {
            return Err(refused("attributes", "has an empty name".to_owned()));
        }
        if declared.keys_only && !declared.attributes.is_empty() {
            return Err(refused("attributes", "must be empty: the view has keys_only".to_owned()));
        }
        Ok(Self { declared, name, id, sort_key_type, state, partition, sort, filter })
    }

    /// Returns the key of a row in the view; none if the row is not in it. It is not if the filter does not hold, if an attribute of
    /// a key is missing or of another kind, or if a key is empty or too long.
    pub(crate) fn key(&self, row: RowRef<'_>) -> Option<ViewKey> {
        if !self.filter.as_ref().is_none_or(|filter| filter.holds(row)) {
            return None;
        }
        let fits = |len: usize| (1..=KEY_BYTES_MAX).contains(&len);
        let partition = self.partition.text(row).filter(|text| fits(text.len()))?;
        let sort_key = match (&self.sort, self.sort_key_type) {
            // No view has a composite one.
            (None, _) | (_, SortKeyType::None | SortKeyType::Composite(_)) => None,
            (Some(sort), SortKeyType::String) => {
                Some(Value::String(sort.text(row).filter(|text| fits(text.len()))?))
            }
            (Some(sort), SortKeyType::Int64) => Some(match sort.value(row)? {
                Value::Int(int) => Value::Int(int),
                Value::Time(time) => {
                    let micros = time.seconds.checked_mul(1_000_000)?;
                    Value::Int(micros.checked_add(i64::from(time.nanos / 1000))?)
                }
                _ => return None,
            }),
            (Some(sort), SortKeyType::Bytes) => match sort.value(row)? {
                Value::Bytes(bytes) if fits(bytes.len()) => Some(Value::Bytes(bytes)),
                _ => return None,
            },
        };
        Some(ViewKey { partition, sort_key })
    }

    /// Returns the attributes of a row that its entry has.
    pub(crate) fn projected(&self, attributes: &Attributes) -> Attributes {
        let NewView { attributes: names, keys_only, .. } = &self.declared;
        match (keys_only, names.is_empty()) {
            (true, _) => Attributes::default(),
            (false, true) => attributes.clone(),
            (false, false) => {
                names.iter().filter_map(|name| Some((name.clone(), attributes.get(name)?.clone()))).collect()
            }
        }
    }

    /// Returns whether writes keep the view.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.state, ViewState::Building | ViewState::Ready)
    }

    /// Returns whether callers see the view.
    pub(crate) fn is_there(&self) -> bool {
        self.state != ViewState::Dropping
    }

    pub(super) fn stored(&self) -> StoredView {
        let declared = self.declared.clone();
        StoredView {
            id: self.id.as_bytes().to_vec(),
            name: declared.name,
            partition: declared.partition,
            sort: declared.sort,
            sort_key_type: self.sort_key_type.name().into_owned(),
            filter: declared.filter,
            attributes: declared.attributes,
            keys_only: declared.keys_only,
            state: self.state.name().to_owned(),
        }
    }

    /// Reads a view that was stored; none if a later release wrote it.
    pub(super) fn of_stored(stored: StoredView) -> Option<Self> {
        let declared = NewView {
            name: stored.name,
            partition: stored.partition,
            sort: stored.sort,
            sort_key_type: Some(SortKeyType::of_name(&stored.sort_key_type)?),
            filter: stored.filter,
            attributes: stored.attributes,
            keys_only: stored.keys_only,
        };
        let state = ViewState::ALL.into_iter().find(|state| state.name() == stored.state)?;
        Self::parse(declared, "view", Uuid::from_slice(&stored.id).ok()?, state).ok()
    }

    /// Returns whether two views are declared alike.
    pub(crate) fn is_alike(&self, other: &View) -> bool {
        let said = |view: &View| NewView { sort_key_type: Some(view.sort_key_type), ..view.declared.clone() };
        said(self) == said(other)
    }
}

/// Checks the views of a table, which are new.
///
/// # Errors
/// INVALID_ARGUMENT, with the path of the field.
pub(crate) fn parse_views(declared: Vec<NewView>, state: ViewState) -> Result<Vec<View>, Invalid> {
    if declared.len() > VIEWS_MAX {
        let text = format!("has {} entries; a table has at most {VIEWS_MAX} views", declared.len());
        return Err(Invalid::new(reason::INVALID_VIEW, "table.views", text));
    }
    let mut views: Vec<View> = Vec::with_capacity(declared.len());
    for (i, declared) in declared.into_iter().enumerate() {
        let field = format!("table.views[{i}]");
        let view = View::parse(declared, &field, Uuid::new_v4(), state)?;
        if views.iter().any(|other| other.name == view.name) {
            let text = format!("is `{}` like that of another view of the table", view.name);
            return Err(Invalid::new(reason::INVALID_VIEW, format!("{field}.name"), text));
        }
        views.push(view);
    }
    Ok(views)
}

/// Checks that the views can be of a table with such sort keys.
///
/// # Errors
/// INVALID_ARGUMENT, with the path of the field.
pub(crate) fn check_views(views: &[View], of: SortKeyType) -> Result<(), Invalid> {
    for (i, view) in views.iter().enumerate() {
        let fields = [
            ("partition", view.partition.fits(of)),
            ("sort", view.sort.as_ref().map_or(Ok(()), |sort| sort.fits(of))),
            ("filter", view.filter.as_ref().map_or(Ok(()), |filter| filter.fits(of))),
        ];
        for (at, fits) in fields {
            let field = || format!("table.views[{i}].{at}");
            fits.map_err(|text| Invalid::new(reason::INVALID_VIEW, field(), text))?;
        }
    }
    Ok(())
}

/// Returns the views of a table after it was given `wanted`: those that are declared alike stay as they are, others that are there
/// end, and the rest is new.
pub(super) fn replaced(existing: &[View], wanted: &[View]) -> Vec<View> {
    let stays = |view: &View| view.is_there() && wanted.iter().any(|wanted| wanted.is_alike(view));
    let mut views: Vec<View> = existing.to_vec();
    for view in views.iter_mut().filter(|view| !stays(view)) {
        view.state = ViewState::Dropping;
    }
    for new in wanted {
        if !views.iter().any(|view| view.is_there() && view.is_alike(new)) {
            views.push(new.clone());
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(partition: &str, sort: &str, of: Option<SortKeyType>) -> Result<View, Invalid> {
        let declared = NewView {
            name: "v".to_owned(),
            partition: partition.to_owned(),
            sort: sort.to_owned(),
            sort_key_type: of,
            ..NewView::default()
        };
        View::parse(declared, "view", Uuid::from_u128(1), ViewState::Ready)
    }

    #[test]
    fn stored_views_decode_as_stored() {
        for (sort, of) in [("", None), ("n", Some(SortKeyType::Int64)), ("a + b", None)] {
            let view = view("lower(a)", sort, of).unwrap();
            let back = View::of_stored(view.stored()).unwrap();
            assert!(back.is_alike(&view) && back.id == view.id && back.state == view.state);
        }
        let later = StoredView { state: "LATER".to_owned(), ..view("a", "", None).unwrap().stored() };
        assert!(View::of_stored(later).is_none());
    }

    #[test]
    fn sort_keys_have_their_type() {
        for (sort, of) in [
            ("", Some(SortKeyType::String)),
            ("a", Some(SortKeyType::None)),
            ("a + b", Some(SortKeyType::Int64)),
            ("lower(a)", Some(SortKeyType::Bytes)),
        ] {
            assert!(view("p", sort, of).is_err(), "{sort} {of:?}");
        }
        assert_eq!(view("p", "", None).unwrap().sort_key_type, SortKeyType::None);
        assert_eq!(view("p", "a", None).unwrap().sort_key_type, SortKeyType::String);
    }

    #[test]
    fn rows_without_a_key_are_left_out() {
        let view = view("p", "n", Some(SortKeyType::Int64)).unwrap();
        let key = |p: &str, n: Value| {
            let attributes: Attributes =
                [("p".to_owned(), Value::String(p.to_owned())), ("n".to_owned(), n)].into_iter().collect();
            view.key(RowRef { partition: "x", sort_key: None, attributes: &attributes })
        };
        let found = key("a", Value::Int(3)).unwrap();
        assert_eq!((found.partition.as_str(), found.sort_key), ("a", Some(Value::Int(3))));
        let time = crate::value::Time { seconds: 2, nanos: 5_000 };
        assert_eq!(key("a", Value::Time(time)).unwrap().sort_key, Some(Value::Int(2_000_005)));
        for none in
            [key("", Value::Int(1)), key("a", Value::Bool(true)), key(&"x".repeat(1025), Value::Int(1))]
        {
            assert_eq!(none, None);
        }
    }

    #[test]
    fn changed_views_are_new_ones() {
        let (old, other) = (view("a", "", None).unwrap(), view("b", "", None).unwrap());
        let again = View { id: Uuid::from_u128(9), ..old.clone() };
        use std::slice::from_ref;
        assert_eq!(replaced(from_ref(&old), from_ref(&again))[0].id, old.id);
        let views = replaced(from_ref(&old), from_ref(&other));
        assert_eq!(
            views.iter().map(|view| view.state).collect::<Vec<_>>(),
            [ViewState::Dropping, ViewState::Ready]
        );
        let back = replaced(&views, &[again]);
        assert_eq!((back.len(), back[1].state, back[2].id), (3, ViewState::Dropping, Uuid::from_u128(9)));
    }
}
