//! The generated servers by their names, which answer the calls. A general router would copy the path and box each body
//! twice more, for features that no gRPC call needs.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;

use crate::serving::incoming::Incoming;
use crate::serving::message::WholeMessages;

/// The answer of a generated server; it never fails but by a status.
pub(crate) type Answer = BoxFuture<Response<Body>, Infallible>;

/// The body that generated servers read.
pub(crate) type RequestBody = WholeMessages<Incoming>;

/// The servers of one clone.
#[derive(Default)]
pub(crate) struct Routes(Vec<Route>);

/// A server, its name and the longest message that it takes.
pub(crate) struct Route {
    name: &'static str,
    pub(crate) message_bytes_max: usize,
    pub(crate) server: Box<dyn Handle>,
}

impl Routes {
    /// Adds a server; the first one of a name answers for it.
    pub(crate) fn add<S>(&mut self, server: S, message_bytes_max: usize)
    where
        S: tower::Service<
                Request<RequestBody>,
                Response = Response<Body>,
                Error = Infallible,
                Future = Answer,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.0.push(Route { name: S::NAME, message_bytes_max, server: Box::new(server) });
    }

    /// The names, in the order in which they were added.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|route| route.name)
    }

    /// The server of that name, if there is one. A clone has a handful of them: no map is faster.
    pub(crate) fn of(&self, service: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.name == service)
    }
}

/// A server, whichever it is.
pub(crate) trait Handle: Send + Sync {
    /// Begins a call of one of its methods; a method that it has not is answered so.
    fn handle(&self, request: Request<RequestBody>) -> Answer;
}

impl<S> Handle for S
where
    S: tower::Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible, Future = Answer>
        + Clone
        + Send
        + Sync,
{
    fn handle(&self, request: Request<RequestBody>) -> Answer {
        // Generated servers are always ready, and a clone of one is a clone of its Arc.
        self.clone().call(request)
    }
}
