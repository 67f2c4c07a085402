//! The fuzz target `client`: the bytes of a server, to our client.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shoal_http2_fuzz::client(input));
