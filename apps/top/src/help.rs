//! Help of `?` and of `shoal top --help`: the keys, and the meaning of each column.

/// The keys.
pub(crate) const KEYS: &str = "\
Keys:
  ? or h     show this help; any key closes it
  q or Esc   quit
  s, r       sort by the next column; reverse the order
  /          filter: show only rows with this text; Enter keeps it, Esc clears it
  up, down   scroll";

/// The columns.
pub(crate) const COLUMNS: &str = "\
Columns (a narrow terminal leaves some out):
  READY      on how many of the gateway's cores the clone takes calls, of how many: each core has its own connections
  SUCCESS    share of the calls of the last interval that the clone answered as it should; NOT_FOUND is an answer too
  RPS        calls per second in the last interval
  P50..P99   latencies to the first byte of an answer, over the last 15 to 30 seconds
  EWMA       the average latency that the balancer compares, which rises at once and falls slowly
  IN-FLIGHT  calls without an answer; +N: long streams
  STATE      ready: takes calls; connecting; not serving: its health check says so; ejected: it failed too many calls;
             other store: it sees another store than its siblings, and takes none
  ENGINE     the store behind it, as it says itself
  WHY        why it is in that state

Below the table: what became of each service's calls since the gateway started, and the depth of the queues. `shoal top`
asks jobs for them every two seconds, and is counted among its callers.";
