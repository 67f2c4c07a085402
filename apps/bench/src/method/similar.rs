//! Names close to one that does not exist, for messages that help.

/// Names that are listed in full where none is close.
const LISTED_MAX: usize = 12;

/// Returns a clause that names those close to `wanted`, or all of them if they are few.
pub(super) fn suggestion(wanted: &str, names: &[String]) -> String {
    let mut close: Vec<(usize, &String)> = names
        .iter()
        .filter_map(|name| {
            let (name_lower, wanted_lower) = (name.to_lowercase(), wanted.to_lowercase());
            // A name without its package, or the beginning of one.
            let part = wanted_lower.len() >= 3 && name_lower.contains(&wanted_lower);
            let distance = if part { 0 } else { distance(&name_lower, &wanted_lower) };
            let near = distance <= 1 + wanted.chars().count() / 4;
            near.then_some((distance, name))
        })
        .collect();
    close.sort();
    close.truncate(3);
    let listed =
        |names: &[&String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match &close[..] {
        [] if names.is_empty() => "there are none".to_owned(),
        [] if names.len() <= LISTED_MAX => {
            format!("there are: {}", listed(&names.iter().collect::<Vec<_>>()))
        }
        [] => format!("there are {} others, none of them close", names.len()),
        close => {
            format!("did you mean {}?", listed(&close.iter().map(|(_, name)| *name).collect::<Vec<_>>()))
        }
    }
}

/// Returns the Levenshtein distance of two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, names: &[&str]) -> String {
        suggestion(wanted, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn close_names_are_suggested() {
        assert_eq!(check("Gett", &["Set", "Get", "Delete"]), "did you mean `Get`, `Set`?");
        assert_eq!(check("CacheService", &["a.v1.CacheService"]), "did you mean `a.v1.CacheService`?");
        assert_eq!(check("namespace_id", &["namespace", "key"]), "did you mean `namespace`?");
        assert_eq!(check("x", &["namespace", "key"]), "there are: `namespace`, `key`");
        assert_eq!(check("x", &[]), "there are none");
    }

    #[test]
    fn distances_count_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
