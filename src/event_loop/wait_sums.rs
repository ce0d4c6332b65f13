//! How long a piece of work has waited, by reason, while someone asks for it.

use std::time::Duration;

use super::reasons::{Reason, WRITE, Wait};
use super::records;

/// The sums of one piece of work, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct WaitSums {
    by_reason: [u64; Reason::ALL.len()],
    sending: u64,
}

impl WaitSums {
    /// Adds a wait that ends now.
    pub(super) fn add(&mut self, wait: &Wait) {
        let waited = records::now().saturating_sub(wait.since);
        if let Some(sum) = self.by_reason.get_mut(wait.reason as usize) {
            *sum = sum.saturating_add(waited);
        }
        if wait.reason == Reason::Client && wait.details[1] & WRITE != 0 {
            self.sending = self.sending.saturating_add(waited);
        }
    }

    /// The reasons that took time, the longest first.
    pub fn longest(&self) -> Vec<(Reason, Duration)> {
        let sums = Reason::ALL.into_iter().zip(self.by_reason).filter(|&(_, sum)| sum > 0);
        let mut sums: Vec<_> = sums.map(|(reason, sum)| (reason, Duration::from_nanos(sum))).collect();
        sums.sort_by_key(|&(_, sum)| std::cmp::Reverse(sum));
        sums
    }

    /// The time in which the client of a request took nothing of the response.
    pub fn sending(&self) -> Duration {
        Duration::from_nanos(self.sending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_summed_by_their_reason() {
        let mut sums = WaitSums::default();
        let second = 1_000_000_000;
        let ago = |seconds: u64| records::now().saturating_sub(seconds * second);
        let wait =
            |seconds, reason, direction| Wait { since: ago(seconds), reason, details: [0, direction], until: None };
        sums.add(&wait(1, Reason::Sleep, 0));
        sums.add(&wait(2, Reason::Client, WRITE));
        sums.add(&wait(3, Reason::Client, 0));
        let longest: Vec<_> = sums.longest().into_iter().map(|(reason, sum)| (reason, sum.as_secs())).collect();
        assert_eq!(longest, [(Reason::Client, 5), (Reason::Sleep, 1)]);
        assert_eq!(sums.sending().as_secs(), 2);
    }
}
