//! One request's way through the application.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::body::{BodyLimits, RequestBody};
use super::environ::{self, Keys};
use super::forwarding::FieldPolicy;
use super::in_progress::{InProgress, Stopping, describe};
use super::input::Input;
use super::request::{Request, Unprepared};
use super::respond::respond;
use super::spool::{SpoolSettings, Spooled, spool};
use super::start_response::{Answer, EarlyHints, StartResponse, Terms};
use super::upgrade::{ClientSocket, WebSocket, WebSocketError, WebSocketSettings};
use super::{FileWrapper, SERVER_SOFTWARE};
use crate::http::error::RequestError;
use crate::http::response::{MethodKind, ResponseBody};
use crate::interp::Subject;
use crate::interp::{CoroutineExit, Level, in_fresh_context, leave_if_forked, log};
use crate::net::Peer;
use crate::websocket::close_codes::{GOING_AWAY, INTERNAL_ERROR, NORMAL};
use crate::websocket::handshake::Handshake;

/// What of the settings concerns the application's side.
pub struct GatewaySettings {
    /// Other processes serve the same application.
    pub multiprocess: bool,
    /// Which fields reach the application, and who is believed what it says of its clients.
    pub fields: FieldPolicy,
    /// What a request body may be like.
    pub body: BodyLimits,
    /// Where bodies are gathered before the application runs; none: they are streamed.
    pub spool: Option<SpoolSettings>,
    /// How long a client may take without taking anything of a response.
    pub send_timeout: Option<Duration>,
    /// Bytes a second that it must take in the long run; 0 for no such rule.
    pub min_send_rate: u32,
    /// Whether files are sent with sendfile(2).
    pub use_sendfile: bool,
    /// What concerns WebSockets.
    pub websocket: WebSocketSettings,
    /// `wsgi.errors`; none: `sys.stderr`.
    pub errors: Option<Py<PyAny>>,
    /// Meinheld's error logger: an object with `error(exc_type, exc_value, traceback)`.
    pub error_logger: Option<Py<PyAny>>,
}

/// The application, and what its requests share.
pub struct Gateway {
    application: Py<PyAny>,
    settings: GatewaySettings,
    keys: Keys,
    shared: Py<PyDict>,
    last_requests: Arc<AtomicBool>,
    websocket: Arc<WebSocketSettings>,
}

/// What became of a request.
pub struct Finished<'py> {
    /// The environ, for loggers.
    pub environ: Bound<'py, PyDict>,
    /// The status code; 0 if nothing was sent.
    pub status: u16,
    /// The response's fields as sent, status line first.
    pub fields: Vec<u8>,
    /// Bytes of the body sent.
    pub body_bytes: u64,
    /// The client's fault, where one ended the request.
    pub fault: Option<RequestError>,
    /// The client went away before the response was complete.
    pub client_gone: bool,
    /// The body was cut off, and the end of the connection would be its proper end: only a reset can tell.
    pub needs_reset: bool,
    /// All of the request's body has been received.
    pub is_body_read: bool,
    /// What the client has sent beyond this request, if the connection can be used again.
    pub next: Option<Vec<u8>>,
}

impl Gateway {
    /// # Errors
    /// MemoryError, or a broken `sys.stderr`.
    pub fn new(py: Python<'_>, application: Py<PyAny>, settings: GatewaySettings) -> PyResult<Gateway> {
        let shared = PyDict::new(py);
        let no_body = Bound::new(py, Input::empty())?;
        shared.set_item("wsgi.version", PyTuple::new(py, [1, 0])?)?;
        shared.set_item("wsgi.url_scheme", "http")?;
        match &settings.errors {
            Some(errors) => shared.set_item("wsgi.errors", errors)?,
            None => shared.set_item("wsgi.errors", py.import("sys")?.getattr("stderr")?)?,
        }
        // Requests run in coroutines that wait for each other in the middle of things: what shares data must be as
        // careful as with threads.
        shared.set_item("wsgi.multithread", true)?;
        shared.set_item("wsgi.multiprocess", settings.multiprocess)?;
        shared.set_item("wsgi.run_once", false)?;
        shared.set_item("wsgi.input_terminated", true)?;
        shared.set_item("wsgi.file_wrapper", py.get_type::<FileWrapper>())?;
        shared.set_item("wsgi.input", &no_body)?;
        shared.set_item("SERVER_SOFTWARE", SERVER_SOFTWARE)?;
        let last_requests = Arc::<AtomicBool>::default();
        shared.set_item("rmeinheld.stopping", Bound::new(py, Stopping::new(Arc::clone(&last_requests)))?)?;
        // Each request has its own; a copy with a new key would be larger.
        shared.set_item("rmeinheld.client_disconnected", py.None())?;
        Ok(Gateway {
            application,
            websocket: Arc::new(settings.websocket.clone()),
            settings,
            keys: Keys::new(py),
            shared: shared.unbind(),
            last_requests,
        })
    }

