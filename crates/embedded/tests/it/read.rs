//! Reads outside transactions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shoal_embedded::Database;

/// A small generator with a printed seed: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[tokio::test]
async fn ranges_agree_with_model_from_both_ends() {
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let mut model = BTreeMap::<Vec<u8>, u8>::new();
    for _ in 0..200 {
        let writes: Vec<(u8, bool, u8)> = (0..random.below(12))
            .map(|_| (random.below(40) as u8 + 1, random.below(3) == 0, random.below(256) as u8))
            .collect();
        for &(key, delete, value) in &writes {
            if delete {
                model.remove(&vec![key])
            } else {
                model.insert(vec![key], value)
            };
        }
        let (low, high) = (random.below(42) as u8, random.below(42) as u8);
        let ends: Vec<bool> = (0..64).map(|_| random.below(2) == 0).collect();
        let inner = keyspace.clone();
        let interleaved = database
            .write(move |tx| {
                for &(key, delete, value) in &writes {
                    if delete { tx.delete(&inner, [key]) } else { tx.put(&inner, [key], [value]) }
                }
                let mut range = tx.range(&inner, vec![low]..=vec![high]);
                let (mut head, mut tail) = (Vec::new(), Vec::new());
                for front in ends {
                    let pair = if front { range.next() } else { range.next_back() };
                    let Some(pair) = pair else { break };
                    let (key, value) = pair.unwrap();
                    if front { &mut head } else { &mut tail }.push((key.to_vec(), value[0]));
                }
                assert!(range.next().is_none() && range.next_back().is_none());
                head.extend(tail.into_iter().rev());
                head
            })
            .await
            .unwrap();
        let expected: Vec<_> = model
            .iter()
            .filter(|(key, _)| (low..=high).contains(&key[0]))
            .map(|(key, value)| (key.clone(), *value))
            .collect();
        assert_eq!(interleaved, expected, "seed {seed}");
        let stored: Vec<_> = keyspace
            .range(vec![low]..=vec![high])
            .map(|pair| pair.unwrap())
            .map(|(key, value)| (key.to_vec(), value[0]))
            .collect();
        assert_eq!(stored, expected, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_see_half_a_transaction() {
    let database = Database::ephemeral().unwrap();
    let (a, b) = (database.keyspace("a").unwrap(), database.keyspace("b").unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (database, a, b, done) = (database.clone(), a.clone(), b.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) || reads == 0 {
                    let snapshot = database.snapshot();
                    let first = snapshot.get(&a, "n").unwrap();
                    let second = snapshot.get(&b, "n").unwrap();
                    assert_eq!(first, second);
                    let numbers: Vec<_> = a.prefix("many/").map(|pair| pair.unwrap().1).collect();
                    assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]), "a torn range");
                    reads += 1;
                }
            })
        })
        .collect();
    for n in 0..500u32 {
        let (a, b) = (a.clone(), b.clone());
        let write = move |tx: &mut shoal_embedded::Tx<'_>| {
            tx.put(&a, "n", n.to_be_bytes());
            for i in 0..20u8 {
                tx.put(&a, [b"many/".as_slice(), &[i]].concat(), n.to_be_bytes());
            }
            tx.put(&b, "n", n.to_be_bytes());
        };
        database.write(write).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
}
