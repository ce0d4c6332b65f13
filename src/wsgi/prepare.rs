//! From a request on the connection to a call of the application.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::body::RequestBody;
use super::call::ApplicationCall;
use super::environ;
use super::forwarding::is_https;
use super::gateway::Gateway;
use super::input::Input;
use super::request::{Request, Unprepared};
use super::start_response::{StartResponse, Terms};
use super::upgrade::{ClientSocket, WebSocket};
use crate::http::exchange::Exchange;
use crate::http::response::MethodKind;
use crate::websocket::handshake::Handshake;
use crate::websocket::origins::RequestedHost;

impl Gateway {
    /// Makes a request ready to run. The caller may use the head's buffer again afterwards.
    ///
    /// # Errors
    /// The client's fault where its body or fields are refused; nothing has been sent then. MemoryError.
    pub fn prepare<'py>(&self, py: Python<'py>, request: Request<'_>) -> Result<ApplicationCall<'py>, Unprepared> {
        let Request { head, bytes, .. } = &request;
        let handshake = if head.has_upgrade { Handshake::of(head, bytes)? } else { None };
        let environ = environ::build(py, &self.keys, &self.known, &self.ports, &self.settings.fields, &request)?;
        if handshake.is_some() {
            self.check_origin(&environ, &request)?;
        }
        let id = self.ids.as_ref().map(|ids| ids.apply(&environ, &request)).transpose()?;
        let cookie = match &self.sticky {
            Some(sticky) => sticky.new_cookie(head, bytes, is_https(&environ)?),
            None => None,
        };
        let Request { head, bytes, rest, stream, keep_alive, .. } = request;
        let method = MethodKind::of(head.method.of(bytes));
        let terms = Terms { version: head.version, method };
        let is_reusable = keep_alive && head.keep_alive && method != MethodKind::Connect;
        let exchange = Exchange::new(head.body, head.expects_continue, rest.len(), is_reusable);
        let begin = |stream| self.responses.begin(py, terms, stream, exchange);
        let (objects, input, mut next) = if head.body.has_content() {
            let body = RequestBody::new(head.body, rest, &self.settings.body)?;
            let objects = begin(Arc::clone(&stream))?;
            let input = Bound::new(py, Input::new(body, stream, objects.response.clone().unbind()))?;
            environ.set_item(&self.keys.input, &input)?;
            (objects, Some(input), Vec::new())
        } else {
            (begin(stream)?, None, rest)
        };
        if let Some(id) = id.filter(|_| self.ids.as_ref().is_some_and(|ids| ids.responds)) {
            objects.response.get().answer().added().request_id = Some(id.to_str()?.into());
        }
        if let Some(cookie) = cookie {
            objects.response.get().answer().added().cookie = Some(cookie.into());
        }
        environ.set_item(&self.keys.early_hints, &objects.early_hints)?;
        environ.set_item(&self.keys.client_disconnected, &objects.client_check)?;
        let websocket = handshake
            .map(|handshake| self.add_websocket(handshake, &environ, &objects.response, std::mem::take(&mut next)))
            .transpose()?;
        Ok(ApplicationCall::new(environ, objects, input, next, websocket))
    }

    /// Checks that the page of a handshake may connect. The environ has the host that a trusted proxy names.
    fn check_origin(&self, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> Result<(), Unprepared> {
        let Some(origins) = &self.websocket.origins else { return Ok(()) };
        let item = |key: &str| Ok::<_, PyErr>(environ.get_item(key)?.and_then(|value| value.extract().ok()));
        let host: Option<String> = item("HTTP_HOST")?;
        let scheme: Option<String> = item("wsgi.url_scheme")?;
        let is_port_said = request.is_trusted && self.settings.fields.fields.x_forwarded_port;
        let has_port = is_port_said && environ.contains("HTTP_X_FORWARDED_PORT")?;
        let port: Option<String> = if has_port { item("SERVER_PORT")? } else { None };
        let requested = host.as_deref().map(|host| RequestedHost {
            is_https: scheme.as_deref() == Some("https"),
            host,
            port: port.as_deref(),
        });
        Ok(origins.check(request.head, request.bytes, requested)?)
    }

    /// Adds the items of a valid handshake to the environ.
    fn add_websocket<'py>(
        &self,
        handshake: Handshake,
        environ: &Bound<'py, PyDict>,
        response: &Bound<'py, StartResponse>,
        early: Vec<u8>,
    ) -> PyResult<Bound<'py, WebSocket>> {
        let py = environ.py();
        let websocket =
            WebSocket::new(handshake, Arc::clone(&self.websocket), Arc::clone(&self.seat), environ, response, early)?;
        let websocket = Bound::new(py, websocket)?;
        environ.set_item("gunicorn.socket", Bound::new(py, ClientSocket::new(response, &websocket))?)?;
        environ.set_item("wsgi.websocket", &websocket)?;
        Ok(websocket)
    }
}
