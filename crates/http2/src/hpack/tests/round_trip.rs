//! Seeded random blocks from our encoder to our decoder, and blocks of random octets.

use super::*;
use crate::hpack::static_table::STATIC_TABLE;

/// Makes names and values that repeat, so that the tables are used, with some of each representation's edge.
fn random_field(random: &mut fastrand::Rng) -> (Field, Index) {
    let name = match random.u32(0..20) {
        0 => Name::Method,
        1 => Name::Scheme,
        2 => Name::Authority,
        3 => Name::Path,
        4 => Name::Status,
        5 => Name::Protocol,
        6 => Name::parse(b"content-type"),
        7 => Name::parse(b"accept-encoding"),
        8 => Name::parse(b"grpc-timeout"),
        9 => Name::parse(format!("x-{}", "n".repeat(random.usize(0..200))).as_bytes()),
        _ => Name::parse(format!("x-{}", random.u32(0..60)).as_bytes()),
    };
    let mut value = match random.u32(0..8) {
        0 => HeaderValue::from_static("POST"),
        1 => HeaderValue::from_static("gzip, deflate"),
        2 => HeaderValue::from_static("/"),
        3 => HeaderValue::from_static(""),
        4 => {
            let octets: Vec<u8> = (0..random.usize(0..400)).map(|_| random.u8(128..)).collect();
            HeaderValue::from_bytes(&octets).expect("a value")
        }
        5 => HeaderValue::from_str(&"v".repeat(random.usize(0..5000))).expect("a value"),
        _ => HeaderValue::from_str(&random.u32(0..40).to_string()).expect("a value"),
    };
    value.set_sensitive(random.u32(0..10) == 0);
    (Field { name, value }, if random.bool() { Index::Yes } else { Index::No })
}

#[test]
fn any_table_size_round_trips() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        for round in 0..300 {
            for _ in 0..random.usize(0..3) {
                let size = [0, 31, 64, 100, 1000, 4095, 4096, 70_000];
                if random.u32(0..10) == 0 {
                    encoder.set_table_max(size[random.usize(0..size.len())]);
                }
            }
            let sent: Vec<_> = (0..random.usize(0..20)).map(|_| random_field(&mut random)).collect();
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (field, index) in &sent {
                encoder.field(&field.name, &field.value, *index, &mut block);
            }
            let received = decode(&mut decoder, &block).expect("our own block");
            let sent: Vec<_> = sent.into_iter().map(|(field, _)| field).collect();
            assert_eq!(received, sent, "seed {seed}, round {round}");
            for (received, sent) in received.iter().zip(&sent) {
                assert_eq!(
                    received.value.is_sensitive(),
                    sent.value.is_sensitive(),
                    "seed {seed}, round {round}"
                );
            }
            assert_eq!(encoder.extent(), decoder.extent(), "seed {seed}, round {round}");
            assert!(decoder.extent().0 <= 4096);
        }
    }
}

#[test]
fn random_octets_keep_table_bounded() {
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new(4096);
        for _ in 0..10 {
            let mut block = match random.bool() {
                true => (0..random.usize(0..100)).map(|_| random.u8(..)).collect::<Vec<u8>>(),
                false => {
                    let sent: Vec<_> = (0..5).map(|_| random_field(&mut random).0).collect();
                    encode(&mut encoder, &sent).to_vec()
                }
            };
            for _ in 0..random.usize(0..4) {
                if !block.is_empty() {
                    let at = random.usize(0..block.len());
                    match random.bool() {
                        true => block[at] ^= 1 << random.u32(0..8),
                        false => block.truncate(at),
                    }
                }
            }
            // Go on after an error too: the decoder is of no more use then, but must not panic.
            let mut octets = 0;
            let _ = decoder.decode(&block, |field| octets += field.size());
            assert!(decoder.extent().0 <= 4096, "seed {seed}");
            // No octet of a block yields more than the table's largest field, or 8/5 of itself.
            assert!(octets <= block.len() * (4096 + 32), "seed {seed}");
        }
    }
}

#[test]
fn repeated_field_costs_one_octet() {
    let request = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/shoal.cache.v1.CacheService/GetObject"),
        (":authority", "127.0.0.1:50051"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("x-tenant", "one"),
    ]);
    let mut encoder = Encoder::new();
    assert!(encode(&mut encoder, &request).len() > 60);
    assert_eq!(encode(&mut encoder, &request).len(), request.len());
}

#[test]
fn changing_value_is_not_indexed() {
    let mut encoder = Encoder::new();
    let name = Name::parse(b"grpc-timeout");
    let mut extents = Vec::new();
    for call in 0..5 {
        let mut block = Vec::new();
        let value = HeaderValue::from_str(&format!("99999{call}u")).expect("a value");
        encoder.field(&name, &value, Index::No, &mut block);
        extents.push(encoder.extent());
        if call > 0 {
            assert_eq!(block, [&hex("0f 2f 07")[..], value.as_bytes()].concat());
        }
    }
    assert_eq!(extents, [(12 + 7 + 32, 1); 5]);

    // A name of the static table needs no entry.
    let mut block = Vec::new();
    encoder.header(&http::header::DATE, &HeaderValue::from_static("today"), Index::No, &mut block);
    assert_eq!(block, [&hex("0f 12 05")[..], b"today"].concat());
    assert_eq!(encoder.extent(), (51, 1));
}

