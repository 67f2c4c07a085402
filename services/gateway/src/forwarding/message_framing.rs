//! Follows where the gRPC messages of a request begin and end ("gRPC over HTTP/2", Length-Prefixed-Message), to know
//! whether what an endpoint complains of was its caller's doing. Looks at five bytes of each message and into none.

/// Bytes before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// The messages of one request, as they pass.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    /// The head of the next message, as far as it is here.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// The bytes to come of the message that has begun.
    left: u64,
    /// Messages that have begun.
    messages: u64,
    compressed: bool,
    bad_flag: bool,
}

impl Framing {
    /// The next bytes of the request.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = bytes.len().min(HEAD_BYTES - self.have);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                let [flag, length @ ..] = self.head;
                self.have = 0;
                self.messages += 1;
                self.compressed |= flag == 1;
                self.bad_flag |= flag > 1;
                self.left = u64::from(u32::from_be_bytes(length));
            }
        }
    }

    /// Returns what no server could have taken. `ended`: nothing more will come. `unary`: the method takes one message.
    /// `encoded`: the request says how its messages are compressed.
    pub(crate) fn is_malformed(&self, ended: bool, unary: bool, encoded: bool) -> bool {
        let cut = self.have > 0 || self.left > 0;
        self.bad_flag
            || (self.compressed && !encoded)
            // A method of which nothing is known may be one that takes none; an error that follows from nothing is no
            // failure either way.
            || (ended && (cut || self.messages == 0))
            || (unary && self.messages > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &[u8], malformed: bool) {
        // In one piece, and byte by byte.
        for size in [body.len().max(1), 1, 3] {
            let mut framing = Framing::default();
            body.chunks(size).for_each(|chunk| framing.feed(chunk));
            assert_eq!(framing.is_malformed(true, true, false), malformed, "{body:?} in pieces of {size}");
        }
    }

    #[test]
    fn any_message_length_is_well_formed() {
        check(b"\0\0\0\0\0", false);
        check(b"\0\0\0\0\x03abc", false);
        check(&[&b"\0\0\0\x01\0"[..], &[7; 256]].concat(), false);
    }

    #[test]
    fn unreadable_messages_are_malformed() {
        check(b"", true);
        check(b"\0\0", true);
        check(b"\x07\0\0\0\0", true);
        check(b"\x01\0\0\0\x01a", true);
        check(b"\0\0\0\0\x09ab", true);
        check(b"\0\xff\xff\xff\xff", true);
        check(b"\0\0\0\0\x01a\0\0\0\0\x01a", true);
    }

    #[test]
    fn streams_and_compression_are_well_formed() {
        let mut framing = Framing::default();
        framing.feed(b"\x01\0\0\0\x01a\0\0\0\0\x01a");
        assert!(!framing.is_malformed(true, false, true));
        framing.feed(b"\0\0");
        assert!(!framing.is_malformed(false, false, true), "more may come");
    }
}
