use ExchangeEvent::*;

use super::*;

const READINGS: [Reading; 4] = [Reading::Head, Reading::Body, Reading::Drained, Reading::Abandoned];
const WRITINGS: [Writing; 6] =
    [Writing::Nothing, Writing::Interim, Writing::Body, Writing::Done, Writing::Broken, Writing::Upgraded];

/// A row for each event. A column for each state has the first letters of the state that follows; `--` is illegal.
const TABLE: &str = "
                 Head Body Drai Aban | Noth Inte Body Done Brok Upgr
HeadRefused      Aban --   --   --   | Noth Inte Body Done Brok Upgr
HeadWithoutBody  Drai --   --   --   | Noth Inte Body Done Brok Upgr
HeadWithBody     Body --   --   --   | Noth Inte Body Done Brok Upgr
BodyEnded        --   Drai --   --   | Noth Inte Body Done Brok Upgr
BodyFailed       --   Aban --   Aban | Noth Inte Body Done Brok Upgr
BodyAbandoned    --   Aban Aban Aban | Noth Inte Body Done Brok Upgr
InterimSent      --   Body Drai Aban | Inte Inte --   --   Brok --
ResponseBegan    --   Body Drai Aban | Body Body --   --   Brok --
DataSent         --   Body Drai Aban | --   --   Body --   Brok --
ResponseEnded    --   Body Drai Aban | --   --   Done --   Brok --
ResponseCut      --   Body Drai Aban | --   --   Brok Brok Brok --
SendFailed       --   Body Drai Aban | --   Brok Brok --   Brok --
ClientGone       --   Body Drai Aban | Noth Inte Brok Brok Brok Upgr
Upgraded         --   Body Drai Aban | Upgr Upgr --   --   --   --
TimeIsUp         --   Body Drai Aban | Noth Inte Brok Done Brok Upgr
";

fn short(state: &impl fmt::Debug) -> String {
    format!("{state:?}").chars().take(4).collect()
}

fn cell<S: fmt::Debug>(next: Option<S>) -> String {
    next.map_or("--".to_owned(), |state| short(&state))
}

#[test]
fn the_table_is_as_written_down() {
    let mut lines = vec![String::new()];
    let join = |cells: &[String]| cells.iter().map(|cell| format!("{cell:<4}")).collect::<Vec<_>>().join(" ");
    let row = |name: &str, readings: &[String], writings: &[String]| {
        format!("{name:<16} {} | {}", join(readings), join(writings)).trim_end().to_owned()
    };
    lines.push(row("", &READINGS.map(|state| short(&state)), &WRITINGS.map(|state| short(&state))));
    for event in ExchangeEvent::ALL {
        let readings = READINGS.map(|state| cell(state.after(event)));
        lines.push(row(&format!("{event:?}"), &readings, &WRITINGS.map(|state| cell(state.after(event)))));
    }
    lines.push(String::new());
    assert_eq!(lines.join("\n"), TABLE);
}

