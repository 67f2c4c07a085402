//! The state of one connection, without its socket: what is known of its streams, its windows and its end. What the peer
//! sends goes in by [`receive`](Core::receive), what is to be sent comes out by the outbox.

mod budget;
mod control;
mod foreign_protocol;
mod id_hashing;
mod late_resets;
mod receive;
mod send;
pub(crate) mod send_buffer;
mod share;
mod window;

pub use receive::Unfinished;
pub use send::SendError;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::task::Waker;

use http::Request;
use slab::Slab;

use crate::config::Config;
use crate::connection::budget::Budget;
use crate::connection::control::{IDLE_FRAMES_BURST, IDLE_FRAMES_REFILL, SETTINGS_BURST, SETTINGS_REFILL};
use crate::connection::id_hashing::NumberHashing;
use crate::connection::late_resets::LateResets;
use crate::connection::receive::Block;
use crate::connection::send_buffer::Outbox;
use crate::error::{By, Error, Reason};
use crate::frame::{self, PREFACE, STREAM_MAX, WINDOW_DEFAULT};
use crate::hpack::{Decoder, Encoder, ListTooLong};
use crate::message::Targets;
use crate::message::target::Addresses;
use crate::stream::queue::{For, Line};
use crate::stream::{Received, Receiving, Sending, Stream};

/// SETTINGS_HEADER_TABLE_SIZE, both ways: the default, which every peer knows.
pub(crate) const TABLE_BYTES: usize = 4096;

/// Streams we may have to reset because of what the peer sent on them; more, and the connection is ended (CVE-2025-8671).
const FAULTS_MAX: u32 = 1_024;

/// So many streams that end well make up for one of those.
const WELL_FOR_A_FAULT: u32 = 64;

/// Tables of so many places are kept as they are; larger ones are made smaller when they are mostly empty.
const PLACES_KEPT: usize = 128;

/// The PING that asks whether a peer has seen that we are leaving.
const LEAVING: [u8; 8] = *b"leaving!";
/// The PING that asks whether the peer is there.
const ALIVE: [u8; 8] = *b"alive???";

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What the peer has told of itself.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its first frame was there.
    pub(crate) settled: bool,
    pub(crate) streams_max: u32,
    pub(crate) window: u32,
    pub(crate) payload_max: usize,
    /// What it takes of a header list.
    pub(crate) header_list_max: usize,
    /// It has seen what we told of us.
    pub(crate) knows_us: bool,
}

/// How far a server is with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told, and the streams it opens meanwhile are served.
    Told,
    /// Streams above this one are not served.
    Last(u32),
}

/// Asks whether the peer is there.
#[derive(Debug, Default)]
pub(crate) struct Ping {
    /// How many answers came.
    pub(crate) answers: u64,
    pub(crate) waker: Option<Waker>,
}

