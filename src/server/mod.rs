//! The server: its settings, its life from start to drained stop, and each connection's life.
//!
//! | module              | contents                                                              |
//! |---------------------|-----------------------------------------------------------------------|
//! | `lifecycle`         | the class `Server`: start and stop                                    |
//! | `waiting`           | signals and the end: the part that runs in the caller                 |
//! | `stop_signal`       | the stop, shared by the loop and the thread that runs the server      |
//! | `stopping_watchers` | the stop of WebSockets, spread over a time                            |
//! | `service`           | the service that the loop calls                                       |
//! | `accepting`         | the policy of accepting: when, and how many connections               |
//! | `slow_requests`     | lines in the log for requests over a limit of time, with their stacks |
//! | `spread`            | which connections a worker leaves to its siblings                     |
//! | `listening`         | listening sockets: accepted from, left to others, tried again         |
//! | `connections`       | the open connections                                                  |
//! | `connection_limit`  | the limit of open connections, by the limit of open files             |
//! | `idle`              | connections that may be closed to make room, the longest idle first   |
//! | `connection`        | one connection: reading heads, running requests, closing              |
//! | `sticky`            | the worker that a request belongs to                                  |
//! | `moving`            | connections that move to siblings                                     |
//! | `shared`            | shared by connections: application, settings, logs, buffers           |
//! | `admin_listener`    | `AdminListener`, which answers probes, as Python sees it              |
//! | `inspector`         | `Inspector`, which answers at the inspect socket, as Python sees it   |
//! | `shared_crew`       | `Crew`, as Python sees it                                             |
//! | `shared_scoreboard` | `Scoreboard`, as Python sees it                                       |
//! | `settings`          | the settings, as Rust values                                          |
//! | `answer_holding`    | which answers are held for other requests                             |
//! | `access_log`        | the access log: its file, and its lines                               |
//! | `error_stream`      | the error log, written without waiting                                |
//! | `episode`           | lasting conditions, with one log line for each episode                |
//! | `exclusive`         | one server at a time in a process                                     |
//! | `given_descriptor`  | descriptors that Python passes by their number                        |
//! | `tls`               | TLS by the `ssl` module                                               |
//! | `blockage`          | the check of the watchdog that finds a blocked loop, and its kind     |
//! | `blockage_report`   | the reports about it                                                  |
//! | `watchdog`          | threads that look after a loop which does not turn                    |

mod accepting;
mod access_log;
mod admin_listener;
mod answer_holding;
mod blockage;
mod blockage_report;
mod connection;
mod connection_limit;
mod connections;
mod episode;
mod error_stream;
mod exclusive;
mod given_descriptor;
mod heartbeat;
mod idle;
mod inspector;
mod lifecycle;
mod listening;
mod measuring;
mod moving;
mod overdue;
mod parent_watch;
mod service;
mod settings;
mod shared;
mod shared_crew;
mod shared_measures;
mod shared_scoreboard;
mod slow_requests;
mod spread;
mod sticky;
mod stop_signal;
mod stopping_watchers;
mod tls;
mod waiting;
mod watchdog;

pub use access_log::{format::parse as parse_access_log_format, named_line as access_log_line};
pub use admin_listener::AdminListener;
pub use error_stream::ErrorStream;
pub use exclusive::{exclusively, forget_in_child};
pub use inspector::Inspector;
pub use lifecycle::Server;
pub use shared_crew::SharedCrew;
pub use shared_scoreboard::SharedScoreboard;
