//! The counters of a peer's misbehaviour, each with its bound. A peer that goes beyond one is told so with a GOAWAY whose code
//! is ENHANCE_YOUR_CALM, and its connection ends.
//!
//! Two bounds stand elsewhere because their owner is another: a response or a request that waits for the socket counts
//! in the send buffer, and how many streams a client may open is SETTINGS_MAX_CONCURRENT_STREAMS.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::connection::budget::Budget;
use crate::connection::{Role, TABLE_BYTES};
use crate::error::{Error, Reason};
use crate::frame;

/// Streams that may be reset for what the peer sent on them. More are an attack (CVE-2025-8671).
const STREAM_ERRORS_MAX: u32 = 1_024;

/// Streams that end well and together make up for one stream error.
const STREAMS_FOR_AN_ERROR: u32 = 64;

/// SETTINGS frames at once, and the time in which one more is allowed. Clients that adapt their windows to what the network
/// carries (grpc-core) send a dozen while they learn, and a few a second at most.
const SETTINGS_BURST: u32 = 100;
const SETTINGS_REFILL: Duration = Duration::from_millis(100);

/// Frames at once that change nothing (PING, PRIORITY, GOAWAY, frames of unknown kinds and of closed streams), and the time in
/// which one more is allowed. Messages and DATA allow more besides: grpc-go sends a PING for each round trip of an answer.
const IDLE_FRAMES_BURST: u32 = 10_000;
const IDLE_FRAMES_REFILL: Duration = Duration::from_millis(1);

/// Idle frames that each message of the peer allows: WINDOW_UPDATE and RST_STREAM often come after a stream's end.
const IDLE_FRAMES_FOR_A_MESSAGE: u32 = 8;

/// Empty DATA frames beyond what messages and bytes make up for. They do nothing, and cost nothing to send (CVE-2019-9518).
const EMPTY_FRAMES_MAX: u32 = 1_000;

/// Bytes of DATA that make up for an empty frame. Each message makes up for one, too.
const BYTES_FOR_AN_EMPTY_FRAME: u32 = 1 << 10;

/// Replies that wait for the socket before nothing more is read: the peer makes us reply and does not listen (CVE-2019-9512,
/// CVE-2019-9515).
const PENDING_REPLIES_MAX: usize = 1_024;

/// Bytes that wait for the socket beside those of DATA before a server reads nothing more.
const UNSENT_BYTES_MAX: usize = 256 << 10;

/// Frames of a header block beside those its size explains. More are an attack (CVE-2024-27316).
const CONTINUATIONS_MAX: usize = 8;

/// Bytes of a header block that explain one more frame.
const BYTES_FOR_A_CONTINUATION: usize = 1_024;

/// Multiple of the longest accepted header list up to which a block is read to its end, so that a list that is too long fails
/// its call alone. More is an attack. Nothing of the block is kept but the fields within the limit.
const BLOCK_LISTS_MAX: usize = 8;

/// Bytes that a list may take from the dynamic table: all of it twice. Without a limit each octet of a block would stand for
/// thousands, here and on the way to an upstream.
pub(crate) const REFERENCED_BYTES_MAX: usize = 2 * TABLE_BYTES;

/// Counts what one peer does that costs it nothing.
#[derive(Debug)]
pub(crate) struct Abuse {
    /// The frames of a server that change nothing are not counted, nor are its SETTINGS: they cost little, and to end its
    /// connection would end the calls of all who share it.
    role: Role,
    stream_errors: u32,
    /// Streams that ended well since one of those was made up for.
    ended_well: u32,
    /// Empty DATA frames that nothing makes up for yet.
    empty_frames: u32,
    /// Bytes of DATA since one of those was made up for.
    full_bytes: u32,
    settings: Budget,
    idle_frames: Budget,
    /// Streams that the peer reset before they were accepted.
    pending_accept_resets: usize,
    pending_accept_resets_max: usize,
    /// Frames in the send buffer that reply to the peer's.
    pending_replies: usize,
    /// Bytes in the send buffer at which a server stops reading.
    unsent_max: usize,
    block_bytes_max: usize,
}

impl Abuse {
    pub(crate) fn new(role: Role, config: &Config) -> Abuse {
        let lists = (config.header_list_max as usize).saturating_mul(BLOCK_LISTS_MAX);
        Abuse {
            role,
            stream_errors: 0,
            ended_well: 0,
            empty_frames: 0,
            full_bytes: 0,
            settings: Budget::new(SETTINGS_BURST, SETTINGS_REFILL),
            idle_frames: Budget::new(IDLE_FRAMES_BURST, IDLE_FRAMES_REFILL),
            pending_accept_resets: 0,
            pending_accept_resets_max: config.pending_accept_resets_max,
            pending_replies: 0,
            unsent_max: config.send_buffer + UNSENT_BYTES_MAX,
            block_bytes_max: lists.saturating_add(frame::PAYLOAD_BYTES_MAX),
        }
    }

