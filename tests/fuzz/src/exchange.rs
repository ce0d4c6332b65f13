//! The events of an exchange in any order: one byte for the request, one for its length, then one for each event, some with
//! another byte behind them.
//!
//! The model keeps no states. It keeps the list of events, and answers each question from that.

use _rmeinheld::http::Version;
use _rmeinheld::http::exchange::{DRAIN_BYTES, Ending, Exchange, ExchangeEvent, LengthFault};
use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::http::response::{ResponseBody, ResponsePlan};

use crate::input::Input;

/// The permitted events, in order.
#[derive(Clone, Debug, PartialEq)]
enum Fact {
    Awaits,
    StopsAwaiting,
    Took(u64),
    BodyEnded,
    BodyFailed,
    Abandoned,
    Interim,
    Began { status: u16, plan: ResponsePlan, closes: bool },
    Data(u64),
    Ended,
    Cut,
    SendFailed(bool),
    ClientGone,
    Upgraded,
}

use Fact::*;

#[derive(Debug)]
struct Model {
    body: BodyFraming,
    expects_continue: bool,
    received: usize,
    is_reusable: bool,
    facts: Vec<Fact>,
}

impl Model {
    fn place(&self, is: impl Fn(&Fact) -> bool) -> Option<usize> {
        self.facts.iter().position(is)
    }

    fn has(&self, is: impl Fn(&Fact) -> bool) -> bool {
        self.place(is).is_some()
    }

    fn before(&self, place: usize) -> Model {
        let facts = self.facts[..place].to_vec();
        Model { facts, body: self.body, ..*self }
    }

    fn has_begun(&self) -> bool {
        self.has(|fact| matches!(fact, Began { .. }))
    }

    fn is_upgraded(&self) -> bool {
        self.has(|fact| *fact == Upgraded)
    }

    fn client_is_gone(&self) -> bool {
        self.has(|fact| matches!(fact, ClientGone | SendFailed(true)))
    }

    /// Nothing that is sent can be completed any more.
    fn is_broken(&self) -> bool {
        let begun = self.place(|fact| matches!(fact, Began { .. })).unwrap_or(usize::MAX);
        let mut facts = self.facts.iter().enumerate();
        facts.any(|(at, fact)| matches!(fact, Cut | SendFailed(_)) || (*fact == ClientGone && at > begun))
    }

    fn is_complete(&self) -> bool {
        self.has(|fact| *fact == Ended) && !self.is_broken()
    }

    fn body_is_here(&self) -> bool {
        !self.body.has_content() || self.has(|fact| *fact == BodyEnded)
    }

    fn body_is_lost(&self) -> bool {
        self.has(|fact| matches!(fact, BodyFailed | Abandoned))
    }

    fn body_is_open(&self) -> bool {
        !self.body_is_here() && !self.body_is_lost()
    }

    fn waits_for_continue(&self) -> bool {
        self.expects_continue && self.body.has_content() && self.received == 0 && !self.has(|fact| *fact == Awaits)
    }

    fn may_send_continue(&self) -> bool {
        self.waits_for_continue() && self.body_is_open() && self.takes_interim()
    }

    fn takes_interim(&self) -> bool {
        !self.has_begun() && !self.is_upgraded() && !self.is_broken()
    }

    /// The rest of the body may never come, or is too long to be thrown away.
    fn body_is_in_the_way(&self) -> bool {
        let taken: u64 = self.facts.iter().map(|fact| if let Took(count) = fact { *count } else { 0 }).sum();
        let is_long = matches!(self.body, BodyFraming::Length(length) if length.saturating_sub(taken) > DRAIN_BYTES);
        self.body_is_lost() || (self.body_is_open() && (self.waits_for_continue() || is_long))
    }

    fn began(&self) -> Option<(usize, u16, ResponsePlan, bool)> {
        self.facts.iter().enumerate().find_map(|(at, fact)| match fact {
            Began { status, plan, closes } => Some((at, *status, *plan, *closes)),
            _ => None,
        })
    }

