//! The functions of the fuzz targets, which are those of `tests/it/wild.rs`. A test runs them too, with fewer inputs.

#![allow(dead_code, reason = "the harness is that of all tests")]

#[path = "../../tests/it/frames.rs"]
mod frames;
#[path = "../../tests/it/harness.rs"]
mod harness;
#[path = "../../tests/it/wild.rs"]
mod wild;

/// Gives our server the bytes of a client.
pub fn server(input: &[u8]) {
    wild::to_a_server(input);
}

/// Gives our client the bytes of a server.
pub fn client(input: &[u8]) {
    wild::to_a_client(input);
}

/// Gives the decoder header blocks.
pub fn hpack(input: &[u8]) {
    wild::to_hpack(input);
}
