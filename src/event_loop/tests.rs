//! The loop without Python: units, waits, timers, the cap, the inbox.

mod rows;

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::reasons::Reason;
use super::*;
use crate::coroutine::tests::ONE_WORKER;
use crate::sync::lock;

/// A host that releases nothing, and counts the living units.
#[derive(Default)]
struct Bare(AtomicUsize);

impl Host for Bare {
    fn enter(&self, life: &mut dyn FnMut()) {
        self.0.fetch_add(1, Ordering::SeqCst);
        life();
        // A slow release lets the test see that the unit still lives.
        std::thread::sleep(Duration::from_micros(200));
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn released(&self, blocking: &mut dyn FnMut()) {
        blocking();
    }
}

/// Runs `task` in a unit of a fresh loop, then ends the loop. Fails if either takes ten seconds.
pub(super) fn in_a_loop<R: Send + 'static>(task: impl FnOnce() -> R + Send + 'static) -> R {
    let _one = lock(&ONE_WORKER);
    let host = Arc::new(Bare::default());
    let runtime = Runtime::start(Arc::clone(&host) as Arc<dyn Host>).unwrap();
    let (sender, receiver) = mpsc::channel();
    runtime.send(LoopMessage::Task(Box::new(move || sender.send(task()).unwrap())));
    let result = receiver.recv_timeout(Duration::from_secs(10)).expect("the task ends");
    runtime.end();
    assert!(runtime.wait_ended(Duration::from_secs(10)), "the loop ends");
    assert_eq!(host.0.load(Ordering::SeqCst), 0, "no unit lives after the loop has ended");
    result
}

