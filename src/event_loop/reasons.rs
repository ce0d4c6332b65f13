//! The reasons for which coroutines wait, as the records of their units keep them.

use std::net::SocketAddr;

use rustix::event::epoll::EventFlags;
use rustix::net::SocketAddrUnix;

use super::interest::Interest;
use crate::kernel::LentDescriptor;

/// The reason for a wait. The comment of each names its two details.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Not known.
    #[default]
    Other,
    /// A descriptor of the application: its number, and bits of [`READ`] and [`WRITE`].
    Descriptor,
    /// One of several descriptors (select, poll, epoll): the first number, and how many.
    Descriptors,
    /// The client of the server's own connection: the descriptor, and bits of [`READ`] and [`WRITE`].
    Client,
    /// A lock: the address of its object, under the GIL.
    Lock,
    /// A reentrant lock: the address of its object, under the GIL.
    RLock,
    /// A lock of CPython's own: the address of its object, under the GIL.
    NativeLock,
    /// The lock of an import.
    Import,
    /// A queue: the address of its object; 0 for an item, 1 for room, 2 for `task_done` of all items.
    Queue,
    /// An event: the address of its object.
    Event,
    /// A notification: the address of the condition, or of the lock that the notifier releases.
    Condition,
    /// A semaphore: the address of its object.
    Semaphore,
    /// A point in time.
    Sleep,
    /// The end of a coroutine or thread: its ident.
    Join,
    /// A call on an OS thread.
    Offload,
    /// A message of a WebSocket: the descriptor of its connection, and [`PONG`] for the answer to a ping.
    WebSocket,
    /// The end of a process: its number.
    Process,
    /// The next turn: this one had used up its budget.
    Turn,
    /// The next poll: `sleep(0)`.
    NextPoll,
}

impl Reason {
    /// All reasons, by their numbers.
    pub const ALL: [Reason; 19] = [
        Reason::Other,
        Reason::Descriptor,
        Reason::Descriptors,
        Reason::Client,
        Reason::Lock,
        Reason::RLock,
        Reason::NativeLock,
        Reason::Import,
        Reason::Queue,
        Reason::Event,
        Reason::Condition,
        Reason::Semaphore,
        Reason::Sleep,
        Reason::Join,
        Reason::Offload,
        Reason::WebSocket,
        Reason::Process,
        Reason::Turn,
        Reason::NextPoll,
    ];

    pub(super) fn from_number(number: u8) -> Reason {
        Reason::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Whether the first detail is the address of an object of Python.
    pub fn has_object(self) -> bool {
        matches!(
            self,
            Reason::Lock
                | Reason::RLock
                | Reason::NativeLock
                | Reason::Import
                | Reason::Queue
                | Reason::Event
                | Reason::Condition
                | Reason::Semaphore
        )
    }

    /// A short name, for metrics and machines.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Other => "other",
            Reason::Descriptor => "socket",
            Reason::Descriptors => "select",
            Reason::Client => "client",
            Reason::Lock => "lock",
            Reason::RLock => "rlock",
            Reason::NativeLock => "native_lock",
            Reason::Import => "import",
            Reason::Queue => "queue",
            Reason::Event => "event",
            Reason::Condition => "condition",
            Reason::Semaphore => "semaphore",
            Reason::Sleep => "sleep",
            Reason::Join => "join",
            Reason::Offload => "offload",
            Reason::WebSocket => "websocket",
            Reason::Process => "process",
            Reason::Turn => "turn",
            Reason::NextPoll => "next_poll",
        }
    }
}

/// A detail of a wait for a descriptor: it is to become readable.
pub const READ: u64 = 1;

/// A detail of a wait for a descriptor: it is to become writable.
pub const WRITE: u64 = 2;

/// A detail of a wait for a WebSocket: the answer to a ping.
pub const PONG: u64 = 1;

/// The bits of [`READ`] and [`WRITE`] for an interest.
pub(super) fn bits_of(interest: Interest) -> u64 {
    match interest {
        Interest::Read => READ,
        Interest::Write => WRITE,
        Interest::Both => READ | WRITE,
        Interest::Events(events) => {
            let events = EventFlags::from_bits_retain(events);
            let bit = |flag, bit| if events.contains(flag) { bit } else { 0 };
            bit(EventFlags::IN, READ) | bit(EventFlags::OUT, WRITE)
        }
    }
}

