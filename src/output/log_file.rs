//! A log file that keeps lines which cannot be written yet, and counts those for which there is no room.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Output;
use crate::sync::lock;

/// Bytes that are gathered before they are written without waiting for the next poll.
const FULL_BYTES: usize = 64 * 1024;

/// Bytes that are kept for a file that does not take them: what a pipe holds, some times over.
const KEPT_BYTES: usize = 256 * 1024;

/// How long after an error, such as a full disk, writing is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A file counts as good again when it has taken everything for so long: one that is just too slow is not worth a line
/// each second.
const CALM: Duration = Duration::from_secs(1);

/// How long the last lines may take at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// News of a log file, for the log of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Lines are lost, for this reason.
    LosesLines(String),
    /// Lines are written again. This number was lost.
    GoesOn(u64),
}

/// A log file. Nothing here waits, except [`LogFile::finish`].
pub struct LogFile {
    shared: Arc<Mutex<Backlog>>,
}

struct Backlog {
    output: Output,
    /// Whole lines, but that the first may be the rest of one.
    lines: Vec<u8>,
    /// The first of `lines` has been written in part.
    has_begun: bool,
    /// The last attempt failed; a thread is going to try again.
    is_stuck: bool,
    /// The thread that tries again is there.
    is_attended: bool,
    /// The present trouble has been reported.
    is_reported: bool,
    lost: u64,
    last_trouble: Instant,
    news: Option<News>,
}

impl LogFile {
    /// Lines go to `descriptor`; for `is_own` see [`Output::new`].
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

    /// Adds whole lines, to be written with others.
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

    /// Writes what has been gathered, as far as that can be done now. Returns what is to be said, once.
    pub fn flush(&self) -> Option<News> {
        let mut backlog = self.lock();
        if !backlog.lines.is_empty() {
            self.write(&mut backlog);
        }
        backlog.news.take()
    }

    /// Writes what is left, and waits a second at most. Returns how many lines are lost.
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
                // Without a thread the next line tries again.
                (backlog.is_attended, backlog.is_stuck) = (false, false);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        lock(&self.shared)
    }
}

impl Backlog {
    /// Writes until nothing is left or nothing is taken.
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
            // Kept lines might wait for ever. The rest of one that has begun stays, so that its successor is whole.
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

/// Looks after a file in trouble, on a thread of its own that may wait, until it is good again.
fn attend(shared: &Arc<Mutex<Backlog>>) {
    // With the last log file that shares it, the file is over.
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
                // A duplicate, so that the lock is free meanwhile.
                let waiting = backlog.output.duplicate();
                drop(backlog);
                waiting.map(|output| output.wait(RETRY));
                // A reader that takes little at a time is not worth a look each time.
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