    /// The bytes of the response's body, and whether there were more than its length.
    fn sent(&self) -> (u64, bool) {
        let Some((at, _, plan, _)) = self.began() else { return (0, false) };
        let given: u64 = self.facts[at..].iter().map(|fact| if let Data(count) = fact { *count } else { 0 }).sum();
        match plan.body {
            ResponseBody::None => (0, false),
            ResponseBody::Length(length) => (given.min(length), given > length),
            _ => (given, false),
        }
    }

    fn is_short(&self) -> bool {
        self.began()
            .is_some_and(|(_, _, plan, _)| matches!(plan.body, ResponseBody::Length(length) if self.sent().0 < length))
    }

    fn length_fault(&self) -> Option<LengthFault> {
        match self.sent() {
            (_, true) => Some(LengthFault::TooLong),
            _ if self.is_short() && self.is_broken() && !self.client_is_gone() => Some(LengthFault::TooShort),
            _ => None,
        }
    }

    fn speaks_otherwise(&self) -> bool {
        self.began().is_some_and(|(_, status, plan, _)| status == 101 || plan.body == ResponseBody::Tunnel)
    }

    /// Does the head of the response say that the connection ends? To be asked once it has gone out.
    fn said_close(&self) -> bool {
        let Some((at, _, plan, closes)) = self.began() else { return !self.is_reusable };
        let then = self.before(at);
        let is_awaited = then.facts.iter().rfind(|fact| matches!(fact, Awaits | StopsAwaiting)) == Some(&Awaits);
        let is_in_the_way = then.body_is_in_the_way() && !is_awaited;
        !self.speaks_otherwise()
            && (!self.is_reusable || closes || is_in_the_way || !plan.allows_reuse || then.is_broken())
    }

    fn is_reusable(&self) -> bool {
        self.is_complete() && !self.said_close() && !self.speaks_otherwise() && !self.sent().1 && !self.client_is_gone()
    }

    fn ending(&self, has_unread: bool) -> Ending {
        let is_read = self.body_is_here() && !self.body_is_lost();
        if self.is_reusable() && is_read {
            return Ending::Reuse(b"next".to_vec());
        }
        let ends_with_connection = self
            .began()
            .is_some_and(|(_, _, plan, _)| matches!(plan.body, ResponseBody::UntilClose | ResponseBody::Tunnel));
        if ends_with_connection && (self.is_broken() || self.client_is_gone()) {
            return Ending::Reset;
        }
        let has_more = !self.body.has_content() && self.received > 0;
        let is_answered = self.has_begun() || self.is_upgraded();
        if is_answered && !self.client_is_gone() && (!is_read || has_more || has_unread) {
            return Ending::Linger;
        }
        Ending::Close
    }
}

fn framing(choice: u8, length: u8) -> ResponseBody {
    match choice % 5 {
        0 => ResponseBody::None,
        1 => ResponseBody::Length(length.into()),
        2 => ResponseBody::Chunked,
        3 => ResponseBody::UntilClose,
        _ => ResponseBody::Tunnel,
    }
}

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (choice, length) = (input.byte(), input.byte());
    let body = match choice & 3 {
        0 => BodyFraming::None,
        1 => BodyFraming::Length(0),
        2 => BodyFraming::Chunked,
        _ => BodyFraming::Length(u64::from(length) << 12),
    };
    let (expects_continue, is_reusable) = (choice & 4 != 0, choice & 8 != 0);
    let received = usize::from(choice >> 4 & 1);
    let mut exchange = Exchange::new(body, expects_continue, received, is_reusable);
    let mut model = Model { body, expects_continue, received, is_reusable, facts: Vec::new() };
    while !input.0.is_empty() && model.facts.len() < 64 {
        let event = input.byte();
        step(&mut exchange, &mut model, event, &mut input);
        check(&exchange, &model);
    }
}

