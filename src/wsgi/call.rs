//! One request's way through the application: run it, fail it, end it.

use std::cell::{Cell, OnceCell};

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::file_wrapper::FileWrapper;
use super::gateway::Gateway;
use super::in_progress::{InProgress, describe};
use super::input::{Input, Rest};
use super::logged_request::follow_request;
use super::respond::respond;
use super::spool::{SpoolSettings, Spooled, spool};
use super::start_response::{ResponseObjects, StartResponse};
use super::upgrade::{WebSocket, WebSocketError};
use crate::http::error::RequestError;
use crate::http::exchange::{Ending, ExchangeEvent, LengthFault, TIME_IS_UP};
use crate::interp::{
    ClientDisconnected, CoroutineExit, FewFrames, Level, RequestTimeout, Subject, in_fresh_context, leave_if_forked,
    log,
};
use crate::websocket::close_codes::{GOING_AWAY, INTERNAL_ERROR, NORMAL};

/// The outcome of a request.
pub struct Finished<'py> {
    /// The environ, for loggers.
    pub environ: Bound<'py, PyDict>,
    /// The status code; 0 if nothing was sent.
    pub status: u16,
    /// The response's fields as sent, status line first.
    pub fields: Vec<u8>,
    /// Bytes of the body sent.
    pub body_bytes: u64,
    /// The client's fault that ended the request, if any.
    pub fault: Option<RequestError>,
    /// The client went away before the response was complete.
    pub client_gone: bool,
    /// The response ended because the server stops.
    pub ended_with_server: bool,
    /// When the first bytes of the response had been sent, on the clock of the seat; 0 if that is not measured.
    pub first_byte: u64,
    /// The first bytes were the whole response.
    pub is_sent_at_once: bool,
    /// How the connection goes on.
    ending: Ending,
    objects: ResponseObjects<'py>,
}

impl Finished<'_> {
    /// Frees what the request has used, for the next one. Returns how the connection goes on.
    ///
    /// # Parks
    pub fn into_ending(self, gateway: &Gateway) -> Ending {
        let Finished { environ, fields, ending, objects, .. } = self;
        drop(environ);
        gateway.responses.end(objects, fields);
        ending
    }
}

/// The outcome of a request as its response knows it; see [`Finished`].
struct Ended {
    length_fault: Option<LengthFault>,
    status: u16,
    fields: Vec<u8>,
    body_bytes: u64,
    client_gone: bool,
    ended_with_server: bool,
    first_byte: u64,
    is_sent_at_once: bool,
    ending: Ending,
}

/// A request that is ready to run.
pub struct ApplicationCall<'py> {
    environ: Bound<'py, PyDict>,
    objects: ResponseObjects<'py>,
    /// `wsgi.input` of a request with a body.
    input: Option<Bound<'py, Input>>,
    /// Bytes received behind a request without a body.
    next: Vec<u8>,
    /// The WebSocket of a valid handshake.
    websocket: Option<Bound<'py, WebSocket>>,
    /// The body, if it was gathered before the application ran.
    spooled: OnceCell<Spooled>,
    subject: Subject<'py>,
    /// The client's fault that has ended the request, if any.
    fault: Cell<Option<RequestError>>,
    /// Bytes that a WebSocket has sent.
    websocket_bytes: Cell<u64>,
}

