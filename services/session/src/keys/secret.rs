//! The secret part of a token.

use std::fmt;

pub(crate) const SECRET_BYTES: usize = 32;

/// The secret of a token, which makes it more than an id. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) [u8; SECRET_BYTES]);

impl Secret {
    pub(crate) fn random() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        // Two random UUIDs have 244 random bits between them; hashed, those fill the secret evenly.
        let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        bytes[..16].copy_from_slice(a.as_bytes());
        bytes[16..].copy_from_slice(b.as_bytes());
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
