use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
use crate::kernel::Bell;

fn poller() -> (Poller, Bell) {
    let bell = Bell::new().unwrap();
    (Poller::new(bell.as_fd()).unwrap(), bell)
}

fn events_of(poller: &Poller) -> Vec<u64> {
    let mut events = Poller::event_buffer();
    wait(&poller.descriptor(), &mut events, Some(Duration::ZERO)).unwrap();
    events.iter().map(|event| event.data.u64()).collect()
}

#[test]
fn a_stream_is_registered_before_the_next_poll_unless_it_is_gone() {
    let (mut poller, _bell) = poller();
    let ((stays, _peer), (goes, _other)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let staying = poller.add_stream(stays.as_fd(), 1);
    let going = poller.add_stream(goes.as_fd(), 2);
    assert!(events_of(&poller).is_empty());
    poller.remove(going, None);
    assert!(poller.register_fresh().is_none());
    assert_eq!(events_of(&poller), [staying.0]);
    poller.await_output(staying, stays.as_fd(), false);
    assert!(events_of(&poller).is_empty());
}

#[test]
fn a_stream_that_is_changed_early_keeps_the_change() {
    let (mut poller, _bell) = poller();
    let (stream, _peer) = UnixStream::pair().unwrap();
    let id = poller.add_stream(stream.as_fd(), 1);
    poller.await_output(id, stream.as_fd(), false);
    assert!(poller.register_fresh().is_none());
    assert!(events_of(&poller).is_empty());
}

#[test]
fn a_stream_that_epoll_refuses_ends_for_its_reader_and_its_peer() {
    let (mut poller, _bell) = poller();
    let (stream, mut peer) = UnixStream::pair().unwrap();
    // It refuses a descriptor that it has.
    epoll::add(&poller.epoll, &stream, epoll::EventData::new_u64(0), STREAM).unwrap();
    let id = poller.add_stream(stream.as_fd(), 7);
    let (events, error) = poller.register_fresh().unwrap();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::EXIST.raw_os_error()));
    let mut served = Vec::new();
    poller.sort(&events, |notice| {
        if let Notice::Serve(source, owner) = notice {
            served.push((source, owner));
        }
    });
    assert_eq!(served, [(id, 7)]);
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}