    /// Returns how many streams were reset for what the peer sent on them and are not made up for.
    pub(crate) fn stream_errors(&self) -> u32 {
        self.stream_errors
    }

    /// Returns how many requests wait to be accepted that the peer has reset.
    pub(crate) fn pending_accept_resets(&self) -> usize {
        self.pending_accept_resets
    }

    /// Counts a stream that is reset for what the peer sent on it.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn count_stream_error(&mut self) -> Result<(), Error> {
        self.stream_errors += 1;
        if self.stream_errors > STREAM_ERRORS_MAX { Err(calm("too many stream errors")) } else { Ok(()) }
    }

    /// Counts a stream that ended well. Over a long life such streams make up for stream errors.
    pub(crate) fn count_ended_well(&mut self) {
        self.ended_well += 1;
        if self.ended_well == STREAMS_FOR_AN_ERROR {
            self.ended_well = 0;
            self.stream_errors = self.stream_errors.saturating_sub(1);
        }
    }

    /// Counts a frame that changes nothing.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn count_idle_frame(&mut self) -> Result<(), Error> {
        if self.role == Role::Client || self.idle_frames.take(Instant::now) {
            return Ok(());
        }
        Err(calm("too many frames that change nothing"))
    }

    /// Counts the head or the trailers of a message, which make up for frames that change nothing.
    pub(crate) fn count_message(&mut self) {
        self.idle_frames.earn(IDLE_FRAMES_FOR_A_MESSAGE);
        self.empty_frames = self.empty_frames.saturating_sub(1);
    }

    /// Counts DATA that was sent to the peer, which may reply with frames that change nothing.
    pub(crate) fn count_data_sent(&mut self) {
        self.idle_frames.earn(1);
    }

    /// Counts DATA of the peer: `len` bytes without padding, and whether they end the stream.
    ///
    /// # Errors
    /// When too many of its frames are empty.
    pub(crate) fn count_data(&mut self, len: usize, end: bool) -> Result<(), Error> {
        if len == 0 && !end {
            self.empty_frames += 1;
            if self.empty_frames > EMPTY_FRAMES_MAX {
                return Err(calm("too many empty DATA frames"));
            }
        } else if self.empty_frames > 0 {
            self.full_bytes += len as u32;
            self.empty_frames = self.empty_frames.saturating_sub(self.full_bytes / BYTES_FOR_AN_EMPTY_FRAME);
            self.full_bytes %= BYTES_FOR_AN_EMPTY_FRAME;
        }
        Ok(())
    }

    /// Counts SETTINGS after the first.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn count_settings(&mut self) -> Result<(), Error> {
        if self.role == Role::Client || self.settings.take(Instant::now) {
            return Ok(());
        }
        Err(calm("too many SETTINGS"))
    }

    /// Counts a stream that the peer reset before it was accepted (CVE-2023-44487).
    ///
    /// # Errors
    /// When there are too many of them at once.
    pub(crate) fn count_pending_accept_reset(&mut self) -> Result<(), Error> {
        self.pending_accept_resets += 1;
        if self.pending_accept_resets > self.pending_accept_resets_max {
            return Err(calm("too many streams reset at once"));
        }
        Ok(())
    }

    /// Takes off a stream that was reset before it was accepted, and is accepted now.
    pub(crate) fn accept_reset(&mut self) {
        self.pending_accept_resets -= 1;
    }

    /// Counts a frame that replies to one of the peer's and waits for the socket.
    pub(crate) fn count_reply(&mut self) {
        self.pending_replies += 1;
    }

    /// Forgets the replies: they are written.
    pub(crate) fn replies_written(&mut self) {
        self.pending_replies = 0;
    }

    /// Returns whether nothing more is read while `unsent` bytes wait for the socket. A server's peer that asks and asks,
    /// and reads no answer, is held up. A client goes on reading, or two sides might wait for each other.
    pub(crate) fn is_backpressured(&self, unsent: usize) -> bool {
        self.pending_replies >= PENDING_REPLIES_MAX
            || (self.role == Role::Server && unsent >= self.unsent_max)
    }

    /// Checks a header block of which so many bytes and frames are here.
    ///
    /// # Errors
    /// When the block is longer than any list explains, or in more frames than its length explains.
    pub(crate) fn check_block(&self, bytes: usize, frames: usize) -> Result<(), Error> {
        let frames_max = CONTINUATIONS_MAX + bytes / BYTES_FOR_A_CONTINUATION;
        if bytes > self.block_bytes_max || frames > frames_max {
            return Err(calm("too much CONTINUATION"));
        }
        Ok(())
    }
}

fn calm(why: &str) -> Error {
    Error::connection(Reason::ENHANCE_YOUR_CALM, why)
}
