//! Iteration over the stored pairs, merged with the uncommitted writes of a transaction.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use fjall::Slice;

use crate::error::Error;

type Pair = Result<(Slice, Slice), Error>;
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Key-value pairs in the order of their keys, from either end. The range shows the state at the call that made it and borrows
/// nothing: a transaction may write while it iterates. The range ends after an error.
pub struct Range {
    stored: Option<fjall::Iter>,
    // One pair looked at from each end of `stored` and not yet given out.
    front: Option<(Slice, Slice)>,
    back: Option<(Slice, Slice)>,
    // Uncommitted writes in range; `None` is a delete. They win over what is stored.
    written: VecDeque<(Slice, Option<Slice>)>,
    // What its next pair is, if nothing could be read.
    failed: Option<Error>,
}

impl Range {
    pub(crate) fn empty() -> Range {
        Range { stored: None, front: None, back: None, written: VecDeque::new(), failed: None }
    }

    pub(crate) fn failed(error: Error) -> Range {
        Range { failed: Some(error), ..Range::empty() }
    }

    pub(crate) fn stored(iter: fjall::Iter) -> Range {
        Range { stored: Some(iter), ..Range::empty() }
    }

    pub(crate) fn merged(iter: Option<fjall::Iter>, written: VecDeque<(Slice, Option<Slice>)>) -> Range {
        Range { stored: iter, written, ..Range::empty() }
    }

    fn fail(&mut self, error: fjall::Error) -> Pair {
        *self = Range::empty();
        Err(error.into())
    }

    /// Sets `front` to the smallest stored pair not yet returned, if any is left.
    fn fill_front(&mut self) -> Result<(), fjall::Error> {
        if self.front.is_none() {
            self.front = match self.stored.as_mut().and_then(Iterator::next) {
                Some(guard) => Some(guard.into_inner()?),
                None => self.back.take(),
            };
        }
        Ok(())
    }

    /// Sets `back` to the greatest stored pair not yet returned, if any is left.
    fn fill_back(&mut self) -> Result<(), fjall::Error> {
        if self.back.is_none() {
            self.back = match self.stored.as_mut().and_then(DoubleEndedIterator::next_back) {
                Some(guard) => Some(guard.into_inner()?),
                None => self.front.take(),
            };
        }
        Ok(())
    }
}

impl Iterator for Range {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        loop {
            if let Err(error) = self.fill_front() {
                return Some(self.fail(error));
            }
            let written_first = match (&self.front, self.written.front()) {
                (_, None) => return self.front.take().map(Ok),
                (None, Some(_)) => true,
                (Some((stored, _)), Some((written, _))) => written <= stored,
            };
            if !written_first {
                return self.front.take().map(Ok);
            }
            let (key, value) = self.written.pop_front()?;
            if self.front.as_ref().is_some_and(|(stored, _)| *stored == key) {
                self.front = None;
            }
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Pair> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        loop {
            if let Err(error) = self.fill_back() {
                return Some(self.fail(error));
            }
            let written_last = match (&self.back, self.written.back()) {
                (_, None) => return self.back.take().map(Ok),
                (None, Some(_)) => true,
                (Some((stored, _)), Some((written, _))) => written >= stored,
            };
            if !written_last {
                return self.back.take().map(Ok);
            }
            let (key, value) = self.written.pop_back()?;
            if self.back.as_ref().is_some_and(|(stored, _)| *stored == key) {
                self.back = None;
            }
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

impl std::fmt::Debug for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Range").finish_non_exhaustive()
    }
}

/// Returns the bounds of `range`, owned; `None` if no key can be in it (ordered maps panic on such a range).
pub(crate) fn bounds(range: &impl RangeBounds<Vec<u8>>) -> Option<Bounds> {
    let (start, end) = (range.start_bound(), range.end_bound());
    let empty = match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    };
    (!empty).then(|| (start.cloned(), end.cloned()))
}
