//! A log file that buffers lines it cannot write yet, and counts the lines lost when the buffer is full.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Output;
use crate::sync::lock;

/// Buffered bytes that trigger a write before the next poll.
const FULL_BYTES: usize = 64 * 1024;

/// The limit, in bytes, of the buffer while the file accepts nothing: a few times the capacity of a pipe.
const KEPT_BYTES: usize = 256 * 1024;

/// The time from an error, such as a full disk, to the next attempt.
const RETRY: Duration = Duration::from_millis(250);

/// The time without errors or losses after which a file works again. A file that is only too slow should not cause a
/// report each second.
const CALM: Duration = Duration::from_secs(1);

/// The time limit for writing the last lines.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// A report about a log file, for the error log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Lines are being lost, for this reason.
    LosesLines(String),
    /// Lines are written again, after this number of lines was lost.
    GoesOn(u64),
}

/// A log file. Only [`LogFile::finish`] waits.
pub struct LogFile {
    shared: Arc<Mutex<Backlog>>,
}

struct Backlog {
    output: Output,
    /// Whole lines, except that the first may be partly written.
    lines: Vec<u8>,
    /// The first of `lines` is partly written.
    has_begun: bool,
    /// The last attempt failed. A thread will retry.
    is_stuck: bool,
    /// The thread that retries is running.
    is_attended: bool,
    /// The current problem has been reported.
    is_reported: bool,
    lost: u64,
    last_trouble: Instant,
    news: Option<News>,
}

impl LogFile {
    /// Creates a log that writes to `descriptor`. For `is_own` see [`Output::new`].
    pub fn new(descriptor: OwnedFd, is_own: bool) -> LogFile {
        LogFile {
            shared: Arc::new(Mutex::new(Backlog {
                output: Output::new(descriptor, is_own),
                lines: Vec::new(),
                has_begun: false,
                is_stuck: false,
                is_attended: false,
                is_reported: false,
                lost: 0,
                last_trouble: Instant::now(),
                news: None,
            })),
        }
    }

    /// Adds whole lines to the buffer.
    pub fn add(&self, lines: &[u8]) {
        let mut backlog = self.lock();
        if backlog.is_stuck && backlog.lines.len() + lines.len() > KEPT_BYTES {
            backlog.lose(count(lines), "it is full and is not read");
            return;
        }
        backlog.lines.extend_from_slice(lines);
        if backlog.lines.len() >= FULL_BYTES {
            self.write(&mut backlog);
        }
    }

    /// Writes buffered lines, as far as possible without waiting. Returns each report once.
    pub fn flush(&self) -> Option<News> {
        let mut backlog = self.lock();
        if !backlog.lines.is_empty() {
            self.write(&mut backlog);
        }
        backlog.news.take()
    }

