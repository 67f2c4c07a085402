//! Malformed blocks, malformed fields in well-formed blocks, and differences that must not matter.

use super::*;
use crate::hpack::huffman;

#[test]
fn malformed_blocks_are_refused() {
    use DecodeError::*;
    let table = [
        ("80", Index, "index 0"),
        ("be", Index, "the first dynamic index of an empty table"),
        ("ff 00", Index, "index 127 of an empty table"),
        ("ff 80 80 80 80 08", Index, "an index near the largest integer"),
        ("7f 00 01 61", Index, "a literal with a name beyond the tables"),
        ("0f 30 01 61", Index, "a literal without indexing with a name beyond the tables"),
        ("ff", Truncated, "an index that goes on"),
        ("ff 80", Truncated, "an index that goes on and on"),
        ("ff ff ff ff ff 0f", Integer, "an index above 2^32"),
        ("ff 80 80 80 80 10", Integer, "an index above 2^32 by its last octet"),
        ("ff 80 80 80 80 80 00", Integer, "a sixth octet, of zeros"),
        ("ff ff ff ff ff ff ff ff ff ff ff 7f", Integer, "an index above 2^64"),
        ("40", Truncated, "a literal without a name"),
        ("40 02 61", Truncated, "a name cut short"),
        ("40 01 61", Truncated, "a literal without a value"),
        ("40 01 61 02 62", Truncated, "a value cut short"),
        ("44 7f ff ff ff ff 0f", Integer, "a value longer than 2^32"),
        ("44 7f 80 80 80 80 08 61", Truncated, "a value longer than the block"),
        ("44 84 ff ff ff ff", Huffman, "EOS in a string"),
        ("44 84 ff ff ff fc", Huffman, "30 bits of EOS, then padding of zeros"),
        ("44 8c ff ff ff ff 1f 1f 1f 1f 1f 1f 1f 1f", Huffman, "EOS in a long string"),
        ("44 82 1f ff", Huffman, "padding of an octet and more"),
        ("44 81 ff", Huffman, "an octet of padding"),
        ("44 81 18", Huffman, "padding of zeros"),
        ("44 81 1e", Huffman, "padding that ends in a zero"),
        ("44 81 fe", Huffman, "a code cut short"),
        ("82 20", SizeUpdate, "a size update behind a field"),
        ("82 3f e1 1f", SizeUpdate, "a size update behind a field, though of the same size"),
        ("3f e2 1f", SizeUpdate, "a table of 4097 octets"),
        ("20 3f e2 1f", SizeUpdate, "a table of 4097 octets after one of none"),
        ("3f ff ff ff ff 0f", Integer, "a table above 2^32"),
    ];
    for (block, error, what) in table {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Err(error), "{what}: {block}");
    }
}

#[test]
fn nearly_malformed_blocks_are_accepted() {
    let table = [
        ("", &[][..]),
        ("20 3f e1 1f 82", &[(":method", "GET")]),
        ("44 81 1f", &[(":path", "a")]),
        ("44 80", &[(":path", "")]),
        ("00 01 61 00", &[("a", "")]),
    ];
    for (block, meaning) in table {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Ok(fields(meaning)), "{block}");
    }
    // A superfluous octet of an integer (§5.1): a length of 127.
    let block = [&hex("44 ff 80 00")[..], &[0x1f; 127]].concat();
    assert_eq!(decode(&mut Decoder::new(4096), &block).map(|fields| fields.len()), Ok(1));
}

#[test]
fn malformed_field_keeps_tables_in_step() {
    // Name, value, and what a second entry that refers to the name and brings a good value is called.
    let long = "a".repeat(70_000);
    let table: [(&[u8], &[u8], Name); 12] = [
        (b"", b"v", Name::Malformed),
        (b"Upper", b"v", Name::Malformed),
        (b"with space", b"v", Name::Malformed),
        (b"with\"quote", b"v", Name::Malformed),
        (b"col:on", b"v", Name::Malformed),
        (b":unknown", b"v", Name::Malformed),
        (b":Path", b"v", Name::Malformed),
        (b"\xc3\xa4", b"v", Name::Malformed),
        (long.as_bytes(), b"v", Name::Malformed),
        (b"x-good", b"c\rd", Name::parse(b"x-good")),
        (b"x-good", b"c\nd", Name::parse(b"x-good")),
        (b":path", b"c\0d", Name::Path),
    ];
    for (name, value, second) in table {
        let what = String::from_utf8_lossy(&name[..name.len().min(20)]).into_owned();
        let mut decoder = Decoder::new(200_000);
        let mut block = Vec::new();
        // The larger table, the field by name and value, by index, and its name with another value.
        crate::hpack::integer::encode(200_000, 5, 0x20, &mut block);
        block.extend_from_slice(&[0x40]);
        for octets in [name, value] {
            crate::hpack::integer::encode(octets.len(), 7, 0, &mut block);
            block.extend_from_slice(octets);
        }
        block.extend_from_slice(&[0xbe, 0x7e, 0x01, b'w', 0x82]);
        let decoded = decode(&mut decoder, &block).expect("it is HPACK");
        let names: Vec<_> = decoded.iter().map(|field| field.name.clone()).collect();
        assert_eq!(names, [Name::Malformed, Name::Malformed, second, Name::Method], "{what}");
        assert!(decoded[0].value.is_empty() && decoded[1].value.is_empty(), "{what}");
        let octets = 2 * (name.len() + 32) + value.len() + 1;
        assert_eq!(decoder.extent(), (octets, 2), "{what}: counted as received");
    }
}

