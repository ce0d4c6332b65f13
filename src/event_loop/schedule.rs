//! The order in which work gets its turn.

use std::rc::Rc;

use super::budget;
use super::roles::Service;
use super::state::{LoopState, Work};
use super::wake::Wake;

/// The next step of the leader.
pub enum Step {
    /// Let the coroutines run that were made runnable.
    Yield,
    /// Run these between two pieces of work.
    Control(Vec<Box<dyn FnOnce() + Send>>),
    /// There is work, and no follower to lead if it has to wait.
    MakeFollower,
    /// Run this; with the service, if it is the service's.
    Run(Work, Option<Rc<dyn Service>>),
    /// Look for more.
    Poll,
    /// The loop is over.
    End,
}

impl LoopState {
    /// The next step of the leader. Work is taken only if there is a follower to hand leadership to.
    pub fn next_step(&mut self, may_yield: bool) -> Step {
        if may_yield && std::mem::take(&mut self.woken) > 0 {
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

    /// Makes those runnable whose turn it is after a poll. Returns whether there were any.
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

    /// The next turn that was cut off, while there is time for such before the next poll.
    fn next_of_later(&mut self) -> Option<Step> {
        while self.later_budget > 0 {
            let end = *self.later_end.get_or_insert_with(|| budget::end_of_budget().unwrap_or(u64::MAX));
            if budget::has_passed(end) {
                return None;
            }
            // A coroutine that goes on needs no follower; everything else does.
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
                    // One at a time: the next may have to wait for the next poll.
                    if std::mem::take(&mut self.woken) > 0 {
                        return Some(Step::Yield);
                    }
                }
                work => return Some(self.begin(work)),
            }
        }
        None
    }

    /// A poll begins a new round: what is there now may run before the next one.
    pub fn begin_round(&mut self) {
        self.budget = self.tasks.len() + self.requests.len();
        self.later_budget = self.later.len();
        self.later_end = None;
    }

    /// The next piece of work, if the cap allows it.
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

    /// Whether something could run without a poll, if there is a follower.
    pub fn has_work(&self) -> bool {
        let below_cap = self.busy_requests < self.request_limit;
        self.has_ready() || self.later.iter().any(|work| below_cap || !matches!(work, Work::Serve(..)))
    }

    /// Whether it could be tried: there is a follower, or no reason to think that none can be made.
    pub fn may_take_work(&self) -> bool {
        self.has_work() && (!self.idle.is_empty() || self.retry_follower.is_none())
    }

    /// Whether a coroutine whose turn was cut off wants to go on: it needs no follower for that.
    pub fn has_cut_off(&self) -> bool {
        self.later.iter().any(|work| matches!(work, Work::Resume(_)))
    }
}
