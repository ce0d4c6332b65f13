//! A set of WebSockets that closed ones leave by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use super::broadcasting::{Recipient, not_a_websocket, send_to_all};
use super::session::WebSocketSession;
use super::websocket::WebSocket;
use super::wire::Membership;
use crate::sync::lock;

/// A set of WebSockets, such as a room, for `broadcast`. A WebSocket that closes leaves it by itself.
///
/// `websockets` are the first members; none by default. Adding, leaving and `len` take the same time however many
/// there are. From any coroutine or thread.
#[pyclass(frozen, module = "rmeinheld.websocket", weakref)]
pub struct Members {
    list: Arc<MemberList>,
}

/// The members, and where each one stands. Nothing waits or runs Python code under the lock.
#[derive(Default)]
struct MemberList(Mutex<Places>);

#[derive(Default)]
struct Places {
    /// Copied before a change while a broadcast uses it.
    members: Arc<Vec<Recipient>>,
    /// The places in `members`, by the key of the session.
    places: HashMap<usize, usize>,
}

#[pymethods]
impl Members {
    #[new]
    #[pyo3(signature = (websockets = None), text_signature = "(websockets=())")]
    fn new(websockets: Option<&Bound<'_, PyAny>>) -> PyResult<Members> {
        let members = Members { list: Arc::default() };
        for one in websockets.map(|all| all.try_iter()).transpose()?.into_iter().flatten() {
            let one = one?;
            members.add(one.cast::<WebSocket>().map_err(|_| not_a_websocket(&one))?)?;
        }
        Ok(members)
    }

    /// Add a WebSocket, and return whether it is a member now: a closed one is not. Does nothing if it was.
    ///
    /// Accepts the connection if it is not accepted yet, without a subprotocol.
    ///
    /// Raises RuntimeError if the request was answered in another way.
    fn add(&self, websocket: &Bound<'_, WebSocket>) -> PyResult<bool> {
        let py = websocket.py();
        let session = websocket.get().session(py)?;
        let join = || lock(&self.list.0).insert(session, websocket);
        Ok(session.enter(py, &self.membership(), join))
    }

    /// Remove a WebSocket. Does nothing if it is no member.
    fn remove(&self, websocket: &Bound<'_, WebSocket>) {
        if let Some(session) = websocket.get().accepted_session() {
            session.leave(websocket.py(), &self.membership());
            self.list.forget(session.key());
        }
    }

    /// The same as `remove`, by the name that sets have for it.
    fn discard(&self, websocket: &Bound<'_, WebSocket>) {
        self.remove(websocket);
    }

    /// Send `message` to all members; see `rmeinheld.websocket.broadcast`.
    ///
    /// Returns a list of the members that did not get the message, because they are slow or have just closed.
    #[pyo3(signature = (message, slow = None), text_signature = "($self, message, slow='close')")]
    fn broadcast<'py>(
        &self,
        message: &Bound<'py, PyAny>,
        slow: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let recipients = Arc::clone(&lock(&self.list.0).members);
        send_to_all(&recipients, message, slow)
    }

    fn __len__(&self) -> usize {
        lock(&self.list.0).members.len()
    }

    fn __contains__(&self, websocket: &Bound<'_, PyAny>) -> bool {
        let websocket = websocket.cast::<WebSocket>().ok();
        let session = websocket.as_ref().and_then(|websocket| websocket.get().accepted_session());
        session.is_some_and(|session| lock(&self.list.0).places.contains_key(&session.key()))
    }

    /// Iterates over the members of this moment.
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let members: Vec<_> = lock(&self.list.0).members.iter().map(|member| member.websocket.clone_ref(py)).collect();
        PyList::new(py, members)?.try_iter()
    }

    fn __repr__(&self) -> String {
        format!("<rmeinheld.websocket.Members with {} of them>", self.__len__())
    }
}

impl Members {
    fn membership(&self) -> Arc<dyn Membership> {
        Arc::clone(&self.list) as Arc<dyn Membership>
    }
}

impl Membership for MemberList {
    fn forget(&self, key: usize) {
        let left = lock(&self.0).remove(key);
        // Not under the lock: dropping a WebSocket may run Python code.
        drop(left);
    }
}

impl Places {
    /// Adds a member. Returns false if it was one before.
    fn insert(&mut self, session: &Arc<WebSocketSession>, websocket: &Bound<'_, WebSocket>) -> bool {
        let place = self.members.len();
        if *self.places.entry(session.key()).or_insert(place) != place {
            return false;
        }
        Arc::make_mut(&mut self.members).push(Recipient::of(websocket));
        true
    }

    /// Takes a member out. The last one takes its place.
    fn remove(&mut self, key: usize) -> Option<Recipient> {
        let place = self.places.remove(&key)?;
        let left = Arc::make_mut(&mut self.members).swap_remove(place);
        if let Some(session) = self.members.get(place).and_then(|moved| moved.session.as_ref()) {
            self.places.insert(session.key(), place);
        }
        Some(left)
    }
}
