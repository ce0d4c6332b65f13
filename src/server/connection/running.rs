//! One request of a connection: made ready, taken through the application, ended.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;

use super::{Connection, ConnectionStage};
use crate::event_loop::notes;
use crate::http::exchange::Ending;
use crate::http::head::Head;
use crate::net::Peer;
use crate::server::measuring::RequestMeasure;
use crate::server::shared::Shared;
use crate::server::slow_requests::{SlowRequests, TimedRequest};
use crate::wsgi::{ApplicationCall, Request, Unprepared};

/// A request that runs.
struct Running<'py, 's> {
    call: ApplicationCall<'py>,
    measure: Option<RequestMeasure>,
    timed: Option<(&'s SlowRequests, Box<TimedRequest>)>,
    /// When the application was called, if its requests are logged.
    started: Option<Instant>,
}

impl Connection {
    /// Takes one request, whose head is in `buffer`, through the application.
    ///
    /// # Parks
    // Not part of its callers, and little is kept here: coroutines wait in this frame.
    #[inline(never)]
    pub(super) fn run(&mut self, py: Python<'_>, shared: &Shared, head: Box<Head>, buffer: Vec<u8>) -> Ending {
        let mut begun = self.begin_request(py, shared, head, buffer);
        if let Ok(running) = &begun {
            running.call.run(py, shared.gateway());
        }
        self.end_request(py, shared, &mut begun)
    }

    /// Makes a request ready to run.
    ///
    /// # Errors
    /// How the connection goes on where the request is refused.
    ///
    /// # Parks
    /// Where the request is refused.
    #[inline(never)]
    fn begin_request<'py, 's>(
        &mut self,
        py: Python<'py>,
        shared: &'s Shared,
        head: Box<Head>,
        buffer: Vec<u8>,
    ) -> Result<Running<'py, 's>, Ending> {
        self.stage = ConnectionStage::Idle;
        self.served = self.served.saturating_add(1);
        let begun = self.arriving.end_head();
        let measure = RequestMeasure::begin(shared.seat(), &head, &buffer, self.is_trusted);
        let timed =
            shared.slow_requests().map(|slow| (slow, Box::new(SlowRequests::begin(self.stream.source(), begun))));
        let (line, length) = head.method_and_target(&buffer);
        notes::name_request(line, length, self.stream.descriptor());
        let request = Request {
            head: &head,
            bytes: &buffer,
            rest: buffer.get(head.length..).unwrap_or_default().to_vec(),
            stream: Arc::clone(&self.stream),
            remote: self.remote(),
            template: shared.template(self.listener.into()),
            keep_alive: shared.keeps_alive(self.served),
            is_trusted: self.is_trusted,
            is_local: self.peer == Peer::Unix,
        };
        let call = match shared.gateway().prepare(py, request) {
            Ok(call) => call,
            Err(Unprepared::Request(error)) => return Err(self.refuse(py, shared, error, &buffer)),
            Err(Unprepared::Python(error)) => {
                shared.gateway().report(py, "Error preparing a request", &error);
                return Err(Ending::Close);
            }
        };
        shared.give_buffer(buffer);
        shared.give_head(head);
        let started = shared.logs_access().then(Instant::now);
        shared.seat().count_begun();
        Ok(Running { call, measure, timed, started })
    }

    /// Ends a request that was begun, and with which the application is done. Returns how the connection goes on.
    ///
    /// # Parks
    // By reference: a value would be copied within the frame of `run`.
    #[inline(never)]
    fn end_request(&mut self, py: Python<'_>, shared: &Shared, begun: &mut Result<Running<'_, '_>, Ending>) -> Ending {
        let Running { call, measure, timed, started } = match std::mem::replace(begun, Err(Ending::Close)) {
            Ok(running) => running,
            Err(ending) => return ending,
        };
        let finished = call.end(py);
        if let Some(started) = started {
            shared.log_access(py, &finished, started.elapsed());
        }
        if let Some((slow, request)) = timed {
            slow.end(py, &request, &finished, &self.client(py));
        }
        if let Some(fault) = finished.fault {
            self.log_fault(py, fault);
        }
        shared.count(&finished);
        if let Some(measure) = measure {
            measure.end(shared.seat(), &finished);
        }
        self.ended_with_server = finished.ended_with_server;
        finished.into_ending(shared.gateway())
    }
}
