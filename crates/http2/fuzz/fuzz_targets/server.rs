//! The bytes of a client, to a server of ours.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shoal_http2_fuzz::server(input));