/// See the [module](self).
pub(crate) struct Core {
    pub(crate) role: Role,
    pub(crate) config: Config,
    pub(crate) out: Outbox,
    /// The task that moves the bytes, when it sleeps.
    pub(crate) driver: Option<Waker>,
    pub(crate) peer: Peer,
    /// Bytes of the preface still to come.
    pub(crate) preface: &'static [u8],
    pub(crate) decoder: Decoder,
    pub(crate) encoder: Encoder,
    pub(crate) addresses: Addresses,
    pub(crate) targets: Targets,
    /// A header block that is not complete.
    pub(crate) block: Option<Box<Block>>,
    /// Counts what the peer has said to its end: frames, a header block as one.
    pub(crate) said: u64,
    pub(crate) streams: Slab<Stream>,
    pub(crate) keys: HashMap<u32, usize, NumberHashing>,
    /// Streams that were forgotten since the tables were last made smaller.
    forgotten: usize,
    /// Streams that are open.
    pub(crate) open: u32,
    /// The last stream opened: by the peer of a server, by a client itself.
    pub(crate) last_id: u32,
    /// Requests that wait to be sent: for a stream, or for the headers of others to be taken.
    pub(crate) queued: Line,
    /// How much is written, of all that ever is, once the headers are of those that were opened last.
    pub(crate) opened_to: u64,
    /// Requests that came and were not looked at.
    pub(crate) accept: VecDeque<(Request<()>, usize)>,
    /// How many of them are reset already.
    pub(crate) unseen_resets: usize,
    pub(crate) resets: Resets,
    pub(crate) late: LateResets,
    pub(crate) send_window: i64,
    /// The most that was, so far.
    pub(crate) send_window_max: i64,
    pub(crate) receive_window: i64,
    pub(crate) released: u32,
    /// The most any open stream may send beside the peer's SETTINGS_INITIAL_WINDOW_SIZE, or more than that.
    pub(crate) offset_max: i64,
    /// Streams with something to send and no window of their own.
    pub(crate) starved: Line,
    /// Streams with something to send for which the connection had no room.
    pub(crate) waiting: Line,
    /// Streams with something to send that have had their share of the peer's window.
    pub(crate) sated: Line,
    /// Frames in the outbox that answer the peer's. While there are many, no more is read.
    pub(crate) replies: usize,
    /// Frames that may be handled before others have their turn.
    pub(crate) frames_left: usize,
    faults: u32,
    /// Streams that ended well, until they make up for a fault.
    well: u32,
    /// Empty DATA frames that nothing makes up for yet.
    pub(crate) empty_frames: u32,
    /// Bytes of DATA since one of them was made up for.
    pub(crate) full_bytes: u32,
    /// SETTINGS the peer may still send.
    pub(crate) settings: Budget,
    /// Frames that change nothing the peer may still send.
    pub(crate) idle_frames: Budget,
    leaving: Leaving,
    /// The last stream that the peer serves, once it leaves.
    pub(crate) peer_last: u32,
    /// The peer opens, and lets us open, no more streams.
    pub(crate) peer_leaves: Option<Error>,
    pub(crate) ping: Ping,
    /// A client opens no more streams.
    pub(crate) retired: bool,
    /// It is over, and this is why.
    pub(crate) over: Option<Error>,
}

impl fmt::Debug for Core {
    /// How things stand, in numbers, and nothing of what callers say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("role", &self.role)
            .field("streams", &self.streams.len())
            .field("places", &self.streams.capacity().max(self.keys.capacity()).max(self.accept.capacity()))
            .field("numbered", &self.keys.len())
            .field("open", &self.open)
            .field("last_id", &self.last_id)
            .field("queued", &self.queued.len())
            .field("accept", &self.accept.len())
            .field("waiting", &self.waiting.len())
            .field("starved", &self.starved.len())
            .field("sated", &self.sated.len())
            .field("block", &self.block.as_ref().map_or(0, |block| block.pending()))
            .field("unseen_resets", &self.unseen_resets)
            .field("faults", &self.faults)
            .field("send_window", &self.send_window)
            .field("receive_window", &self.receive_window)
            .field("released", &self.released)
            .field("unsent", &self.out.bytes())
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(role: Role, config: Config) -> Core {
        let mut settings = vec![
            (frame::SETTING_WINDOW, config.stream_window),
            (frame::SETTING_HEADER_LIST, config.header_list_max),
        ];
        let mut out = Outbox::default();
        match role {
            Role::Client => {
                out.frames().extend_from_slice(PREFACE);
                settings.push((frame::SETTING_PUSH, 0));
            }
            Role::Server => settings.push((frame::SETTING_STREAMS, config.streams_max)),
        }
        frame::write_settings(out.frames(), &settings);
        let more = config.connection_window.saturating_sub(WINDOW_DEFAULT);
        if more > 0 {
            frame::write_window_update(out.frames(), 0, more);
        }
        let hashing = NumberHashing::new();
        Core {
            role,
            out,
            driver: None,
            peer: Peer {
                settled: false,
                streams_max: u32::MAX,
                window: WINDOW_DEFAULT,
                payload_max: frame::PAYLOAD_BYTES_MAX,
                header_list_max: usize::MAX,
                knows_us: false,
            },
            preface: if role == Role::Server { PREFACE } else { &[] },
            decoder: match role {
                // A message of gRPC may end in white space, and most servers send it as it is; what is handed on is
                // without. Who asks is there to be told.
                Role::Client => Decoder::new(TABLE_BYTES).trimming(),
                Role::Server => Decoder::new(TABLE_BYTES),
            },
            encoder: Encoder::with_secrets(&config.secrets),
            addresses: Addresses::default(),
            targets: Targets::default(),
            block: None,
            said: 0,
            streams: Slab::new(),
            keys: HashMap::with_hasher(hashing.clone()),
            forgotten: 0,
            open: 0,
            last_id: 0,
            queued: Line::new(For::Opening),
            opened_to: 0,
            accept: VecDeque::new(),
            unseen_resets: 0,
            resets: Resets::new(config.resets_remembered, hashing),
            late: LateResets::default(),
            send_window: i64::from(WINDOW_DEFAULT),
            send_window_max: i64::from(WINDOW_DEFAULT),
            receive_window: i64::from(config.connection_window.max(WINDOW_DEFAULT)),
            released: 0,
            offset_max: 0,
            starved: Line::new(For::Window),
            waiting: Line::new(For::Room),
            sated: Line::new(For::Share),
            replies: 0,
            frames_left: 0,
            faults: 0,
            well: 0,
            empty_frames: 0,
            full_bytes: 0,
            settings: Budget::new(SETTINGS_BURST, SETTINGS_REFILL),
            idle_frames: Budget::new(IDLE_FRAMES_BURST, IDLE_FRAMES_REFILL),
            leaving: Leaving::No,
            peer_last: STREAM_MAX,
            peer_leaves: None,
            ping: Ping::default(),
            retired: false,
            over: None,
            config,
        }
    }