fn after(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

/// Spawns `tasks` and waits until all have ended.
fn join_all(tasks: Vec<Box<dyn FnOnce()>>) {
    let left = Rc::new(Cell::new(tasks.len()));
    for task in tasks {
        let left = Rc::clone(&left);
        assert!(spawn(Box::new(move || {
            task();
            left.set(left.get() - 1);
        })));
    }
    while left.get() > 0 {
        assert_eq!(sleep(after(1)), Wake::TimedOut);
    }
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines_and_run_at_once() {
    let (order, elapsed) = in_a_loop(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let start = Instant::now();
        let sleeper = |milliseconds: u64| -> Box<dyn FnOnce()> {
            let order = Rc::clone(&order);
            Box::new(move || {
                assert_eq!(sleep(start + Duration::from_millis(milliseconds)), Wake::TimedOut);
                order.borrow_mut().push(milliseconds);
            })
        };
        join_all(vec![sleeper(60), sleeper(20), sleeper(40)]);
        (order.take(), start.elapsed())
    });
    assert_eq!(order, [20, 40, 60]);
    assert!(elapsed < Duration::from_millis(120), "{elapsed:?}: the sleeps did not overlap");
}

#[test]
fn every_unit_runs_on_one_os_thread_and_units_are_used_again() {
    let (threads, units) = in_a_loop(|| {
        let threads = Rc::new(RefCell::new(std::collections::HashSet::new()));
        for _ in 0..5 {
            let tasks = (0..50).map(|_| -> Box<dyn FnOnce()> {
                let threads = Rc::clone(&threads);
                Box::new(move || {
                    sleep(after(2));
                    threads.borrow_mut().insert(std::thread::current().id());
                })
            });
            join_all(tasks.collect());
        }
        (threads.borrow().len(), with(|state| state.units.len()).unwrap())
    });
    assert_eq!(threads, 1);
    assert!((50..=54).contains(&units), "{units} units for 50 coroutines at a time");
}

#[test]
fn many_coroutines_wait_on_one_descriptor_and_all_wake() {
    let ready = in_a_loop(|| {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let number = reader.as_raw_fd();
        let ready = Rc::new(Cell::new(0));
        let mut tasks: Vec<Box<dyn FnOnce()>> = Vec::new();
        for _ in 0..10 {
            let ready = Rc::clone(&ready);
            tasks.push(Box::new(move || {
                assert_eq!(wait_descriptor(number, Interest::Read, Some(after(5000))).unwrap(), Wake::Ready);
                ready.set(ready.get() + 1);
            }));
        }
        tasks.push(Box::new(move || {
            sleep(after(5));
            rustix::io::write(&writer, b"x").unwrap();
        }));
        join_all(tasks);
        ready.get()
    });
    assert_eq!(ready, 10);
}

#[test]
fn a_wait_times_out_is_closed_and_reports_a_bad_descriptor() {
    in_a_loop(|| {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let number = reader.as_raw_fd();
        assert_eq!(wait_descriptor(number, Interest::Read, Some(after(5))).unwrap(), Wake::TimedOut);
        assert_eq!(wait_descriptor(writer.as_raw_fd(), Interest::Write, None).unwrap(), Wake::Ready);
        spawn(Box::new(move || {
            sleep(after(5));
            descriptor_closes(number);
            drop(reader);
        }));
        assert_eq!(wait_descriptor(number, Interest::Read, None).unwrap(), Wake::Closed);
        assert!(wait_descriptor(number, Interest::Read, None).is_err());
        assert!(wait_descriptor(-1, Interest::Read, None).is_err());
    });
}

#[test]
fn a_descriptor_number_that_is_used_again_is_waited_on_anew() {
    in_a_loop(|| {
        let mut number = None;
        for _ in 0..20 {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            assert_eq!(*number.get_or_insert(reader.as_raw_fd()), reader.as_raw_fd());
            assert_eq!(wait_descriptor(reader.as_raw_fd(), Interest::Read, Some(after(1))).unwrap(), Wake::TimedOut);
            rustix::io::write(&writer, b"x").unwrap();
            assert_eq!(wait_descriptor(reader.as_raw_fd(), Interest::Read, Some(after(5000))).unwrap(), Wake::Ready);
        }
    });
}

#[test]
fn yielding_coroutines_starve_neither_timers_nor_input() {
    in_a_loop(|| {
        let stop = Rc::new(Cell::new(false));
        let mut tasks: Vec<Box<dyn FnOnce()>> = Vec::new();
        for _ in 0..2 {
            let stop = Rc::clone(&stop);
            tasks.push(Box::new(move || {
                while !stop.get() {
                    assert_eq!(after_next_poll(), Wake::Ready);
                }
            }));
        }
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        tasks.push(Box::new(move || {
            sleep(after(5));
            rustix::io::write(&writer, b"x").unwrap();
        }));
        tasks.push(Box::new(move || {
            let wake = wait_descriptor(reader.as_raw_fd(), Interest::Read, Some(after(5000)));
            assert_eq!(wake.unwrap(), Wake::Ready);
            stop.set(true);
        }));
        join_all(tasks);
    });
}

#[test]
fn another_thread_wakes_a_coroutine_and_late_wakes_are_ignored() {
    in_a_loop(|| {
        for _ in 0..50 {
            let mut keep = None;
            let wake = wait_for_wake(Reason::Other, [0, 0], Some(after(5000)), |waker| {
                keep = Some(waker.clone());
                std::thread::spawn(move || waker.wake(Wake::Ready));
                true
            });
            assert_eq!(wake, Wake::Ready);
            keep.unwrap().wake(Wake::Closed);
            assert_eq!(sleep(after(0)), Wake::TimedOut);
        }
        assert_eq!(wait_for_wake(Reason::Other, [0, 0], Some(after(1)), |_| true), Wake::TimedOut);
        assert_eq!(wait_for_wake(Reason::Other, [0, 0], None, |_| false), Wake::Ready);
    });
}

#[test]
fn the_end_is_raised_once_and_who_waits_again_is_left_behind() {
    let _one = lock(&ONE_WORKER);
    let host = Arc::new(Bare::default());
    let runtime = Runtime::start(Arc::clone(&host) as Arc<dyn Host>).unwrap();
    let (sender, receiver) = mpsc::channel();
    let started = sender.clone();
    runtime.send(LoopMessage::Task(Box::new(move || {
        started.send(Wake::Ready).unwrap();
        sender.send(sleep(after(60_000))).unwrap();
        sender.send(sleep(after(1))).unwrap();
        sender.send(sleep(after(60_000))).unwrap();
    })));
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), Wake::Ready);
    runtime.end();
    runtime.end();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), Wake::Killed);
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), Wake::TimedOut);
    assert!(!runtime.wait_ended(Duration::from_millis(20)), "the third sleep goes on");
    runtime.send(LoopMessage::Control(Box::new(super::ends::leave_the_rest_behind)));
    assert!(runtime.wait_ended(Duration::from_secs(10)));
    assert_eq!(host.0.load(Ordering::SeqCst), 1, "exactly one unit is left behind");
    assert!(receiver.try_recv().is_err(), "the unit that is left behind never resumes");
}

