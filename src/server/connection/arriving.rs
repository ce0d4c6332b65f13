//! The request that arrives on a connection. Most connections have none while they rest.

use std::time::Instant;

use crate::http::head::Head;

/// A request of which not everything has arrived, or that is still to be parsed. Boxed, since a connection that is kept
/// open has none.
#[derive(Default)]
pub struct Arriving(Option<Box<Parts>>);

#[derive(Default)]
struct Parts {
    pending: Vec<u8>,
    head: Option<Box<Head>>,
    deadline: Option<Instant>,
    begun: Option<Instant>,
}

impl Arriving {
    /// Are received bytes here: part of a head, or the next requests of a pipeline?
    pub fn has_bytes(&self) -> bool {
        self.0.as_ref().is_some_and(|parts| !parts.pending.is_empty())
    }

    /// Keeps received bytes.
    pub fn set_bytes(&mut self, pending: Vec<u8>) {
        self.0.get_or_insert_default().pending = pending;
    }

    /// Takes the bytes.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        self.0.as_mut().map(|parts| std::mem::take(&mut parts.pending)).unwrap_or_default()
    }

    /// Keeps the parser of a head that arrives in pieces.
    pub fn set_head(&mut self, head: Box<Head>) {
        self.0.get_or_insert_default().head = Some(head);
    }

    /// Takes the parser.
    pub fn take_head(&mut self) -> Option<Box<Head>> {
        self.0.as_mut()?.head.take()
    }

    /// When the head must be complete.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.deadline
    }

    /// Sets when the head must be complete.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        if deadline.is_some() || self.0.is_some() {
            self.0.get_or_insert_default().deadline = deadline;
        }
    }

    /// Notes when the head began.
    pub fn set_begun(&mut self, begun: Option<Instant>) {
        if begun.is_some() || self.0.is_some() {
            self.0.get_or_insert_default().begun = begun;
        }
    }

    /// Takes the time at which the head began, if slow requests are logged. The head is complete.
    pub fn end_head(&mut self) -> Option<Instant> {
        let parts = self.0.as_mut()?;
        parts.deadline = None;
        parts.begun.take()
    }
}