    /// Writes the remaining lines, and waits for at most one second. Returns the number of lost lines.
    pub fn finish(&self) -> u64 {
        let deadline = Instant::now() + LAST_PATIENCE;
        let mut backlog = self.lock();
        while !backlog.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if backlog.write_now().is_err() && (left.is_zero() || !backlog.output.wait(left)) {
                break;
            }
        }
        let lost = backlog.lost + count(&backlog.lines);
        backlog.lines = Vec::new();
        lost
    }

    fn write(&self, backlog: &mut Backlog) {
        if backlog.is_stuck {
            return;
        }
        let Err(error) = backlog.write_now() else { return };
        backlog.note_failure(&error);
        if !std::mem::replace(&mut backlog.is_attended, true) {
            let shared = Arc::clone(&self.shared);
            let attendant = std::thread::Builder::new().name("log".into()).spawn(move || attend(&shared));
            if attendant.is_err() {
                // Without a thread, the next line retries.
                (backlog.is_attended, backlog.is_stuck) = (false, false);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        lock(&self.shared)
    }
}

impl Backlog {
    /// Writes until no line is left or a write fails.
    fn write_now(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match self.lines.get(written..).filter(|rest| !rest.is_empty()).map(|rest| self.output.write(rest)) {
                Some(Ok(count)) => written += count,
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        };
        if written > 0 {
            self.has_begun = self.lines.get(written - 1) != Some(&b'\n');
            self.lines.drain(..written);
        }
        result
    }

    fn note_failure(&mut self, error: &io::Error) {
        self.is_stuck = true;
        self.last_trouble = Instant::now();
        if error.kind() != io::ErrorKind::WouldBlock {
            // Kept lines might never be written. The rest of a partly written line stays, so that the next line is
            // whole.
            let kept = if self.has_begun { memchr::memchr(b'\n', &self.lines).map_or(0, |end| end + 1) } else { 0 };
            let lost = count(self.lines.get(kept..).unwrap_or_default());
            self.lines.truncate(kept);
            self.lose(lost, &error.to_string());
        }
    }

    fn lose(&mut self, lines: u64, reason: &str) {
        self.lost += lines;
        self.last_trouble = Instant::now();
        if !std::mem::replace(&mut self.is_reported, true) {
            self.news = Some(News::LosesLines(reason.to_owned()));
        }
    }

    fn note_calm(&mut self) {
        (self.is_attended, self.is_stuck) = (false, false);
        if std::mem::take(&mut self.is_reported) {
            self.news = Some(News::GoesOn(std::mem::take(&mut self.lost)));
        }
    }
}

/// Retries a failing file until it works again, on a thread of its own that may wait.
fn attend(shared: &Arc<Mutex<Backlog>>) {
    // The thread ends when no log file uses the backlog any more.
    while Arc::strong_count(shared) > 1 {
        let mut backlog = lock(shared);
        let tried = if backlog.is_stuck { backlog.write_now() } else { Ok(()) };
        match tried {
            Ok(()) if backlog.last_trouble.elapsed() >= CALM => return backlog.note_calm(),
            Ok(()) => {
                backlog.is_stuck = false;
                drop(backlog);
                std::thread::sleep(RETRY);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The thread waits on a duplicate, so that the lock is free.
                let waiting = backlog.output.duplicate();
                drop(backlog);
                waiting.map(|output| output.wait(RETRY));
                // A pause limits the attempts for a reader that reads little at a time.
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                backlog.note_failure(&error);
                drop(backlog);
                std::thread::sleep(RETRY);
            }
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn wait_for(log: &LogFile) -> News {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match log.flush() {
                Some(news) => return news,
                None if Instant::now() > deadline => panic!("no news"),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    #[test]
    fn lines_that_a_full_pipe_does_not_take_are_counted_and_the_others_come_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = LogFile::new(writer.into(), false);
        let lines = 20_000;
        for number in 0..lines {
            log.add(format!("{number:-<49}\n").as_bytes());
        }
        assert_eq!(log.flush(), Some(News::LosesLines("it is full and is not read".into())));
        let collector = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let News::GoesOn(lost) = wait_for(&log) else { panic!("no recovery") };
        assert!(lost > 0);
        log.add(b"the last one\n");
        assert_eq!(log.finish(), 0);
        drop(log);
        let text = collector.join().unwrap();
        let numbers: Vec<u64> =
            text.lines().filter_map(|line| line.split('-').next().and_then(|number| number.parse().ok())).collect();
        assert_eq!(numbers.len() as u64 + lost, lines);
        assert!(numbers.iter().zip(0..).all(|(&number, index)| number == index));
        assert!(text.ends_with("\nthe last one\n"));
    }

    #[test]
    fn an_error_is_reported_once_and_costs_the_lines() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let log = LogFile::new(full.into(), false);
        log.add(b"one\ntwo\n");
        let Some(News::LosesLines(reason)) = log.flush() else { panic!("no news") };
        assert!(reason.contains("No space left"), "{reason}");
        log.add(b"three\n");
        assert_eq!(log.flush(), None);
        assert!(log.finish() >= 2);
    }
}
