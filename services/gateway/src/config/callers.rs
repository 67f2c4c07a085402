//! `[gateway.callers]`: how a caller is known, and how much it may ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::ensure;
use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

/// Limits of callers, and how callers are identified. No caller has a limit unless one is set here.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Callers {
    /// The header that identifies a caller, such as an API key; callers without it are known by their address.
    #[schemars(with = "Option<String>")]
    pub header: Option<Header>,
    /// Accepts only the keys of `named`; callers with other keys are known by their address. For headers that callers may invent.
    pub only_named: bool,
    /// Calls per second of each caller. 0: any number.
    pub per_second: f64,
    /// Calls that a caller may make at once after a pause. 0: as many as in a second.
    pub burst: u32,
    /// Calls in flight of each caller. 0: any number.
    pub in_flight: usize,
    /// The most callers with limits of their own. Callers beyond it share the limits of one.
    pub tracked: usize,
    /// Callers with limits of their own.
    pub named: BTreeMap<String, NamedCaller>,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            header: None,
            only_named: false,
            per_second: 0.0,
            burst: 0,
            in_flight: 0,
            tracked: 10_000,
            named: BTreeMap::new(),
        }
    }
}

/// A caller with limits of its own. Limits that it leaves out are those of all callers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NamedCaller {
    /// The SHA-256 of its key in `header`, in hexadecimal digits. The key itself is in no file.
    #[schemars(with = "Option<String>")]
    pub key_sha256: Option<Hash>,
    /// Its address, instead of a key.
    pub address: Option<IpAddr>,
    /// The limit of this caller; if unset, that of all callers.
    pub per_second: Option<f64>,
    /// The limit of this caller; if unset, that of all callers.
    pub burst: Option<u32>,
    /// The limit of this caller; if unset, that of all callers.
    pub in_flight: Option<usize>,
}

/// The limits of one caller; 0: no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerLimits {
    pub(crate) per_second: f64,
    pub(crate) burst: u32,
    pub(crate) in_flight: usize,
}

impl Callers {
    /// The header that is a key, to be kept out of the tables of connections that all callers share.
    pub(crate) fn secrets(&self) -> Vec<HeaderName> {
        self.header.iter().map(|header| header.0.clone()).collect()
    }

    pub(crate) fn limits(&self) -> CallerLimits {
        CallerLimits { per_second: self.per_second, burst: self.burst, in_flight: self.in_flight }
    }

    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        /// The highest rate that can be told apart from no limit.
        const PER_SECOND_MAX: f64 = 1e6;
        let valid = |per_second: f64| (0.0..=PER_SECOND_MAX).contains(&per_second);
        ensure!(valid(self.per_second), "gateway.callers.per_second must be between 0 and 1000000");
        ensure!(self.tracked > 0, "gateway.callers.tracked must be at least 1");
        for (name, named) in &self.named {
            let key = format!("gateway.callers.named.{name}");
            ensure!(
                named.key_sha256.is_some() != named.address.is_some(),
                "{key}: needs exactly one of key_sha256 and address"
            );
            ensure!(
                named.key_sha256.is_none() || self.header.is_some(),
                "{key}: key_sha256 needs gateway.callers.header, the header that carries the key"
            );
            ensure!(named.per_second.is_none_or(valid), "{key}: per_second must be between 0 and 1000000");
        }
        Ok(())
    }
}

impl NamedCaller {
    pub(crate) fn limits(&self, common: &Callers) -> CallerLimits {
        // A burst belongs to its rate.
        let burst = if self.per_second.is_some() { 0 } else { common.burst };
        CallerLimits {
            per_second: self.per_second.unwrap_or(common.per_second),
            burst: self.burst.unwrap_or(burst),
            in_flight: self.in_flight.unwrap_or(common.in_flight),
        }
    }
}

/// A header's name in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header(pub(crate) HeaderName);

/// A SHA-256 in the configuration: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash(pub(crate) [u8; 32]);

impl<'de> serde::Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        let name = HeaderName::try_from(&text);
        name.map(Header).map_err(|_| serde::de::Error::custom(format!("`{text}` is not a header name")))
    }
}

impl<'de> serde::Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        // Not shown: somebody may have written the key itself.
        let wrong =
            || serde::de::Error::custom("a SHA-256 is 64 hexadecimal digits (printf %s KEY | sha256sum)");
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Hash(hash))
    }
}
