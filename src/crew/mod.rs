//! The crew: the workers of one service, the memory that they share, and the messages between them.
//!
//! | module                             | contents                                                    |
//! |------------------------------------|-------------------------------------------------------------|
//! | [`scoreboard`]                     | the memory that the workers share: a slot for each worker   |
//! | [`places`]                         | the places of sessions, which replacements inherit          |
//! | [`sticky`]                         | the worker to which a session belongs                       |
//! | [`measures`]                       | the counters and histograms of a slot                       |
//! | [`seat`]                           | the slot of this process, in which the engine writes        |
//! | [`metrics`]                        | the list of all metrics, and the text of a scrape           |
//! | [`exposition`]                     | the text formats of metrics, without input and output       |
//! | [`probe`]                          | the answers to `/live` and `/ready`                         |
//! | [`admin`]                          | the thread that answers them                                |
//! | [`inspect`]                        | the threads that answer questions about all workers         |
//! | [`interest`]                       | the channels that a worker listens to                       |
//! | [`siblings`]                       | a worker's end of the crew: sends and receives messages     |
//! | [`message`]                        | the format of messages, without input and output            |
//! | [`kinds`]                          | the kinds of messages that the product itself sends         |
//! | [`moved_connection`]               | the format of a connection that moves to a sibling          |
//! | [`outbox`]                         | the queue for one sibling, without input and output         |
//! | `place`, `roster`                  | how siblings find each other                                |
//! | `context`                          | the parts that all connections share                        |
//! | `outgoing`, `incoming`, `acceptor` | the sockets, on the loop                                    |

mod acceptor;
pub mod admin;
mod context;
pub mod exposition;
mod incoming;
pub mod inspect;
pub mod interest;
pub mod kinds;
pub mod measures;
pub mod message;
pub mod metrics;
pub mod moved_connection;
pub mod outbox;
mod outgoing;
mod place;
pub mod places;
pub mod probe;
mod roster;
pub mod scoreboard;
pub mod seat;
pub mod siblings;
pub mod sticky;

pub use context::CrewHost;
pub use message::{Letter, Sibling};
pub use place::CrewPlace;
pub use roster::{Roster, SlotOwner};
pub use siblings::{Crew, NotSent, Sent};

#[cfg(test)]
mod tests;
