//! The seeds of the fuzz targets, as they are and mutated at random, the same number in every run. A failure prints its
//! seed; `SHOAL_TEST_SEED` repeats it.

use std::path::Path;

use fastrand::Rng;

use super::wild::{to_a_client, to_a_server, to_hpack};

/// The mutated inputs of each target. The fuzzer, which sees what an input reaches, runs millions.
const INPUTS: usize = 1_500;

/// The longest mutated input: longer ones only take longer.
const INPUT_BYTES_MAX: usize = 1_000;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("seeds").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Octets that mean something: lengths, flags and numbers at their edges.
const EDGES: [u8; 12] = [0, 1, 2, 3, 4, 5, 0x11, 0x20, 0x40, 0x7f, 0x80, 0xff];

fn changed(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = seeds[random.usize(0..seeds.len())].clone();
    for _ in 0..=random.usize(0..6) {
        let at = random.usize(0..=input.len());
        match random.u8(0..6) {
            0 if at < input.len() => input[at] = random.u8(..),
            1 if at < input.len() => input[at] = EDGES[random.usize(0..EDGES.len())],
            2 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
            3 => input.truncate(at),
            4 => input.insert(at, random.u8(..)),
            // The end of another, or of the same once more.
            _ => {
                let other = &seeds[random.usize(0..seeds.len())];
                input.truncate(at.max(2));
                input.extend_from_slice(&other[random.usize(0..=other.len())..]);
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn check(target: &str, run: fn(&[u8])) {
    let given = std::env::var("SHOAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{target}: SHOAL_TEST_SEED={seed}");
    let (seeds, mut random) = (seeds(target), Rng::with_seed(seed));
    for input in &seeds {
        run(input);
    }
    for _ in 0..INPUTS {
        let input = changed(&seeds, &mut random);
        let outcome = std::panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{target}, as an input: {}", input.escape_ascii());
    }
}

#[test]
fn server_survives_mutated_input() {
    check("server", to_a_server);
}

#[test]
fn client_survives_mutated_input() {
    check("client", to_a_client);
}

#[test]
fn decoder_survives_mutated_blocks() {
    check("hpack", to_hpack);
}
