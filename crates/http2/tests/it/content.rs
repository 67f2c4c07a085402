//! Header fields (RFC 9113 §8.2, §8.3; RFC 9110 §5.5, §6.4.1, §7.2): which are malformed in a request and in a response,
//! what the target of a request is, and which fields are kept out of the tables of HPACK.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use shoal_http2::Config;
use shoal_http2::hpack::{Decoder, Field};

use super::frames::{
    END_HEADERS, END_STREAM, Frame, HEADERS, indexed, literal, request_with, response_block, response_with,
};
use super::harness::{Client, Server, now, request};

type Fields = &'static [(&'static str, &'static str)];

const METHOD: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/a.B/C");
const AUTHORITY: (&str, &str) = (":authority", "mesh.test");

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// Fields that make a message malformed wherever they stand behind the pseudo-fields.
const NOBODYS: &[Fields] = &[
    &[("x", "a\rb")],
    &[("x", "a\nb")],
    &[("x", "a\0b")],
    &[("x", "\r")],
    &[("X", "a")],
    &[("x y", "a")],
    &[("x:y", "a")],
    &[("", "a")],
    &[("x\"y", "a")],
    &[("x\n", "a")],
    &[("connection", "close")],
    &[("connection", "te")],
    &[("transfer-encoding", "chunked")],
    &[("transfer-encoding", "identity")],
    &[("upgrade", "h2c")],
    &[("keep-alive", "1")],
    &[("proxy-connection", "close")],
    &[("te", "gzip")],
    &[("te", "trailers, gzip")],
    &[("te", "")],
    &[(":x", "y")],
    &[(":", "y")],
    &[(":protocol", "websocket")],
    &[("x", "a"), (":path", "/b")],
    &[("host", "mesh.test"), (":path", "/b")],
];

/// Fields that make a request malformed behind the pseudo-fields.
const OF_REQUESTS: &[Fields] = &[
    &[("x", " a")],
    &[("x", "a ")],
    &[("x", "\ta")],
    &[("x", "a\t")],
    &[("x", " ")],
    &[("te", " trailers")],
    &[("content-length", " 0")],
    &[(":status", "200")],
    &[METHOD],
    &[SCHEME],
    &[PATH],
    &[AUTHORITY],
    &[("host", "other.test")],
    &[("host", "mesh.test:81")],
    &[("host", "mesh.test"), ("host", "mesh.test")],
    &[("host", " mesh.test")],
    &[("content-length", "+0")],
    &[("content-length", "0, 0")],
    &[("content-length", "0"), ("content-length", "1")],
    &[("content-length", "18446744073709551616")],
    &[("content-length", "1")],
];

/// Pseudo-fields that make no request.
const HEADS: &[Fields] = &[
    &[SCHEME, PATH, AUTHORITY],
    &[METHOD, PATH, AUTHORITY],
    &[METHOD, SCHEME, AUTHORITY],
    &[(":method", "PO ST"), SCHEME, PATH, AUTHORITY],
    &[(":method", ""), SCHEME, PATH, AUTHORITY],
    &[METHOD, (":scheme", ""), PATH, AUTHORITY],
    &[METHOD, (":scheme", "ht tp"), PATH, AUTHORITY],
    &[METHOD, SCHEME, (":path", ""), AUTHORITY],
    &[METHOD, SCHEME, (":path", "a.B/C"), AUTHORITY],
    &[METHOD, SCHEME, (":path", "*"), AUTHORITY],
    &[METHOD, SCHEME, (":path", "http://other.test/a.B/C"), AUTHORITY],
    &[METHOD, SCHEME, (":path", "/a.B/C "), AUTHORITY],
    &[METHOD, SCHEME, (":path", "/a.B/C HTTP/1.1"), AUTHORITY],
    &[METHOD, SCHEME, (":path", "/a.B/C\n"), AUTHORITY],
    &[METHOD, SCHEME, (":path", "/a.B/C#d"), AUTHORITY],
    &[METHOD, SCHEME, PATH, (":authority", "user:secret@mesh.test")],
    &[METHOD, SCHEME, PATH, (":authority", "@mesh.test")],
    &[METHOD, SCHEME, PATH, (":authority", "a b")],
    &[METHOD, SCHEME, PATH, (":authority", " mesh.test")],
    &[METHOD, SCHEME, PATH, (":authority", "mesh.test\t")],
    &[METHOD, SCHEME, PATH, (":authority", "mesh.test/x")],
    &[METHOD, SCHEME, PATH, (":authority", "mesh.test?x")],
    &[METHOD, SCHEME, PATH, (":authority", "mesh.test#x")],
    &[METHOD, SCHEME, PATH, (":authority", "mesh\\test")],
    &[METHOD, SCHEME, PATH, (":authority", "mesh.t\u{eb}st")],
    &[METHOD, SCHEME, ("host", "mesh.test"), PATH],
    &[METHOD, SCHEME, ("x", "y"), PATH],
    &[METHOD, SCHEME, PATH, ("host", "user@mesh.test")],
    &[METHOD, SCHEME, PATH, ("host", "a b")],
    &[METHOD, SCHEME, PATH, ("host", "mesh.test"), ("host", "other.test")],
    &[(":method", "CONNECT"), (":authority", "user@mesh.test")],
    &[(":method", "CONNECT"), SCHEME, PATH, AUTHORITY],
];

