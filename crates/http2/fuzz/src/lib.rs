//! What the fuzz targets run: the functions of `tests/it/wild.rs`, which a test runs too with fewer inputs.

#![allow(dead_code, reason = "the harness is that of all tests")]

#[path = "../../tests/it/frames.rs"]
mod frames;
#[path = "../../tests/it/harness.rs"]
mod harness;
#[path = "../../tests/it/wild.rs"]
mod wild;

/// The bytes of a client, to a server of ours.
pub fn server(input: &[u8]) {
    wild::to_a_server(input);
}

/// The bytes of a server, to a client of ours.
pub fn client(input: &[u8]) {
    wild::to_a_client(input);
}

/// Header blocks.
pub fn hpack(input: &[u8]) {
    wild::to_hpack(input);
}