    /// The dictionary that the requests of one listener copy, over TLS or not.
    ///
    /// # Errors
    /// MemoryError.
    pub fn template(&self, py: Python<'_>, server_name: &str, server_port: &str, tls: bool) -> PyResult<Py<PyDict>> {
        let shared = self.shared.bind(py).copy()?;
        shared.set_item("SERVER_NAME", server_name)?;
        shared.set_item("SERVER_PORT", server_port)?;
        if tls {
            shared.set_item("wsgi.url_scheme", "https")?;
            shared.set_item("HTTPS", "on")?;
        }
        Ok(environ::template(&shared)?.unbind())
    }

    /// Once it is true, every response announces the end of its connection.
    pub fn last_requests(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.last_requests)
    }

    /// Makes a request ready to run. Copies all that is needed of the head's buffer, which the caller may use again.
    ///
    /// # Errors
    /// The client's fault if its body is refused before the application runs (nothing has been sent then); MemoryError.
    pub fn prepare<'py>(&self, py: Python<'py>, request: Request<'_>) -> Result<ApplicationCall<'py>, Unprepared> {
        let Request { head, bytes, .. } = &request;
        let handshake =
            if head.has_upgrade { Handshake::of(head, bytes, self.websocket.origins.as_deref())? } else { None };
        let environ = environ::build(py, &self.keys, &self.settings.fields, &request)?;
        let Request { head, bytes, rest, stream, keep_alive, disconnected, .. } = request;
        environ.set_item(&self.keys.client_disconnected, disconnected)?;
        let method = MethodKind::of(head.method.of(bytes));
        let terms = Terms {
            version: head.version,
            method,
            keep_alive: keep_alive && head.keep_alive && method != MethodKind::Connect,
            send_timeout: self.settings.send_timeout,
            min_send_rate: self.settings.min_send_rate,
        };
        let (input, mut next) = if head.body.has_content() {
            let body = RequestBody::new(head.body, rest, head.expects_continue, &self.settings.body)?;
            let input = Bound::new(py, Input::new(body, Arc::clone(&stream)))?;
            environ.set_item(&self.keys.input, &input)?;
            (Some(input), Vec::new())
        } else {
            (None, rest)
        };
        let body = input.as_ref().map(|input| input.clone().unbind());
        let response = Bound::new(py, StartResponse::new(terms, stream, body, Arc::clone(&self.last_requests)))?;
        environ.set_item(&self.keys.early_hints, Bound::new(py, EarlyHints::new(&response))?)?;
        let websocket = handshake
            .map(|handshake| self.add_websocket(handshake, &environ, &response, std::mem::take(&mut next)))
            .transpose()?;
        Ok(ApplicationCall { environ, response, input, next, websocket })
    }

    /// Puts into the environ what a valid handshake makes possible.
    fn add_websocket<'py>(
        &self,
        handshake: Handshake,
        environ: &Bound<'py, PyDict>,
        response: &Bound<'py, StartResponse>,
        early: Vec<u8>,
    ) -> PyResult<Bound<'py, WebSocket>> {
        let py = environ.py();
        let websocket = WebSocket::new(handshake, Arc::clone(&self.websocket), environ, response, early)?;
        let websocket = Bound::new(py, websocket)?;
        environ.set_item("gunicorn.socket", Bound::new(py, ClientSocket::new(response, &websocket))?)?;
        environ.set_item("wsgi.websocket", &websocket)?;
        Ok(websocket)
    }

    /// Whether what this peer says of its clients is believed.
    pub fn trusts(&self, peer: Peer) -> bool {
        self.settings.fields.trusts(peer)
    }

    /// Reports an exception: to Meinheld's error logger if there is one, else to `rmeinheld.error`.
    pub fn report(&self, py: Python<'_>, message: &str, error: &PyErr) {
        let Some(logger) = &self.settings.error_logger else {
            return log(py, Level::Error, message, Some(error));
        };
        let arguments = (error.get_type(py), error.value(py), error.traceback(py));
        if let Err(failure) = logger.bind(py).call_method1("error", arguments) {
            failure.write_unraisable(py, Some(logger.bind(py)));
        }
    }
}

