//! Crews on a loop without Python: several workers of one service, in one process.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::*;
use crate::coroutine::tests::ONE_WORKER;
use crate::event_loop::{self, Host, LoopMessage, Runtime, Wake};
use crate::net::{LocalAddress, LocalSocket};
use crate::sync::lock;

struct Bare;

impl Host for Bare {
    fn enter(&self, life: &mut dyn FnMut()) {
        life();
    }

    fn released(&self, blocking: &mut dyn FnMut()) {
        blocking();
    }
}

/// Slots and the generations of their owners, all in this process.
#[derive(Default)]
struct Slots([AtomicU64; 4]);

impl Roster for Slots {
    fn slots(&self) -> u32 {
        4
    }

    fn owner(&self, slot: u32) -> Option<SlotOwner> {
        let generation = self.0.get(slot as usize)?.load(Ordering::Relaxed);
        let owner = SlotOwner { worker: Sibling { slot, generation }, process: std::process::id() };
        (generation > 0).then_some(owner)
    }

    fn listeners(&self, _place: usize, own: u32) -> Vec<Sibling> {
        let others = (0..4).filter(|&slot| slot != own);
        others.filter_map(|slot| self.owner(slot)).map(|owner| owner.worker).collect()
    }
}

/// Everything that a worker hears.
#[derive(Debug, Default)]
struct Heard {
    letters: Vec<(u32, u8, Vec<u8>)>,
    descriptors: Vec<OwnedFd>,
    gone: Vec<Sibling>,
    complaints: Vec<String>,
}

#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Heard>>);

impl CrewHost for Ear {
    fn receive(&self, sender: Sibling, letter: Letter<OwnedFd>) {
        let mut heard = lock(&self.0);
        heard.letters.push((sender.slot, letter.kind, letter.payload));
        heard.descriptors.extend(letter.descriptors);
    }

    fn gone(&self, sender: Sibling) {
        lock(&self.0).gone.push(sender);
    }

    fn complain(&self, text: &str) {
        lock(&self.0).complaints.push(text.to_owned());
    }
}

/// A service: its place, its slots, its loop.
struct Service {
    directory: PathBuf,
    slots: Arc<Slots>,
    runtime: Arc<Runtime>,
}

struct Worker {
    crew: Crew,
    ear: Ear,
}

impl Service {
    fn new(runtime: Arc<Runtime>) -> Service {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("rmeinheld-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Service { directory, slots: Arc::default(), runtime }
    }

    /// The next owner of a slot, which listens.
    fn worker(&self, slot: u32) -> Worker {
        let generation = self.slots.0[slot as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let place = CrewPlace::parse(self.directory.to_str().unwrap()).unwrap();
        let ear = Ear::default();
        let own = Sibling { slot, generation };
        let roster = Arc::clone(&self.slots) as Arc<dyn Roster>;
        let crew = Crew::new(place, own, roster, Box::new(ear.clone()), Arc::clone(&self.runtime));
        crew.open().unwrap();
        Worker { crew, ear }
    }

    /// A worker that accepts no connection.
    fn stuck_worker(&self, slot: u32) -> UnixListener {
        let generation = self.slots.0[slot as usize].fetch_add(1, Ordering::Relaxed) + 1;
        UnixListener::bind(self.path(slot, generation)).unwrap()
    }

    fn path(&self, slot: u32, generation: u64) -> PathBuf {
        self.directory.join(format!("{slot}-{generation}.v1"))
    }

    /// The names of the sockets in the directory.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Worker {
    fn send(&self, slot: u32, payload: &[u8]) -> Result<(), NotSent> {
        self.crew.send(slot, 7, &payload.into(), &[])
    }

    fn count(&self, name: &str) -> u64 {
        self.crew.counts().iter().find(|count| count.0 == name).unwrap().1
    }

    /// Waits until this worker has heard enough.
    fn until(&self, is_enough: impl Fn(&Heard) -> bool) {
        until(|| is_enough(&lock(&self.ear.0)), || format!("{:?}", lock(&self.ear.0)));
    }
}

/// Waits, while the loop turns.
fn until(condition: impl Fn() -> bool, state: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !condition() {
        assert!(Instant::now() < deadline, "{}", state());
        assert_eq!(event_loop::sleep(Instant::now() + Duration::from_millis(1)), Wake::TimedOut);
    }
}

/// Runs a test in a unit of a fresh loop, which turns while the test waits.
fn in_a_service(test: impl FnOnce(&Service) + Send + 'static) {
    let _one = lock(&ONE_WORKER);
    let runtime = Runtime::start(Arc::new(Bare)).unwrap();
    let service = Service::new(Arc::clone(&runtime));
    let (sender, receiver) = mpsc::channel();
    let task = move || {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&service))).is_err();
        sender.send(failed).unwrap();
    };
    runtime.send(LoopMessage::Task(Box::new(task)));
    let failed = receiver.recv_timeout(Duration::from_secs(20)).expect("the test ends");
    runtime.end();
    assert!(runtime.wait_ended(Duration::from_secs(10)), "the loop ends");
    assert!(!failed, "the test fails");
}