#[test]
fn sensitive_value_is_never_indexed() {
    let mut encoder = Encoder::new();
    let mut value = HeaderValue::from_static("Bearer of a secret");
    // Even if it once was not sensitive.
    encoder.header(&http::header::AUTHORIZATION, &value, Index::Yes, &mut Vec::new());
    value.set_sensitive(true);
    for index in [Index::Yes, Index::No] {
        for name in ["authorization", "x-secret"] {
            let mut block = Vec::new();
            encoder.field(&Name::parse(name.as_bytes()), &value, index, &mut block);
            assert_eq!(block[0] & 0xf0, 0x10, "{name} {index:?}");
            assert_eq!(encoder.extent().1, 1, "{name} {index:?}");
        }
    }
}

#[test]
fn large_field_is_not_indexed() {
    for (value, kept) in [(3072 - 32 - 3, 1), (3072 - 32 - 2, 0)] {
        let mut encoder = Encoder::new();
        let mut block = Vec::new();
        let value = HeaderValue::from_str(&"v".repeat(value)).expect("a value");
        encoder.field(&Name::parse(b"x-l"), &value, Index::Yes, &mut block);
        assert_eq!(encoder.extent().1, kept);
    }
}

#[test]
fn table_size_update_begins_next_block() {
    let table: [(&[usize], &str); 8] = [
        (&[], ""),
        (&[4096], ""),
        (&[70_000], ""),
        (&[0], "20"),
        (&[100], "3f 45"),
        (&[100, 50], "3f 13"),
        (&[0, 4096], "20 3f e1 1f"),
        (&[70_000, 100, 50, 200], "3f 13 3f a9 01"),
    ];
    for (sizes, updates) in table {
        let mut encoder = Encoder::new();
        encode(&mut encoder, &fields(&[("x-one", "1")]));
        for &size in sizes {
            encoder.set_table_max(size);
        }
        assert_eq!(encode(&mut encoder, &[]), hex(updates), "{sizes:?}");
        assert_eq!(encode(&mut encoder, &[]), hex(""), "{sizes:?}: once");
        let evicted = sizes.contains(&0);
        assert_eq!(encoder.extent().1, usize::from(!evicted), "{sizes:?}");
    }
}

#[test]
fn nameless_field_is_left_out() {
    let mut encoder = Encoder::new();
    assert!(encode(&mut encoder, &[Field::malformed()]).is_empty());
}

#[test]
fn evicted_string_is_not_matched() {
    // Each value is sent from two allocations. The table keeps the first; the second is gone when the next value comes,
    // which then most often lies where it lay.
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    for turn in 0..500 {
        for _ in 0..2 {
            let sent = fields(&[("x-place", &format!("{turn:050}"))]);
            let block = encode(&mut encoder, &sent);
            assert_eq!(decode(&mut decoder, &block).as_ref(), Ok(&sent), "turn {turn}");
        }
    }
    // The same strings are recognized, but no longer once their entry is evicted.
    let sent = fields(&[("x-place", "stays")]);
    let mut lens = Vec::new();
    for size in [4096, 4096, 4096, 0, 4096, 4096] {
        encoder.set_table_max(size);
        let block = encode(&mut encoder, &sent);
        assert_eq!(decode(&mut decoder, &block).as_ref(), Ok(&sent), "a table of {size}");
        lens.push(block.len());
    }
    assert_eq!((lens[1], lens[2], lens[5]), (1, 1, 1));
    assert!(lens[3] > 10 && lens[4] > 10, "{lens:?}");
}

#[test]
fn static_entries_cost_one_octet() {
    for (index, field) in (1..).zip(&STATIC_TABLE) {
        let mut encoder = Encoder::new();
        let block = encode(&mut encoder, std::slice::from_ref(field));
        assert_eq!(block[..], [0x80 | index], "{field:?}");
        assert_eq!(encoder.extent(), (0, 0));
        assert_eq!(decode(&mut Decoder::new(4096), &block), Ok(vec![field.clone()]));
    }
}

#[test]
fn middle_of_strings_is_compared() {
    // Ends of eight octets, and between them one octet and more: enough of them that any two meet in every chain.
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    for turn in 0..2000 {
        let middle = char::from(b'a' + (turn % 23) as u8);
        let sent = fields(&[
            ("x-middle", &format!("beginnin{middle}theend.s")),
            ("x-middle", &format!("beginnin{:05}theend.s", turn % 41)),
            (&format!("x-begins-{middle}-then-end"), "v"),
        ]);
        let block = encode(&mut encoder, &sent);
        assert_eq!(decode(&mut decoder, &block), Ok(sent), "turn {turn}");
        assert_eq!(encoder.extent(), decoder.extent());
    }
}
