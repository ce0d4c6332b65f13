//! Sockets whose waits park the coroutine.
//!
//! System calls go through `rustix`, whose types own and borrow descriptors safely. This is the only layer that makes
//! system calls for the server's own sockets.

mod forks;
pub mod held;
mod listener;
mod local_socket;
mod networks;
mod pace;
mod peer_credentials;
mod peer_end;
mod room;
mod sent_file;
mod stream;
mod traffic;
mod transport;
mod unacknowledged;

pub use listener::{Accepted, Listener, Peer};
pub use local_socket::{DESCRIPTORS_PER_CALL, LocalAddress, LocalListener, LocalSocket};
pub use networks::Networks;
pub use pace::Pace;
pub use peer_credentials::PeerCredentials;
pub use peer_end::{PeerEnd, peer_end};
pub use room::{Receives, Room};
pub use sent_file::SentFile;
pub use stream::{Failure, Stream};
pub use traffic::{Traffic, count_traffic, traffic};
pub use transport::Transport;
