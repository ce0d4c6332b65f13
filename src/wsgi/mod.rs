//! WSGI (PEP 3333): from a parsed request to the application and from its answer to bytes on the connection.
//!
//! [`Gateway`] holds everything that requests share. [`Gateway::prepare`] makes a request ready, and returns the call
//! that takes it through the application. A rule that the application breaks becomes an exception that names the rule.
//! It ends as a 500 page, or as a cut connection if some of the response is out already.

mod body;
mod call;
mod client_check;
mod clock;
mod deadline;
mod environ;
mod file_wrapper;
mod forwarding;
mod gateway;
mod in_progress;
mod input;
mod known_environs;
mod logged_request;
mod prepare;
mod request;
mod request_ids;
mod respond;
mod spool;
mod start_response;
mod stop_flag;
mod text;
mod upgrade;

pub use body::BodyLimits;
pub use call::{ApplicationCall, Finished};
pub use client_check::ClientCheck;
pub use clock::{http_date, unix_seconds};
pub use deadline::Deadline;
pub use file_wrapper::FileWrapper;
pub use forwarding::{FieldPolicy, TrustedFields, Underscores};
pub use gateway::{Gateway, GatewaySettings};
pub use in_progress::{Stopping, Waited, describe, end_streams, waited_for};
pub use input::Input;
pub use logged_request::{LoggedRequest, in_context_of};
pub use request::{LastAddress, RemoteAddress, Request, Unprepared};
pub use request_ids::IdPolicy;
pub use spool::SpoolSettings;
pub use start_response::{EarlyHints, ResponseObjects, StartResponse, Terms, Write};
pub use stop_flag::StopFlag;
pub use text::latin1;
pub use upgrade::{ClientSocket, ConnectionClosed, Members, WebSocket, WebSocketError, WebSocketSettings, broadcast};

/// The Server field and SERVER_SOFTWARE.
pub const SERVER_SOFTWARE: &str = concat!("rmeinheld/", env!("CARGO_PKG_VERSION"));
