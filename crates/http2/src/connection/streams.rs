//! The streams of one connection: where each is, by its key and by its id, how many are open, and which wait to be opened or
//! accepted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{Index, IndexMut};

use http::Request;
use slab::Slab;

use crate::connection::id_hashing::IdHashing;
use crate::frame::STREAM_MAX;
use crate::stream::Stream;
use crate::stream::queue::{Queue, WaitsFor};

/// The largest capacity that tables keep. Larger tables are made smaller when they are mostly empty.
const KEPT_CAPACITY: usize = 128;

/// The streams of one connection. A key finds a stream until its last handle is gone, an id until it is closed.
pub(crate) struct Streams {
    slab: Slab<Stream>,
    ids: HashMap<u32, usize, IdHashing>,
    /// Streams that were removed since the tables were last made smaller.
    removed: usize,
    open: u32,
    /// The last stream opened: by the peer of a server, by a client itself.
    last_id: u32,
    /// Requests that wait to be sent: for a stream, or for the headers of others to be written.
    queued: Queue,
    /// Requests that came and were not accepted.
    accept: VecDeque<(Request<()>, usize)>,
    locally_reset: LocallyReset,
}

impl Streams {
    pub(crate) fn new(locally_reset_max: usize) -> Streams {
        let hashing = IdHashing::new();
        Streams {
            slab: Slab::new(),
            ids: HashMap::with_hasher(hashing.clone()),
            removed: 0,
            open: 0,
            last_id: 0,
            queued: Queue::new(WaitsFor::Opening),
            accept: VecDeque::new(),
            locally_reset: LocallyReset::new(locally_reset_max, hashing),
        }
    }

    /// Returns the key of the stream with that id, if it is not closed.
    pub(crate) fn key(&self, id: u32) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    /// Returns how many streams there are, closed ones with handles too.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns how many streams are found by their ids.
    pub(crate) fn ids(&self) -> usize {
        self.ids.len()
    }

    /// Returns the capacity of the largest table.
    pub(crate) fn capacity(&self) -> usize {
        self.slab.capacity().max(self.ids.capacity()).max(self.accept.capacity())
    }

    /// Returns how many streams count as open.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// Returns the id of the last stream that was opened.
    pub(crate) fn last_id(&self) -> u32 {
        self.last_id
    }

    /// Returns whether a client has no id left for a stream (RFC 9113 §5.1.1).
    pub(crate) fn are_used_up(&self) -> bool {
        self.last_id >= STREAM_MAX - 2
    }

    /// Adds a request that is opened or [queued](Streams::enqueue) next. Returns its key.
    pub(crate) fn insert(&mut self, stream: Stream) -> usize {
        self.slab.insert(stream)
    }

    /// Gives a client's stream its id, and counts it as open.
    pub(crate) fn open_local(&mut self, key: usize) -> u32 {
        let id = if self.last_id == 0 { 1 } else { self.last_id + 2 };
        self.last_id = id;
        self.open += 1;
        self.ids.insert(id, key);
        let stream = &mut self.slab[key];
        stream.id = id;
        stream.counted = true;
        id
    }

    /// Notes the id of a stream that the client opens, whether it is accepted or not.
    pub(crate) fn peer_opens(&mut self, id: u32) {
        self.last_id = id;
    }

    /// Adds a client's stream with its request, counts it as open, and leaves it to be accepted.
    pub(crate) fn open_remote(&mut self, id: u32, mut stream: Stream, request: Request<()>) {
        stream.id = id;
        stream.counted = true;
        stream.accepted = false;
        self.open += 1;
        let key = self.slab.insert(stream);
        self.ids.insert(id, key);
        self.accept.push_back((request, key));
    }

    /// Returns whether requests wait to be accepted.
    pub(crate) fn has_requests(&self) -> bool {
        !self.accept.is_empty()
    }

    /// Returns how many requests wait to be accepted.
    pub(crate) fn requests(&self) -> usize {
        self.accept.len()
    }

    /// Takes out the request that waits longest to be accepted.
    pub(crate) fn accept(&mut self) -> Option<(Request<()>, usize)> {
        let (request, key) = self.accept.pop_front()?;
        self.slab[key].accepted = true;
        Some((request, key))
    }

