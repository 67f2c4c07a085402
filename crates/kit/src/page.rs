//! Pages of a list: one rule for every `page_size`.

use crate::errors::invalid::Invalid;
use crate::errors::reason;

/// Returns how many items a page has at most: the default for 0, and never more than `max` (AIP-158).
pub fn size(asked: i32, default: usize, max: usize) -> Result<usize, Invalid> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => {
            let problem = format!("must be 0 (for {default}) to {max}, is {asked}; more than {max} is {max}");
            Err(Invalid::new(reason::INVALID_PAGE_SIZE, "page_size", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_is_clamped() {
        assert_eq!(size(0, 50, 100), Ok(50));
        assert_eq!(size(1, 50, 100), Ok(1));
        assert_eq!(size(100, 50, 100), Ok(100));
        assert_eq!(size(101, 50, 100), Ok(100));
        assert_eq!(size(i32::MAX, 50, 100), Ok(100));
        assert_eq!(size(-1, 50, 100).map_err(|error| error.reason), Err(reason::INVALID_PAGE_SIZE));
    }
}