#[test]
fn a_unit_that_was_in_no_wait_is_killed_at_its_next_one() {
    let _one = lock(&ONE_WORKER);
    let runtime = Runtime::start(Arc::new(Bare::default())).unwrap();
    let (sender, receiver) = mpsc::channel();
    let other = Arc::clone(&runtime);
    runtime.send(LoopMessage::Task(Box::new(move || {
        super::ends::set_awaited();
        other.send(LoopMessage::Control(Box::new(super::ends::kill_awaited)));
        // The wait is ready at once: the control runs before the unit resumes.
        sender.send(super::after_next_poll()).unwrap();
        sender.send(sleep(after(50))).unwrap();
        sender.send(sleep(after(1))).unwrap();
    })));
    let wakes: Vec<Wake> = (0..3).map(|_| receiver.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
    assert_eq!(wakes.iter().filter(|&&wake| wake == Wake::Killed).count(), 1, "{wakes:?}");
    runtime.end();
    assert!(runtime.wait_ended(Duration::from_secs(10)));
}

#[test]
fn a_loop_ends_whose_followers_have_not_started() {
    for _ in 0..20 {
        in_a_loop(|| assert_eq!(with(|state| state.idle.len()), Some(1)));
    }
}

/// The interpreter may be finalised right after the end: a unit that ends later would crash the process.
#[test]
fn a_loop_has_not_ended_before_its_last_unit_whichever_that_is() {
    for _ in 0..20 {
        // The first unit parks, so that another unit leads from now on.
        in_a_loop(|| {
            assert_eq!(sleep(after(1)), Wake::TimedOut);
            assert_ne!(with(|state| state.leader), current::current().map(|unit| unit.slot));
        });
    }
}

#[test]
fn spare_idle_units_end() {
    in_a_loop(|| {
        let tasks = (0..200).map(|_| -> Box<dyn FnOnce()> { Box::new(|| assert_eq!(sleep(after(5)), Wake::TimedOut)) });
        join_all(tasks.collect());
        assert!(with(|state| state.units.len()).unwrap() > 200);
        let patience = after(9000);
        while with(|state| state.units.len()).unwrap() > 30 {
            assert!(Instant::now() < patience, "spare idle units do not end");
            sleep(after(50));
        }
    });
}

/// Computes for `milliseconds`, with constant chances to switch. Returns how often the turn was cut off.
fn compute(milliseconds: u64) -> u32 {
    let end = after(milliseconds);
    let mut cuts = 0;
    while Instant::now() < end {
        if turn::is_spent() {
            assert_eq!(turn::give_way(), Wake::Ready);
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn turns_that_never_end_by_themselves_delay_others_by_one_budget_however_many_there_are() {
    let (cuts, latest) = in_a_loop(|| {
        let cuts = Rc::new(Cell::new(0));
        let latest = Rc::new(Cell::new(Duration::ZERO));
        let seen = Rc::clone(&latest);
        let mut tasks: Vec<Box<dyn FnOnce()>> = vec![Box::new(move || {
            for _ in 0..20 {
                let due = after(5);
                assert_eq!(sleep(due), Wake::TimedOut);
                seen.set(seen.get().max(due.elapsed()));
            }
        })];
        for _ in 0..10 {
            let cuts = Rc::clone(&cuts);
            tasks.push(Box::new(move || cuts.set(cuts.get() + compute(400))));
        }
        join_all(tasks);
        (cuts.get(), latest.get())
    });
    // About 40, and fewer where other processes have the processor most of the time.
    assert!(cuts >= 1, "{cuts} cuts");
    // Without a budget the first sleep ends 4 s late. The limit leaves room for a busy machine.
    assert!(latest < Duration::from_secs(1), "a sleep ended {latest:?} late");
}

#[test]
fn a_turn_that_is_cut_off_quietly_leaves_its_interruption_for_the_next_wait() {
    let wakes = in_a_loop(|| {
        let work = interrupts::current_work().unwrap();
        let runtime = interrupts::current_runtime().unwrap();
        assert!(spawn(Box::new(move || interrupts::interrupt(&runtime, work))));
        turn::give_way_quietly();
        let first = sleep(after(5000));
        let second = sleep(after(1));
        (first, second)
    });
    assert_eq!(wakes, (Wake::Interrupted, Wake::TimedOut));
}

#[test]
fn a_unit_that_is_to_end_still_gives_way_quietly() {
    let order = in_a_loop(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let doomed = Rc::clone(&order);
        let beside = Rc::clone(&order);
        join_all(vec![
            Box::new(move || {
                super::interrupts::postpone(Wake::Killed);
                turn::give_way_quietly();
                doomed.borrow_mut().push("doomed");
                assert_eq!(sleep(after(5000)), Wake::Killed);
            }),
            Box::new(move || beside.borrow_mut().push("beside")),
        ]);
        order.take()
    });
    assert_eq!(order, ["beside", "doomed"]);
}

#[test]
fn without_a_budget_no_turn_is_cut_off() {
    let (cuts, budget) = in_a_loop(|| {
        turn::set_budget(Duration::ZERO);
        let cuts = compute(60);
        let budget = turn::budget();
        turn::set_budget(turn::DEFAULT_BUDGET);
        (cuts, budget)
    });
    assert_eq!((cuts, budget), (0, None));
}

#[test]
fn a_pulse_sees_each_turn_and_the_waits_before_some() {
    #[derive(Default)]
    struct Recorder(RefCell<String>);

    impl Pulse for Recorder {
        fn waits(&self, _: &LoopFigures) {
            self.0.borrow_mut().push('w');
        }

        fn turns(&self, _: &LoopFigures) {
            self.0.borrow_mut().push('t');
        }
    }

    let (waited, polled, removed) = in_a_loop(|| {
        let recorder = Rc::new(Recorder::default());
        set_pulse(Some(Rc::clone(&recorder) as Rc<dyn Pulse>));
        sleep(after(5));
        let waited = recorder.0.take();
        after_next_poll();
        let polled = recorder.0.take();
        set_pulse(None);
        sleep(after(1));
        (waited, polled, recorder.0.take())
    });
    assert!(waited.starts_with("wt") && waited.ends_with("wt"), "{waited}");
    // With work to run, the loop polls without waiting.
    assert_eq!((polled.as_str(), removed.as_str()), ("t", ""));
}
