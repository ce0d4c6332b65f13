//! The server: its settings, its life from start to drained stop, and each connection's life.
//!
//! | module         | what                                                             |
//! |----------------|------------------------------------------------------------------|
//! | `stop_signal`  | what the loop and the thread that runs the server tell each other |
//! | `listening`    | listening sockets: accepted from, left to others, tried again    |
//! | `connection_limit` | how many connections may be open, by the limit of open files |
//! | `idle`         | connections that may be closed to make room, longest idle first  |
//! | `episode`      | conditions that the log has one line for                         |
//! | `settings`     | what Python configured, as Rust values                           |
//! | `error_stream` | the error log, written without waiting                           |
//! | `given_descriptor` | descriptors that Python gives by their number                 |
//! | `exclusive`    | one server at a time in a process                                |
//! | `lifecycle`    | start, signals, graceful stop; the part that runs in the caller  |
//! | `service`      | the service that the loop calls                                  |
//! | `accepting`    | when connections are accepted, and how many                      |
//! | `connections`  | the open connections                                             |
//! | `connection`   | one connection: reading heads, running requests, closing         |
//! | `shared`       | what connections share: application, settings, logs, buffers     |
//! | `access_log`   | its file, and lines of Gunicorn's atoms (`access_log_format`)    |
//! | `tls`          | TLS by the `ssl` module                                          |

mod accepting;
mod access_log;
mod access_log_format;
mod connection;
mod connection_limit;
mod connections;
mod episode;
mod error_stream;
mod exclusive;
mod given_descriptor;
mod idle;
mod lifecycle;
mod listening;
mod service;
mod settings;
mod shared;
mod stop_signal;
mod tls;

pub use access_log_format::parse as parse_access_log_format;
pub use error_stream::ErrorStream;
pub use exclusive::{exclusively, forget_in_child};
pub use lifecycle::Server;
