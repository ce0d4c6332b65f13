//! Tests of the cooperative locks, queues and calls in a process that embeds Python.

use std::time::{Duration, Instant};

use pyo3::exceptions::{
    PyBlockingIOError, PyOSError, PyOverflowError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};
use pyo3::{PyClass, PyTypeInfo};

use super::hand_over::HandOver;
use super::permits::Permits;
use super::timeouts::{AcquireWait, deadline_of};
use super::{
    BoundedSemaphore, Condition, Event, Jobs, LifoQueue, Lock, Queue, RLock, Semaphore, SimpleQueue, as_builtin,
    as_method, native, set_attribute, socket,
};
use crate::interp::testing::{in_coroutine, result_of, run, start, with_python};
use crate::interp::{self, Coroutine};

/// Longer than any wait that ends as it should, on a busy machine.
const LONG: f64 = 20.0;

fn class<T: PyClass + PyTypeInfo>(py: Python<'_>) -> Bound<'_, PyAny> {
    py.get_type::<T>().into_any()
}

/// Runs `code`, with the classes of this module, `spawn(function, *args)` and `sleep` in its globals.
fn script(py: Python<'_>, code: &str) {
    let module = PyModule::new(py, "names").unwrap();
    module.add_function(wrap_pyfunction!(spawn_function, &module).unwrap()).unwrap();
    module.add_function(wrap_pyfunction!(sleep_function, &module).unwrap()).unwrap();
    let names = [
        ("Lock", class::<Lock>(py)),
        ("RLock", class::<RLock>(py)),
        ("Semaphore", class::<Semaphore>(py)),
        ("BoundedSemaphore", class::<BoundedSemaphore>(py)),
        ("Condition", class::<Condition>(py)),
        ("Event", class::<Event>(py)),
        ("Queue", class::<Queue>(py)),
        ("LifoQueue", class::<LifoQueue>(py)),
        ("SimpleQueue", class::<SimpleQueue>(py)),
        ("Jobs", class::<Jobs>(py)),
        ("spawn", module.getattr("spawn_function").unwrap()),
        ("sleep", module.getattr("sleep_function").unwrap()),
    ];
    let names: Vec<(&str, &Bound<'_, PyAny>)> = names.iter().map(|(name, value)| (*name, value)).collect();
    if let Err(error) = run(py, code, &names) {
        error.print(py);
        panic!("{error}");
    }
}

#[pyfunction]
#[pyo3(signature = (function, *args))]
fn spawn_function<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, pyo3::types::PyTuple>,
) -> PyResult<Bound<'py, Coroutine>> {
    interp::spawn(function, args, None)
}

#[pyfunction]
fn sleep_function(py: Python<'_>, seconds: f64) -> PyResult<()> {
    interp::sleep(py, seconds)
}

// --- what they are made of -------------------------------------------------------------------------------------------

#[test]
fn permits_are_taken_and_returned_up_to_a_limit() {
    let permits = Permits::new(2);
    assert!(permits.try_take() && permits.try_take() && !permits.try_take());
    assert!(permits.give_back(1, Some(2)));
    assert!(!permits.give_back(2, Some(2)));
    assert_eq!(permits.free(), 1);
    assert!(permits.give_back(u64::MAX, None));
    assert_eq!(permits.free(), u64::MAX);
    permits.reset(1);
    assert_eq!(permits.free(), 1);
}

#[test]
fn a_hand_over_gives_its_object_once() {
    with_python(|py| {
        let place = HandOver::default();
        assert!(place.take().is_none());
        place.clone().put(py.None());
        assert!(place.take().is_some() && place.take().is_none());
        assert!(HandOver::holding(py.None()).take().is_some());
    });
}

