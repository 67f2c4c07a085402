//! The fuzz target `server`: the bytes of a client, to our server.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shoal_http2_fuzz::server(input));
