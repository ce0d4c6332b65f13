//! The order in which work gets its turn.

use std::rc::Rc;

use super::budget;
use super::current::acts_before_wait;
use super::roles::Service;
use super::state::{LoopState, Work};
use super::tokens::SourceId;
use super::wake::Wake;

/// The next step of the leader.
pub enum Step {
    /// Let runnable coroutines run.
    Yield,
    /// Run these functions between two pieces of work.
    Control(Vec<Box<dyn FnOnce() + Send>>),
    /// Make a follower: there is work, but no follower to lead while it waits.
    MakeFollower,
    /// Run this work, with the service if the service handles it.
    Run(Work, Option<Rc<dyn Service>>),
    /// Poll for more work.
    Poll,
    /// End the loop.
    End,
}

impl LoopState {
    /// Chooses the next step of the leader. Takes work only if there is a follower to hand leadership to.
    pub fn next_step(&mut self, may_yield: bool) -> Step {
        if may_yield && self.woken > 0 && !self.continues_row() {
            (self.woken, self.row_begun) = (0, None);
            return Step::Yield;
        }
        if !self.controls.is_empty() {
            return Step::Control(std::mem::take(&mut self.controls));
        }
        if self.leaving && self.woken == 0 {
            return Step::End;
        }
        if self.resume_next() && may_yield {
            self.woken = 0;
            return Step::Yield;
        }
        if self.budget > 0 && self.has_ready() {
            if !self.idle.is_empty() {
                return self.take_work();
            }
            if self.retry_follower.is_none() {
                return Step::MakeFollower;
            }
        }
        if let Some(step) = self.next_of_later() {
            return step;
        }
        if self.ending && self.busy_units() == 0 { Step::End } else { Step::Poll }
    }

    /// Whether the next step is one more call of a watcher, ahead of the coroutines that earlier calls have woken. One
    /// switch for many calls costs less than one for each, and a client that is awake gets more at a time. Such a row
    /// lasts until the coarse clock ticks.
    fn continues_row(&mut self) -> bool {
        let is_next = self.budget > 0 && !self.idle.is_empty() && matches!(self.tasks.front(), Some(Work::Watch(_)));
        let begun = budget::begun();
        is_next && self.controls.is_empty() && *self.row_begun.get_or_insert(begun) == begun
    }

    /// Takes the next call of a row, for the unit in `slot` if it still leads.
    pub fn next_of_row(&mut self, slot: usize) -> Option<SourceId> {
        let Some(&Work::Watch(source)) = self.tasks.front() else { return None };
        if self.leader != slot || self.leaving || acts_before_wait() || !self.continues_row() {
            return None;
        }
        self.tasks.pop_front();
        self.budget -= 1;
        Some(source)
    }

    /// Makes coroutines runnable whose turn comes after a poll. Returns whether there were any.
    fn resume_next(&mut self) -> bool {
        let before = self.budget;
        while self.budget > 0
            && let Some(&Work::Resume(ticket)) = self.tasks.front()
        {
            self.tasks.pop_front();
            self.budget -= 1;
            self.wake(ticket, Wake::Ready);
        }
        self.budget < before
    }

    /// Takes the next piece of `later`, while its time before the next poll lasts.
    fn next_of_later(&mut self) -> Option<Step> {
        while self.later_budget > 0 {
            let end = *self.later_end.get_or_insert_with(|| budget::end_of_budget().unwrap_or(u64::MAX));
            if budget::has_passed(end) {
                return None;
            }
            // A coroutine that resumes needs no follower; all other work does.
            let is_next = |work: &Work| !self.idle.is_empty() || matches!(work, Work::Resume(_));
            let Some(index) = self.later.iter().position(is_next) else {
                return self.may_take_work().then_some(Step::MakeFollower);
            };
            let work = self.later.remove(index)?;
            self.later_budget -= 1;
            match work {
                Work::Serve(..) if self.busy_requests >= self.request_limit => self.later.push_back(work),
                Work::Resume(ticket) => {
                    self.wake(ticket, Wake::Ready);
                    // One coroutine resumes at a time: the next one may have to wait for the next poll.
                    if std::mem::take(&mut self.woken) > 0 {
                        return Some(Step::Yield);
                    }
                }
                work => return Some(self.begin(work)),
            }
        }
        None
    }

    /// Begins a new round after a poll: all work that is queued now may run before the next poll.
    pub fn begin_round(&mut self) {
        self.budget = self.tasks.len() + self.requests.len();
        self.later_budget = self.later.len();
        self.later_end = None;
        self.row_begun = None;
    }

    /// Takes the next piece of work that the cap allows.
    fn take_work(&mut self) -> Step {
        let work = match self.tasks.pop_front() {
            Some(work) => work,
            None if self.busy_requests < self.request_limit => match self.requests.pop_front() {
                Some(work) => work,
                None => return Step::Poll,
            },
            None => return Step::Poll,
        };
        self.budget -= 1;
        self.begin(work)
    }

    fn begin(&mut self, work: Work) -> Step {
        let service =
            if matches!(work, Work::Task(_) | Work::Resume(_) | Work::Watch(_)) { None } else { self.service.clone() };
        self.busy_requests += usize::from(matches!(work, Work::Serve(..)));
        Step::Run(work, service)
    }

    fn has_ready(&self) -> bool {
        !self.tasks.is_empty() || (!self.requests.is_empty() && self.busy_requests < self.request_limit)
    }

    /// Whether work could run without a poll, given a follower.
    pub fn has_work(&self) -> bool {
        let below_cap = self.busy_requests < self.request_limit;
        self.has_ready() || self.later.iter().any(|work| below_cap || !matches!(work, Work::Serve(..)))
    }

    /// Whether the leader may try to run work: it has a follower, or no recent failure to make one.
    pub fn may_take_work(&self) -> bool {
        self.has_work() && (!self.idle.is_empty() || self.retry_follower.is_none())
    }

    /// Whether a coroutine with a cut-off turn is ready to resume, which needs no follower.
    pub fn has_cut_off(&self) -> bool {
        self.later.iter().any(|work| matches!(work, Work::Resume(_)))
    }
}
