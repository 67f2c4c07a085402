//! Which service answers a call: the generated servers by their names. What a router could do besides, with a copy of the
//! path and two more boxes around each body, no gRPC call needs.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;

/// The answer of a generated server; it never fails but by a status.
pub(crate) type Answer = BoxFuture<Response<Body>, Infallible>;

/// The servers of one clone.
#[derive(Default)]
pub(crate) struct Routes(Vec<(&'static str, Box<dyn Handle>)>);

impl Routes {
    /// Adds a server; the first one of a name answers for it.
    pub(crate) fn add<S>(&mut self, server: S)
    where
        S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answer>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.0.push((S::NAME, Box::new(server)));
    }

    /// The names, in the order in which they were added.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// The server of that name, if there is one. A clone has a handful of them: no map is faster.
    pub(crate) fn of(&self, service: &str) -> Option<&dyn Handle> {
        self.0.iter().find(|(name, _)| *name == service).map(|(_, server)| server.as_ref())
    }
}

/// A server, whichever it is.
pub(crate) trait Handle: Send + Sync {
    /// Begins a call of one of its methods; a method that it has not is answered so.
    fn handle(&self, request: Request<Incoming>) -> Answer;
}

impl<S> Handle for S
where
    S: tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answer>
        + Clone
        + Send
        + Sync,
{
    fn handle(&self, request: Request<Incoming>) -> Answer {
        // Generated servers are always ready, and a clone of one is a clone of its Arc.
        self.clone().call(request)
    }
}
