//! Tests of the interpreter boundary in a process that embeds Python.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::exceptions::{
    PyBlockingIOError, PyBufferError, PyFileNotFoundError, PyKeyError, PyMemoryError, PyOSError, PyOverflowError,
    PyRuntimeError, PySystemExit, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyTuple};
use rustix::io::Errno;

use super::exceptions::exception_of;
use super::testing::{in_coroutine, result_of, run, start, with_python};
use super::time_limit::TimeLimit;
use super::waiters::Waiters;
use super::{
    CoroutineExit, EventWaiter, Lent, Line, NewBytes, Subject, Timeout, WaitReason, Waiter, deadline_after,
    failure_error, identity, in_fresh_context, insist, os_error, recursion, reference_count, sleep, sleep_until, spawn,
    subject, take, thread_state, wait, wait_for_event, wake_error,
};
use crate::event_loop::reasons::Reason;
use crate::event_loop::{self, Wake};
use crate::net::Failure;

/// Longer than any wait that ends as it should, on a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn reason() -> WaitReason {
    WaitReason::number(Reason::Other, 0)
}

// --- coroutines ------------------------------------------------------------------------------------------------------

#[test]
fn a_coroutine_runs_on_the_loop_thread_with_a_thread_state_of_its_own() {
    with_python(|py| {
        let own = identity::thread_state(py);
        let state = |py: Python<'_>| {
            assert!(event_loop::can_park() && event_loop::is_loop_thread());
            sleep(py, 0.01)?;
            Ok(identity::thread_state(py))
        };
        let coroutines = [start(py, state), start(py, state)];
        let [first, second] = coroutines.map(|coroutine| result_of(&coroutine).unwrap().extract::<usize>().unwrap());
        assert!(first != second && first != own && second != own);
        assert!(!event_loop::can_park());
    });
}

#[test]
fn a_coroutine_ends_with_the_result_or_the_exception_of_its_function() {
    with_python(|py| {
        assert_eq!(in_coroutine(py, |_| Ok(42)).unwrap().extract::<i32>().unwrap(), 42);
        let error = in_coroutine(py, |_| Err::<i32, _>(PyKeyError::new_err("on purpose"))).unwrap_err();
        assert!(error.is_instance_of::<PyKeyError>(py));
        let error = in_coroutine(py, |_| Err::<i32, _>(PySystemExit::new_err(3))).unwrap_err();
        assert!(error.is_instance_of::<PySystemExit>(py));
    });
}

#[test]
fn only_a_callable_can_be_spawned() {
    with_python(|py| {
        let error = spawn(py.None().bind(py), &PyTuple::empty(py), None).unwrap_err();
        assert!(error.is_instance_of::<PyTypeError>(py));
    });
}

#[test]
fn an_exception_thrown_into_a_coroutine_is_raised_where_it_waits() {
    with_python(|py| {
        let coroutine = start(py, |py| sleep(py, 1000.0));
        assert!(
            coroutine.call_method1("throw", (PyKeyError::new_err("thrown").value(py),)).unwrap().is_truthy().unwrap()
        );
        assert!(result_of(&coroutine).unwrap_err().is_instance_of::<PyKeyError>(py));
        // It has ended.
        assert!(!coroutine.call_method0("kill").unwrap().is_truthy().unwrap());
    });
}

#[test]
fn a_coroutine_killed_before_its_start_never_calls_its_function() {
    with_python(|py| {
        let is_called = Arc::new(AtomicBool::new(false));
        let called = Arc::clone(&is_called);
        let outer = in_coroutine(py, move |py| {
            let called = Arc::clone(&called);
            let inner = start(py, move |_| {
                called.store(true, Ordering::Relaxed);
                Ok(())
            });
            inner.call_method0("kill")?;
            Ok(inner.unbind())
        });
        let error = result_of(outer.unwrap().cast().unwrap()).unwrap_err();
        assert!(error.is_instance_of::<CoroutineExit>(py));
        assert!(!is_called.load(Ordering::Relaxed));
    });
}

#[test]
fn a_coroutine_cannot_join_itself() {
    with_python(|py| {
        let error =
            in_coroutine(py, |py| super::current(py)?.unwrap().call_method0("join").map(Bound::unbind)).unwrap_err();
        assert!(error.is_instance_of::<PyRuntimeError>(py));
    });
}