#[test]
fn malformed_request_is_reset_unseen() {
    let behind = NOBODYS.iter().chain(OF_REQUESTS).map(|fields| request_with(fields));
    let heads = HEADS.iter().map(|fields| block(fields));
    let mut server = Server::new(Config::default());
    for (row, block) in behind.chain(heads).enumerate() {
        let stream = 2 * u32::try_from(row).expect("few") + 1;
        server.wire.headers(stream, &block, true);
        let says = server.says();
        assert_eq!(says, [format!("RST_STREAM {stream} PROTOCOL_ERROR")], "{}", block.escape_ascii());
        assert!(server.accepted.is_empty());
    }
    server.call(999, true).answer(true);
    assert_eq!(server.says(), ["HEADERS 999 END"]);
}

#[test]
fn indexed_value_keeps_white_space_mark() {
    let mut server = Server::new(Config::default());
    for (stream, last) in [(1, indexed("x", "a ")), (3, vec![0xbe])] {
        let mut block = super::frames::request_block();
        block.extend(last);
        server.wire.headers(stream, &block, true);
        assert_eq!(server.says(), [format!("RST_STREAM {stream} PROTOCOL_ERROR")]);
    }
    server.call(5, true).answer(true);
}

#[test]
fn padded_request_values_reset_stream_only() {
    let mut server = Server::new(Config::default());
    for call in 0..5_000 {
        let stream = 2 * call + 1;
        server.wire.headers(stream, &request_with(&[("x", "a ")]), true);
        assert_eq!(server.says(), [format!("RST_STREAM {stream} PROTOCOL_ERROR")]);
    }
    server.call(10_001, true).answer(true);
    assert_eq!(server.says(), ["HEADERS 10001 END"]);
}

#[test]
fn malformed_request_trailers_reset_stream() {
    for fields in NOBODYS.iter().chain(&[&[PATH] as Fields, &[("x", "a ")], &[(":status", "200")]]) {
        let mut server = Server::new(Config::default());
        let _call = server.call(1, false);
        server.wire.headers(1, &block(fields), true);
        assert_eq!(server.says(), ["RST_STREAM 1 PROTOCOL_ERROR"], "{fields:?}");
    }
}

/// Makes a client that has sent a request, and waits for the response on stream 1.
fn asked(method: &str) -> (Client, shoal_http2::ResponseFuture) {
    let mut client = Client::new(Config::default());
    let mut request = request();
    *request.method_mut() = method.parse().expect("a method");
    let (response, _) = client.sender.send_request(&request, true).expect("taken");
    client.says();
    (client, response)
}

#[test]
fn malformed_response_is_reset_unseen() {
    let heads: &[Fields] = &[
        &[],
        &[("x", "a")],
        &[(":status", "")],
        &[(":status", "20")],
        &[(":status", "200 ")],
        &[(":status", " 200")],
        &[(":status", "2000")],
        &[(":status", "+20")],
        &[(":status", "099")],
        &[(":status", "200"), (":status", "200")],
        &[(":status", "200"), PATH],
        &[(":status", "200"), ("content-length", "+1")],
        &[(":status", "200"), ("content-length", "1"), ("content-length", "2")],
        &[(":status", "101")],
        &[(":status", "101"), ("x", "y")],
    ];
    let behind = NOBODYS.iter().map(|fields| response_with(fields));
    for block in heads.iter().map(|fields| block(fields)).chain(behind) {
        for end in [true, false] {
            let (mut client, response) = asked("POST");
            client.wire.headers(1, &block, end);
            assert_eq!(client.says(), ["RST_STREAM 1 PROTOCOL_ERROR"], "{}", block.escape_ascii());
            assert!(now(response).is_err());
        }
    }
}

