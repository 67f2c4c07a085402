//! Answers reflection for the whole mesh.
//!
//! v1 and v1alpha differ in nothing but their name, so one set of bindings speaks both.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::server_reflection_server::ServerReflection;
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};

use crate::routing::catalog::Catalog;
use crate::routing::descriptors::{Descriptors, Found};

/// Longest symbol or file name asked for.
const NAME_BYTES_MAX: usize = 4096;

/// Answers reflection for everything behind the gateway.
pub(crate) struct MeshReflection {
    catalog: Arc<Catalog>,
}

impl MeshReflection {
    pub(crate) fn new(catalog: Arc<Catalog>) -> MeshReflection {
        MeshReflection { catalog }
    }
}

#[tonic::async_trait]
impl ServerReflection for MeshReflection {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        // One snapshot a stream: what it answers first and last fits together.
        let mut session = Session::new(self.catalog.table().descriptors.clone());
        let answers = request.into_inner().map(move |request| request.map(|request| session.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The stream of one caller.
struct Session {
    descriptors: Arc<Descriptors>,
    /// Whose files were answered last.
    last: Option<usize>,
    /// The files that the caller was sent: they are not sent again unless they are asked for.
    sent: HashSet<(usize, String)>,
}

impl Session {
    fn new(descriptors: Arc<Descriptors>) -> Session {
        Session { descriptors, last: None, sent: HashSet::new() }
    }

    fn answer(&mut self, request: ServerReflectionRequest) -> ServerReflectionResponse {
        let answer = match &request.message_request {
            None => Err((Code::InvalidArgument, "the request asks for nothing".to_owned())),
            Some(question) => self.answer_to(question),
        };
        let response = answer.unwrap_or_else(|(code, error_message)| {
            MessageResponse::ErrorResponse(ErrorResponse { error_code: code as i32, error_message })
        });
        ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(response),
        }
    }

    fn answer_to(&mut self, question: &MessageRequest) -> Result<MessageResponse, (Code, String)> {
        let descriptors = self.descriptors.clone();
        let found = match question {
            MessageRequest::ListServices(_) => {
                let service = descriptors.services().map(|name| ServiceResponse { name: name.to_owned() });
                return Ok(MessageResponse::ListServicesResponse(ListServiceResponse {
                    service: service.collect(),
                }));
            }
            MessageRequest::FileByFilename(name) => {
                descriptors.named(name, self.last).ok_or_else(|| not_found("file", name))?
            }
            MessageRequest::FileContainingSymbol(symbol) => {
                descriptors.symbol(symbol, self.last).ok_or_else(|| not_found("symbol", symbol))?
            }
            MessageRequest::FileContainingExtension(asked) => descriptors
                .extension(&asked.containing_type, asked.extension_number, self.last)
                .ok_or_else(|| not_found("extension of", &asked.containing_type))?,
            MessageRequest::AllExtensionNumbersOfType(message) => {
                let extension_number = descriptors
                    .extension_numbers(message, self.last)
                    .ok_or_else(|| not_found("message", message))?;
                return Ok(MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: message.clone(),
                    extension_number,
                }));
            }
        };
        Ok(MessageResponse::FileDescriptorResponse(self.files(&descriptors, found)))
    }

    /// The file asked for, and what it imports unless that was sent before: a caller that asked for the imports by name
    /// could not say whose it means.
    fn files(&mut self, descriptors: &Descriptors, found: Found<'_>) -> FileDescriptorResponse {
        self.last = Some(found.owner);
        let mut files = descriptors.closure(found);
        files.retain(|file| {
            let new = self.sent.insert((found.owner, file.name.clone()));
            new || Arc::ptr_eq(file, found.file)
        });
        FileDescriptorResponse {
            file_descriptor_proto: files.into_iter().map(|file| file.bytes.to_vec()).collect(),
        }
    }
}

fn not_found(what: &str, name: &str) -> (Code, String) {
    let name: String = name.chars().take(NAME_BYTES_MAX).collect();
    (Code::NotFound, format!("no {what} `{name}` is known to this gateway"))
}
