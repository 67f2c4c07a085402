//! A scan that goes on where it was cut, at any clone.

use anyhow::bail;
use shoal_proto::data::v1::{Row, ScanRequest, ScanResponse};
use tonic::{Status, Streaming};

use crate::connection::Connection;
use crate::retry;

/// The rows of a table, message by message.
pub(crate) struct Scan {
    connection: Connection,
    request: ScanRequest,
    stream: Option<Streaming<ScanResponse>>,
    /// Failures since the last message.
    failed: u32,
    complete: bool,
}

/// Rows, and the token of the place behind them; empty behind the last.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) rows: Vec<Row>,
    pub(crate) resume_token: String,
}

impl Scan {
    /// Begins a scan, or goes on if the request has a token.
    pub(crate) fn new(connection: Connection, request: ScanRequest) -> Self {
        Self { connection, request, stream: None, failed: 0, complete: false }
    }

    /// Returns the next rows; `None` behind the last.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Part>> {
        while !self.complete {
            match self.message().await {
                Ok(Some(ScanResponse { rows, resume_token })) => {
                    self.failed = 0;
                    self.complete = resume_token.is_empty();
                    self.request.resume_token.clone_from(&resume_token);
                    return Ok(Some(Part { rows, resume_token }));
                }
                // The clone ended the stream, and the scan goes on with another.
                Ok(None) => {
                    self.stream = None;
                    self.failed += 1;
                    if self.failed >= retry::ATTEMPTS_MAX {
                        bail!("the scan ended {} times without a row", self.failed);
                    }
                }
                Err(status) => {
                    self.stream = None;
                    self.failed += 1;
                    if !retry::is_passing(&status) || self.failed >= retry::ATTEMPTS_MAX {
                        return Err(self.connection.explain(&status).await);
                    }
                    retry::pause(self.failed).await;
                }
            }
        }
        Ok(None)
    }

    async fn message(&mut self) -> Result<Option<ScanResponse>, Status> {
        if self.stream.is_none() {
            let request = self.connection.request(self.request.clone());
            self.stream = Some(self.connection.client.clone().scan(request).await?.into_inner());
        }
        match &mut self.stream {
            Some(stream) => stream.message().await,
            None => Ok(None),
        }
    }
}