#[test]
fn letters_of_one_sender_arrive_in_order_with_their_descriptors() {
    in_a_service(|service| {
        let (one, two) = (service.worker(1), service.worker(2));
        let (mut reader, writer) = std::io::pipe().unwrap();
        for number in 0..100_u8 {
            one.send(2, &[number]).unwrap();
        }
        let large: Vec<u8> = (0..message::MAX_PAYLOAD_BYTES).map(|index| (index % 251) as u8).collect();
        one.crew.send(2, 8, &large.clone().into(), &[writer.as_fd(), writer.as_fd()]).unwrap();
        one.send(2, b"last").unwrap();
        drop(writer);
        two.until(|heard| heard.letters.len() == 102);
        let heard = std::mem::take(&mut *lock(&two.ear.0));
        let numbers: Vec<u8> = heard.letters[..100].iter().map(|letter| letter.2[0]).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
        assert!(heard.letters[100] == (1, 8, large));
        assert_eq!(heard.letters[101], (1, 7, b"last".to_vec()));
        assert_eq!(heard.descriptors.len(), 2);
        for descriptor in heard.descriptors {
            assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            std::fs::File::from(descriptor).write_all(b"x").unwrap();
        }
        // The sender keeps none.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xx");
        assert_eq!((one.count("sent"), two.count("received")), (102, 102));
    });
}

#[test]
fn a_worker_that_ends_gets_every_letter_that_was_sent_and_refuses_later_ones() {
    in_a_service(|service| {
        let (one, two, three) = (service.worker(1), service.worker(2), service.worker(3));
        one.send(2, b"hello").unwrap();
        two.until(|heard| heard.letters.len() == 1);
        // No turn of the loop lies between: the kernel has these, of a known connection and of a new one.
        for number in 0..50_u8 {
            one.send(2, &[number]).unwrap();
        }
        three.send(2, b"new").unwrap();
        two.crew.end_receiving();
        assert!(matches!(one.send(2, b"late"), Err(NotSent::NoSibling(2))));
        two.until(|heard| heard.letters.len() == 52);
        until(|| !two.crew.is_receiving(), || "the connections do not end".to_owned());
        assert!(matches!(three.send(2, b"late"), Err(NotSent::NoSibling(2))));
        assert_eq!(two.count("received"), 52);
        // The end of its connections is the worker's own doing. The loop has come to that before this letter.
        three.send(1, b"later").unwrap();
        one.until(|heard| heard.letters.len() == 1);
        assert_eq!(lock(&two.ear.0).gone, []);
    });
}

#[test]
fn a_full_sibling_holds_up_no_other() {
    in_a_service(|service| {
        let (one, two) = (service.worker(1), service.worker(2));
        let _stuck = service.stuck_worker(3);
        let payload: Arc<[u8]> = vec![0; message::MAX_PAYLOAD_BYTES / 2].into();
        let refusal = loop {
            if let Err(error) = one.crew.send(3, 7, &payload, &[]) {
                break error;
            }
            one.send(2, b"on").unwrap();
        };
        assert!(matches!(refusal, NotSent::Full { slot: 3, letters: 15.. }), "{refusal}");
        one.send(2, b"last").unwrap();
        two.until(|heard| heard.letters.last().is_some_and(|letter| letter.2 == b"last"));
        assert_eq!(one.count("refused"), 1);
        one.crew.close();
        assert!(one.count("lost") >= 15);
    });
}

#[test]
fn a_sibling_that_reads_slowly_gets_every_letter() {
    in_a_service(|service| {
        let one = service.worker(1);
        let slow = service.stuck_worker(3);
        let payload: Arc<[u8]> = vec![5; 300_000].into();
        for _ in 0..20 {
            one.crew.send(3, 7, &payload, &[]).unwrap();
        }
        let reading = std::thread::spawn(move || {
            let (mut connection, _) = slow.accept().unwrap();
            let mut bytes = vec![0; 24 + 20 * 300_008];
            connection.read_exact(&mut bytes).unwrap();
            bytes[24..].chunks(300_008).all(|letter| letter[8..] == [5; 300_000])
        });
        until(|| reading.is_finished(), || "the queue never leaves".to_owned());
        assert!(reading.join().unwrap());
    });
}

