//! Every state with every event, compared with a table that is written out by hand, and the answers in every state.

use super::*;
use crate::websocket::close_codes::{GOING_AWAY, NO_CODE, NORMAL, PROTOCOL_ERROR};

const BROKEN: Violation = Violation { code: PROTOCOL_ERROR, rule: "a rule" };
const BROKEN_AGAIN: Violation = Violation { code: 1009, rule: "another rule" };

fn close(code: u16, reason: &str) -> Close {
    Close { code, reason: reason.to_owned() }
}

/// One state of each kind, each with a close of its own.
fn states() -> [ClosingState; 5] {
    [
        ClosingState::Open,
        ClosingState::Failing(BROKEN),
        ClosingState::CloseSent(close(GOING_AWAY, "stops")),
        ClosingState::Flushing(close(4001, "flushing")),
        ClosingState::Over(close(4002, "over")),
    ]
}

/// One event of each kind, each with data of its own.
fn events() -> [ClosingEvent; 6] {
    [
        ClosingEvent::OwnClose(close(NORMAL, "own")),
        ClosingEvent::ClientClose(close(3000, "client's")),
        ClosingEvent::Violation(BROKEN_AGAIN),
        ClosingEvent::ViolationDue,
        ClosingEvent::Flushed,
        ClosingEvent::Lost("it left".to_owned()),
    ]
}

fn short(state: &ClosingState) -> String {
    match state {
        ClosingState::Open => "open".to_owned(),
        ClosingState::Failing(violation) => format!("failing {}", violation.code),
        ClosingState::CloseSent(close) => format!("sent {} {}", close.code, close.reason),
        ClosingState::Flushing(close) => format!("flushing {} {}", close.code, close.reason),
        ClosingState::Over(close) => format!("over {} {}", close.code, close.reason),
    }
}

#[test]
fn every_event_in_every_state_leads_to_the_state_and_action_of_this_table() {
    let send = |code: u16, reason: &str| ClosingAction::SendClose(Some(code), reason.to_owned());
    let nothing = || ClosingAction::Nothing;
    // Rows in the order of `states`, cells in the order of `events`.
    let expected = [
        [
            ("sent 1000 own", send(1000, "own")),
            ("flushing 3000 client's", send(3000, "")),
            ("failing 1009", nothing()),
            ("open", nothing()),
            ("open", nothing()),
            ("over 1006 it left", ClosingAction::Abort),
        ],
        [
            ("flushing 1002 a rule", send(1002, "")),
            ("failing 1002", nothing()),
            ("failing 1002", nothing()),
            ("flushing 1002 a rule", send(1002, "")),
            ("failing 1002", nothing()),
            ("over 1006 it left", ClosingAction::Abort),
        ],
        [
            ("sent 1001 stops", nothing()),
            ("flushing 1001 stops", nothing()),
            ("flushing 1001 stops", nothing()),
            ("sent 1001 stops", nothing()),
            ("sent 1001 stops", nothing()),
            ("over 1001 stops", ClosingAction::Abort),
        ],
        [
            ("flushing 4001 flushing", nothing()),
            ("flushing 4001 flushing", nothing()),
            ("flushing 4001 flushing", nothing()),
            ("flushing 4001 flushing", nothing()),
            ("over 4001 flushing", ClosingAction::EndStream),
            ("over 4001 flushing", ClosingAction::Abort),
        ],
        [
            ("over 4002 over", nothing()),
            ("over 4002 over", nothing()),
            ("over 4002 over", nothing()),
            ("over 4002 over", nothing()),
            ("over 4002 over", nothing()),
            ("over 4002 over", nothing()),
        ],
    ];
    for (state, row) in states().into_iter().zip(expected) {
        for (event, cell) in events().into_iter().zip(row) {
            let mut closing = Closing(state.clone());
            let action = closing.apply(event.clone());
            assert_eq!((short(&closing.0).as_str(), action), (cell.0, cell.1), "{state:?}, {event:?}");
        }
    }
}

#[test]
fn each_state_answers_the_questions_as_its_row_says() {
    // is_open, is_reading, violation, close, is_flushing, is_over
    let expected = [
        (true, true, None, None, false, false),
        (false, false, Some(BROKEN), None, false, false),
        (false, true, None, Some(close(GOING_AWAY, "stops")), false, false),
        (false, false, None, Some(close(4001, "flushing")), true, false),
        (false, false, None, Some(close(4002, "over")), false, true),
    ];
    for (state, answers) in states().into_iter().zip(expected) {
        let closing = Closing(state);
        let given = (
            closing.is_open(),
            closing.is_reading(),
            closing.violation(),
            closing.close().cloned(),
            closing.is_flushing(),
            closing.is_over(),
        );
        assert_eq!(given, answers, "{closing:?}");
    }
}

#[test]
fn a_close_without_a_code_is_answered_without_one() {
    let mut closing = Closing::default();
    let action = closing.apply(ClosingEvent::ClientClose(close(NO_CODE, "")));
    assert_eq!(action, ClosingAction::SendClose(None, String::new()));
    assert_eq!(closing.close(), Some(&close(NO_CODE, "")));
}

#[test]
fn at_most_one_close_frame_is_sent_whatever_the_order_of_events() {
    // All orders of six events out of six kinds.
    for mut order in 0..6_usize.pow(6) {
        let mut closing = Closing::default();
        let (mut frames, mut first) = (0, None);
        for _ in 0..6 {
            let was_over = closing.is_over();
            let action = closing.apply(events()[order % 6].clone());
            order /= 6;
            frames += usize::from(matches!(action, ClosingAction::SendClose(..)));
            assert!(!was_over || action == ClosingAction::Nothing);
            first = first.or_else(|| closing.close().cloned());
            assert_eq!(closing.close(), first.as_ref(), "the first close counts");
        }
        assert!(frames <= 1);
    }
}
