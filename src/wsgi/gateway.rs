//! The gateway: everything that the requests of a server share.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::body::BodyLimits;
use super::deadline::Deadline;
use super::environ::{self, Keys};
use super::forwarding::FieldPolicy;
use super::in_progress::{Stopping, client_hung_up};
use super::input::Input;
use super::known_environs::KnownEnvirons;
use super::request::PortTexts;
use super::request_ids::{IdPolicy, RequestIds};
use super::spool::SpoolSettings;
use super::start_response::{ResponsePool, ResponseSettings};
use super::stop_flag::StopFlag;
use super::upgrade::WebSocketSettings;
use super::{FileWrapper, SERVER_SOFTWARE};
use crate::crew::seat::Seat;
use crate::crew::sticky::StickyPolicy;
use crate::event_loop::peers;
use crate::interp::{Level, log};
use crate::net::Peer;

/// The settings of the application's side.
pub struct GatewaySettings {
    /// Other processes serve the same application.
    pub multiprocess: bool,
    /// The policy for request fields, and the trusted proxies.
    pub fields: FieldPolicy,
    /// The limits of a request body.
    pub body: BodyLimits,
    /// Where bodies are gathered before the application runs; `None` streams them.
    pub spool: Option<SpoolSettings>,
    /// How long a client may take nothing of a response.
    pub send_timeout: Option<Duration>,
    /// Bytes a second that a client must take in the long run; 0 for no such rule.
    pub min_send_rate: u32,
    /// Files are sent with sendfile(2).
    pub use_sendfile: bool,
    /// The use of request ids.
    pub request_ids: IdPolicy,
    /// A client that goes away ends its request, where that waits.
    pub cancel_on_disconnect: bool,
    /// The settings of WebSockets.
    pub websocket: WebSocketSettings,
    /// `wsgi.errors`; `None` for `sys.stderr`.
    pub errors: Option<Py<PyAny>>,
    /// Meinheld's error logger: an object with `error(exc_type, exc_value, traceback)`.
    pub error_logger: Option<Py<PyAny>>,
}

/// The application, and everything that its requests share.
pub struct Gateway {
    pub(super) application: Py<PyAny>,
    pub(super) settings: GatewaySettings,
    pub(super) keys: Keys,
    pub(super) known: KnownEnvirons,
    pub(super) ports: PortTexts,
    pub(super) ids: Option<RequestIds>,
    pub(super) responses: ResponsePool,
    shared: Py<PyDict>,
    pub(super) stop: StopFlag,
    pub(super) websocket: Arc<WebSocketSettings>,
    pub(super) seat: Arc<Seat>,
    /// Sticky sessions by a cookie of ours.
    pub(super) sticky: Option<Arc<StickyPolicy>>,
}

impl Gateway {
    /// The gateway to `application`. WebSockets are counted in `seat`.
    ///
    /// # Errors
    /// MemoryError, or a broken `sys.stderr`.
    pub fn new(
        py: Python<'_>,
        application: Py<PyAny>,
        settings: GatewaySettings,
        seat: Arc<Seat>,
    ) -> PyResult<Gateway> {
        let shared = PyDict::new(py);
        let no_body = Bound::new(py, Input::empty())?;
        shared.set_item("wsgi.version", PyTuple::new(py, [1, 0])?)?;
        shared.set_item("wsgi.url_scheme", "http")?;
        match &settings.errors {
            Some(errors) => shared.set_item("wsgi.errors", errors)?,
            None => shared.set_item("wsgi.errors", py.import("sys")?.getattr("stderr")?)?,
        }
        // Requests run in coroutines, which switch in the middle of things. Shared data needs the same care as with
        // threads.
        shared.set_item("wsgi.multithread", true)?;
        shared.set_item("wsgi.multiprocess", settings.multiprocess)?;
        shared.set_item("wsgi.run_once", false)?;
        shared.set_item("wsgi.input_terminated", true)?;
        shared.set_item("wsgi.file_wrapper", py.get_type::<FileWrapper>())?;
        shared.set_item("wsgi.input", &no_body)?;
        shared.set_item("SERVER_SOFTWARE", SERVER_SOFTWARE)?;
        peers::when_hung_up(client_hung_up);
        let stop = StopFlag::default();
        shared.set_item("rmeinheld.stopping", Bound::new(py, Stopping::new(stop.clone()))?)?;
        let (timeout, rate, is_measured) = (settings.send_timeout, settings.min_send_rate, seat.measures().is_some());
        let responses = ResponsePool::new(ResponseSettings::new(timeout, rate, stop.clone(), is_measured));
        shared.set_item("rmeinheld.deadline", Bound::new(py, Deadline)?)?;
        Ok(Gateway {
            application,
            websocket: Arc::new(settings.websocket.clone()),
            ids: RequestIds::new(py, settings.request_ids, settings.fields.clears_untrusted),
            settings,
            keys: Keys::new(py),
            known: KnownEnvirons::default(),
            ports: PortTexts::default(),
            responses,
            shared: shared.unbind(),
            stop,
            seat,
            sticky: None,
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
        let template = environ::template(&shared, &self.keys)?;
        if let Some(ids) = &self.ids {
            ids.prepare(&template)?;
        }
        Ok(template.unbind())
    }

    /// The flag that is set when the server stops.
    pub fn stop_flag(&self) -> &StopFlag {
        &self.stop
    }

    /// Has the policy of sticky sessions set cookies. Before the first request.
    pub fn set_cookies_of(&mut self, sticky: Option<Arc<StickyPolicy>>) {
        self.sticky = sticky;
    }

    /// Is this peer trusted to speak for other clients?
    pub fn trusts(&self, peer: Peer) -> bool {
        self.settings.fields.trusts(peer)
    }

    /// Reports an exception: to Meinheld's error logger if there is one, else to `rmeinheld.error`.
    #[cold]
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
