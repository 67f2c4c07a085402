//! Streams in a line. It is linked through the table that holds them: who leaves, from wherever, costs the same as one, and
//! a line that was long leaves nothing behind. A stream stands in one line at most.

use slab::Slab;

use crate::stream::Stream;

/// No stream.
const NOBODY: usize = usize::MAX;

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    Nothing,
    /// The peer to allow one more stream, or the socket to take its headers.
    Opening,
    /// The peer to enlarge the stream's own window.
    Window,
    /// Room on the connection.
    Room,
    /// Its share of the peer's connection-level window to be given back.
    Share,
}

/// A stream's place.
#[derive(Debug)]
pub(crate) struct Place {
    line: For,
    before: usize,
    after: usize,
}

impl Default for Place {
    fn default() -> Place {
        Place { line: For::Nothing, before: NOBODY, after: NOBODY }
    }
}

impl Place {
    /// What it waits for.
    pub(crate) fn line(&self) -> For {
        self.line
    }

    /// Who comes after it.
    pub(crate) fn after(&self) -> Option<usize> {
        (self.after != NOBODY).then_some(self.after)
    }
}

/// Who waits for something, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Line {
    what: For,
    first: usize,
    last: usize,
    len: usize,
}

impl Line {
    pub(crate) fn new(what: For) -> Line {
        Line { what, first: NOBODY, last: NOBODY, len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Who has waited longest.
    pub(crate) fn first(&self) -> Option<usize> {
        (self.first != NOBODY).then_some(self.first)
    }

    /// Puts a stream that stands in no line at the end.
    pub(crate) fn push(&mut self, streams: &mut Slab<Stream>, key: usize) {
        debug_assert_eq!(streams[key].place.line, For::Nothing, "it stands in a line");
        streams[key].place = Place { line: self.what, before: self.last, after: NOBODY };
        match self.last {
            NOBODY => self.first = key,
            last => streams[last].place.after = key,
        }
        self.last = key;
        self.len += 1;
    }

    /// Takes a stream out, which stands in this line.
    pub(crate) fn remove(&mut self, streams: &mut Slab<Stream>, key: usize) {
        let Place { line, before, after } = std::mem::take(&mut streams[key].place);
        debug_assert_eq!(line, self.what, "it stands in another line");
        match before {
            NOBODY => self.first = after,
            before => streams[before].place.after = after,
        }
        match after {
            NOBODY => self.last = before,
            after => streams[after].place.before = before,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::stream::{Receiving, Sending};

    #[test]
    fn a_line_is_the_order_of_those_who_stayed() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut streams = Slab::new();
        let keys: Vec<usize> =
            (0..20).map(|_| streams.insert(Stream::new(Sending::Body, Receiving::Body, 0))).collect();
        let (mut line, mut model) = (Line::new(For::Room), VecDeque::new());
        for step in 0..10_000 {
            let key = keys[rng.usize(..keys.len())];
            match model.iter().position(|stands| *stands == key) {
                Some(at) => {
                    line.remove(&mut streams, key);
                    model.remove(at);
                }
                None => {
                    line.push(&mut streams, key);
                    model.push_back(key);
                }
            }
            let order = std::iter::successors(line.first(), |key| streams[*key].place.after());
            assert!(order.eq(model.iter().copied()), "step {step} of seed {seed}");
            assert_eq!(
                (line.len(), line.is_empty()),
                (model.len(), model.is_empty()),
                "step {step} of seed {seed}"
            );
        }
    }
}