#[test]
fn an_illegal_event_is_named_and_changes_nothing() {
    for event in ExchangeEvent::ALL {
        for (reading, writing) in READINGS.into_iter().flat_map(|reading| WRITINGS.map(|writing| (reading, writing))) {
            let mut exchange = Exchange { reading, writing, ..Exchange::default() };
            match (exchange.apply(event), reading.after(event), writing.after(event)) {
                (Ok(()), Some(reading), Some(writing)) => {
                    assert_eq!((exchange.reading, exchange.writing), (reading, writing));
                }
                (Err(error), next_reading, next_writing) => {
                    assert!(next_reading.is_none() || next_writing.is_none());
                    assert_eq!(error, IllegalEvent { event, reading, writing });
                    assert_eq!((exchange.reading, exchange.writing), (reading, writing));
                    assert!(error.to_string().starts_with(&format!("{event:?} is illegal")));
                }
                outcome => panic!("{event:?} in {reading:?}, {writing:?}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn a_final_state_stays() {
    for event in ExchangeEvent::ALL {
        assert!(matches!(Reading::Abandoned.after(event), None | Some(Reading::Abandoned)), "{event:?}");
        assert!(matches!(Writing::Broken.after(event), None | Some(Writing::Broken)), "{event:?}");
        assert!(matches!(Writing::Upgraded.after(event), None | Some(Writing::Upgraded)), "{event:?}");
    }
}

fn plan_of(body: ResponseBody) -> ResponsePlan {
    let allows_reuse = !matches!(body, ResponseBody::UntilClose | ResponseBody::Tunnel);
    ResponsePlan { body, send_content_length: None, allows_reuse }
}

fn without_body() -> Exchange {
    Exchange::new(BodyFraming::None, false, 0, true)
}

/// A response of `body` that gets `given` bytes and then ends.
fn answer(exchange: &mut Exchange, body: ResponseBody, given: usize) {
    exchange.begin_response(200, &plan_of(body), false).unwrap();
    exchange.send_data(given).unwrap();
    exchange.end_response().unwrap();
}

fn ending_of(exchange: &Exchange) -> Ending {
    exchange.ending(b"next".to_vec(), || false)
}

#[test]
fn a_complete_exchange_hands_on_what_follows_it() {
    let mut exchange = without_body();
    answer(&mut exchange, ResponseBody::Length(5), 5);
    assert!(!exchange.announces_close() && exchange.should_drain());
    assert_eq!(ending_of(&exchange), Ending::Reuse(b"next".to_vec()));
}

#[test]
fn a_close_is_announced_and_followed() {
    for (server_wants, application_closes, body) in [
        (false, false, ResponseBody::Chunked),
        (true, true, ResponseBody::Chunked),
        (true, false, ResponseBody::UntilClose),
    ] {
        let mut exchange = Exchange::new(BodyFraming::None, false, 0, server_wants);
        exchange.begin_response(200, &plan_of(body), application_closes).unwrap();
        assert_eq!(exchange.connection_option(Version::Http11), Some(&b"close"[..]));
        exchange.end_response().unwrap();
        assert_eq!(ending_of(&exchange), Ending::Close);
        assert_eq!(exchange.ending(Vec::new(), || true), Ending::Linger);
    }
}

#[test]
fn only_http_1_0_gets_keep_alive() {
    let mut exchange = without_body();
    exchange.begin_response(200, &plan_of(ResponseBody::None), false).unwrap();
    assert_eq!(exchange.connection_option(Version::Http10), Some(&b"keep-alive"[..]));
    assert_eq!(exchange.connection_option(Version::Http11), None);
}

#[test]
fn another_protocol_is_neither_announced_nor_reused() {
    for (status, body) in [(101, ResponseBody::None), (200, ResponseBody::Tunnel)] {
        let mut exchange = without_body();
        exchange.begin_response(status, &plan_of(body), true).unwrap();
        assert_eq!(exchange.connection_option(Version::Http11), None);
        exchange.end_response().unwrap();
        assert_eq!(ending_of(&exchange), Ending::Close);
    }
    let mut exchange = Exchange::new(BodyFraming::None, false, 3, true);
    exchange.apply(Upgraded).unwrap();
    assert!(exchange.is_answered() && exchange.is_upgraded());
    assert_eq!(ending_of(&exchange), Ending::Linger);
}

#[test]
fn continue_is_sent_once_and_never_within_a_response() {
    let body = BodyFraming::Length(5);
    let mut exchange = Exchange::new(body, true, 0, true);
    assert!(exchange.may_send_continue());
    assert!(exchange.await_body());
    assert!(!exchange.await_body());
    let mut late = Exchange::new(body, true, 0, true);
    late.begin_response(200, &plan_of(ResponseBody::Chunked), false).unwrap();
    assert!(!late.await_body());
    for (body, expects, received) in [(body, false, 0), (body, true, 1), (BodyFraming::Length(0), true, 0)] {
        assert!(!Exchange::new(body, expects, received, true).may_send_continue());
    }
}

#[test]
fn a_body_that_may_never_come_or_is_too_long_ends_the_connection() {
    let begin = |exchange: &mut Exchange| {
        exchange.begin_response(200, &plan_of(ResponseBody::None), false).unwrap();
        exchange.end_response().unwrap();
        (exchange.announces_close(), exchange.should_drain())
    };
    let body = |length| Exchange::new(BodyFraming::Length(length), false, 0, true);
    assert_eq!(begin(&mut Exchange::new(BodyFraming::Length(5), true, 0, true)), (true, false));
    assert_eq!(begin(&mut body(DRAIN_BYTES)), (false, true));
    assert_eq!(begin(&mut body(DRAIN_BYTES + 1)), (true, false));
    let mut shorter = body(DRAIN_BYTES + 1);
    shorter.take_body(1, false).unwrap();
    assert_eq!(begin(&mut shorter), (false, true));
    let mut failed = body(5);
    failed.fail_body(Some(RequestError::Timeout)).unwrap();
    assert_eq!((failed.fault(), begin(&mut failed)), (Some(RequestError::Timeout), (true, false)));
    assert_eq!(ending_of(&failed), Ending::Linger);
}

// A server that echoes what it receives answers while another coroutine reads.
#[test]
fn a_long_body_that_is_being_read_lets_the_connection_persist() {
    let mut exchange = Exchange::new(BodyFraming::Length(DRAIN_BYTES * 2), false, 0, true);
    exchange.await_body();
    exchange.begin_response(200, &plan_of(ResponseBody::Chunked), false).unwrap();
    exchange.stop_awaiting_body();
    assert!(!exchange.announces_close());
    exchange.take_body(usize::MAX, true).unwrap();
    exchange.end_response().unwrap();
    assert_eq!(ending_of(&exchange), Ending::Reuse(b"next".to_vec()));
}

#[test]
fn what_follows_a_body_out_of_reach_is_not_reused() {
    let mut exchange = Exchange::new(BodyFraming::Length(5), false, 0, true);
    exchange.take_body(5, true).unwrap();
    answer(&mut exchange, ResponseBody::None, 0);
    exchange.apply(BodyAbandoned).unwrap();
    assert_eq!(ending_of(&exchange), Ending::Linger);
}

#[test]
fn a_body_is_cut_at_its_length() {
    let mut exchange = without_body();
    exchange.begin_response(200, &plan_of(ResponseBody::Length(5)), false).unwrap();
    assert_eq!([exchange.send_data(3), exchange.send_data(3), exchange.send_data(3)], [Ok(3), Ok(2), Ok(0)]);
    assert!(exchange.is_body_over());
    exchange.end_response().unwrap();
    assert_eq!((exchange.length_fault(), exchange.sent_bytes()), (Some(LengthFault::TooLong), 5));
    assert_eq!(ending_of(&exchange), Ending::Close);
}

#[test]
fn a_body_that_is_too_short_breaks_the_response() {
    let mut exchange = without_body();
    answer(&mut exchange, ResponseBody::Length(5), 4);
    assert_eq!((exchange.writing(), exchange.length_fault()), (Writing::Broken, Some(LengthFault::TooShort)));
    assert_eq!(ending_of(&exchange), Ending::Close);
}

#[test]
fn a_cut_body_that_the_end_delimits_resets_the_connection() {
    for (body, ending) in [
        (ResponseBody::UntilClose, Ending::Reset),
        (ResponseBody::Tunnel, Ending::Reset),
        (ResponseBody::Chunked, Ending::Close),
    ] {
        let mut exchange = without_body();
        exchange.begin_response(200, &plan_of(body), false).unwrap();
        exchange.apply(ResponseCut).unwrap();
        assert_eq!(ending_of(&exchange), ending);
    }
}

#[test]
fn a_response_that_is_not_complete_is_not_followed_by_another() {
    let mut exchange = without_body();
    exchange.begin_response(200, &plan_of(ResponseBody::Chunked), false).unwrap();
    exchange.send_data(3).unwrap();
    assert_eq!(ending_of(&exchange), Ending::Close);
}

#[test]
fn a_client_that_is_gone_is_not_waited_for() {
    let mut exchange = Exchange::new(BodyFraming::Length(5), false, 0, true);
    exchange.begin_response(200, &plan_of(ResponseBody::Chunked), false).unwrap();
    exchange.fail_sending(true).unwrap();
    assert_eq!(exchange.ending(Vec::new(), || true), Ending::Close);
    // Known before anything was sent: the response is sent all the same, as the client may read on.
    let mut exchange = without_body();
    exchange.lose_client().unwrap();
    answer(&mut exchange, ResponseBody::Chunked, 3);
    assert_eq!(ending_of(&exchange), Ending::Close);
}

#[test]
fn a_refused_request_is_answered_and_what_follows_it_discarded() {
    assert_eq!(Exchange::refused(true).ending(Vec::new(), || false), Ending::Linger);
    assert_eq!(Exchange::refused(false).ending(Vec::new(), || true), Ending::Close);
}

#[test]
fn the_next_request_is_known_from_the_bytes_behind_this_one() {
    let sized = |received| Exchange::new(BodyFraming::Length(5), false, received, true);
    let mut with_unread_body = sized(3);
    // The kernel's bytes may belong to the body.
    assert!(!with_unread_body.has_next(|| true));
    with_unread_body.take_body(5, true).unwrap();
    assert!(with_unread_body.has_next(|| true) && !with_unread_body.has_next(|| false));
    assert!(!sized(5).has_next(|| false) && sized(6).has_next(|| false));
    assert!(Exchange::new(BodyFraming::None, false, 1, true).has_next(|| false));
    let mut chunked = Exchange::new(BodyFraming::Chunked, false, 100, true);
    assert!(!chunked.has_next(|| true));
    chunked.take_body(5, true).unwrap();
    chunked.note_more();
    assert!(chunked.has_next(|| false));
}
