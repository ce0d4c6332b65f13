use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::layout::PAGE_BYTES;
use super::*;
use crate::crew::measures::HandOvers;
use crate::crew::seat::{MoveOutcome, Seat};

/// A seat in a slot that was reserved for it, and its number.
fn worker(board: &Arc<Scoreboard>) -> (Seat, u32) {
    let slot = board.reserve().unwrap();
    (Seat::take(Arc::clone(board), slot).unwrap(), slot)
}

#[test]
fn counters_go_on_when_a_worker_dies_and_its_slot_has_another_owner() {
    let board = Arc::new(Scoreboard::new(2).unwrap());
    let (first, slot) = worker(&board);
    for _ in 0..3 {
        first.count_begun();
        first.count_answered();
    }
    // The worker dies in the middle of a request, with two connections and a WebSocket.
    first.count_begun();
    first.count_accepted(1);
    first.count_accepted(2);
    first.count_websocket();
    let alive = Counters { requests: 3, connections: 2, open_connections: 2, in_progress: 1, websockets: 1 };
    assert_eq!((board.counters(slot), board.total()), (alive, alive));
    board.release(slot);
    let dead = Counters { requests: 3, connections: 2, ..Counters::default() };
    assert_eq!((board.total(), board.state(slot), board.pid(slot)), (dead, WorkerState::Free, 0));

    let (second, again) = worker(&board);
    assert_eq!((again, board.generation(slot)), (slot, 2));
    second.count_begun();
    second.count_answered();
    assert_eq!(second.counters().requests, 1);
    assert_eq!(board.counters(slot), Counters { requests: 1, ..Counters::default() });
    assert_eq!(board.total(), Counters { requests: 4, ..dead });
}

#[test]
fn a_reader_sees_counters_grow_only_while_workers_write_and_come_and_go() {
    let board = Arc::new(Scoreboard::new(1).unwrap());
    let writer = {
        let board = Arc::clone(&board);
        std::thread::spawn(move || {
            for _ in 0..200 {
                let (seat, slot) = worker(&board);
                for _ in 0..500 {
                    seat.count_begun();
                    seat.count_answered();
                }
                board.release(slot);
            }
        })
    };
    let mut seen = Counters::default();
    while !writer.is_finished() {
        let now = board.total();
        assert!(now.requests >= seen.requests && now.in_progress <= 1_000_000, "{seen:?} before {now:?}");
        seen = now;
    }
    writer.join().unwrap();
    assert_eq!(board.total(), Counters { requests: 100_000, ..Counters::default() });
}

#[test]
fn another_process_sees_the_same_slots() {
    let board = Arc::new(Scoreboard::new(3).unwrap());
    let other = Scoreboard::from_descriptor(board.as_fd()).unwrap();
    let (seat, slot) = worker(&board);
    seat.count_answered();
    seat.set_state(WorkerState::Ready);
    board.set_stopping(true);
    assert!(board.ask(slot, "memory") && !board.ask(slot, "boredom"));
    assert_eq!(other.slots(), 3);
    assert_eq!((other.state(slot), other.pid(slot)), (WorkerState::Ready, std::process::id()));
    assert_eq!((other.asks(slot), other.is_stopping(), other.total().requests), ("memory", true, 1));
    assert_eq!(other.taken().collect::<Vec<_>>(), [slot]);
    other.release(slot);
    assert_eq!((board.state(slot), board.asks(slot)), (WorkerState::Free, ""));
}

#[test]
fn a_foreign_file_is_refused_with_the_difference() {
    let refusal = |descriptor: BorrowedFd<'_>| Scoreboard::from_descriptor(descriptor).err().unwrap().to_string();
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(refusal(null.as_fd()).starts_with("it is no scoreboard: its size is 0 bytes"));
    let unsealed = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&unsealed, 2 * PAGE_BYTES as u64).unwrap();
    assert!(refusal(unsealed.as_fd()).starts_with("it is no scoreboard: its size is 8192 bytes"));

    let board = Scoreboard::new(2).unwrap();
    assert!(ftruncate(&board, 0).is_err(), "the size of a scoreboard is sealed");
    board.header().slots.store(5, Ordering::Relaxed);
    assert_eq!(refusal(board.as_fd()), "it names 5 slots, and its size is 28672 bytes");
    board.header().version.store(7, Ordering::Relaxed);
    assert_eq!(refusal(board.as_fd()), "its version is 7, and this process knows version 3");
    board.header().magic.store(1, Ordering::Relaxed);
    assert!(refusal(board.as_fd()).starts_with("it is no scoreboard: it begins with 0x0000000000000001"));
}

