//! Blocks that come in parts, and lists above their limits: the fields that are kept do not depend on how a block was cut,
//! and the table stays in step whatever was skipped.

use super::super::integer;
use super::*;

/// Appends a literal with those strings, uncoded.
fn put(block: &mut Vec<u8>, first: u8, name: &[u8], value: &[u8]) {
    block.push(first);
    for string in [name, value] {
        integer::encode(string.len(), 7, 0, block);
        block.extend_from_slice(string);
    }
}

fn random_block(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut block = Vec::new();
    if random.u8(..) < 40 {
        integer::encode(random.usize(0..5_000), 5, 0x20, &mut block);
    }
    for _ in 0..random.usize(0..12) {
        let len = |random: &mut fastrand::Rng| match random.u8(0..8) {
            0 => random.usize(0..5_000),
            1 => random.usize(10_000..80_000),
            _ => random.usize(0..60),
        };
        match random.u8(0..6) {
            0 | 1 => integer::encode(random.usize(1..64), 7, 0x80, &mut block),
            2 => {
                integer::encode(random.usize(1..64), 6, 0x40, &mut block);
                let value = vec![b'v'; len(random)];
                integer::encode(value.len(), 7, 0, &mut block);
                block.extend(value);
            }
            _ => {
                let first = [0x40, 0, 0x10][random.usize(0..3)];
                let (name, value) = (vec![b'n'; len(random).max(1)], vec![b'v'; len(random)]);
                put(&mut block, first, &name, &value);
            }
        }
    }
    block
}

/// The fields that are kept of a block, and the table after it.
type Outcome = (Result<Vec<Field>, DecodeError>, Option<usize>, (usize, usize));

fn in_parts(decoder: &mut Decoder, parts: &[&[u8]], limits: ListLimits) -> Outcome {
    let (mut list, mut kept) = (List::new(limits), Vec::new());
    for part in parts {
        if let Err(error) = decoder.decode_part(part, &mut list, |field| kept.push(field)) {
            return (Err(error), None, (0, 0));
        }
        // What may fit the list, or coded the table.
        assert!(list.pending() <= limits.bytes.max(4_096 / 8 * 30 + 60).saturating_add(18));
    }
    let ended = decoder.finish(&list);
    (ended.map(|()| kept), list.too_long().map(|_| 0), decoder.extent())
}

#[test]
fn block_parts_decode_as_whole() {
    for seed in 0..3_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = match random.bool() {
            true => ListLimits::NONE,
            false => ListLimits {
                bytes: random.usize(0..20_000),
                fields: random.usize(0..20),
                referenced: random.usize(0..8_000),
            },
        };
        let mut decoders = [Decoder::new(4_096), Decoder::new(4_096)];
        for _ in 0..4 {
            let block = random_block(&mut random);
            let (mut parts, mut rest) = (Vec::new(), &block[..]);
            while !rest.is_empty() {
                let most = [3, 100, 30_000][random.usize(0..3)];
                let (part, after) = rest.split_at(random.usize(0..most).min(rest.len()));
                parts.push(part);
                rest = after;
            }
            let [one, other] = &mut decoders;
            let whole = in_parts(one, &[&block], limits);
            assert_eq!(in_parts(other, &parts, limits), whole, "seed {seed}");
            if whole.0.is_err() {
                break;
            }
        }
    }
}

#[test]
fn kept_fields_begin_the_list() {
    for seed in 0..1_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut limited, mut unlimited) = (Decoder::new(4_096), Decoder::new(4_096));
        for _ in 0..4 {
            let block = random_block(&mut random);
            let limits =
                ListLimits { bytes: random.usize(0..9_000), fields: 6, referenced: random.usize(0..2_000) };
            let (all, _, table) = in_parts(&mut unlimited, &[&block], ListLimits::NONE);
            let (kept, too_long, limited_table) = in_parts(&mut limited, &[&block], limits);
            let (Ok(all), Ok(kept)) = (all, kept) else { break };
            assert!(
                all.starts_with(&kept) && (too_long.is_some() == (kept.len() < all.len())),
                "seed {seed}"
            );
            assert_eq!(limited_table, table, "seed {seed}");
        }
    }
}

#[test]
fn block_ending_in_skipped_string_errs() {
    let limits = ListLimits { bytes: 1_000, ..ListLimits::NONE };
    let mut block = Vec::new();
    put(&mut block, 0x40, &[b'n'; 40_000], &[b'v'; 40_000]);
    for cut in [10_000, 39_999, 40_004, 40_006, 60_000, block.len() - 1] {
        let mut decoder = Decoder::new(4_096);
        let parts: Vec<&[u8]> = block[..cut].chunks(7_000).collect();
        assert_eq!(in_parts(&mut decoder, &parts, limits).0, Err(DecodeError::Truncated), "{cut}");
    }
    let parts: Vec<&[u8]> = block.chunks(7_000).collect();
    assert_eq!(in_parts(&mut Decoder::new(4_096), &parts, limits), (Ok(vec![]), Some(0), (0, 0)));
}