#[test]
fn malformed_response_trailers_reset_stream() {
    for fields in NOBODYS.iter().chain(&[&[(":status", "200")] as Fields, &[PATH]]) {
        let (mut client, response) = asked("POST");
        client.wire.headers(1, &response_block(), false);
        client.run();
        let mut body = now(response).expect("an answer").into_body();
        client.wire.headers(1, &block(fields), true);
        assert_eq!(client.says(), ["RST_STREAM 1 PROTOCOL_ERROR"], "{fields:?}");
        assert!(now(body.trailers()).is_err(), "{fields:?}");
    }
}

#[test]
fn padded_response_values_are_trimmed() {
    let (mut client, response) = asked("POST");
    let mut head = response_with(&[("x", " a b\t"), ("y", " \t "), ("z", "")]);
    head.extend(indexed("kept", "v "));
    client.wire.headers(1, &head, false);
    client.wire.headers(1, &[block(&[("grpc-message", "it said: ")]), vec![0xbe]].concat(), true);
    client.run();
    let (parts, mut body) = now(response).expect("an answer").into_parts();
    for (name, value) in [("x", "a b"), ("y", ""), ("z", ""), ("kept", "v")] {
        assert_eq!(parts.headers[name], value, "{name}");
    }
    let trailers = now(body.trailers()).expect("whole").expect("some");
    assert_eq!(
        (&trailers["grpc-message"], &trailers["kept"]),
        (&"it said:".parse().unwrap(), &"v".parse().unwrap())
    );
}

#[test]
fn response_length_must_match_content() {
    const RESET: &str = "RST_STREAM 1 PROTOCOL_ERROR";
    for (method, status, length, data, expected) in [
        ("POST", "200", "3", "", RESET),
        ("POST", "200", "3", "four", RESET),
        ("POST", "200", "3", "two", ""),
        ("POST", "200", "0", "", ""),
        ("HEAD", "200", "3", "", ""),
        ("HEAD", "200", "3", "two", RESET),
        ("HEAD", "404", "0", "two", RESET),
        ("POST", "204", "3", "", ""),
        ("POST", "304", "3", "", ""),
        ("POST", "304", "3", "two", RESET),
    ] {
        let row = format!("{method} {status} {length} {data:?}");
        let (mut client, response) = asked(method);
        let head = block(&[(":status", status), ("content-length", length)]);
        client.wire.headers(1, &head, data.is_empty());
        if !data.is_empty() {
            client.wire.data(1, data.as_bytes(), true);
        }
        assert_eq!(client.says().join(", "), expected, "{row}");
        if expected.is_empty() {
            let response = now(response).expect("an answer");
            assert_eq!(response.headers()["content-length"], length, "{row}");
        }
    }
}

#[test]
fn early_hints_are_skipped_protocols_refused() {
    let (mut client, response) = asked("POST");
    client.wire.headers(1, &block(&[(":status", "103"), ("link", "</x>")]), false);
    client.wire.headers(1, &block(&[(":status", "100")]), false);
    client.wire.headers(1, &response_block(), true);
    assert_eq!(client.says(), [""; 0]);
    assert_eq!(now(response).expect("an answer").status(), 200);
}

#[test]
fn authority_names_host_or_nothing() {
    let told = |fields: &[(&str, &str)]| {
        let mut server = Server::new(Config::default());
        server.wire.headers(1, &block(&[&[METHOD, SCHEME, PATH], fields].concat()), true);
        let call = server.take();
        let uri = call.head.uri();
        assert_eq!(uri.path(), "/a.B/C");
        assert_eq!(uri.authority().is_some(), uri.scheme().is_some());
        assert!(!call.head.headers().contains_key("host"), "it is no header to whoever forwards");
        uri.authority().map(|authority| authority.as_str().to_owned())
    };
    for host in
        ["mesh.test", "localhost:7000", "UPPER.Case:443", "my_service:80", "[::1]:7000", "127.0.0.1", "[::1]"]
    {
        assert_eq!(told(&[(":authority", host)]).as_deref(), Some(host));
        assert_eq!(told(&[("host", host)]).as_deref(), Some(host));
        assert_eq!(told(&[(":authority", ""), ("host", host)]).as_deref(), Some(host));
        assert_eq!(told(&[(":authority", host), ("host", host)]).as_deref(), Some(host));
    }
    for same in ["mesh.test:80", "MESH.test", "mesh.test", ""] {
        assert_eq!(told(&[AUTHORITY, ("host", same)]).as_deref(), Some("mesh.test"), "{same}");
    }
    for other in [
        "",
        "a:1,b:2",
        "a,b",
        "%2Fvar%2Frun%2Fx.sock",
        "run%2Fx.sock",
        "a:",
        ":80",
        "a:b",
        "a:65536",
        "a:1:2",
        "[::1",
        "[]",
        "[::1]x",
        "::1",
        "a!b",
        "[::1]:1,[::1]:2",
    ] {
        assert_eq!(told(&[(":authority", other)]), None, "{other}");
        assert_eq!(told(&[("host", other)]), None, "{other}");
    }
    assert_eq!(told(&[]), None);
}