#[test]
fn a_scoreboard_has_as_many_slots_as_it_was_asked_for() {
    let board = Scoreboard::new(1000).unwrap();
    for expected in 0..1000 {
        assert_eq!(board.reserve(), Some(expected));
    }
    assert_eq!(board.reserve(), None);
    board.release(700);
    assert_eq!(board.reserve(), Some(700));
    for slots in [0, MOST_SLOTS + 1] {
        assert!(Scoreboard::new(slots).err().unwrap().to_string().contains("1 to 65536 slots"));
    }
}

#[test]
fn each_reason_for_a_replacement_is_one_for_the_end_of_a_worker() {
    let board = Scoreboard::new(1).unwrap();
    assert!(REASONS.into_iter().all(|reason| board.count_exit(reason)) && !board.count_exit("boredom"));
    assert_eq!(board.exits().iter().sum::<u64>(), REASONS.len() as u64);
}

#[test]
fn a_slot_that_does_not_exist_is_free_and_has_counted_nothing() {
    let board = Arc::new(Scoreboard::new(1).unwrap());
    assert!(Seat::take(Arc::clone(&board), 1).is_none());
    board.release(1);
    board.set_state(u32::MAX, WorkerState::Ready);
    assert_eq!((board.state(u32::MAX), board.counters(9)), (WorkerState::Free, Counters::default()));
}

#[test]
fn a_worker_is_ready_while_its_loop_turns_or_waits_and_until_it_drains() {
    let board = Arc::new(Scoreboard::new(2).unwrap());
    let (seat, slot) = worker(&board);
    let (short, long) = (Duration::ZERO, Duration::from_secs(600));
    seat.note_turn();
    assert!(!board.is_ready(slot, long), "it imports");
    seat.set_state(WorkerState::Ready);
    std::thread::sleep(Duration::from_millis(20));
    assert!(board.turn_age(slot) >= Duration::from_millis(5));
    assert!(board.is_ready(slot, long) && !board.is_ready(slot, short));
    seat.note_wait();
    assert!(board.is_ready(slot, short) && board.turn_age(slot).is_zero());
    seat.set_state(WorkerState::Draining);
    seat.set_state(WorkerState::Ready);
    assert_eq!((board.state(slot), board.ready_workers(long)), (WorkerState::Draining, 0));
}

#[test]
fn a_worker_whose_process_is_gone_is_not_ready() {
    let board = Arc::new(Scoreboard::new(1).unwrap());
    let (seat, slot) = worker(&board);
    seat.set_state(WorkerState::Ready);
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    board.slot(slot).unwrap().pid.store(gone.id(), Ordering::Relaxed);
    assert_eq!(board.ready_workers(Duration::from_secs(5)), 0);
}

#[test]
fn the_next_owner_of_a_slot_counts_its_own_hand_overs() {
    let board = Arc::new(Scoreboard::new(1).unwrap());
    let (first, slot) = worker(&board);
    // Without metrics, too.
    first.count_hand_over(MoveOutcome::Sent);
    first.count_hand_over(MoveOutcome::Sent);
    first.count_hand_over(MoveOutcome::Received);
    first.count_hand_over(MoveOutcome::Failed);
    assert_eq!(board.hand_overs(slot), HandOvers { sent: 2, received: 1, failed: 1 });
    board.release(slot);
    let (second, _) = worker(&board);
    assert_eq!(board.hand_overs(slot), HandOvers::default());
    second.count_hand_over(MoveOutcome::Received);
    assert_eq!(board.hand_overs(slot), HandOvers { received: 1, ..HandOvers::default() });
    assert_eq!(board.measured(slot).unwrap().taken_over, 2);
}

#[test]
fn numbers_that_no_worker_writes_do_no_harm() {
    let board = Scoreboard::new(1).unwrap();
    let slot = board.slot(0).unwrap();
    for field in [&slot.turn, &slot.begun, &slot.requests, &slot.websockets_over, &slot.requests_before] {
        field.store(u64::MAX, Ordering::Relaxed);
    }
    for field in [&slot.state, &slot.asks, &slot.pid] {
        field.store(u32::MAX, Ordering::Relaxed);
    }
    assert_eq!((board.state(0), board.asks(0)), (WorkerState::Free, ""));
    assert_eq!((board.counters(0).in_progress, board.turn_age(0)), (0, Duration::ZERO));
    assert_eq!(board.ready_workers(Duration::MAX), 0);
    let _ = board.total();
}