#[test]
fn a_fresh_state_has_its_own_number_and_an_empty_threading_local() {
    with_python(|py| {
        let code =
            "import threading\nlocal = threading.local()\nlocal.value = 1\nfound = lambda: hasattr(local, 'value')";
        let found = run(py, code, &[]).unwrap().get_item("found").unwrap().unwrap().unbind();
        let inside = in_coroutine(py, move |py| {
            let number = identity::next();
            thread_state::in_fresh_state(py, number, |py| {
                assert_eq!(identity::ident(py), number);
                found.call0(py)?.is_truthy(py)
            })?
        });
        assert!(!inside.unwrap().is_truthy().unwrap());
    });
}

#[test]
fn this_interpreter_can_bound_recursion() {
    with_python(|_| assert_eq!(recursion::check(), Ok(())));
}

// --- waits -----------------------------------------------------------------------------------------------------------

#[test]
fn sleepers_wake_in_the_order_of_their_times() {
    with_python(|py| {
        let woken = Arc::new(Mutex::new(Vec::new()));
        let now: f64 = py.import("time").unwrap().call_method0("monotonic").unwrap().extract().unwrap();
        let sleepers: Vec<_> = [3, 1, 2, 1]
            .into_iter()
            .enumerate()
            .map(|(number, hundredths)| {
                let woken = Arc::clone(&woken);
                start(py, move |_| {
                    sleep_until(now + 0.2 + f64::from(hundredths) / 100.0)?;
                    woken.lock().unwrap().push(number);
                    Ok(())
                })
            })
            .collect();
        for sleeper in &sleepers {
            result_of(sleeper).unwrap();
        }
        let woken = woken.lock().unwrap().clone();
        assert_eq!([woken[2], woken[3]], [2, 0], "{woken:?}");
        assert!(woken[..2].contains(&1) && woken[..2].contains(&3), "{woken:?}");
    });
}

#[test]
fn a_deadline_is_a_finite_number_of_seconds_from_0_on() {
    with_python(|py| {
        let refused = |seconds| deadline_after("timeout", seconds).unwrap_err();
        for seconds in [-1.0, -0.001, f64::NAN, f64::INFINITY] {
            let error = refused(seconds);
            assert!(error.is_instance_of::<PyValueError>(py) && error.to_string().contains("timeout"), "{seconds}");
        }
        assert!(refused(1e10).is_instance_of::<PyOverflowError>(py));
        assert!(deadline_after("timeout", 0.0).unwrap() <= Instant::now());
        assert!(deadline_after("timeout", 9e9).unwrap() > Instant::now() + LONG);
    });
}

#[test]
fn a_waiter_in_a_thread_ends_by_its_deadline_or_its_notification() {
    with_python(|py| {
        let waiters = Arc::new(Mutex::new(Waiters::<()>::default()));
        let enqueue = |waiter| waiters.lock().unwrap().join(waiter, (), false);
        let dequeue = |waiter: &Arc<Waiter>| waiters.lock().unwrap().leave(waiter);
        let soon = Instant::now() + Duration::from_millis(10);
        assert!(!wait(py, reason(), Some(soon), enqueue, dequeue).unwrap());
        assert_eq!(waiters.lock().unwrap().notify_first(), None, "the waiter has left");

        let notified = Arc::clone(&waiters);
        let notifier = std::thread::spawn(move || {
            while notified.lock().unwrap().notify_first().is_none() {
                std::thread::yield_now();
            }
        });
        assert!(wait(py, reason(), Some(Instant::now() + LONG), enqueue, dequeue).unwrap());
        notifier.join().unwrap();
    });
}

/// Begins a wait for an event in `line`, unless `is_there`.
fn wait_in(py: Python<'_>, line: &Mutex<VecDeque<EventWaiter>>, deadline: Instant, is_there: bool) -> PyResult<bool> {
    let enqueue = |waiter| {
        if !is_there {
            line.lock().unwrap().push_back(waiter);
        }
        !is_there
    };
    wait_for_event(py, reason(), Some(deadline), enqueue, |is_own| line.lock().unwrap().retain(|other| !is_own(other)))
}

