//! Both sides against the `h2` crate, over a socket in memory.

mod foreign;
