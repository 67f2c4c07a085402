//! Reads a trace back from Jaeger's query API.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::view::{Span, Tree};

/// Returns a trace by its id, once Jaeger has it. `query` is `http://HOST:PORT`.
pub(crate) async fn trace(query: &str, id: &str) -> Option<Tree> {
    let answer = get(query.trim_start_matches("http://"), &format!("/api/traces/{id}")).await?;
    let trace = answer["data"].get(0)?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let spans = trace["spans"].as_array()?.iter().map(|span| {
        let references = span["references"].as_array().cloned().unwrap_or_default();
        let of_type = |kind: &'static str| {
            references
                .iter()
                .filter(move |reference| reference["refType"] == kind)
                .map(|reference| (text(&reference["traceID"]), text(&reference["spanID"])))
        };
        let attributes: std::collections::BTreeMap<String, String> = span["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|tag| (text(&tag["key"]), text(&tag["value"])))
            .collect();
        let process = span["processID"].as_str().unwrap_or_default();
        Span {
            service: text(&trace["processes"][process]["serviceName"]),
            instance: trace["processes"][process]["tags"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|tag| tag["key"] == "service.instance.id")
                .map(|tag| text(&tag["value"]))
                .unwrap_or_default(),
            name: text(&span["operationName"]),
            kind: attributes.get("span.kind").cloned().unwrap_or_default(),
            id: text(&span["spanID"]),
            parent: of_type("CHILD_OF").next().map(|(_, span)| span).unwrap_or_default(),
            links: of_type("FOLLOWS_FROM").collect(),
            attributes,
        }
    });
    Some(Tree(spans.collect()))
}

async fn get(address: &str, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}