    /// Forgets the requests that wait to be accepted.
    pub(crate) fn accept_no_more(&mut self) {
        self.accept.clear();
    }

    /// Lets a request wait to be opened.
    pub(crate) fn enqueue(&mut self, key: usize) {
        self.queued.push(&mut self.slab, key);
    }

    /// Takes out a request that waits to be opened.
    pub(crate) fn dequeue(&mut self, key: usize) {
        self.queued.remove(&mut self.slab, key);
    }

    /// Returns the request that waits longest to be opened.
    pub(crate) fn first_queued(&self) -> Option<usize> {
        self.queued.first()
    }

    /// Returns how many requests wait to be opened.
    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Puts a stream that waits for nothing at the end of a queue.
    pub(crate) fn push_to(&mut self, queue: &mut Queue, key: usize) {
        queue.push(&mut self.slab, key);
    }

    /// Takes a stream out of the queue it waits in.
    pub(crate) fn remove_from(&mut self, queue: &mut Queue, key: usize) {
        queue.remove(&mut self.slab, key);
    }

    /// Forgets the id of a stream that is over, and counts it as open no more.
    pub(crate) fn close(&mut self, key: usize) {
        let stream = &mut self.slab[key];
        if std::mem::take(&mut stream.counted) {
            self.open -= 1;
        }
        if stream.id != 0 {
            self.ids.remove(&stream.id);
        }
    }

    /// Counts a stream as open no more that was closed before the peer was told of it.
    pub(crate) fn close_late(&mut self) {
        self.open -= 1;
    }

    /// Removes a stream that has no handles and waits for nothing. Gives back what a burst of streams has made the tables grow
    /// to, as far as the streams that are left stand before it: that costs the length of the tables, and is done once for a
    /// quarter as many streams at most.
    pub(crate) fn remove(&mut self, key: usize) -> Stream {
        let stream = self.slab.remove(key);
        debug_assert_eq!(stream.waits_for(), WaitsFor::Nothing, "a closed stream waits for nothing");
        self.removed += 1;
        let (capacity, left) = (self.slab.capacity(), self.slab.len());
        if capacity > KEPT_CAPACITY && left <= capacity / 4 && (self.removed >= capacity / 4 || left == 0) {
            self.removed = 0;
            self.slab.shrink_to_fit();
            self.ids.shrink_to(left);
            self.accept.shrink_to(left);
        }
        stream
    }

    /// Iterates over all streams, closed ones with handles too.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slab.iter().map(|(_, stream)| stream)
    }

    /// Returns the keys of the streams that `which` accepts.
    pub(crate) fn keys(&self, which: impl Fn(&Stream) -> bool) -> Vec<usize> {
        self.slab.iter().filter(|(_, stream)| which(stream)).map(|(key, _)| key).collect()
    }

    /// Wakes the tasks that wait on any stream.
    pub(crate) fn wake_all(&mut self) {
        for (_, stream) in &mut self.slab {
            stream.wake();
        }
    }

    /// Remembers a stream that was reset on this side.
    pub(crate) fn remember_local_reset(&mut self, id: u32) {
        self.locally_reset.remember(id);
    }

    /// Returns whether a stream was reset on this side, as far as that is remembered.
    pub(crate) fn was_locally_reset(&self, id: u32) -> bool {
        self.locally_reset.contains(id)
    }

    #[cfg(test)]
    pub(crate) fn set_last_id(&mut self, id: u32) {
        self.last_id = id;
    }
}

impl Index<usize> for Streams {
    type Output = Stream;

    fn index(&self, key: usize) -> &Stream {
        &self.slab[key]
    }
}

impl IndexMut<usize> for Streams {
    fn index_mut(&mut self, key: usize) -> &mut Stream {
        &mut self.slab[key]
    }
}

/// The last streams that were reset on this side. The peer may not have known yet when it sent more on them.
#[derive(Debug)]
struct LocallyReset {
    ids: HashSet<u32, IdHashing>,
    order: VecDeque<u32>,
    most: usize,
}

impl LocallyReset {
    fn new(most: usize, hashing: IdHashing) -> LocallyReset {
        LocallyReset { ids: HashSet::with_hasher(hashing), order: VecDeque::new(), most }
    }

    fn remember(&mut self, id: u32) {
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

    fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }
}
