//! Errors that the framework makes, in our shape.

use http::HeaderMap;
use tonic::{Code, Status};

use crate::errors::api_error::ApiError;
use crate::errors::reason;

/// Messages of tonic, with INTERNAL, about bytes from the caller that are no message: a flag that is neither 0 nor 1, a
/// message that is cut short, missing, or does not decode.
const MALFORMED: [&str; 5] = [
    "failed to decode Protobuf message",
    "received message with invalid compression flag",
    "Unexpected EOF decoding stream",
    "Missing request message",
    "Error decompressing",
];

/// The framework's own errors, which come without `ErrorInfo` and with other codes than our contract's. What the caller
/// malformed is INVALID_ARGUMENT: INTERNAL would say that this clone is broken.
pub(crate) fn framework_error(code: Code, headers: &HeaderMap) -> Option<Status> {
    if code == Code::Ok || headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    let message = status.message().to_owned();
    let fault = match code {
        Code::OutOfRange if message.contains("message length too large") => too_large(&message),
        Code::ResourceExhausted if message.contains("exceeded while decompressing") => too_large(&message),
        Code::Internal if MALFORMED.iter().any(|malformed| message.contains(malformed)) => {
            ApiError::invalid(reason::INVALID_MESSAGE, "message", message)
        }
        // gRPC's "Compression" asks for this code.
        Code::Internal if message.contains(NO_ENCODING) => ApiError::new(
            code,
            reason::INVALID_MESSAGE,
            format!("{message}; name its encoding in grpc-encoding"),
        )
        .of_caller(),
        Code::InvalidArgument if message.starts_with("too many elements") => {
            ApiError::invalid(reason::TOO_MANY_ELEMENTS, "message", message)
        }
        Code::Unimplemented if message.is_empty() => ApiError::new(
            code,
            reason::UNKNOWN_METHOD,
            "the service has no such method; list them with reflection (grpcurl describe)",
        ),
        Code::Unimplemented if headers.contains_key(ACCEPT_ENCODING) => {
            // The code and the header are what gRPC's "Compression" asks for.
            let mut status: Status = ApiError::new(
                code,
                reason::UNSUPPORTED_ENCODING,
                format!("{message}; compress with what grpc-accept-encoding names, or not at all"),
            )
            .into();
            if let Some(accepted) =
                headers.get(ACCEPT_ENCODING).and_then(|name| name.to_str().ok()?.parse().ok())
            {
                status.metadata_mut().insert(ACCEPT_ENCODING, accepted);
            }
            return Some(status);
        }
        Code::Unimplemented => ApiError::new(code, reason::UNIMPLEMENTED, message),
        Code::Internal => ApiError::new(code, reason::PROTOCOL_ERROR, message),
        Code::NotFound => ApiError::new(code, reason::NOT_FOUND, message),
        Code::Cancelled => ApiError::new(code, reason::CANCELLED, message),
        _ => ApiError::new(code, reason::FRAMEWORK, message),
    };
    Some(fault.into())
}

/// The message of tonic about a compressed message that does not name its encoding.
const NO_ENCODING: &str = "received message with compressed-flag but no grpc-encoding";

pub(crate) const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

fn too_large(message: &str) -> ApiError {
    ApiError::new(Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE, format!("{message}; send less at once"))
        .of_caller()
}