/// Both answer every question alike.
fn check(exchange: &Exchange, model: &Model) {
    assert_eq!(exchange.may_send_continue(), model.may_send_continue(), "{model:?}");
    assert_eq!(exchange.takes_interim(), model.takes_interim(), "{model:?}");
    assert_eq!(exchange.is_upgraded(), model.is_upgraded(), "{model:?}");
    assert_eq!(exchange.is_answered(), model.has_begun() || model.is_upgraded(), "{model:?}");
    assert_eq!(exchange.is_client_gone(), model.client_is_gone(), "{model:?}");
    assert_eq!(exchange.sent_bytes(), model.sent().0, "{model:?}");
    assert_eq!(exchange.length_fault(), model.length_fault(), "{model:?}");
    assert_eq!(exchange.should_drain(), model.is_reusable() && !model.body_is_in_the_way(), "{model:?}");
    if let Some(Began { .. }) = model.facts.last() {
        assert_eq!(exchange.announces_close(), model.said_close(), "{model:?}");
        let option = exchange.connection_option(Version::Http10);
        assert_eq!(option == Some(b"keep-alive"), !model.said_close() && !model.speaks_otherwise(), "{model:?}");
    }
    for has_unread in [false, true] {
        assert_eq!(exchange.ending(b"next".to_vec(), || has_unread), model.ending(has_unread), "{model:?}");
    }
}

/// Applies the event that `choice` names to both. The exchange permits it exactly where the model does.
fn step(exchange: &mut Exchange, model: &mut Model, choice: u8, input: &mut Input<'_>) {
    let can_send = (model.has_begun() && !model.is_complete()) || model.is_broken();
    let (outcome, is_legal, fact) = match choice % 14 {
        0 => {
            assert_eq!(exchange.await_body(), model.may_send_continue());
            if model.may_send_continue() {
                model.facts.push(Interim);
            }
            (Ok(()), true, Awaits)
        }
        1 => {
            exchange.stop_awaiting_body();
            (Ok(()), true, StopsAwaiting)
        }
        2 => {
            let count = usize::from(input.byte()) << 12;
            let is_end = input.byte() % 2 == 1;
            let outcome = exchange.take_body(count, is_end);
            model.facts.push(Took(count as u64));
            if !is_end {
                return assert_eq!(outcome, Ok(()));
            }
            (outcome, model.body_is_open(), BodyEnded)
        }
        3 => (exchange.fail_body(None), model.body_is_open() || model.body_is_lost(), BodyFailed),
        4 => (exchange.apply(ExchangeEvent::BodyAbandoned), true, Abandoned),
        5 => (exchange.apply(ExchangeEvent::InterimSent), model.takes_interim() || model.is_broken(), Interim),
        6 | 7 => {
            let status = if input.byte() % 8 == 7 { 101 } else { 200 };
            let body = framing(input.byte(), input.byte());
            let allows_reuse = !matches!(body, ResponseBody::UntilClose | ResponseBody::Tunnel);
            let plan = ResponsePlan { body, send_content_length: None, allows_reuse };
            let closes = choice % 14 == 6;
            let outcome = exchange.begin_response(status, &plan, closes);
            let is_legal = model.takes_interim() || (model.is_broken() && !model.has_begun());
            (outcome, is_legal, Began { status, plan, closes })
        }
        8 => {
            let count = input.byte();
            let outcome = exchange.send_data(count.into()).map(|taken| assert!(taken <= count.into()));
            (outcome, can_send, Data(count.into()))
        }
        9 => (exchange.end_response(), can_send, if model.is_short() { Cut } else { Ended }),
        10 => (exchange.apply(ExchangeEvent::ResponseCut), model.has_begun() || model.is_broken(), Cut),
        11 => {
            let is_gone = input.byte() % 2 == 1;
            let is_sending = model.has(|fact| matches!(fact, Interim | Began { .. })) && !model.is_complete();
            let is_legal = (is_sending && !model.is_upgraded()) || model.is_broken();
            (exchange.fail_sending(is_gone), is_legal, SendFailed(is_gone))
        }
        12 => (exchange.lose_client(), true, ClientGone),
        _ => (exchange.apply(ExchangeEvent::Upgraded), model.takes_interim(), Upgraded),
    };
    assert_eq!(outcome.is_ok(), is_legal, "{fact:?} after {model:?}: {outcome:?}");
    if is_legal {
        model.facts.push(fact);
    }
}