#[test]
fn oversized_entry_empties_table() {
    let mut decoder = Decoder::new(100);
    assert_eq!(decode(&mut decoder, &hex("40 01 61 01 62 40 01 62 01 63")).map(|f| f.len()), Ok(2));
    assert_eq!(decoder.extent(), (68, 2));
    // An entry of 33 octets and a value: 100 just fit, 101 do not.
    for (value, extent) in [(67, (100, 1)), (68, (0, 0))] {
        let block = [&[0x40, 1, b'c', value], &b"v".repeat(usize::from(value))[..]].concat();
        let decoded = decode(&mut decoder, &block).expect("it is HPACK");
        assert_eq!(decoded[0].value.len(), usize::from(value));
        assert_eq!(decoder.extent(), extent);
    }
}

#[test]
fn peer_begins_larger_table() {
    let mut decoder = Decoder::new(8192);
    let mut block = hex("40 01 61 7f a1 26");
    block.extend_from_slice(&[b'v'; 5024]);
    decode(&mut decoder, &block).expect("it is HPACK");
    assert_eq!(decoder.extent(), (0, 0));
    block.splice(0..0, hex("3f e1 3f"));
    decode(&mut decoder, &block).expect("it is HPACK");
    assert_eq!(decoder.extent(), (5057, 1));
}

#[test]
fn entry_reuses_name_it_evicts() {
    let mut decoder = Decoder::new(100);
    decode(&mut decoder, &hex("40 01 61 01 62")).expect("it is HPACK");
    let block = [&[0x7e, 60], &b"v".repeat(60)[..]].concat();
    assert_eq!(decode(&mut decoder, &block), Ok(fields(&[("a", &"v".repeat(60))])));
    assert_eq!(decoder.extent(), (93, 1));
}

#[test]
fn smaller_table_evicts_for_good() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("40 01 61 01 62 40 01 62 01 63")).expect("it is HPACK");
    assert_eq!(decode(&mut decoder, &hex("3f 24 be")), Ok(fields(&[("b", "c")])));
    assert_eq!(decoder.extent(), (34, 1));
    assert_eq!(decode(&mut decoder, &hex("3f e1 1f bf")), Err(DecodeError::Index));
}

#[test]
fn indexed_value_is_shared() {
    let mut decoder = Decoder::new(4096);
    let value = "v".repeat(2000);
    let mut block = encode(&mut Encoder::new(), &fields(&[("x-large", &value)]));
    block.extend_from_slice(&[0xbe; 3]);
    let decoded = decode(&mut decoder, &block).expect("it is HPACK");
    assert_eq!(decoded.len(), 4);
    for field in &decoded {
        assert_eq!(field.value.as_bytes().as_ptr(), decoded[0].value.as_bytes().as_ptr());
        assert_eq!(field.size(), 7 + 2000 + 32);
    }
}

#[test]
fn huffman_round_trips_every_octet() {
    for octet in 0..=255u8 {
        // Alone, with each other length of padding behind it, and between others.
        for before in 0..30 {
            let plain =
                [&b"0".repeat(before)[..], &[octet], &b"~a!<?^e\xff and more"[..before % 16]].concat();
            let mut coded = Vec::new();
            huffman::encode(&plain, &mut coded);
            assert_eq!(coded.len(), huffman::encoded_len(&plain), "{octet}");
            let mut back = Vec::new();
            huffman::decode(&coded, &mut back).expect("our own code");
            assert_eq!(back, plain);
        }
    }
}

#[test]
fn huffman_code_matches_appendix_b() {
    // The ends of several lengths.
    let table = [
        (b'0', "07"),
        (b't', "4f"),
        (b' ', "53"),
        (b'z', "f7"),
        (b'!', "fe3f"),
        (b'\\', "fffe1f"),
        (0, "ffc7"),
        (249, "ffffffef"),
        (10, "fffffff3"),
        (22, "fffffffb"),
    ];
    for (octet, code) in table {
        let mut coded = Vec::new();
        huffman::encode(&[octet], &mut coded);
        assert_eq!(coded, hex(code), "{octet}");
    }
}