    /// Makes the driver look: something is to be sent, or to be ended.
    pub(crate) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// The stream of that number, if it is not over.
    pub(crate) fn key(&self, id: u32) -> Option<usize> {
        self.keys.get(&id).copied()
    }

    /// Whether such a stream was never opened.
    pub(crate) fn is_idle(&self, id: u32) -> bool {
        // Only clients open streams here: theirs are odd.
        id.is_multiple_of(2) || (id > self.last_id && !self.is_too_late(id))
    }

    /// The window a stream's peer has at its beginning. It may use what the protocol gives it until it knows ours.
    pub(crate) fn first_receive_window(&self) -> i64 {
        let window = self.config.stream_window;
        i64::from(if self.peer.knows_us { window } else { window.max(WINDOW_DEFAULT) })
    }

    /// After a half of a stream has ended: forgets its number when both have, and its place when nobody holds it.
    pub(crate) fn settle(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if !stream.is_over() {
            return;
        }
        if std::mem::take(&mut stream.counted) {
            self.open -= 1;
        }
        let (id, handles, broke) = (stream.id, stream.handles, stream.error.is_some());
        if !broke {
            self.ended_well();
        }
        self.wait_no_more(key);
        if id != 0 {
            self.keys.remove(&id);
        }
        if handles == 0 {
            self.forget(key);
        }
        self.open_queued();
        if self.open == 0 && (self.leaving != Leaving::No || self.retired || self.peer_leaves.is_some()) {
            self.wake_driver();
        }
    }

    fn forget(&mut self, key: usize) {
        let mut stream = self.streams.remove(key);
        debug_assert_eq!(stream.place.line(), For::Nothing, "who is over waits for nothing");
        let unreleased = stream.unreleased;
        stream.let_go(unreleased);
        self.release_connection(unreleased);
        self.forgotten += 1;
        let (places, left) = (self.streams.capacity(), self.streams.len());
        if places > PLACES_KEPT && left <= places / 4 && (self.forgotten >= places / 4 || left == 0) {
            self.shrink_tables();
        }
    }

    /// Gives back what a burst of streams has made the tables grow to, as far as the streams that are left stand before it.
    /// That costs what the tables are long, and is done once for a quarter as many streams at most.
    fn shrink_tables(&mut self) {
        self.forgotten = 0;
        self.streams.shrink_to_fit();
        let kept = self.streams.len();
        self.keys.shrink_to(kept);
        self.accept.shrink_to(kept);
    }

    /// Ends a stream: with a frame if the peer knows of it.
    pub(crate) fn reset(&mut self, key: usize, reason: Reason, by: By) {
        self.reset_because(key, Error::reset(reason, by), reason, by);
    }

    /// Ends a stream whose header list is too long for us: for that one alone, and no fault of the peer's.
    pub(crate) fn reset_too_long(&mut self, key: usize, list: ListTooLong) {
        self.reset_because(key, Error::too_long(list), Reason::CANCEL, By::Us);
    }

