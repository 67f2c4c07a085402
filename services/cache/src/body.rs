//! The content of an entry: a value, packed when that pays, or the knowledge that there is none.

use bytes::Bytes;

use crate::limit::VALUE_BYTES_CEILING;

/// zstd's fastest regular level: a cache trades ratio for time.
const ZSTD_LEVEL: i32 = 1;
/// The size from which on values are packed on the blocking pool: at some 500 MB/s a larger one holds a runtime thread
/// too long.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// The value as it is.
    Plain(Bytes),
    /// The value as one zstd frame.
    Zstd {
        /// The frame.
        packed: Bytes,
        /// Bytes of the value when unpacked, at most 8 MiB.
        length: u32,
    },
    /// A negative result: the loader says that there is no such object.
    Absent,
}

/// A packed value that cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a packed value of {packed} bytes does not unpack to {length} bytes")]
pub(crate) struct Damaged {
    packed: usize,
    length: usize,
}

impl Body {
    /// Packs a value that is larger than `above` bytes, if that saves an eighth or more.
    pub(crate) async fn pack(value: Bytes, above: usize) -> Body {
        if value.len() <= above {
            return Body::Plain(value);
        }
        if value.len() <= INLINE_BYTES_MAX {
            return pack_now(value);
        }
        let fallback = value.clone();
        tokio::task::spawn_blocking(move || pack_now(value)).await.unwrap_or(Body::Plain(fallback))
    }

    /// Returns the value; `None` for a negative result.
    ///
    /// # Errors
    /// Returns an error if the packed form is damaged.
    pub(crate) fn unpack(self) -> Result<Option<Bytes>, Damaged> {
        match self {
            Body::Absent => Ok(None),
            Body::Plain(value) => Ok(Some(value)),
            Body::Zstd { packed, length } => {
                let length = length as usize;
                let damaged = Damaged { packed: packed.len(), length };
                if length > VALUE_BYTES_CEILING {
                    return Err(damaged);
                }
                match zstd::bulk::decompress(&packed, length) {
                    Ok(value) if value.len() == length => Ok(Some(value.into())),
                    _ => Err(damaged),
                }
            }
        }
    }

    /// Returns the bytes kept for it.
    pub(crate) fn stored_bytes(&self) -> usize {
        match self {
            Body::Plain(value) => value.len(),
            Body::Zstd { packed, .. } => packed.len(),
            Body::Absent => 0,
        }
    }
}

fn pack_now(value: Bytes) -> Body {
    let length = u32::try_from(value.len());
    match (zstd::bulk::compress(&value, ZSTD_LEVEL), length) {
        (Ok(packed), Ok(length)) if packed.len() <= value.len() - value.len() / 8 => {
            Body::Zstd { packed: packed.into(), length }
        }
        _ => Body::Plain(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(value: Vec<u8>, above: usize, packs: bool) {
        let value = Bytes::from(value);
        let body = Body::pack(value.clone(), above).await;
        assert_eq!(matches!(body, Body::Zstd { .. }), packs);
        assert_eq!(body.unpack(), Ok(Some(value)));
    }

    #[tokio::test]
    async fn large_values_are_packed_if_worthwhile() {
        check(vec![7; 1024], 1024, false).await;
        check(vec![7; 1025], 1024, true).await;
        check(vec![7; 1 << 20], 1024, true).await;
        let mut random = fastrand::Rng::with_seed(1);
        check((0..100_000).map(|_| random.u8(..)).collect(), 1024, false).await;
        check(Vec::new(), 0, false).await;
    }

    #[test]
    fn damaged_frame_claims_no_memory() {
        let huge = Body::Zstd { packed: Bytes::from_static(b"x"), length: u32::MAX };
        assert!(huge.unpack().is_err());
        let broken = Body::Zstd { packed: Bytes::from_static(b"not zstd"), length: 10 };
        assert!(broken.unpack().is_err());
    }
}