#[test]
fn timeouts_are_read_as_threading_reads_them() {
    with_python(|py| {
        let acquire = AcquireWait::new;
        assert!(matches!(acquire(true, -1.0), Ok(AcquireWait::Until(None))));
        assert!(matches!(acquire(false, -1.0), Ok(AcquireWait::Try)));
        assert!(matches!(acquire(true, 0.0), Ok(AcquireWait::Try)));
        assert!(matches!(acquire(true, 5.0), Ok(AcquireWait::Until(Some(_)))));
        for (blocking, timeout) in [(false, 1.0), (false, 0.0), (true, -2.0), (true, f64::NAN)] {
            let error = acquire(blocking, timeout).err().unwrap();
            assert!(error.is_instance_of::<PyValueError>(py), "{blocking} {timeout}");
        }
        assert!(acquire(true, 1e11).err().unwrap().is_instance_of::<PyOverflowError>(py));

        assert_eq!(deadline_of(None).unwrap(), None);
        assert!(deadline_of(Some(-5.0)).unwrap().unwrap() <= Instant::now());
        assert!(deadline_of(Some(LONG)).unwrap().unwrap() > Instant::now() + Duration::from_secs(10));
        assert!(deadline_of(Some(f64::NAN)).unwrap_err().is_instance_of::<PyValueError>(py));
        assert!(deadline_of(Some(f64::INFINITY)).unwrap_err().is_instance_of::<PyOverflowError>(py));
    });
}

// --- locks and queues ------------------------------------------------------------------------------------------------