    fn reset_because(&mut self, key: usize, error: Error, reason: Reason, by: By) {
        let stream = &mut self.streams[key];
        if stream.is_over() {
            return;
        }
        stream.error = Some(error);
        stream.sending = Sending::Closed;
        stream.wake();
        let id = stream.id;
        if by == By::Us && id != 0 {
            frame::write_reset(self.out.frames(), id, reason);
            self.resets.remember(id);
            self.wake_driver();
        }
        self.settle(key);
    }

    /// Ends a stream that is no longer wanted. While the peer has said nothing of it, the frame that tells it
    /// [is late](LateResets), and the stream counts as open until then.
    pub(crate) fn give_up(&mut self, key: usize, reason: Reason) {
        let stream = &mut self.streams[key];
        let unheard = self.config.late_resets && stream.id != 0 && stream.receiving == Receiving::Head;
        if !unheard || stream.is_over() {
            return self.reset(key, reason, By::Us);
        }
        stream.error = Some(Error::reset(reason, By::Us));
        stream.sending = Sending::Closed;
        stream.counted = false;
        stream.wake();
        let id = stream.id;
        self.late.push(id, reason, self.out.end());
        self.resets.remember(id);
        self.settle(key);
        self.wake_driver();
    }

    /// A moment has passed: sends the resets that have waited for it. One in which their requests were still on their way to
    /// the socket does not count.
    pub(crate) fn send_late_resets(&mut self) {
        let due = self.late.take_due(self.out.written());
        for (id, reason) in &due {
            frame::write_reset(self.out.frames(), *id, *reason);
            self.open -= 1;
        }
        if !due.is_empty() {
            self.open_queued();
        }
    }

    /// The peer did what it must not on a stream.
    ///
    /// # Errors
    /// When it has done so too often.
    pub(crate) fn fault(&mut self, id: u32, reason: Reason) -> Result<(), Error> {
        self.faults += 1;
        if self.faults > FAULTS_MAX {
            return Err(self.broken(Reason::ENHANCE_YOUR_CALM, "too many streams broke"));
        }
        match self.key(id) {
            Some(key) => self.reset(key, reason, By::Us),
            None => self.refuse(id, reason),
        }
        Ok(())
    }

    /// Resets a stream that there is nothing of yet, or any more.
    pub(crate) fn refuse(&mut self, id: u32, reason: Reason) {
        frame::write_reset(self.out.frames(), id, reason);
        self.replies += 1;
        self.resets.remember(id);
    }

    /// A stream was as it should be: over a long life, those make up for others.
    fn ended_well(&mut self) {
        self.well += 1;
        if self.well == WELL_FOR_A_FAULT {
            self.well = 0;
            self.faults = self.faults.saturating_sub(1);
        }
    }

    /// The error of a connection that the peer has broken.
    pub(crate) fn broken(&self, reason: Reason, why: &str) -> Error {
        Error::go_away(reason, By::Us, why)
    }

