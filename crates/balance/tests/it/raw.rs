//! A tonic client of one service whose messages are plain bytes, as generated code would be.

use bytes::{Buf, BufMut};
use shoal_balance::Channel;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status, Streaming};

const PATH: &str = "/test.v1.Fish/Swim";

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// Sends one message and returns one.
pub(crate) async fn unary(channel: &Channel, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Status> {
    let mut client = client(channel).await?;
    client.unary(request, http::uri::PathAndQuery::from_static(PATH), Raw).await
}

/// Streams both ways.
pub(crate) async fn bidi<S>(channel: &Channel, messages: S) -> Result<Response<Streaming<Vec<u8>>>, Status>
where
    S: tokio_stream::Stream<Item = Vec<u8>> + Send + 'static,
{
    let mut client = client(channel).await?;
    client.streaming(Request::new(messages), http::uri::PathAndQuery::from_static(PATH), Raw).await
}

async fn client(channel: &Channel) -> Result<tonic::client::Grpc<Channel>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(64 * 1024 * 1024);
    client.ready().await?;
    Ok(client)
}