#[test]
fn a_lock_goes_to_coroutines_and_threads_in_their_order() {
    with_python(|py| {
        script(
            py,
            "
import threading, time
lock, begun, order = Lock(), [], []
def work(number):
    begun.append(number)
    lock.acquire(timeout=20)
    order.append(number)
    lock.release()
def sure(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
lock.acquire()
start = lambda number: threading.Thread(target=work, args=(number,)).start()
for number, begin in enumerate((lambda number: spawn(work, number), start, lambda number: spawn(work, number)), 1):
    begin(number)
    sure(lambda: number in begun)
    time.sleep(0.05)
assert not lock.acquire(False) and not lock.acquire(timeout=0.01) and order == []
lock.release()
sure(lambda: len(order) == 3)
assert order == [1, 2, 3], order
sure(lambda: not lock.locked())
try:
    lock.release()
except RuntimeError:
    pass
else:
    assert False
",
        );
    });
}

#[test]
fn a_reentrant_lock_belongs_to_one_coroutine_or_thread() {
    with_python(|py| {
        script(
            py,
            "
lock = RLock()
def try_it():
    try:
        lock.release()
    except RuntimeError:
        return lock.acquire(False)
with lock, lock:
    assert lock._recursion_count() == 2 and lock._is_owned()
    coroutine = spawn(try_it)
    assert coroutine.join(20) and coroutine.result is False
saved = None
lock.acquire(); lock.acquire()
saved = lock._release_save()
coroutine = spawn(lambda: lock.acquire() and lock.release())
assert coroutine.join(20) and coroutine.result is None
lock._acquire_restore(saved)
lock.release(); lock.release()
assert not lock.locked()
",
        );
    });
}

#[test]
fn semaphores_count_and_a_bounded_one_refuses_too_many() {
    with_python(|py| {
        script(
            py,
            "
semaphore = Semaphore(2)
assert semaphore.acquire() and semaphore.acquire()
assert not semaphore.acquire(False) and not semaphore.acquire(timeout=0.01)
waiting = [spawn(semaphore.acquire) for _ in range(3)]
sleep(0.05)
semaphore.release(2)
assert waiting[0].join(20) and waiting[1].join(20) and not waiting[2].done
semaphore.release()
assert waiting[2].join(20)
bounded = BoundedSemaphore(1)
for wrong in (lambda: bounded.release(), lambda: semaphore.release(0), lambda: Semaphore(-1)):
    try:
        wrong()
    except ValueError:
        continue
    assert False
",
        );
    });
}

#[test]
fn a_condition_passes_on_the_notification_of_a_killed_waiter() {
    with_python(|py| {
        script(
            py,
            "
condition, begun, log = Condition(), [], []
def work(name):
    with condition:
        begun.append(name)
        log.append(condition.wait(20) and name)
first, second = spawn(work, 'first'), spawn(work, 'second')
while len(begun) < 2:
    sleep(0.001)
with condition:
    condition.notify()
    # It is notified, and waits for the lock: the kill comes first.
    first.kill()
    sleep(0.05)
assert second.join(20) and log == ['second'], log
assert condition.wait_for(lambda: 3, 1) == 3
try:
    condition.notify()
except RuntimeError:
    pass
else:
    assert False
",
        );
    });
}

#[test]
fn an_event_wakes_all_its_waiters() {
    with_python(|py| {
        script(
            py,
            "
import threading
event = Event()
assert not event.wait(0.01) and not event.is_set()
found = []
threads = [threading.Thread(target=lambda: found.append(event.wait(20))) for _ in range(2)]
for thread in threads: thread.start()
coroutines = [spawn(event.wait, 20) for _ in range(3)]
sleep(0.05)
event.set()
assert all(coroutine.join(20) and coroutine.result for coroutine in coroutines)
for thread in threads: thread.join(20)
assert found == [True, True]
event.clear()
assert not event.is_set()
",
        );
    });
}

#[test]
fn a_queue_hands_items_to_waiters_and_keeps_its_order() {
    with_python(|py| {
        script(
            py,
            "
import queue
for make, expected in ((Queue, [1, 2]), (LifoQueue, [2, 1])):
    items = make(2)
    items.put(1); items.put(2)
    assert items.full() and items.qsize() == 2
    try:
        items.put(3, timeout=0.01)
    except queue.Full:
        pass
    else:
        assert False
    assert [items.get(), items.get()] == expected and items.empty()
items = Queue(1)
getters = [spawn(items.get) for _ in range(2)]
sleep(0.05)
items.put('a'); items.put('b')
assert [getter.join(20) and getter.result for getter in getters] == ['a', 'b']
items.put('c')
putter = spawn(items.put, 'd')
sleep(0.05)
assert not putter.done and items.get() == 'c' and putter.join(20) and items.get() == 'd'
joiner = spawn(items.join)
for _ in range(4):
    items.task_done()
assert joiner.join(20)
ended = spawn(items.get)
sleep(0.05)
items.shutdown()
assert ended.join(20)
for wrong in (lambda: ended.result, lambda: items.put(1), lambda: items.get()):
    try:
        wrong()
    except Exception as error:
        assert type(error).__name__ == 'ShutDown'
    else:
        assert False
simple = SimpleQueue()
simple.put(1)
assert simple.get() == 1
try:
    simple.get_nowait()
except queue.Empty:
    pass
else:
    assert False
",
        );
    });
}

#[test]
fn jobs_go_to_the_thread_that_has_waited_shortest() {
    with_python(|py| {
        script(
            py,
            "
import threading, time
jobs, begun, found = Jobs(2), [], []
assert jobs.put('first') and jobs.put('second') and not jobs.put('waits')
def work():
    begun.append(1)
    found.append((threading.current_thread().name, jobs.next(20)))
assert jobs.next(0) == 'waits'
threads = [threading.Thread(target=work, name=name) for name in 'ab']
for number, thread in enumerate(threads, 1):
    thread.start()
    while len(begun) < number:
        time.sleep(0.001)
    time.sleep(0.1)
assert not jobs.put('third') and not jobs.put('fourth')
for thread in threads: thread.join(20)
assert sorted(found) == [('a', 'fourth'), ('b', 'third')], found
assert jobs.threads == 2 and jobs.next(0) is None and jobs.threads == 1
assert jobs.put('x') and jobs.set_limit(3) == [] and jobs.limit == 3
",
        );
    });
}

// --- calls of sockets ------------------------------------------------------------------------------------------------

fn pair(py: Python<'_>) -> [Py<PyAny>; 2] {
    py.import("socket").unwrap().call_method0("socketpair").unwrap().extract().unwrap()
}

#[test]
fn receiving_and_sending_park_until_the_other_end_is_ready() {
    with_python(|py| {
        let [near, far] = pair(py);
        let receiver = {
            let near = near.clone_ref(py);
            start(py, move |py| socket::receive(near.bind(py), 100, 0).map(Bound::unbind))
        };
        assert!(!receiver.call_method1("join", (0.05,)).unwrap().is_truthy().unwrap());
        far.call_method1(py, "send", (b"abc".as_slice(),)).unwrap();
        assert!(result_of(&receiver).unwrap().eq(PyBytes::new(py, b"abc")).unwrap());

        // More than the socket holds: it waits for the reader.
        let sender = {
            let near = near.clone_ref(py);
            start(py, move |py| socket::send_all(near.bind(py), PyBytes::new(py, &[7; 1 << 20]).as_any(), 0))
        };
        assert!(!sender.call_method1("join", (0.05,)).unwrap().is_truthy().unwrap());
        let mut left = 1 << 20;
        while left > 0 {
            left -= far.call_method1(py, "recv", (65536,)).unwrap().bind(py).len().unwrap();
        }
        result_of(&sender).unwrap();
    });
}

#[test]
fn msg_waitall_waits_for_all_bytes_with_and_without_an_address() {
    with_python(|py| {
        let [near, far] = pair(py);
        let flags = libc::MSG_WAITALL.cast_unsigned();
        let receivers: [Bound<'_, Coroutine>; 2] = [
            start(py, {
                let near = near.clone_ref(py);
                move |py| socket::receive(near.bind(py), 4, flags).map(Bound::unbind)
            }),
            start(py, {
                let far = far.clone_ref(py);
                move |py| socket::receive_from(far.bind(py), 4, flags)?.get_item(0).map(Bound::unbind)
            }),
        ];
        for (receiver, other) in receivers.iter().zip([&far, &near]) {
            other.call_method1(py, "send", (b"ab".as_slice(),)).unwrap();
            assert!(!receiver.call_method1("join", (0.05,)).unwrap().is_truthy().unwrap());
            other.call_method1(py, "send", (b"cd".as_slice(),)).unwrap();
            assert!(result_of(receiver).unwrap().eq(PyBytes::new(py, b"abcd")).unwrap());
        }
        // The end of the stream ends the wait.
        let receiver = start(py, {
            let near = near.clone_ref(py);
            move |py| socket::receive_from(near.bind(py), 4, flags)?.get_item(0).map(Bound::unbind)
        });
        far.call_method1(py, "send", (b"ab".as_slice(),)).unwrap();
        far.call_method0(py, "close").unwrap();
        assert!(result_of(&receiver).unwrap().eq(PyBytes::new(py, b"ab")).unwrap());
    });
}

#[test]
fn a_socket_that_times_out_does_not_block_or_is_closed_raises() {
    with_python(|py| {
        let [near, far] = pair(py);
        near.call_method1(py, "settimeout", (0.02,)).unwrap();
        let receive = |flags: i32| {
            let near = near.clone_ref(py);
            in_coroutine(py, move |py| socket::receive(near.bind(py), 1, flags.cast_unsigned()).map(Bound::unbind))
                .unwrap_err()
        };
        let receive_from = |flags: i32| {
            let near = near.clone_ref(py);
            in_coroutine(py, move |py| socket::receive_from(near.bind(py), 1, flags.cast_unsigned()).map(Bound::unbind))
                .unwrap_err()
        };
        assert!(receive(0).is_instance_of::<PyTimeoutError>(py));
        assert!(receive_from(0).is_instance_of::<PyTimeoutError>(py));
        assert!(near.call_method0(py, "gettimeout").unwrap().bind(py).eq(0.02).unwrap(), "the timeout is put back");
        assert!(receive(libc::MSG_DONTWAIT).is_instance_of::<PyBlockingIOError>(py));
        near.call_method1(py, "settimeout", (LONG,)).unwrap();
        let begin = Instant::now();
        assert!(receive_from(libc::MSG_DONTWAIT).is_instance_of::<PyBlockingIOError>(py));
        assert!(begin.elapsed() < Duration::from_secs_f64(LONG / 2.0), "MSG_DONTWAIT does not wait for the timeout");
        near.call_method1(py, "settimeout", (0.0,)).unwrap();
        assert!(receive(0).is_instance_of::<PyBlockingIOError>(py));
        assert!(receive_from(0).is_instance_of::<PyBlockingIOError>(py));
        near.call_method0(py, "close").unwrap();
        assert!(receive(0).is_instance_of::<PyOSError>(py));
        drop(far);
    });
}

// --- CPython's own ---------------------------------------------------------------------------------------------------

#[test]
fn locks_of_cpython_know_coroutines_once_their_methods_are_exchanged() {
    with_python(|py| {
        native::keep_samples(py).unwrap();
        assert!(native::exchange_methods(py));
        script(
            py,
            "
import _thread, _queue, threading, time
lock, items, order = _thread.allocate_lock(), _queue.SimpleQueue(), []
def work(number):
    with lock:
        order.append(number)
lock.acquire()
coroutines = [spawn(work, number) for number in range(3)]
getter = spawn(items.get)
thread = threading.Timer(0.05, lambda: (lock.release(), items.put('item')))
thread.start()
# The loop goes on meanwhile.
assert spawn(sleep, 0.01).join(20)
assert all(coroutine.join(20) for coroutine in coroutines) and order == [0, 1, 2], order
assert getter.join(20) and getter.result == 'item'
rlock = _thread.RLock()
rlock.acquire()
other = spawn(rlock.acquire, False)
assert other.join(20) and other.result is False
rlock.release()
# A method of another class is refused as before.
try:
    type(lock).acquire(items)
except TypeError:
    pass
else:
    assert False
",
        );

        // importlib tells coroutines apart, too.
        let ident = |py: Python<'_>| {
            let thread = py.import("_frozen_importlib")?.getattr("_thread")?;
            thread.call_method0("get_ident")?.extract::<u64>()
        };
        let own: u64 = py.import("_thread").unwrap().call_method0("get_ident").unwrap().extract().unwrap();
        let [first, second] = [0, 1].map(|_| in_coroutine(py, ident).unwrap().extract::<u64>().unwrap());
        assert_eq!(ident(py).unwrap(), own);
        assert!(first != second && first != own && second != own);
    });
}

