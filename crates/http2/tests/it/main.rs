//! Our HTTP/2 by its public API: with frames made by hand, with the `h2` crate, and with itself, over sockets in memory.

mod content;
mod cuts;
mod defence;
mod executor;
mod fairness;
mod foreign;
mod frames;
mod goodbye;
mod harness;
mod late;
mod lists;
mod malformed;
mod mutations;
mod queue;
mod share;
mod simulation;
mod streams;
mod threads;
mod turns;
mod unfinished;
mod wild;
mod window;