#[test]
fn a_wait_for_an_event_ends_once_and_leaves_nothing_in_its_line() {
    let wait_thrice = |py: Python<'_>| {
        let line = Arc::new(Mutex::new(VecDeque::new()));
        assert!(wait_in(py, &line, Instant::now() + LONG, true)?);
        assert!(!wait_in(py, &line, Instant::now() + Duration::from_millis(10), false)?);
        assert!(line.lock().unwrap().is_empty(), "the waiter has left");
        let notified = Arc::clone(&line);
        let notifier = std::thread::spawn(move || {
            loop {
                let waiter = notified.lock().unwrap().pop_front();
                match waiter {
                    Some(waiter) => break (waiter.notify(), waiter),
                    None => std::thread::yield_now(),
                }
            }
        });
        let ended = wait_in(py, &line, Instant::now() + LONG, false)?;
        let (did, waiter) = py.detach(|| notifier.join().unwrap());
        // On the loop thread, or for a thread, a waiter knows that its wait is over.
        Ok(ended && did && !waiter.notify())
    };
    with_python(|py| {
        assert!(wait_thrice(py).unwrap());
        assert!(in_coroutine(py, wait_thrice).unwrap().is_truthy().unwrap());
    });
}

#[test]
fn an_interrupted_wait_for_an_event_leaves_the_event_to_the_next() {
    static LINE: Mutex<VecDeque<EventWaiter>> = Mutex::new(VecDeque::new());
    with_python(|py| {
        let killed = start(py, |py| wait_in(py, &LINE, Instant::now() + LONG, false));
        let next = start(py, |py| wait_in(py, &LINE, Instant::now() + LONG, false));
        let outcome = in_coroutine(py, {
            let killed = killed.clone().unbind();
            move |py| {
                while LINE.lock().unwrap().len() < 2 {
                    sleep(py, 0.001)?;
                }
                killed.bind(py).call_method0("kill")?;
                let line = std::mem::take(&mut *LINE.lock().unwrap());
                Ok(line.iter().map(EventWaiter::notify).collect::<Vec<bool>>())
            }
        });
        assert_eq!(outcome.unwrap().extract::<Vec<bool>>().unwrap(), [false, true]);
        assert!(result_of(&killed).unwrap_err().is_instance_of::<CoroutineExit>(py));
        assert!(result_of(&next).unwrap().is_truthy().unwrap());
    });
}

/// A thing that one waiter has at a time, with a log of those who got it.
#[derive(Default)]
struct Baton {
    state: Mutex<(bool, Waiters<u32>)>,
}