// --- parts of classes ------------------------------------------------------------------------------------------------

#[test]
fn a_built_in_function_is_replaced_by_one_that_binds_no_instance_and_a_method_binds_it() {
    with_python(|py| {
        let original = py.import("time").unwrap().getattr("sleep").unwrap();
        let function = py.eval(c"lambda *args: args", None, None).unwrap();
        let replaced = as_builtin(&original, &function).unwrap();
        assert_eq!(replaced.getattr("__name__").unwrap().to_string(), "sleep");
        assert!(as_builtin(&function, &function).unwrap_err().is_instance_of::<PyTypeError>(py));
        let method = as_method(&replaced).unwrap();
        run(
            py,
            "
class C:
    free, bound = replaced, method
c = C()
assert c.free(1) == (1,) and c.bound(1) == (c, 1)
",
            &[("replaced", &replaced), ("method", &method)],
        )
        .unwrap();
    });
}

#[test]
fn attributes_of_immutable_classes_on_the_heap_can_be_set_and_of_static_ones_not() {
    with_python(|py| {
        let class = py.import("_queue").unwrap().getattr("SimpleQueue").unwrap().cast_into::<PyType>().unwrap();
        let name = PyString::new(py, "rmeinheld_test");
        assert!(class.setattr(&name, 1).unwrap_err().is_instance_of::<PyTypeError>(py));
        set_attribute(&class, &name, py.None().bind(py)).unwrap();
        assert!(class.getattr(&name).unwrap().is_none());
        assert!(class.setattr(&name, 1).is_err(), "the class is immutable again");
        let int = py.get_type::<pyo3::types::PyInt>();
        assert!(set_attribute(&int, &name, py.None().bind(py)).unwrap_err().is_instance_of::<PyTypeError>(py));
    });
}

#[test]
fn a_wait_where_a_coroutine_may_not_park_ends_with_an_error_that_says_so() {
    with_python(|py| {
        let lock = class::<Lock>(py).call0().unwrap();
        lock.call_method0("acquire").unwrap();
        let lock = lock.unbind();
        let error = in_coroutine(py, move |py| crate::event_loop::without_parking(|| lock.call_method0(py, "acquire")));
        assert!(error.unwrap_err().is_instance_of::<PyRuntimeError>(py));
    });
}
