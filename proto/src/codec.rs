//! How messages are written and read: as tonic's own codec does, in buffers as large as most messages are.

use std::marker::PhantomData;

use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a call's buffer has room for at first, one for the request and one for the answer; a larger message makes it grow.
/// tonic's 8 KiB are, for a message of a few hundred bytes, memory that no other call has just used.
const BUFFER_BYTES: usize = 512;
/// A stream's messages are gathered up to this before they are sent on; tonic's own figure.
const YIELD_BYTES: usize = 32 << 10;

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
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffers())
    }
}
