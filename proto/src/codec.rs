//! The codec of all services: tonic's own, with buffers as large as most messages are, and with a refusal of requests that have
//! more elements than any service takes.

use std::marker::PhantomData;

use bytes::Buf as _;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::elements::{self, FIELDS_MAX, LIST_ELEMENTS_MAX, Shaped, TooMany};

/// The first size of a call's buffers, one for the request and one for the answer; a larger message makes them grow.
/// tonic's 8 KiB are, for a message of a few hundred bytes, memory that no other call has just used.
const BUFFER_BYTES: usize = 512;
/// A stream's messages are gathered up to this before they are sent on; tonic's own figure.
const YIELD_BYTES: usize = 32 << 10;

/// Messages below this are decoded uncounted: their elements are few.
const COUNTED_FROM_BYTES: usize = 4 << 10;

/// The codec of every binding.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Shaped + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(ProstDecoder::new(buffers()))
    }
}

/// Counts the elements of a message, then decodes it.
#[derive(Debug, Clone)]
pub struct Decoder<U>(ProstDecoder<U>);

impl<U: prost::Message + Shaped + Default> tonic::codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece.
        if let Some(shape) = U::SHAPE.filter(|_| src.remaining() >= COUNTED_FROM_BYTES) {
            elements::check(shape, src.chunk()).map_err(too_many)?;
        }
        self.0.decode(src)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// The words by which the serving side tells this from other errors of the framework.
pub const TOO_MANY: &str = "too many elements";

fn too_many(which: TooMany) -> Status {
    Status::invalid_argument(match which {
        TooMany::Elements => {
            format!(
                "{TOO_MANY}: a list or map of the message has more than {LIST_ELEMENTS_MAX}; send fewer at once"
            )
        }
        TooMany::Fields => {
            format!("{TOO_MANY}: the message has more than {FIELDS_MAX} fields; send less at once")
        }
    })
}