/// A request that is ready to run.
pub struct ApplicationCall<'py> {
    environ: Bound<'py, PyDict>,
    response: Bound<'py, StartResponse>,
    input: Option<Bound<'py, Input>>,
    next: Vec<u8>,
    /// Of a handshake.
    websocket: Option<Bound<'py, WebSocket>>,
}

impl<'py> ApplicationCall<'py> {
    /// Takes the request through the application, in a fresh context, and ends it in order whatever happens.
    ///
    /// # Parks
    pub fn run(self, py: Python<'py>, gateway: &Gateway) -> Finished<'py> {
        let _subject = Subject::set(self.environ.as_any().clone());
        let in_progress = InProgress::begin(&self.environ, &self.response);
        let outcome = in_fresh_context(py, || self.call(py, gateway)).and_then(|outcome| outcome);
        let (mut fault, mut websocket_bytes) = (None, 0);
        if let Some(websocket) = &self.websocket {
            websocket.get().forget_environ();
        }
        match &self.websocket {
            Some(websocket) if self.response.get().is_upgraded() || is_taken_over(py, &outcome) => {
                let code = self.end_upgraded(py, gateway, outcome);
                websocket_bytes = websocket.get().finish(py, code);
            }
            _ => fault = outcome.err().and_then(|error| self.fail(py, gateway, &error)),
        }
        drop(in_progress);
        let rest = self.input.as_ref().map(|input| input.get().end());
        let Answer { status, plan, head, sent, broken, overrun, client_gone, .. } = self.response.get().end();
        if overrun {
            let message = format!("{}: the body is longer than its Content-Length; it was cut", self.what());
            log(py, Level::Warning, &message, None);
        } else if broken
            && !client_gone
            && plan.is_some_and(|plan| matches!(plan.body, ResponseBody::Length(length) if sent < length))
        {
            let message = format!("{}: the body is shorter than its Content-Length", self.what());
            log(py, Level::Warning, &message, None);
        }
        let reusable = !broken && !overrun && fault.is_none() && plan.is_some_and(|plan| plan.keep_alive);
        // RFC 9112 8: what the connection's end delimits looks whole when the connection ends in order.
        let is_delimited_by_end = |body| matches!(body, ResponseBody::UntilClose | ResponseBody::Tunnel);
        let needs_reset = broken && plan.is_some_and(|plan| is_delimited_by_end(plan.body));
        let is_body_read = rest.as_ref().is_none_or(|rest| rest.is_read());
        let next = match (rest, &self.websocket) {
            _ if !reusable => None,
            (Some(rest), _) => rest.drain(),
            // A handshake that was not accepted: what came behind it is the next request.
            (None, Some(websocket)) => Some(websocket.get().take_early()),
            (None, None) => Some(self.next),
        };
        Finished {
            environ: self.environ,
            status: if plan.is_some() { status } else { 0 },
            fields: head,
            body_bytes: sent + websocket_bytes,
            fault,
            client_gone,
            needs_reset,
            is_body_read,
            next,
        }
    }

    fn call(&self, py: Python<'py>, gateway: &Gateway) -> PyResult<()> {
        let spooled = self.gather_body(gateway)?;
        let called = self.call_application(py, gateway);
        // As with `Input`: reading on after the request has ended is an error.
        let closed = spooled.map_or(Ok(()), |spooled| spooled.close(py));
        called.and(closed)
    }

    /// Gathers the body before the application runs, where the settings say so.
    ///
    /// # Parks
    fn gather_body(&self, gateway: &Gateway) -> PyResult<Option<Spooled>> {
        let Some(settings) = &gateway.settings.spool else { return Ok(None) };
        let py = self.environ.py();
        let spooled = self.input.as_ref().map_or_else(|| Spooled::empty(py), |input| spool(input, settings))?;
        spooled.install(&self.environ, &gateway.keys)?;
        Ok(Some(spooled))
    }

    fn call_application(&self, py: Python<'py>, gateway: &Gateway) -> PyResult<()> {
        let result = gateway.application.bind(py).call1((&self.environ, &self.response));
        leave_if_forked(py, result.as_ref().err());
        let result = result?;
        // What the handler of a WebSocket returns is nobody's.
        let is_over = self.websocket.is_some() && self.response.get().is_upgraded();
        let sent = if is_over { Ok(()) } else { respond(&result, self.response.get(), gateway.settings.use_sendfile) };
        let closed = close(&result);
        match (sent, closed) {
            (Err(error), Err(second)) => {
                gateway.report(py, &format!("Error in close() after {}", self.what()), &second);
                Err(error)
            }
            (Ok(()), closed) => {
                if let Err(error) = closed {
                    // The response is complete.
                    gateway.report(py, &format!("Error in close() after {}", self.what()), &error);
                }
                Ok(())
            }
            (sent, Ok(())) => sent,
        }
    }

    /// Says how the application has ended that a connection was handed over to: the code to close a WebSocket with.
    fn end_upgraded(&self, py: Python<'py>, gateway: &Gateway, outcome: PyResult<()>) -> u16 {
        match outcome {
            Ok(()) if self.response.get().answer().has_failed => INTERNAL_ERROR,
            Ok(()) => NORMAL,
            // Gunicorn's sign of a connection that was taken over; the client is gone.
            Err(error) if error.is_instance_of::<PyStopIteration>(py) || error.is_instance_of::<WebSocketError>(py) => {
                NORMAL
            }
            Err(error) if error.is_instance_of::<CoroutineExit>(py) => {
                log(py, Level::Warning, &format!("{} was ended: the server stops", self.what()), None);
                GOING_AWAY
            }
            Err(error) => {
                gateway.report(py, &format!("Error handling request {}", self.what()), &error);
                INTERNAL_ERROR
            }
        }
    }

    /// Ends a request that an exception ended. Returns the client's fault, if that is what it comes from.
    ///
    /// # Parks
    fn fail(&self, py: Python<'py>, gateway: &Gateway, error: &PyErr) -> Option<RequestError> {
        let response = self.response.get();
        if response.answer().client_gone {
            return None;
        }
        let fault = self.input.as_ref().and_then(|input| input.get().fault());
        let status = match fault {
            Some(fault) => fault.status(),
            None if response.was_ended_by(py, error) => {
                log(py, Level::Info, &format!("{} was ended: the server stops", self.what()), None);
                if response.is_head_sent() {
                    // The client may be gone by now.
                    let _ = response.finish(py);
                    return None;
                }
                503
            }
            None if error.is_instance_of::<CoroutineExit>(py) => {
                log(py, Level::Warning, &format!("{} was ended: the server stops", self.what()), None);
                503
            }
            None => {
                gateway.report(py, &format!("Error handling request {}", self.what()), error);
                500
            }
        };
        if response.is_head_sent() {
            // Nothing but the end of the connection, without a proper end of the body, can tell the client: see
            // `Finished::needs_reset`.
            response.answer().broken = true;
        } else {
            // The client may be gone by now; there is nobody to tell.
            let _ = response.send_error(py, status, fault.is_some() || status == 503);
        }
        fault
    }

    /// Method and target, for the log.
    fn what(&self) -> String {
        describe(&self.environ)
    }
}

/// Whether the application says that it has taken the connection over.
fn is_taken_over(py: Python<'_>, outcome: &PyResult<()>) -> bool {
    outcome.as_ref().err().is_some_and(|error| error.is_instance_of::<PyStopIteration>(py))
}

/// Calls the result's `close`, if it has one (PEP 3333, "Specification Details").
fn close(result: &Bound<'_, PyAny>) -> PyResult<()> {
    if result.is_exact_instance_of::<PyList>() || result.is_exact_instance_of::<PyTuple>() {
        return Ok(());
    }
    if let Some(close) = result.getattr_opt(pyo3::intern!(result.py(), "close"))? {
        close.call0()?;
    }
    Ok(())
}
