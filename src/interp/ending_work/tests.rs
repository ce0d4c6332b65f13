//! The end of work by force, against the end of the same work by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::super::swallowed::work_has_ended;
use super::super::testing::{in_coroutine, run, with_python};
use super::*;
use crate::event_loop::notes;

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
        let counts = in_coroutine(py, move |py| {
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
                work_has_ended(py, work);
                // Nothing is left for the code behind it.
                function.call0(py).expect("the work has ended");
                py.check_signals().expect("no exception");
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(!endings::any());
            Ok((raised, races))
        });
        let (raised, races) = counts.unwrap().extract::<(u64, u64)>().unwrap();
        let ended = py.detach(|| attacker.join()).unwrap();
        println!("{races} pieces of work, {ended} were ended, {raised} raised their exception");
        assert!(raised > 0 && ended >= raised);
    });
}

/// Two coroutines compute by turns. The one that is ended is ended, and the other goes on, whatever number CPython knows
/// their thread states by.
#[test]
fn of_two_coroutines_that_compute_the_one_that_is_meant_is_ended() {
    with_python(|py| {
        let code = "import threading\ndone = []\ndef spin(name, stop, pause):\n    while not stop.is_set(): pause()\n    \
                    done.append(name)\n";
        let globals = run(py, code, &[]).unwrap();
        let get = |name: &str| globals.get_item(name).unwrap().unwrap();
        let stop = py.import("threading").unwrap().getattr("Event").unwrap().call0().unwrap();
        let pause = pyo3::types::PyCFunction::new_closure(py, None, None, |args, _| -> PyResult<()> {
            super::super::sleep(args.py(), 0.0)
        })
        .unwrap();
        let start = |name: &str| {
            let args = (name, &stop, &pause).into_pyobject(py).unwrap();
            super::super::spawn(&get("spin"), &args, None).unwrap()
        };
        let (first, second) = (start("first"), start("second"));
        let until = Instant::now() + Duration::from_secs(20);
        let work = loop {
            assert!(Instant::now() < until);
            let found =
                records::all().into_iter().find(|record| record.ident() == ident_of(&first) && record.work() > 0);
            if let Some(record) = found.filter(|record| record.kind() == WorkKind::Spawned) {
                break record.work();
            }
            py.detach(|| std::thread::sleep(Duration::from_millis(1)));
        };
        assert!(end_work(py, work, EndReason::Deadline));
        assert!(first.call_method1("join", (10,)).unwrap().is_truthy().unwrap());
        let error = first.getattr("result").unwrap_err();
        assert!(error.is_instance_of::<RequestTimeout>(py), "{error}");
        assert!(!second.getattr("done").unwrap().is_truthy().unwrap());
        stop.call_method0("set").unwrap();
        assert!(second.call_method1("join", (10,)).unwrap().is_truthy().unwrap());
        assert_eq!(get("done").str().unwrap().to_string(), "['second']");
    });
}

fn ident_of(coroutine: &Bound<'_, super::super::Coroutine>) -> u64 {
    coroutine.getattr("ident").unwrap().extract().unwrap()
}
