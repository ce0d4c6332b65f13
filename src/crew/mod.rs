//! The crew: the workers of one service, and the memory that they share.
//!
//! | module         | contents                                                  |
//! |----------------|-----------------------------------------------------------|
//! | [`scoreboard`] | the memory that the workers share: a slot for each worker |
//! | [`seat`]       | the slot of this process, in which the engine writes      |
//! | [`probe`]      | the answers to `/live` and `/ready`                       |
//! | [`admin`]      | the thread that answers them                              |

pub mod admin;
pub mod probe;
pub mod scoreboard;
pub mod seat;
