//! The bytes of a server, to a client of ours.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shoal_http2_fuzz::client(input));
