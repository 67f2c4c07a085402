//! The examples of RFC 7541, Appendix C.

use super::*;
use crate::hpack::integer;

/// The blocks of one connection, the fields they stand for, and the table's octets and entries after each block.
type Example<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)], (usize, usize))];

fn decodes(table_max: usize, example: Example<'_>) {
    let mut decoder = Decoder::new(table_max);
    for (block, meaning, extent) in example {
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(fields(meaning)), "{block}");
        assert_eq!(decoder.extent(), *extent, "{block}");
    }
}

fn encodes(table_max: usize, example: Example<'_>) {
    let mut encoder = Encoder::new();
    encoder.set_table_max(table_max);
    encoder.begin(&mut Vec::new());
    for (block, meaning, extent) in example {
        assert_eq!(encode(&mut encoder, &fields(meaning)), hex(block), "{meaning:?}");
        assert_eq!(encoder.extent(), *extent, "{meaning:?}");
    }
}

#[test]
fn c1_integers() {
    for (value, prefix, wire) in [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a")] {
        let wire = hex(wire);
        assert_eq!(integer::decode(&mut &wire[..], prefix), Ok(value));
        let mut out = Vec::new();
        integer::encode(value, prefix, 0, &mut out);
        assert_eq!(out, wire);
    }
}

#[test]
fn c2_field_in_each_representation() {
    decodes(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
            (55, 1),
        )],
    );
    decodes(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], (0, 0))]);
    decodes(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], (0, 0))]);
    decodes(4096, &[("82", &[(":method", "GET")], (0, 0))]);
}

#[test]
fn c2_never_indexed_field_stays_so() {
    let block = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
    let received = decode(&mut Decoder::new(4096), &block).expect("C.2.3");
    assert!(received[0].value.is_sensitive());

    let mut encoder = Encoder::new();
    for _ in 0..2 {
        let mut sent = Vec::new();
        encoder.field(&received[0].name, &received[0].value, Index::Yes, &mut sent);
        // The name may be coded; the representation, and that nothing is kept, is what counts.
        assert_eq!(sent[0], 0x10);
        assert_eq!(encoder.extent(), (0, 0));
        assert_eq!(decode(&mut Decoder::new(4096), &sent).as_ref(), Ok(&received));
    }
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

#[test]
fn c3_requests_without_huffman() {
    decodes(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUESTS[0], (57, 1)),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1], (110, 2)),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                REQUESTS[2],
                (164, 3),
            ),
        ],
    );
}

#[test]
fn c4_requests_with_huffman() {
    let example: Example<'_> = &[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0], (57, 1)),
        ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1], (110, 2)),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUESTS[2], (164, 3)),
    ];
    decodes(4096, example);
    encodes(4096, example);
}

const DATES: [&str; 2] = ["Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT"];
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
const RESPONSES: [&[(&str, &str)]; 3] = [
    &[(":status", "302"), ("cache-control", "private"), ("date", DATES[0]), LOCATION],
    &[(":status", "307"), ("cache-control", "private"), ("date", DATES[0]), LOCATION],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", DATES[1]),
        LOCATION,
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ],
];
/// The responses of C.5 and C.6, with a table of 256 octets, where each response evicts.
const EXTENTS: [(usize, usize); 3] = [(222, 4), (222, 4), (215, 3)];

#[test]
fn c5_evicting_responses_without_huffman() {
    decodes(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
             6c65 2e63 6f6d",
                RESPONSES[0],
                EXTENTS[0],
            ),
            ("4803 3330 37c1 c0bf", RESPONSES[1], EXTENTS[1]),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
             54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
             5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
             3d31",
                RESPONSES[2],
                EXTENTS[2],
            ),
        ],
    );
}

#[test]
fn c6_evicting_responses_with_huffman() {
    let example: Example<'_> = &[
        (
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            RESPONSES[0],
            EXTENTS[0],
        ),
        ("4883 640e ffc1 c0bf", RESPONSES[1], EXTENTS[1]),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            RESPONSES[2],
            EXTENTS[2],
        ),
    ];
    decodes(256, example);
    // Where the code is as long as the string, ours writes the string: "307".
    let ours = ("4803 3330 37c1 c0bf", RESPONSES[1], EXTENTS[1]);
    encodes(256, &[example[0], ours, example[2]]);
}
