//! Tests against the h2 crate: our decoder reads its blocks, and its decoder reads ours.
//!
//! The h2 client talks to the test, which reads and writes the frames itself.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// The longest wait, for a machine under load; everything here takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

const PREFACE_LEN: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;

async fn read_frame(stream: &mut DuplexStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame's head");
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).await.expect("a frame's payload");
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
}

async fn write_frame(stream: &mut DuplexStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let mut frame = Vec::new();
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(id);
    frame.put_slice(payload);
    stream.write_all(&frame).await.expect("room for a frame");
}

/// Returns the fields of the gRPC call with this number: fields that repeat, fields that change, one large and one that is
/// secret.
fn metadata(call: usize) -> HeaderMap {
    let mut secret = HeaderValue::from_static("Bearer of a secret");
    secret.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("user-agent", HeaderValue::from_static("grpc-foreign/1.0 (test)"));
    headers.insert("authorization", secret);
    headers.insert("grpc-timeout", HeaderValue::from_str(&format!("{call}m")).expect("a value"));
    headers.insert("x-turn", HeaderValue::from_str(&(call % 7).to_string()).expect("a value"));
    headers.insert("x-large", HeaderValue::from_str(&"l".repeat(call * 97 % 3000)).expect("a value"));
    headers.insert("x-opaque", HeaderValue::from_bytes(&[0x80, call as u8 | 0x80, 0xff]).expect("a value"));
    headers
}

fn sorted(mut fields: Vec<(String, HeaderValue, bool)>) -> Vec<(String, HeaderValue, bool)> {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn of_map(headers: &HeaderMap) -> Vec<(String, HeaderValue, bool)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.clone(), value.is_sensitive()))
        .collect()
}

/// Runs `calls` calls; the client's decoder has a table of `client_table`, its encoder may use `server_table`.
async fn converse(client_table: u32, server_table: u32, calls: usize) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let client = tokio::spawn(async move {
        let (send, connection) = h2::client::Builder::new()
            .header_table_size(client_table)
            .handshake::<_, Bytes>(near)
            .await
            .expect("a handshake");
        let connection = tokio::spawn(connection);
        for call in 0..calls {
            let mut request = Request::builder()
                .method("POST")
                .uri(format!("http://mesh.test/shoal.Foreign/Call{}", call % 3))
                .body(())
                .expect("a request");
            *request.headers_mut() = metadata(call);
            let mut ready = send.clone().ready().await.expect("a connection that is ready");
            let (response, _) = ready.send_request(request, true).expect("a request sent");
            let response = response.await.expect("a response");
            assert_eq!(response.status(), 200 + call as u16 % 5);
            // h2 does not say what came as never indexed; values are equal whatever they say of it.
            assert_eq!(*response.headers(), metadata(call), "call {call}");
            let trailers = response.into_body().trailers().await.expect("an end").expect("trailers");
            assert_eq!(trailers["grpc-status"], (call % 3).to_string());
        }
        drop(send);
        connection.await.expect("the connection's task").expect("a clean end");
    });

    let (mut decoder, mut encoder) = (Decoder::new(server_table as usize), Encoder::new());
    far.read_exact(&mut [0; PREFACE_LEN]).await.expect("a preface");
    let mut settings = Vec::new();
    settings.put_u16(SETTINGS_HEADER_TABLE_SIZE);
    settings.put_u32(server_table);
    write_frame(&mut far, SETTINGS, 0, 0, &settings).await;
    let mut call = 0;
    while call < calls {
        let (kind, flags, id, payload) = read_frame(&mut far).await;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if setting[..2] == SETTINGS_HEADER_TABLE_SIZE.to_be_bytes() {
                        let size = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                        encoder.set_table_max(size as usize);
                    }
                }
                write_frame(&mut far, SETTINGS, ACK, 0, &[]).await;
            }
            HEADERS => {
                assert_eq!(flags, END_HEADERS | END_STREAM, "no padding, no priority, no continuation");
                let mut pseudo = Vec::new();
                let mut headers = Vec::new();
                for field in decode(&mut decoder, &payload).expect("h2's block") {
                    match field.name {
                        Name::Header(name) => {
                            let sensitive = field.value.is_sensitive();
                            headers.push((name.as_str().to_owned(), field.value, sensitive));
                        }
                        _ => pseudo.push(field),
                    }
                }
                let expected = fields(&[
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":authority", "mesh.test"),
                    (":path", &format!("/shoal.Foreign/Call{}", call % 3)),
                ]);
                assert_eq!(pseudo, expected, "call {call}");
                assert_eq!(sorted(headers), sorted(of_map(&metadata(call))), "call {call}");

                let mut block = Vec::new();
                encoder.begin(&mut block);
                let status = HeaderValue::from(200 + call as u16 % 5);
                encoder.field(&Name::Status, &status, Index::Yes, &mut block);
                for (name, value) in &metadata(call) {
                    let index = if name == "grpc-timeout" { Index::No } else { Index::Yes };
                    encoder.header(name, value, index, &mut block);
                }
                write_frame(&mut far, HEADERS, END_HEADERS, id, &block).await;
                block.clear();
                encoder.begin(&mut block);
                let status = HeaderValue::from(call % 3);
                encoder.field(&Name::parse(b"grpc-status"), &status, Index::Yes, &mut block);
                write_frame(&mut far, HEADERS, END_HEADERS | END_STREAM, id, &block).await;
                call += 1;
            }
            _ => {}
        }
    }
    drop(far);
    client.await.expect("the client");
}

#[tokio::test]
async fn h2_and_we_decode_each_other() {
    // Tables of the default size, larger, smaller and none, on either side.
    for (client_table, server_table) in [(4096, 4096), (65_536, 65_536), (300, 4096), (0, 8192), (4096, 4097)]
    {
        tokio::time::timeout(PATIENCE, converse(client_table, server_table, 100)).await.expect("patience");
    }
}