/// Decodes the fields of a header block that our side has sent.
fn fields(decoder: &mut Decoder, frame: &Frame) -> Vec<Field> {
    assert_eq!((frame.kind, frame.flags & !END_STREAM), (HEADERS, END_HEADERS));
    let mut fields = Vec::new();
    decoder.decode(&frame.payload, |field| fields.push(field)).expect("HPACK");
    fields
}

fn check_secrets(fields: &[Field], secrets: &[&str]) {
    for field in fields {
        let name = field.name.as_str();
        assert_eq!(field.value.is_sensitive(), secrets.contains(&name), "{name}");
    }
    assert!(
        secrets.iter().all(|secret| fields.iter().any(|field| field.name.as_str() == *secret)),
        "{fields:?}"
    );
}

const SECRETS: [&str; 6] =
    ["cookie", "set-cookie", "authorization", "proxy-authorization", "x-api-key", "x-marked"];

fn with_secrets() -> (Config, HeaderMap) {
    let config = Config { secrets: vec![HeaderName::from_static("x-api-key")], ..Config::default() };
    let mut headers = HeaderMap::new();
    for secret in SECRETS {
        headers.append(secret, HeaderValue::from_static("of somebody"));
    }
    headers.append("cookie", HeaderValue::from_static("second=crumb"));
    headers.append("x-plain", HeaderValue::from_static("of nobody"));
    headers.get_mut("x-marked").expect("there").set_sensitive(true);
    (config, headers)
}

#[test]
fn request_secrets_are_never_indexed() {
    let (config, headers) = with_secrets();
    let mut client = Client::new(config);
    let mut decoder = Decoder::new(4096);
    let mut request = request();
    *request.headers_mut() = headers.clone();
    for _ in 0..3 {
        let (_response, mut stream) = client.sender.send_request(&request, false).expect("taken");
        stream.send_trailers(headers.clone()).expect("open");
        let frames: Vec<Frame> = client.frames().into_iter().filter(|frame| frame.kind == HEADERS).collect();
        assert_eq!(frames.len(), 2);
        for frame in &frames {
            check_secrets(&fields(&mut decoder, frame), &SECRETS);
        }
    }
}

#[test]
fn response_secrets_are_never_indexed() {
    let (config, headers) = with_secrets();
    let mut server = Server::new(config);
    let mut decoder = Decoder::new(4096);
    for stream in [1, 3, 5] {
        let mut call = server.call(stream, true);
        let mut response = Response::new(());
        *response.headers_mut() = headers.clone();
        let mut answer = call.respond.send_response(&response, false).expect("open");
        answer.send_trailers(headers.clone()).expect("open");
        let frames = server.frames();
        assert_eq!(frames.len(), 2);
        for frame in &frames {
            check_secrets(&fields(&mut decoder, frame), &SECRETS);
        }
    }
}

/// Has our client forward a request that our server was given, and returns the fields that it sends.
fn sent_on(block: &[u8]) -> Vec<Field> {
    let mut server = Server::new(Config::default());
    server.wire.headers(1, block, true);
    let call = server.take();
    let mut client = Client::new(Config::default());
    let (parts, ()) = call.head.into_parts();
    client.sender.send_request(&Request::from_parts(parts, ()), true).expect("taken");
    let frames = client.frames();
    let head = frames.iter().find(|frame| frame.kind == HEADERS).expect("a request");
    fields(&mut Decoder::new(4096), head)
}

#[test]
fn never_indexed_is_forwarded_so() {
    let never = |name: &str, value: &str| {
        let mut field = literal(name, value);
        field[0] = 0x10;
        field
    };
    let plain = block(&[METHOD, SCHEME, PATH, AUTHORITY, ("x", "y")]);
    check_secrets(&sent_on(&plain), &[]);
    let secret = [block(&[METHOD, SCHEME, PATH, AUTHORITY]), never("x", "y")].concat();
    check_secrets(&sent_on(&secret), &["x"]);
    for (path, authority) in [
        (never(PATH.0, PATH.1), literal(AUTHORITY.0, AUTHORITY.1)),
        (literal(PATH.0, PATH.1), never(AUTHORITY.0, AUTHORITY.1)),
    ] {
        let secret = [block(&[METHOD, SCHEME]), path, authority].concat();
        check_secrets(&sent_on(&secret), &[":path", ":authority"]);
    }
}
