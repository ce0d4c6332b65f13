//! Memory that input is received into.

#![expect(unsafe_code, reason = "the standard library's type for memory that is filled piece by piece is unstable")]

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{RecvFlags, recv};

/// Takes input, up to the room it has left.
pub trait Receives {
    /// The number of bytes that it still has room for.
    fn room(&self) -> usize;

    /// Appends input of a socket, as recv(2) does. Returns the number of bytes.
    ///
    /// # Errors
    /// Errors of recv(2).
    fn receive(&mut self, socket: impl AsFd) -> rustix::io::Result<usize>;

    /// Appends as much of `data` as there is room for. Returns the number of bytes.
    fn append(&mut self, data: &[u8]) -> usize;
}

impl Receives for Vec<u8> {
    fn room(&self) -> usize {
        self.capacity() - self.len()
    }

    fn receive(&mut self, socket: impl AsFd) -> rustix::io::Result<usize> {
        recv(socket, rustix::buffer::spare_capacity(self), RecvFlags::empty()).map(|(count, _)| count)
    }

    fn append(&mut self, data: &[u8]) -> usize {
        let data = data.get(..self.room()).unwrap_or(data);
        self.extend_from_slice(data);
        data.len()
    }
}

/// Memory without content, which is filled from its start.
pub struct Room<'memory> {
    memory: &'memory mut [MaybeUninit<u8>],
    /// The first bytes of `memory`, this many, have been written. Only this module counts.
    filled: usize,
}

impl<'memory> Room<'memory> {
    /// The first `limit` bytes of `memory`, or all if there are fewer.
    pub fn new(memory: &'memory mut [MaybeUninit<u8>], limit: usize) -> Room<'memory> {
        let limit = limit.min(memory.len());
        Room { memory: memory.get_mut(..limit).unwrap_or_default(), filled: 0 }
    }

    /// The bytes that have been written.
    pub fn into_filled(self) -> &'memory mut [u8] {
        let filled = self.memory.get_mut(..self.filled).unwrap_or_default();
        // SAFETY: `filled` grows only by bytes that were written, as recv(2) or a copy reported by their slice.
        unsafe { filled.assume_init_mut() }
    }

    fn rest(&mut self) -> &mut [MaybeUninit<u8>] {
        self.memory.get_mut(self.filled..).unwrap_or_default()
    }
}

impl Receives for Room<'_> {
    fn room(&self) -> usize {
        self.memory.len() - self.filled
    }

    fn receive(&mut self, socket: impl AsFd) -> rustix::io::Result<usize> {
        let ((written, _), _) = recv(socket, self.rest(), RecvFlags::empty())?;
        let count = written.len();
        self.filled += count;
        Ok(count)
    }

    fn append(&mut self, data: &[u8]) -> usize {
        let data = data.get(..self.room()).unwrap_or(data);
        let written = self.rest().get_mut(..data.len()).unwrap_or_default().write_copy_of_slice(data);
        let count = written.len();
        self.filled += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_room_is_filled_from_its_start_up_to_its_limit() {
        let mut memory = [MaybeUninit::uninit(); 16];
        let mut room = Room::new(&mut memory, 10);
        assert_eq!(room.room(), 10);
        assert_eq!(room.append(b"head"), 4);
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"bo").unwrap();
        assert_eq!(room.receive(&server).unwrap(), 2);
        client.write_all(b"dy and more").unwrap();
        assert_eq!(room.receive(&server).unwrap(), 4);
        assert_eq!((room.room(), room.append(b"x")), (0, 0));
        assert_eq!(room.into_filled(), b"headbody a");
        // The rest is still in the socket.
        let mut rest = Vec::with_capacity(16);
        assert_eq!(rest.receive(&server).unwrap(), 7);
        assert_eq!(rest, b"nd more");
    }

    #[test]
    fn a_limit_beyond_the_memory_is_its_end() {
        let mut memory = [MaybeUninit::uninit(); 3];
        let mut room = Room::new(&mut memory, usize::MAX);
        assert_eq!(room.append(b"four"), 3);
        assert_eq!(room.into_filled(), b"fou");
        assert!(Room::new(&mut memory, 2).into_filled().is_empty());
    }

    #[test]
    fn a_vector_takes_no_more_than_its_capacity() {
        let mut vector = Vec::with_capacity(3);
        let capacity = vector.capacity();
        assert_eq!(Receives::append(&mut vector, &[7; 100]), capacity);
        assert_eq!(vector, vec![7; capacity]);
    }
}
