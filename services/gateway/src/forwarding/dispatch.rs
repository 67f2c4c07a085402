//! Takes a request off a connection: refuses it, has it answered here, or finds its route and has it forwarded.

use std::sync::Arc;

use http::Request;
use shoal_http2::{ListTooLong, RecvStream, SendResponse};
use shoal_kit::access::Access;
use tokio::time::Instant;
use tracing::Span;

use crate::admission::connection_state::ConnectionState;
use crate::error::Error;
use crate::error::headers_too_long::TooLong;
use crate::forwarding::call::{Admitted, forward};
use crate::forwarding::call_end::{self, CallEnd, Meters};
use crate::forwarding::context::CallContext;
use crate::forwarding::downstream::Downstream;
use crate::forwarding::in_flight::InFlight;
use crate::forwarding::request_head::{Kind, RequestHead, is_call, kind};
use crate::forwarding::{local, local_reply, span};
use crate::routing::table::{Route, Target};
use crate::upstream::method_meter::MethodMeter;

/// Answers one request: at once if it is to be refused, else in a task of its own.
pub(crate) fn serve(
    context: &Arc<CallContext>,
    client: &Arc<ConnectionState>,
    request: Request<RecvStream>,
    mut respond: SendResponse,
) {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let (in_flight, entered) = InFlight::enter(context, client, &parts);
    let kind = kind(&parts);
    let too_long = parts.extensions.get::<ListTooLong>();
    if too_long.is_some() && !is_call(&kind, &parts) {
        return local_reply::too_long(&mut respond);
    }
    if kind != Kind::Grpc && too_long.is_none() && entered.is_ok() {
        tokio::spawn(async move {
            if local_reply::heard(body).await {
                local_reply::plain(&mut respond, kind, &parts.method).await;
            }
            drop(in_flight);
        });
        return;
    }
    let access = Access::begin(parts.uri.path(), &parts.headers, client.peer);
    let mut caller = Downstream::new(respond, in_flight, access);
    if let Some(ending) = client.ending() {
        return refuse(&context.unrouted, &mut caller, ending, started);
    }
    if caller.is_gone() {
        // Opened and reset at once: the upstream never sees it.
        return client.resets.premature();
    }
    if let Err(error) = entered {
        return refuse(&context.unrouted, &mut caller, error, started);
    }
    if let Some(list) = too_long {
        return refuse(&context.unrouted, &mut caller, TooLong::call(*list).into(), started);
    }
    let found = match context.catalog.table().find(parts.uri.path(), &parts.headers) {
        Ok(Target::Upstream(route)) => Ok(Ok(route.clone())),
        Ok(Target::Local(meter)) => Ok(Err(meter.clone())),
        Err(error) => Err(error),
    };
    let route = match found {
        Ok(route) => route,
        Err(error) => return refuse(&context.unrouted, &mut caller, error, started),
    };
    let bounds = route.as_ref().map_or(&context.config.deadline, |route| &route.deadline);
    let mut head = match RequestHead::read(parts, started, bounds) {
        Ok(head) => head,
        Err(error) => return refuse(&context.unrouted, &mut caller, error, started),
    };
    let span = span::call(context.sampling, &mut head);
    caller.traced(head.headers(), &span);
    let route = match route {
        Ok(route) => route,
        Err(meter) => {
            let context = context.clone();
            tokio::spawn(Box::pin(async move {
                let end = local::serve(&context, head, body, &mut caller, &span).await;
                let meters = Meters { upstream: None, method: &meter };
                call_end::finish(end, &mut caller, &span, meters, started, None);
            }));
            return;
        }
    };
    let permits = match admit(context, client, &route, &head, started) {
        Ok(permits) => permits,
        Err(error) => {
            let to = route.destination();
            let meter = &to.upstream.on_worker(context.index).meter;
            let meters = Meters { upstream: Some(meter), method: &to.calls };
            return call_end::finish(CallEnd::Failed(error), &mut caller, &span, meters, started, None);
        }
    };
    let forwarded = forward(context.index, route, head, body, caller, span, permits);
    // Boxed: a task moves what it is given half a dozen times, and this is kilobytes.
    tokio::spawn(Box::pin(forwarded));
}

/// Lets a call in that is within its caller's limits and its route's.
fn admit(
    context: &CallContext,
    client: &ConnectionState,
    route: &Route,
    head: &RequestHead,
    started: Instant,
) -> Result<Admitted, Error> {
    let callers = context.callers.as_ref();
    let admitted =
        callers.map(|callers| callers.admit(&client.caller, head.headers(), started)).transpose()?;
    let crowded = |most| Error::Crowded { path: head.path().to_owned(), most };
    let entered = route
        .concurrency
        .as_ref()
        .map(|concurrency| concurrency.enter().ok_or_else(|| crowded(concurrency.most)));
    Ok([admitted.flatten(), entered.transpose()?])
}

fn refuse(method: &MethodMeter, caller: &mut Downstream, error: Error, started: Instant) {
    call_end::finish(
        CallEnd::Failed(error),
        caller,
        &Span::none(),
        Meters { upstream: None, method },
        started,
        None,
    );
}
