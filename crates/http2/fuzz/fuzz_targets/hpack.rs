//! The fuzz target `hpack`: header blocks, to a decoder and through an encoder.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shoal_http2_fuzz::hpack(input));