    /// Ends the connection and all its streams. The peer is told, if that is of use.
    pub(crate) fn end(&mut self, error: &Error) {
        if self.over.is_some() {
            return;
        }
        if error.is_go_away() && !error.is_remote() {
            let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
            let last = if self.role == Role::Server { self.last_id } else { 0 };
            frame::write_goaway(self.out.frames(), last, reason, error.why());
        }
        self.over = Some(error.clone());
        self.late.clear();
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.lose(key, error);
        }
        self.accept.clear();
        self.wake_pinger();
        self.wake_driver();
    }

    /// A stream is over because the connection is.
    fn lose(&mut self, key: usize, error: &Error) {
        let stream = &mut self.streams[key];
        if !stream.is_over() {
            stream.error = Some(error.clone());
            stream.sending = Sending::Closed;
            stream.wake();
            self.settle(key);
        }
    }

    /// The peer will not look at streams above `last`, and wants no new ones.
    pub(crate) fn left_by_peer(&mut self, last: u32, reason: Reason, why: &str) {
        let error = Error::go_away(reason, By::Peer, why);
        let earlier = self.peer_leaves.is_some();
        // Before streams end, or others would be opened in their place.
        self.peer_leaves = Some(error.clone());
        // Nothing was opened since an earlier GOAWAY: only a lower number leaves out more.
        if self.role == Role::Client && (!earlier || last < self.peer_last) {
            self.peer_last = last;
            self.lose_above(last, &error);
        }
        self.wake_driver();
    }

    /// Ends the streams above `last`, and those that have no number yet.
    fn lose_above(&mut self, last: u32, error: &Error) {
        let above = |stream: &Stream| stream.id == 0 || stream.id > last;
        let keys: Vec<usize> =
            self.streams.iter().filter(|(_, stream)| above(stream)).map(|(key, _)| key).collect();
        for key in keys {
            self.lose(key, error);
        }
    }

    /// Returns whether a client has no number left for a stream (RFC 9113 §5.1.1).
    pub(crate) fn is_used_up(&self) -> bool {
        self.last_id >= STREAM_MAX - 2
    }

    /// Goes on as if the peer had said that it leaves: a new connection is wanted, by those that wait for a stream too.
    pub(crate) fn use_up(&mut self) -> Error {
        const WHY: &str = "all its streams are used";
        let error = Error::go_away(Reason::NO_ERROR, By::Us, WHY);
        self.peer_leaves = Some(error.clone());
        self.peer_last = STREAM_MAX;
        self.lose_above(STREAM_MAX, &Error::go_away(Reason::NO_ERROR, By::Peer, WHY));
        self.wake_driver();
        error
    }

    /// A server tells its peer that it is leaving: now, and which stream is the last one when the peer has seen that
    /// (RFC 9113 §6.8).
    pub(crate) fn leave(&mut self) {
        if self.leaving == Leaving::No && self.over.is_none() {
            self.leaving = Leaving::Told;
            frame::write_goaway(self.out.frames(), STREAM_MAX, Reason::NO_ERROR, "");
            frame::write_ping(self.out.frames(), false, LEAVING);
            self.wake_driver();
        }
    }

    /// Whether streams of that number come too late to be served.
    pub(crate) fn is_too_late(&self, id: u32) -> bool {
        matches!(self.leaving, Leaving::Last(last) if id > last)
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_done(&self) -> bool {
        let leaves = match self.role {
            Role::Server => matches!(self.leaving, Leaving::Last(_)),
            Role::Client => self.retired || self.peer_leaves.is_some(),
        };
        leaves && self.open == 0 && self.queued.is_empty() && self.accept.is_empty() && self.out.is_empty()
    }

    /// Asks the peer whether it is there.
    pub(crate) fn send_ping(&mut self) {
        frame::write_ping(self.out.frames(), false, ALIVE);
        self.wake_driver();
    }

    pub(crate) fn pinged(&mut self, payload: [u8; 8]) {
        match payload {
            ALIVE => {
                self.ping.answers += 1;
                self.wake_pinger();
            }
            LEAVING if self.leaving == Leaving::Told => {
                self.leaving = Leaving::Last(self.last_id);
                frame::write_goaway(self.out.frames(), self.last_id, Reason::NO_ERROR, "");
            }
            _ => {}
        }
    }

    fn wake_pinger(&mut self) {
        if let Some(waker) = self.ping.waker.take() {
            waker.wake();
        }
    }

    /// A handle of a stream is gone. With that of its reader goes what nobody will read; with the last one what is left of
    /// it is reset and forgotten.
    pub(crate) fn dropped(&mut self, key: usize, reader: bool) {
        let stream = &mut self.streams[key];
        stream.handles -= 1;
        if stream.handles > 0 {
            if reader && !(stream.receiving == Receiving::Closed && stream.received.is_empty()) {
                stream.unread = true;
                stream.received = Received::default();
                let left = stream.unreleased;
                self.release(key, left, left);
            }
            return;
        }
        if stream.is_over() {
            return self.forget(key);
        }
        // The answer is complete, and the rest of the request is of no interest (§8.1).
        let answered = self.role == Role::Server
            && matches!(stream.sending, Sending::Closed)
            && stream.receiving != Receiving::Closed;
        self.give_up(key, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
    }
}

/// Streams we have reset, as many as were said: the peer may not have known yet when it sent more on them.
#[derive(Debug)]
pub(crate) struct Resets {
    ids: HashSet<u32, NumberHashing>,
    order: VecDeque<u32>,
    most: usize,
}

impl Resets {
    fn new(most: usize, hashing: NumberHashing) -> Resets {
        Resets { ids: HashSet::with_hasher(hashing), order: VecDeque::new(), most }
    }

    pub(crate) fn remember(&mut self, id: u32) {
        if self.most == 0 {
            return;
        }
        if self.order.len() == self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }
}