impl<'py> ApplicationCall<'py> {
    /// A call with this environ, and the objects of its response. `next` are the bytes received behind a request
    /// without a body.
    pub(super) fn new(
        environ: Bound<'py, PyDict>,
        objects: ResponseObjects<'py>,
        input: Option<Bound<'py, Input>>,
        next: Vec<u8>,
        websocket: Option<Bound<'py, WebSocket>>,
    ) -> ApplicationCall<'py> {
        let subject = Subject::set(environ.as_any().clone());
        ApplicationCall {
            environ,
            objects,
            input,
            next,
            websocket,
            spooled: OnceCell::new(),
            subject,
            fault: Cell::default(),
            websocket_bytes: Cell::default(),
        }
    }

    /// Takes the request through the application, in a fresh context. It ends in order even if the application fails.
    ///
    /// # Parks
    pub fn run(&self, py: Python<'py>, gateway: &Gateway) {
        let ends_with_client = gateway.settings.cancel_on_disconnect;
        let own = self.subject.own_work();
        let in_progress = InProgress::begin(own, &self.environ, &self.objects.response, ends_with_client);
        let entered = in_fresh_context(py, || {
            let few_frames = self.websocket.as_ref().and_then(|_| FewFrames::expect(py));
            let result = self.call(py, gateway);
            self.take_result(py, gateway, result, few_frames, in_progress.as_ref());
        });
        // The context could not be entered or left.
        if let Err(error) = entered {
            self.fault.set(self.fail(py, gateway, &error));
        }
        if let Some(entry) = in_progress {
            entry.end(py);
        }
    }

    /// Calls the application.
    ///
    /// # Parks
    fn call(&self, py: Python<'py>, gateway: &Gateway) -> PyResult<Bound<'py, PyAny>> {
        follow_request(&self.environ)?;
        if let Some(settings) = &gateway.settings.spool {
            self.gather_body(py, gateway, settings)?;
        }
        gateway.application.bind(py).call1((&self.environ, &self.objects.response))
    }

    /// Gathers the body before the application runs.
    ///
    /// # Parks
    #[inline(never)]
    fn gather_body(&self, py: Python<'py>, gateway: &Gateway, settings: &SpoolSettings) -> PyResult<()> {
        let spooled = self.input.as_ref().map_or_else(|| Spooled::empty(py), |input| spool(input, settings))?;
        spooled.install(&self.environ, &gateway.keys)?;
        // The only call for this request.
        let _ = self.spooled.set(spooled);
        Ok(())
    }

    /// Sends the application's result, and answers for what the application left undone.
    ///
    /// # Parks
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    fn take_result(
        &self,
        py: Python<'py>,
        gateway: &Gateway,
        result: PyResult<Bound<'py, PyAny>>,
        few_frames: Option<FewFrames>,
        in_progress: Option<&InProgress<'_>>,
    ) {
        let sent = self.send_result(py, gateway, result);
        // As with `Input`, reading after the request has ended is an error.
        let outcome = sent.and(self.spooled.get().map_or(Ok(()), |spooled| spooled.close(py)));
        if let Some(few_frames) = few_frames {
            few_frames.end(py);
        }
        let ended = in_progress.and_then(|entry| entry.application_is_done(py));
        if outcome.is_err() || ended.is_some() || self.websocket.is_some() {
            self.settle(py, gateway, outcome, ended.is_some());
        }
    }

    /// Answers for what the application left undone, still in the request's context: handlers of the log find the
    /// request's variables there.
    ///
    /// # Parks
    fn settle(&self, py: Python<'py>, gateway: &Gateway, outcome: PyResult<()>, is_ended: bool) {
        if let Some(websocket) = self.websocket.as_ref().map(Bound::get) {
            websocket.forget_environ();
            if self.response().is_upgraded() || is_taken_over(py, &outcome) {
                let code = self.end_upgraded(py, gateway, outcome);
                self.websocket_bytes.set(websocket.finish(py, code));
                return;
            }
        }
        if is_ended {
            self.end_early(py, gateway, outcome.err());
        } else if let Err(error) = outcome {
            self.fault.set(self.fail(py, gateway, &error));
        }
    }

    /// Ends the request, and lets the exchange decide how its connection goes on.
    ///
    /// # Parks
    pub fn end(mut self, py: Python<'py>) -> Finished<'py> {
        let left_over = match (&self.input, &self.websocket) {
            (Some(input), _) => self.end_input(input.get()),
            // A handshake that was not accepted: the bytes behind it are the next request.
            (None, Some(websocket)) => websocket.get().take_early(),
            (None, None) => std::mem::take(&mut self.next),
        };
        self.response().keep_or_send(py, !left_over.is_empty());
        let is_last = self.response().is_last();
        let ended = self.response().end(|answer| {
            let exchange = &answer.exchange;
            Ended {
                length_fault: exchange.length_fault(),
                status: if exchange.is_answered() { answer.head.status } else { 0 },
                body_bytes: exchange.sent_bytes() + self.websocket_bytes.get(),
                client_gone: exchange.is_client_gone(),
                ended_with_server: is_last && answer.ends_with_server(),
                first_byte: answer.first_byte,
                is_sent_at_once: answer.is_sent_at_once,
                ending: answer.ending(left_over),
                fields: std::mem::take(&mut answer.head.bytes),
            }
        });
        if let Some(fault) = ended.length_fault {
            let message = match fault {
                LengthFault::TooLong => "the body is longer than its Content-Length; it was cut",
                LengthFault::TooShort => "the body is shorter than its Content-Length",
            };
            log(py, Level::Warning, &format!("{}: {message}", self.what()), None);
        }
        let ApplicationCall { environ, objects, fault, .. } = self;
        Finished {
            environ,
            status: ended.status,
            fields: ended.fields,
            body_bytes: ended.body_bytes,
            fault: fault.get(),
            client_gone: ended.client_gone,
            ended_with_server: ended.ended_with_server,
            first_byte: ended.first_byte,
            is_sent_at_once: ended.is_sent_at_once,
            ending: ended.ending,
            objects,
        }
    }

    fn response(&self) -> &StartResponse {
        self.objects.response.get()
    }

    /// Ends the use of `wsgi.input`. Returns the bytes received behind the body, if the connection can be used again.
    ///
    /// # Parks
    fn end_input(&self, input: &Input) -> Vec<u8> {
        let response = self.response();
        let rest = input.end();
        let is_in_reach = rest.is_some();
        let should_drain = response.answer().exchange.should_drain();
        let left_over = rest.filter(|_| should_drain).and_then(Rest::drain);
        if left_over.is_none() && (should_drain || !is_in_reach) {
            // Legal at any time once the head has been read.
            let _ = response.answer().exchange.apply(ExchangeEvent::BodyAbandoned);
        }
        left_over.unwrap_or_default()
    }

    /// Sends the application's result.
    ///
    /// # Parks
    fn send_result(&self, py: Python<'py>, gateway: &Gateway, result: PyResult<Bound<'py, PyAny>>) -> PyResult<()> {
        leave_if_forked(py, result.as_ref().err());
        let result = result?;
        if let Err(error) = self.response().check_time(py) {
            // The application has caught the exception. Its answer comes too late.
            close(&result)?;
            return Err(error);
        }
        // After an upgrade the return value is ignored.
        let is_over = self.websocket.is_some() && self.response().is_upgraded();
        let sent =
            if is_over { Ok(()) } else { respond(&result, &self.objects.response, gateway.settings.use_sendfile) };
        let closed = close(&result);
        match (sent, closed) {
            (Err(error), Err(second)) => {
                self.report_close(py, gateway, &second);
                Err(error)
            }
            (Ok(()), closed) => {
                if let Err(error) = closed {
                    // The response is complete.
                    self.report_close(py, gateway, &error);
                }
                Ok(())
            }
            (sent, Ok(())) => sent,
        }
    }

    #[cold]
    fn report_close(&self, py: Python<'py>, gateway: &Gateway, error: &PyErr) {
        gateway.report(py, &format!("Error in close() after {}", self.what()), error);
    }

    /// Judges how the application of an upgraded connection has ended. Returns the code to close a WebSocket with.
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    fn end_upgraded(&self, py: Python<'py>, gateway: &Gateway, outcome: PyResult<()>) -> u16 {
        match outcome {
            Ok(()) if self.response().answer().has_failed => INTERNAL_ERROR,
            Ok(()) => NORMAL,
            // Gunicorn's sign of a connection that was taken over, and the sign of a client that is gone.
            Err(error) if error.is_instance_of::<PyStopIteration>(py) || error.is_instance_of::<WebSocketError>(py) => {
                NORMAL
            }
            Err(error) if error.is_instance_of::<CoroutineExit>(py) => {
                log(py, Level::Warning, &format!("{} was ended: the server stops", self.what()), None);
                GOING_AWAY
            }
            // Logged when it was ended.
            Err(error) if error.is_instance_of::<RequestTimeout>(py) => INTERNAL_ERROR,
            Err(error) => {
                gateway.report(py, &format!("Error handling request {}", self.what()), &error);
                INTERNAL_ERROR
            }
        }
    }

    /// Answers a request that an exception ended. Returns the client's fault, if that is the cause.
    ///
    /// # Parks
    #[cold]
    fn fail(&self, py: Python<'py>, gateway: &Gateway, error: &PyErr) -> Option<RequestError> {
        let response = self.response();
        let fault = {
            let exchange = &response.answer().exchange;
            if exchange.is_client_gone() {
                return None;
            }
            exchange.fault()
        };
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
            response.flush_last(py);
            // Only the end of the connection, without a proper end of the body, signals the error. Where sending has
            // failed before, the response is broken already.
            let _ = response.answer().exchange.apply(ExchangeEvent::ResponseCut);
        } else {
            // The client may be gone by now.
            let _ = response.send_error(py, status, fault.is_some() || status == 503);
        }
        fault
    }

    /// Answers a request that was ended by force, whatever its application has returned or raised.
    ///
    /// # Parks
    #[cold]
    fn end_early(&self, py: Python<'py>, gateway: &Gateway, error: Option<PyErr>) {
        let response = self.response();
        let is_expected = |error: &PyErr| {
            error.is_instance_of::<RequestTimeout>(py)
                || error.is_instance_of::<ClientDisconnected>(py)
                || error.is_instance_of::<CoroutineExit>(py)
        };
        if let Some(error) = error.filter(|error| !is_expected(error)) {
            gateway.report(py, &format!("Error handling request {}, which was ended", self.what()), &error);
        }
        let must_answer = {
            let exchange = &mut response.answer().exchange;
            // Legal at any time once the head has been read. A complete response stays as it is.
            let _ = exchange.end_time();
            !exchange.is_client_gone() && exchange.takes_interim()
        };
        if must_answer {
            // The client may be gone by now.
            let _ = response.send_error(py, TIME_IS_UP, false);
        }
    }

    /// Method and target, for the log.
    fn what(&self) -> String {
        describe(&self.environ)
    }
}

/// Does the application say that it has taken the connection over?
fn is_taken_over(py: Python<'_>, outcome: &PyResult<()>) -> bool {
    outcome.as_ref().err().is_some_and(|error| error.is_instance_of::<PyStopIteration>(py))
}

/// Calls the result's `close`, if it has one (PEP 3333, "Specification Details").
fn close(result: &Bound<'_, PyAny>) -> PyResult<()> {
    if result.is_exact_instance_of::<PyList>() || result.is_exact_instance_of::<PyTuple>() {
        return Ok(());
    }
    if let Ok(file) = result.cast_exact::<FileWrapper>() {
        return file.get().close(result.py());
    }
    if let Some(close) = result.getattr_opt(pyo3::intern!(result.py(), "close"))? {
        close.call0()?;
    }
    Ok(())
}
