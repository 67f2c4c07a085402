//! The connection to the data service, and its errors in words: each with its code, its reason and what to do about it.

use std::time::Duration;

use anyhow::anyhow;
use shoal_kit::reason;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::data::v1::{GetTableRequest, Table};
use shoal_top::dial;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::args::Server;

const SERVICE: &str = "shoal.data.v1.DataService";

/// The key of the metadata that holds the token of a write whose outcome is unknown.
const TOKEN: &str = "idempotency_token";

/// A connected client with a time-out for each call.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) client: DataServiceClient<Channel>,
    addr: String,
    /// The longest time of one call.
    pub(crate) timeout: Duration,
}

impl Connection {
    pub(crate) async fn open(server: &Server) -> anyhow::Result<Self> {
        let channel = dial::connect(&server.addr, server.timeout).await?;
        let client = DataServiceClient::new(channel);
        Ok(Self { client, addr: server.addr.clone(), timeout: server.timeout })
    }

    /// Gives a request its deadline.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// Returns the message of an answer, or its error in words.
    pub(crate) async fn answer<T>(&self, answer: Result<Response<T>, Status>) -> anyhow::Result<T> {
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.explain(&status).await),
        }
    }

    /// Returns the definition of a table.
    pub(crate) async fn table(&self, name: &str) -> anyhow::Result<Table> {
        let request = self.request(GetTableRequest { name: name.to_owned() });
        let answer = self.client.clone().get_table(request).await;
        let table = self.answer(answer).await?.table;
        table.ok_or_else(|| anyhow!("{} answered without a table", self.addr))
    }

    /// Says why a call failed, and what to do.
    pub(crate) async fn explain(&self, status: &Status) -> anyhow::Error {
        match words(status) {
            Some(words) => anyhow!(words),
            // Not one of ours: perhaps no data service at all.
            None if dial::is_late(status) => {
                anyhow!("no answer within {:?}; allow more with --timeout", self.timeout)
            }
            None => dial::explain(&self.addr, SERVICE, status).await,
        }
    }
}

/// Puts an error of the service into words: message, field, reason, and what the reason means; `None` if it has no reason.
pub(crate) fn words(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    let mut words = status.message().to_owned();
    let field = status.get_details_bad_request().and_then(|bad| bad.field_violations.into_iter().next());
    if let Some(field) = field.filter(|field| !words.contains(&field.field)) {
        words = format!("{}: {words}", field.field);
    }
    words.push_str(&format!("\n{} ({})", code_name(status.code()), info.reason));
    let advice = reason::ALL.iter().find(|entry| entry.reason.as_str() == info.reason);
    if let Some(advice) = advice {
        words.push_str(&format!(": {}", advice.text));
    }
    if let Some(token) = info.metadata.get(TOKEN) {
        words.push_str(&format!("\nRepeat the command with --token {token}"));
    }
    Some(words)
}

fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn errors_carry_reason_and_advice() {
        let mut details = ErrorDetails::new();
        let token = [(TOKEN.to_owned(), "17-abc".to_owned())];
        details.set_error_info("OUTCOME_UNKNOWN", "shoal", token);
        let status = Status::with_error_details(Code::Unavailable, "it may have happened", details);
        let words = words(&status).unwrap();
        for part in ["it may have happened", "UNAVAILABLE (OUTCOME_UNKNOWN): ", "--token 17-abc"] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(super::words(&Status::unavailable("x")), None);
    }

    #[test]
    fn codes_are_named_as_grpc_does() {
        assert_eq!(code_name(Code::NotFound), "NOT_FOUND");
        assert_eq!(code_name(Code::Internal), "INTERNAL");
    }
}
