//! The end of work by force, against the end of the same work by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::super::swallowed::work_has_ended;
use super::super::testing::{run, start, with_python};
use super::*;
use crate::event_loop::notes::{self, OwnWork};

/// The number of races; fewer on a machine that does not get there in [`LONGEST`].
const RACES: u64 = 1_000_000;

/// The longest time for all races.
const LONGEST: Duration = Duration::from_secs(15);

/// Pieces of work follow each other, while another thread ends the present one again and again. An exception reaches
/// the work that it was meant for, or none.
#[test]
fn an_exception_never_reaches_the_work_behind_the_one_that_it_ends() {
    with_python(|py| {
        let globals = run(py, "def f():\n    for _ in range(3): pass\n", &[]).unwrap();
        let function = globals.get_item("f").unwrap().unwrap().unbind();
        let (present, targeted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let is_over = Arc::new(AtomicBool::new(false));
        let attacker = {
            let (present, targeted, is_over) = (Arc::clone(&present), Arc::clone(&targeted), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut ended = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    let work = present.load(Ordering::Relaxed);
                    Python::attach(|py| {
                        if work != 0 && begin_ending(py, work, EndReason::Deadline, false).is_some() {
                            targeted.store(work, Ordering::Relaxed);
                            ended += 1;
                        }
                    });
                }
                ended
            })
        };
        let (sender, receiver) = mpsc::channel();
        // A coroutine that begins other work counts as done, so its result comes by the channel.
        let _done = start(py, move |py| {
            let until = Instant::now() + LONGEST;
            let (mut raised, mut races) = (0_u64, 0_u64);
            while races < RACES && Instant::now() < until {
                races += 1;
                interrupts::begin_next_work();
                notes::name_request(b"GET /race", 9, -1);
                let work = interrupts::current_work().map_or(0, |work| work.number);
                present.store(work, Ordering::Relaxed);
                if races % 4 == 0 {
                    // Lets the other thread have the interpreter in the middle of the work.
                    py.detach(std::thread::yield_now);
                }
                if let Err(error) = function.call0(py) {
                    assert!(error.is_instance_of::<RequestTimeout>(py), "{error}");
                    assert_eq!(targeted.load(Ordering::Relaxed), work, "an exception for other work");
                    raised += 1;
                }
                if races % 4 == 1 {
                    py.detach(std::thread::yield_now);
                }
                work_has_ended(py, &OwnWork::current().unwrap(), work);
                // Nothing is left for the code behind it.
                function.call0(py).expect("the work has ended");
                py.check_signals().expect("no exception");
            }
            is_over.store(true, Ordering::Relaxed);
            let _ = sender.send((raised, races, endings::any()));
            Ok(())
        });
        let counts = py.detach(move || receiver.recv_timeout(LONGEST * 4));
        let (raised, races, is_any_left) = counts.expect("no exception in the wrong place");
        assert!(!is_any_left);
        let ended = py.detach(|| attacker.join()).unwrap();
        assert!(raised > 0 && ended >= raised, "{races} pieces of work, {ended} were ended, {raised} raised it");
    });
}
