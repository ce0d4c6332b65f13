//! Coroutines without a loop: their order, parking, stacks and thread.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::sync::lock;

/// Held by each test that runs coroutines. A process has one worker for coroutines, and a loop occupies it.
pub(crate) static ONE_WORKER: Mutex<()> = Mutex::new(());

const PATIENCE: Duration = Duration::from_secs(30);

/// Receives the next message on an OS thread. Panics after 30 seconds.
fn receive<R>(receiver: &Receiver<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match receiver.try_recv() {
            Ok(message) => return message,
            Err(_) => assert!(Instant::now() < deadline, "the coroutine ends"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `body` in a coroutine and waits for its result.
pub(super) fn in_a_coroutine<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let _one = lock(&ONE_WORKER);
    let (sender, receiver) = channel();
    spawn(Box::new(move || sender.send(body()).unwrap())).unwrap();
    receive(&receiver)
}

#[test]
fn spawn_only_queues_and_coroutines_start_in_their_order() {
    let order = in_a_coroutine(|| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let spawner = Arc::new(Parker::default());
        for name in ["second", "third"] {
            let (order, spawner) = (Arc::clone(&order), Arc::clone(&spawner));
            spawn(Box::new(move || {
                lock(&order).push(name);
                spawner.unpark();
            }))
            .unwrap();
        }
        lock(&order).push("first");
        // A new coroutine starts only when the queue of runnable coroutines is empty. Constant yielding would starve
        // it.
        while lock(&order).len() < 3 {
            spawner.park();
        }
        std::mem::take(&mut *lock(&order))
    });
    assert_eq!(order, ["first", "second", "third"]);
}

#[test]
fn a_parked_coroutine_goes_on_when_it_is_unparked_and_not_before_its_waker_gives_way() {
    let steps = in_a_coroutine(|| {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let (parker, spawner) = (Arc::new(Parker::default()), Arc::new(Parker::default()));
        let (own, noted, waiting) = (Arc::clone(&parker), Arc::clone(&steps), Arc::clone(&spawner));
        spawn(Box::new(move || {
            lock(&noted).push("parks");
            waiting.unpark();
            while lock(&noted).len() < 2 {
                own.park();
            }
            lock(&noted).push("goes on");
        }))
        .unwrap();
        while lock(&steps).is_empty() {
            spawner.park();
        }
        lock(&steps).push("unparks");
        parker.unpark();
        lock(&steps).push("still runs");
        while lock(&steps).len() < 4 {
            yield_now();
        }
        std::mem::take(&mut *lock(&steps))
    });
    assert_eq!(steps, ["parks", "unparks", "still runs", "goes on"]);
}

#[test]
fn an_unpark_before_the_park_is_not_lost() {
    in_a_coroutine(|| {
        let parker = Parker::default();
        parker.unpark();
        parker.park();
    });
}

#[test]
fn all_coroutines_run_on_one_thread() {
    let threads: Vec<_> = (0..5).map(|_| in_a_coroutine(|| std::thread::current().id())).collect();
    assert!(threads.iter().all(|&thread| thread == threads[0]), "{threads:?}");
    assert_ne!(threads[0], std::thread::current().id());
}

#[test]
fn a_stack_has_its_size_and_lies_around_its_coroutine() {
    let page = rustix::param::page_size();
    let (bounds, here) = in_a_coroutine(|| {
        let local = 0_u8;
        (StackBounds::of_caller(stack_bytes()), std::ptr::from_ref(&local).addr())
    });
    assert!((bounds.bottom..bounds.top).contains(&here), "{here:#x} in {bounds:x?}");
    assert_eq!(bounds.top - bounds.bottom, stack_bytes() - page);
    assert_eq!(bounds.top % page, 0);
}

#[test]
fn a_stack_size_is_rounded_up_to_pages_and_to_the_minimum() {
    let _one = lock(&ONE_WORKER);
    let (page, before) = (rustix::param::page_size(), stack_bytes());
    set_stack_bytes(1);
    assert_eq!(stack_bytes(), MINIMUM_STACK_BYTES);
    set_stack_bytes(MINIMUM_STACK_BYTES + 1);
    assert_eq!(stack_bytes(), MINIMUM_STACK_BYTES + page);
    set_stack_bytes(before);
}

#[test]
fn an_unpark_of_a_coroutine_that_has_ended_does_nothing() {
    let ended = in_a_coroutine(|| {
        let (ended, spawner) = (Arc::new(Mutex::new(0)), Arc::new(Parker::default()));
        let parkers = [(); 20].map(|()| Arc::new(Parker::default()));
        for parker in &parkers {
            let (own, ended, spawner) = (Arc::clone(parker), Arc::clone(&ended), Arc::clone(&spawner));
            let body = move || {
                own.park();
                *lock(&ended) += 1;
                spawner.unpark();
            };
            spawn(Box::new(body)).unwrap();
        }
        parkers.iter().for_each(|parker| parker.unpark());
        while *lock(&ended) < 20 {
            spawner.park();
        }
        parkers.iter().for_each(|parker| parker.unpark());
        yield_now();
        *lock(&ended)
    });
    assert_eq!(ended, 20);
}