/// A wait of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When it began, on the clock of [`records::now`](super::records::now).
    pub since: u64,
    /// The reason.
    pub reason: Reason,
    /// The details, as [`Reason`] says.
    pub details: [u64; 2],
    /// When it ends at the latest, on the same clock; `None` without a limit.
    pub until: Option<u64>,
}

impl Wait {
    /// The descriptor that the wait is for.
    pub fn descriptor(&self) -> Option<i32> {
        match self.reason {
            Reason::Descriptor | Reason::Descriptors | Reason::Client | Reason::WebSocket => {
                i32::try_from(self.details[0]).ok()
            }
            _ => None,
        }
    }

    /// The thing that the wait is for, as far as it is known without the interpreter. `now` is the present time.
    pub fn describe(&self, now: u64) -> String {
        let [first, second] = self.details;
        match self.reason {
            Reason::Other => "something".to_owned(),
            Reason::Descriptor => descriptor_call(first, second),
            Reason::Descriptors if second == 1 => {
                format!("select of one descriptor{}", peer_words(", connected to", first))
            }
            Reason::Descriptors => format!("select of {second} descriptors"),
            Reason::Client => client_call(first, second),
            Reason::Lock => "lock".to_owned(),
            Reason::RLock => "reentrant lock".to_owned(),
            Reason::NativeLock => "native lock".to_owned(),
            Reason::Import => "import lock".to_owned(),
            Reason::Queue if second == 1 => "room in queue".to_owned(),
            Reason::Queue if second == 2 => "task_done of all items of queue".to_owned(),
            Reason::Queue => "item of queue".to_owned(),
            Reason::Event => "event".to_owned(),
            Reason::Condition => "condition".to_owned(),
            Reason::Semaphore => "semaphore".to_owned(),
            Reason::Sleep => match self.until {
                Some(until) => format!("sleep, {} s left", seconds(until.saturating_sub(now))),
                None => "sleep".to_owned(),
            },
            Reason::Join => "end".to_owned(),
            Reason::Offload => "offloaded call".to_owned(),
            Reason::WebSocket if second == PONG => format!("WebSocket pong{}", peer_words(" from", first)),
            Reason::WebSocket => format!("WebSocket message{}", peer_words(" from", first)),
            Reason::Process => format!("end of process {first}"),
            Reason::Turn => "its next turn (the last one used up turn_budget)".to_owned(),
            Reason::NextPoll => "its next turn".to_owned(),
        }
    }
}

/// Nanoseconds as seconds with one decimal.
pub fn seconds(nanoseconds: u64) -> String {
    let tenths = nanoseconds / 100_000_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// "socket recv from 10.0.0.5:5432", "pipe read", "file write".
fn descriptor_call(number: u64, bits: u64) -> String {
    let is_socket = lent(number)
        .and_then(|descriptor| rustix::fs::fstat(descriptor).ok())
        .is_some_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Socket);
    match (is_socket, bits) {
        (true, READ) => format!("socket recv{}", peer_words(" from", number)),
        (true, WRITE) => format!("socket send{}", peer_words(" to", number)),
        (true, _) => format!("socket recv or send{}", peer_words(" with", number)),
        (false, WRITE) => "write".to_owned(),
        (false, READ) => "read".to_owned(),
        (false, _) => "read or write".to_owned(),
    }
}

fn client_call(number: u64, bits: u64) -> String {
    match bits {
        READ => format!("bytes from the client{}", peer_words("", number)),
        WRITE => format!("the client to take bytes{}", peer_words("", number)),
        _ => format!("the client{}", peer_words("", number)),
    }
}

/// The address of a descriptor's peer, after `before` and a space; nothing without a peer.
fn peer_words(before: &str, number: u64) -> String {
    peer_of(number).map(|peer| format!("{before} {peer}")).unwrap_or_default()
}

fn lent(number: u64) -> Option<LentDescriptor> {
    LentDescriptor::new(i32::try_from(number).ok()?).ok()
}

/// The address of the peer of a socket, such as `10.0.0.5:5432`. `None` if the descriptor has no peer with an address. A
/// descriptor that is closed and opened again meanwhile gives another peer.
pub fn peer_of(number: u64) -> Option<String> {
    let peer = rustix::net::getpeername(lent(number)?).ok()??;
    match SocketAddrUnix::try_from(peer.clone()) {
        Ok(local) => {
            let path = local.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned());
            path.map(|path| format!("unix:{}", path.escape_debug()))
        }
        Err(_) => SocketAddr::try_from(peer).ok().map(|address| address.to_string()),
    }
}
