//! The bearer token and the public id of a session: how they are written, and what a forged one costs (one HMAC).
//!
//! Token = `shoal_` + base64url(bucket (1) ‖ unique (16) ‖ secret (32) ‖ keyed check (8)). The prefix is for secret
//! scanners; the check lets a clone refuse what it never issued without asking the store.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::id::{ID_BYTES, SessionId};
use crate::keys::keyring::{CHECK_BYTES, Keyring};
use crate::keys::secret::{SECRET_BYTES, Secret};

/// The prefix of every token.
pub(crate) const PREFIX: &str = "shoal_";
/// The bytes that the check covers.
const BODY_BYTES: usize = ID_BYTES + SECRET_BYTES;
const TOKEN_BYTES: usize = BODY_BYTES + CHECK_BYTES;

/// A session's id and a secret that was issued for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: SessionId,
    pub(crate) secret: Secret,
}

impl Token {
    /// Reads a token that this mesh issued; returns `None` for any other text.
    pub(crate) fn parse(text: &str, keyring: &Keyring) -> Option<Token> {
        let encoded = text.strip_prefix(PREFIX)?;
        let mut bytes = [0; TOKEN_BYTES];
        // Too long a text does not fit, so its length costs nothing.
        if URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) != Ok(TOKEN_BYTES) {
            return None;
        }
        let (body, check) = bytes.split_at(BODY_BYTES);
        if !keyring.is_ours(body, check) {
            return None;
        }
        let (id, secret) = body.split_at(ID_BYTES);
        Some(Token { id: SessionId::from_bytes(id)?, secret: Secret(secret.try_into().ok()?) })
    }

    /// Writes the text given to the caller, the only place where a secret leaves the process.
    pub(crate) fn issue(&self, keyring: &Keyring) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend_from_slice(&self.id.to_bytes());
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&keyring.check(&bytes));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;

    fn token() -> Token {
        Token { id: SessionId::random(7), secret: Secret::random() }
    }

    #[test]
    fn token_round_trips_and_hides_secret() {
        let keyring = Keyring::generate();
        let token = token();
        let text = token.issue(&keyring);
        assert_eq!(text.len(), PREFIX.len() + 76);
        assert_eq!(Token::parse(&text, &keyring), Some(token.clone()));
        let debug = format!("{token:?} {keyring:?}");
        assert!(debug.contains("Secret(..)") && !debug.contains(&hex(&token.secret.0)), "{debug}");
    }

    #[test]
    fn changed_character_invalidates_token() {
        let keyring = Keyring::generate();
        let text = token().issue(&keyring);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(Token::parse(&forged, &keyring), None, "{at}");
        }
        let long = format!("{text}A");
        for wrong in ["", "shoal_", "SHOAL_", &text[1..], &text[..text.len() - 1], &long, "shoal_ü"] {
            assert_eq!(Token::parse(wrong, &keyring), None, "{wrong}");
        }
        assert_eq!(Token::parse(&text, &Keyring::generate()), None, "another mesh's key");
    }
}