struct Runner(&'static Baton, u32);

impl Baton {
    fn pass_on(&self) -> Option<u32> {
        let mut state = self.state.lock().unwrap();
        let next = state.1.notify_first();
        state.0 = next.is_some();
        next
    }
}

impl Line for Runner {
    fn attempt(&self) -> bool {
        !std::mem::replace(&mut self.0.state.lock().unwrap().0, true)
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        self.0.state.lock().unwrap().1.join(waiter, self.1, again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.0.state.lock().unwrap().1.leave(waiter);
    }
}

#[test]
fn a_line_serves_coroutines_and_threads_in_their_order() {
    static BATON: std::sync::LazyLock<Baton> = std::sync::LazyLock::new(Baton::default);
    with_python(|py| {
        BATON.state.lock().unwrap().0 = true;
        let arrived = |count: usize| {
            py.detach(|| {
                while BATON.state.lock().unwrap().1.count() < count {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        };
        let coroutine = start(py, |py| take(py, reason(), Some(Instant::now() + LONG), &Runner(&BATON, 1)));
        arrived(1);
        let thread = std::thread::spawn(|| {
            Python::attach(|py| take(py, reason(), Some(Instant::now() + LONG), &Runner(&BATON, 2)).unwrap())
        });
        arrived(2);
        let insisting = start(py, |py| insist(py, reason(), &Runner(&BATON, 3)));
        arrived(3);
        // One that gives up is passed over.
        assert!(!take(py, reason(), Some(Instant::now()), &Runner(&BATON, 4)).unwrap());
        assert_eq!(BATON.pass_on(), Some(1));
        assert!(result_of(&coroutine).unwrap().is_truthy().unwrap());
        assert_eq!(BATON.pass_on(), Some(2));
        assert!(py.detach(|| thread.join().unwrap()));
        insisting.call_method0("kill").unwrap();
        assert_eq!(BATON.pass_on(), Some(3), "`insist` defers the interruption");
        result_of(&insisting).unwrap();
        assert_eq!(BATON.pass_on(), None);
    });
}

// --- exceptions ------------------------------------------------------------------------------------------------------

#[test]
fn failures_have_the_python_exceptions_of_their_kind() {
    with_python(|py| {
        assert!(os_error(Errno::NOENT).is_instance_of::<PyFileNotFoundError>(py));
        assert!(os_error(Errno::AGAIN).is_instance_of::<PyBlockingIOError>(py));
        assert_eq!(os_error(Errno::BADF).to_string(), "OSError: [Errno 9] Bad file descriptor");
        assert!(wake_error(Wake::TimedOut).is_instance_of::<PyTimeoutError>(py));
        assert!(wake_error(Wake::Killed).is_instance_of::<CoroutineExit>(py));
        assert!(wake_error(Wake::Closed).is_instance_of::<PyOSError>(py));
        assert!(failure_error(Failure::TimedOut).is_instance_of::<PyTimeoutError>(py));
        assert!(failure_error(Failure::Killed).is_instance_of::<CoroutineExit>(py));
    });
}

#[test]
fn an_exception_is_given_as_an_instance_or_a_class() {
    with_python(|py| {
        let made = |code: &std::ffi::CStr| exception_of(&py.eval(code, None, None).unwrap());
        assert!(made(c"KeyError('a')").unwrap().bind(py).is_instance_of::<PyKeyError>());
        assert!(made(c"KeyError").unwrap().bind(py).is_instance_of::<PyKeyError>());
        assert!(made(c"int").unwrap_err().is_instance_of::<PyTypeError>(py));
        assert!(made(c"3").unwrap_err().is_instance_of::<PyTypeError>(py));
        // A class that refuses to be made.
        assert!(
            made(c"type('E', (Exception,), {'__init__': lambda self, x: None})")
                .unwrap_err()
                .is_instance_of::<PyTypeError>(py)
        );
    });
}

#[test]
fn a_time_limit_raises_its_exception_and_swallows_only_its_own() {
    with_python(|py| {
        let plain = TimeLimit::new(Some(5.0), None);
        assert!(!plain.has_expired());
        let raised = plain.expire(py);
        assert!(raised.is_instance_of::<Timeout>(py) && plain.has_expired());
        assert!(!plain.swallows(raised.value(py).as_any()));

        let given = TimeLimit::new(Some(5.0), Some(py.get_type::<PyKeyError>().into_any().unbind()));
        assert!(given.expire(py).is_instance_of::<PyKeyError>(py));

        let silent = TimeLimit::new(Some(5.0), Some(false.into_pyobject(py).unwrap().to_owned().into_any().unbind()));
        let raised = silent.expire(py);
        assert!(silent.swallows(raised.value(py).as_any()));
        assert!(!silent.swallows(PyKeyError::new_err(()).value(py).as_any()));
        assert!(!silent.swallows(py.None().bind(py)));
    });
}

#[test]
fn a_time_limit_interrupts_a_wait_and_leaves_the_next_alone() {
    with_python(|py| {
        let timeout = py.get_type::<super::TimeoutContext>().unbind();
        let outcome = in_coroutine(py, move |py| {
            let limit = timeout.call1(py, (0.02, false))?;
            limit.call_method0(py, "__enter__")?;
            let error = sleep(py, 1000.0).unwrap_err();
            let swallowed = limit.call_method1(py, "__exit__", (py.None(), error.value(py), py.None()))?;
            sleep(py, 0.05)?;
            Ok((
                error.is_instance_of::<Timeout>(py),
                swallowed.is_truthy(py)?,
                limit.getattr(py, "expired")?.is_truthy(py)?,
            ))
        });
        assert_eq!(outcome.unwrap().extract::<(bool, bool, bool)>().unwrap(), (true, true, true));
    });
}

// --- objects ---------------------------------------------------------------------------------------------------------

#[test]
fn a_fresh_context_keeps_its_variables_to_itself() {
    with_python(|py| {
        let variable = py.import("contextvars").unwrap().call_method1("ContextVar", ("test",)).unwrap();
        variable.call_method1("set", (1,)).unwrap();
        let inside = in_fresh_context(py, || {
            let found = variable.call_method1("get", (0,)).unwrap().extract::<i32>().unwrap();
            variable.call_method1("set", (2,)).unwrap();
            found
        });
        assert_eq!(inside.unwrap(), 0);
        assert_eq!(variable.call_method0("get").unwrap().extract::<i32>().unwrap(), 1);
    });
}

#[test]
fn unfinished_work_is_named_by_its_request_or_its_coroutine() {
    with_python(|py| {
        let names = in_coroutine(py, |py| {
            let environ = PyDict::new(py);
            environ.set_item("REQUEST_METHOD", "GET")?;
            environ.set_item("RAW_URI", "/a\nb")?;
            let _request = Subject::set(environ.into_any());
            let names: Vec<String> = subject::unfinished(py).into_iter().map(|(_, name)| name).collect();
            Ok((names, subject::running(py)))
        });
        let (names, running) = names.unwrap().extract::<(Vec<String>, Option<String>)>().unwrap();
        assert!(names.contains(&r"request GET /a\nb".to_owned()), "{names:?}");
        assert_eq!(running.as_deref(), Some(r"request GET /a\nb"));
    });
}

#[test]
fn lent_memory_is_contiguous_and_writable_where_that_is_asked_for() {
    with_python(|py| {
        let bytes = PyBytes::new(py, b"abc");
        assert_eq!(Lent::readable(bytes.as_any()).unwrap().bytes(py), b"abc");
        assert!(Lent::writable(bytes.as_any()).is_err_and(|error| error.is_instance_of::<PyBufferError>(py)));
        assert!(Lent::readable(py.None().bind(py)).is_err_and(|error| error.is_instance_of::<PyTypeError>(py)));
        let array = PyByteArray::new(py, b"abcd");
        {
            let mut lent = Lent::writable(array.as_any()).unwrap();
            assert!(array.call_method1("append", (1,)).is_err(), "the memory stays where it is");
            assert_eq!(lent.fill(py, b"xy"), 2);
            assert_eq!(lent.fill(py, b"123456"), 4);
            assert_eq!((lent.length(), lent.bytes(py)), (4, &b"1234"[..]));
        }
        array.call_method1("append", (1,)).unwrap();
        let apart = py.eval(c"memoryview(bytearray(8))[::2]", None, None).unwrap();
        assert!(Lent::writable(&apart).is_err());
        assert_eq!(Lent::readable(PyBytes::new(py, b"").as_any()).unwrap().bytes(py), b"");
    });
}

#[test]
fn new_bytes_are_filled_from_their_start_and_finished_once() {
    with_python(|py| {
        let mut bytes = NewBytes::new(py, 100_000).unwrap();
        assert!(!bytes.is_full() && bytes.filled(py).is_empty());
        bytes.append(py, &[1; 40_000]);
        assert_eq!(bytes.fill(py, |_| Err("refused")), Err("refused"));
        assert_eq!(bytes.filled(py), [1; 40_000]);
        let filled = bytes.fill(py, |memory| {
            assert_eq!(memory.len(), 60_000);
            py.detach(|| Ok::<_, ()>(memory.get_mut(..10_000).unwrap().write_copy_of_slice(&[2; 10_000])))
        });
        assert_eq!((filled, bytes.filled(py).len()), (Ok(()), 50_000));
        bytes.append(py, &[3; 100_000]);
        assert!(bytes.is_full());
        let object = bytes.finish(py);
        let expected = [&[1; 40_000][..], &[2; 10_000], &[3; 50_000]].concat();
        assert_eq!((object.as_bytes(), reference_count(&object)), (&expected[..], 1));
        assert_eq!(object.hash().unwrap(), PyBytes::new(py, &expected).hash().unwrap());
    });
}

#[test]
fn new_bytes_count_nothing_that_was_written_elsewhere() {
    with_python(|py| {
        let mut bytes = NewBytes::new(py, 10).unwrap();
        bytes.fill(py, |_| Ok::<_, ()>(Box::leak(Box::new([7; 10])))).unwrap();
        bytes.fill(py, |memory| Ok::<_, ()>(memory.get_mut(1..).unwrap().write_copy_of_slice(&[7; 9]))).unwrap();
        assert!(bytes.filled(py).is_empty());
        bytes.append(py, b"abc");
        assert_eq!(bytes.finish(py).as_bytes(), b"abc");
        assert!(NewBytes::new(py, 0).unwrap().finish(py).as_bytes().is_empty());
        assert!(NewBytes::new(py, usize::MAX).is_err());
        let too_long = NewBytes::new(py, usize::MAX / 4);
        assert!(too_long.is_err_and(|error| error.is_instance_of::<PyMemoryError>(py)));
    });
}
