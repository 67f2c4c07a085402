//! Helpers for the tests of both directions.

mod appendix;
mod foreign;
mod malformed;
mod parts;
mod round_trip;

use http::header::HeaderValue;

use super::{DecodeError, Decoder, Encoder, Field, Index, List, ListLimits, Name};

/// Parses octets from hexadecimal digits; blanks are for reading.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        digits.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn field(name: &str, value: &str) -> Field {
    Field { name: Name::parse(name.as_bytes()), value: HeaderValue::from_str(value).expect("a value") }
}

fn fields(all: &[(&str, &str)]) -> Vec<Field> {
    all.iter().map(|(name, value)| field(name, value)).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, DecodeError> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| fields.push(field))?;
    Ok(fields)
}

fn encode(encoder: &mut Encoder, fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    for field in fields {
        encoder.field(&field.name, &field.value, Index::Yes, &mut block);
    }
    block
}