#[test]
fn a_sibling_that_died_is_forgotten_and_its_successor_found() {
    in_a_service(|service| {
        let (one, two) = (service.worker(1), service.worker(2));
        assert!(matches!(one.send(3, b""), Err(NotSent::NoSibling(3))));
        assert!(matches!(one.send(1, b""), Err(NotSent::OwnSlot(1))));
        one.send(2, b"first").unwrap();
        two.until(|heard| heard.letters.len() == 1);
        let first = service.names();
        assert_eq!(first, ["1-1.v1", "2-1.v1"]);
        // A killed worker leaves its socket.
        two.crew.close();
        drop(UnixListener::bind(service.path(2, 1)).unwrap());
        until(|| one.send(2, b"lost").is_err(), || "the end is not noticed".to_owned());
        assert!(matches!(one.send(2, b"lost"), Err(NotSent::NoSibling(2))));
        let successor = service.worker(2);
        assert_eq!(service.names(), ["1-1.v1", "2-2.v1"]);
        one.send(2, b"second").unwrap();
        successor.until(|heard| heard.letters == [(1, 7, b"second".to_vec())]);
        one.crew.close();
        successor.until(|heard| heard.gone == [Sibling { slot: 1, generation: 1 }]);
        assert_eq!(service.names(), ["2-2.v1"]);
        assert!(matches!(one.send(2, b""), Err(NotSent::Closed)));
    });
}

#[test]
fn a_connection_that_a_living_sibling_has_closed_is_made_anew() {
    in_a_service(|service| {
        let one = service.worker(1);
        let sibling = service.stuck_worker(3);
        one.send(3, b"first").unwrap();
        drop(sibling.accept().unwrap());
        one.send(3, b"second").unwrap();
        let mut bytes = vec![0; 24 + 8 + 6];
        sibling.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[32..], *b"second");
        assert_eq!((one.count("sent"), one.count("lost")), (2, 0));
    });
}

#[test]
fn a_sibling_that_accepts_nothing_refuses_when_too_many_wait() {
    in_a_service(|service| {
        let one = service.worker(1);
        let _stuck = service.stuck_worker(3);
        let mut waiting = Vec::new();
        let refusal = loop {
            assert!(waiting.len() < 10_000);
            // A blocking connect(2) would wait for room.
            match LocalSocket::connect(&LocalAddress::Path(service.path(3, 1))) {
                Ok(socket) => waiting.push(socket),
                Err(_) => break one.send(3, b"").unwrap_err(),
            }
        };
        assert!(matches!(refusal, NotSent::NotAccepting(3)), "{refusal}");
    });
}

#[test]
fn garbage_ends_its_connection_with_one_line_and_nothing_else() {
    in_a_service(|service| {
        let (one, two) = (service.worker(1), service.worker(2));
        one.send(2, b"before").unwrap();
        let mut garbage: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(service.path(2, 1)).unwrap()).collect();
        for connection in &mut garbage {
            connection.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        // One that claims to be a worker of the future.
        let (header, payload) = message::hello(Sibling { slot: 3, generation: 9 });
        service.slots.0[3].store(8, Ordering::Relaxed);
        let mut liar = UnixStream::connect(service.path(2, 1)).unwrap();
        liar.write_all(&[&header[..], &payload].concat()).unwrap();
        garbage.push(liar);
        until(|| two.count("faults") == 51, || format!("{:?}", two.crew.counts()));
        for mut connection in garbage {
            let read = connection.read(&mut [0; 1]).map_or(0, |count| count);
            assert_eq!(read, 0, "the connection is closed");
        }
        one.send(2, b"after").unwrap();
        two.until(|heard| heard.letters.len() == 2);
        let complaints = std::mem::take(&mut lock(&two.ear.0).complaints);
        assert!(complaints.len() <= 2, "{complaints:?}");
        assert!(complaints[0].contains("it speaks version 47 of the protocol"), "{complaints:?}");
    });
}

#[test]
fn a_directory_that_takes_no_socket_is_replaced_by_an_abstract_name() {
    in_a_service(|service| {
        std::fs::remove_dir(&service.directory).unwrap();
        let (one, two) = (service.worker(1), service.worker(2));
        one.send(2, b"abstract").unwrap();
        two.until(|heard| heard.letters.len() == 1);
    });
}

#[test]
fn letters_are_sent_from_other_threads() {
    in_a_service(|service| {
        let (one, two) = (Arc::new(service.worker(1)), service.worker(2));
        let sender = Arc::clone(&one);
        let sending = std::thread::spawn(move || {
            for number in 0..1000_u32 {
                sender.send(2, &number.to_le_bytes()).unwrap();
            }
        });
        until(|| sending.is_finished(), || "a thread waits".to_owned());
        sending.join().unwrap();
        two.until(|heard| heard.letters.len() == 1000);
        let numbers: Vec<u32> = lock(&two.ear.0)
            .letters
            .iter()
            .map(|letter| u32::from_le_bytes(letter.2[..4].try_into().unwrap()))
            .collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<u32>>());
        std::thread::spawn(move || one.crew.close()).join().unwrap();
        two.until(|heard| heard.gone.len() == 1);
    });
}
