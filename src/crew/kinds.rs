//! The kinds of messages that the product itself sends, in one place. Python code uses the others, up to 255.
//!
//! A worker drops messages of a kind that it does not know, and closes their descriptors.

/// A connection of a client, for the worker that serves its session: see [`moved_connection`](super::moved_connection).
pub const MOVED_CONNECTION: u8 = 1;

/// A message of a channel (`rmeinheld.channel`).
pub const CHANNEL: u8 = 2;

/// The members that a worker has in channels (`rmeinheld.channel`).
pub const PRESENCE: u8 = 3;
