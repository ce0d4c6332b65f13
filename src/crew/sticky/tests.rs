use super::*;
use crate::crew::scoreboard::WorkerState;
use crate::crew::seat::Seat;
use crate::http::head::Parsed;
use crate::http::limits::HeadLimits;

const LIMITS: HeadLimits =
    HeadLimits { request_line_bytes: 8190, field_count: 100, field_bytes: 8190, head_bytes: 64 * 1024 };

/// A scoreboard with ready workers, of which each holds the place with its slot's number.
fn service(workers: u32) -> Arc<Scoreboard> {
    let board = Arc::new(Scoreboard::new(64).unwrap());
    board.set_service_key(&[5; KEY_BYTES]);
    for _ in 0..workers {
        let slot = board.reserve().unwrap();
        Seat::take(Arc::clone(&board), slot).unwrap().set_state(WorkerState::Ready);
    }
    board.assign_places(&(0..workers).map(Some).collect::<Vec<_>>());
    board
}

fn policy(board: &Arc<Scoreboard>, mode: &str, own: u32) -> StickyPolicy {
    StickyPolicy::new(StickyMode::parse(mode).unwrap(), Arc::clone(board), own, None)
}

/// The policy's answer for a request, and the cookie to set.
fn look<R>(target: &str, fields: &str, action: impl FnOnce(&Head, &[u8]) -> R) -> R {
    let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
    let mut head = Head::new();
    assert_eq!(head.parse(&bytes, &LIMITS), Ok(Parsed::Complete));
    action(&head, &bytes)
}

/// The slot that serves a request.
fn slot(policy: &StickyPolicy, target: &str, fields: &str) -> u32 {
    let owner = look(target, fields, |head, bytes| policy.owner(head, bytes, || None));
    owner.map_or(policy.own.slot, |owner| owner.slot)
}

#[test]
fn every_worker_names_the_same_owner() {
    let board = service(4);
    for mode in ["header:X-Room", "path:^/room/([^/]+)"] {
        let policies: Vec<StickyPolicy> = (0..4).map(|own| policy(&board, mode, own)).collect();
        let mut seen = [0; 4];
        for room in 0..400 {
            let (target, fields) = (format!("/room/{room}/messages"), format!("x-room: {room}\r\n"));
            let owners: Vec<u32> = policies.iter().map(|policy| slot(policy, &target, &fields)).collect();
            assert!(owners.iter().all(|owner| owner == &owners[0]), "{owners:?}");
            seen[owners[0] as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (50..150).contains(&count)), "{seen:?}");
    }
}

#[test]
fn a_replacement_inherits_and_moves_nothing_else() {
    let board = service(4);
    let sticky = policy(&board, "header:s", 0);
    let before: Vec<u32> = (0..200).map(|n| slot(&sticky, "/", &format!("s: {n}\r\n"))).collect();
    let newcomer = board.reserve().unwrap();
    Seat::take(Arc::clone(&board), newcomer).unwrap().set_state(WorkerState::Ready);
    assert_eq!(before, (0..200).map(|n| slot(&sticky, "/", &format!("s: {n}\r\n"))).collect::<Vec<_>>());
    board.assign_places(&[Some(0), Some(1), Some(newcomer), Some(3)]);
    let after: Vec<u32> = (0..200).map(|n| slot(&sticky, "/", &format!("s: {n}\r\n"))).collect();
    for (old, new) in before.into_iter().zip(after) {
        assert_eq!(new, if old == 2 { newcomer } else { old });
    }
}

#[test]
fn sessions_of_a_place_without_a_holder_go_to_others_and_no_others_move() {
    let board = service(4);
    let sticky = policy(&board, "header:s", 0);
    let all = |sticky: &StickyPolicy| (0..400).map(|n| slot(sticky, "/", &format!("s: {n}\r\n"))).collect::<Vec<_>>();
    let before = all(&sticky);
    board.release(2);
    let without = all(&sticky);
    for (old, new) in before.iter().zip(&without) {
        assert!(*new != 2 && (old == new || *old == 2), "{old} {new}");
    }
    assert!(
        (0..4)
            .filter(|&other| other != 2)
            .all(|other| { before.iter().zip(&without).any(|(old, new)| *old == 2 && *new == other) })
    );
    let empty = service(0);
    assert_eq!(slot(&policy(&empty, "header:s", 0), "/", "s: 1\r\n"), 0);
}

#[test]
fn a_request_without_the_value_is_served_where_it_arrives() {
    let board = service(4);
    let long = format!("/room/{}", "a".repeat(MOST_PATH_BYTES));
    let cases = [
        ("header:s", "/", ""),
        ("header:s", "/", "s:\r\n"),
        ("path:^/room/([^/]+)", "/other", ""),
        ("path:^/room/([^/]*)", "/room/", ""),
        ("path:^/room/([^/]+)", &long, ""),
        ("socketio", "/socket.io/?EIO=4&transport=polling", ""),
        ("cookie:w", "/", ""),
        ("cookie:w", "/", "Cookie: w=1.AAAAAAAAAAAAAAAAAAAAAA\r\n"),
        ("ip", "/", ""),
    ];
    for (mode, target, fields) in cases {
        for own in 0..4 {
            assert_eq!(slot(&policy(&board, mode, own), target, fields), own, "{mode} {target}");
        }
    }
}

#[test]
fn a_value_of_any_length_has_an_owner() {
    let board = service(4);
    let owner = slot(&policy(&board, "header:s", 0), "/", &format!("s: {}\r\n", "x".repeat(8000)));
    assert_eq!(slot(&policy(&board, "header:s", 3), "/", &format!("s: {}\r\n", "x".repeat(8000))), owner);
}

#[test]
fn a_session_of_socketio_belongs_to_the_process_that_made_it() {
    let board = service(3);
    let sticky = policy(&board, "socketio", 0);
    assert_eq!(slot(&sticky, "/socket.io/?EIO=4&sid=abc.2.1", ""), 2);
    assert_eq!(slot(&sticky, "/socket.io/?EIO=4&sid=abc.0.1", ""), 0);
    board.set_state(2, WorkerState::Draining);
    assert_eq!(slot(&sticky, "/socket.io/?sid=abc.2.1", ""), 2, "a draining worker gets its own sessions");
    board.release(2);
    assert_eq!(slot(&sticky, "/socket.io/?sid=abc.2.1", ""), 0, "the owner is gone");
    let newcomer = board.reserve().unwrap();
    Seat::take(Arc::clone(&board), newcomer).unwrap().set_state(WorkerState::Ready);
    assert_eq!((newcomer, slot(&sticky, "/socket.io/?sid=abc.2.1", "")), (2, 0), "another process has the slot");
    for sid in ["abc.3.1", "abc.40.1", "abc.ffffffff.1", "abc.0.ffffffffffffffff", "abc"] {
        assert_eq!(slot(&sticky, &format!("/?sid={sid}"), ""), 0, "{sid}");
    }
}

#[test]
fn a_cookie_names_a_place_and_is_replaced_when_it_is_forged_or_stale() {
    let board = service(3);
    let (first, third) = (policy(&board, "cookie:w", 0), policy(&board, "cookie:w", 2));
    let set = |sticky: &StickyPolicy, fields: &str| {
        look("/", fields, |head, bytes| sticky.new_cookie(head, bytes, false)).map(|cookie| {
            let value = cookie.split_once(';').unwrap().0.to_owned();
            format!("Cookie: a=b; {value}\r\n")
        })
    };
    let cookie = set(&third, "").unwrap();
    assert_eq!((slot(&first, "/", &cookie), set(&first, &cookie)), (2, None));
    assert_eq!(slot(&third, "/", &cookie), 2);
    let forged = cookie.replace("w=2.", "w=1.");
    assert_eq!(slot(&third, "/", &forged), 2);
    assert_eq!(set(&third, &forged), Some(cookie.clone()));
    // A forged cookie before ours does not hide ours.
    assert_eq!(slot(&first, "/", &cookie.replace("a=b", "w=1.forged")), 2);
    // The place is empty, so the cookie is stale.
    board.release(2);
    assert_eq!((slot(&first, "/", &cookie), set(&first, &cookie).is_some()), (0, true));
    // A worker without a place sets none.
    board.assign_places(&[None, Some(1)]);
    assert_eq!(set(&first, ""), None);
    assert_eq!(set(&policy(&board, "ip", 1), ""), None);
}

#[test]
fn a_key_of_the_settings_comes_before_that_of_the_service() {
    let board = service(2);
    let with_key = |key| StickyPolicy::new(StickyMode::parse("cookie:w").unwrap(), Arc::clone(&board), 1, key);
    let cookie = |sticky: &StickyPolicy| look("/", "", |head, bytes| sticky.new_cookie(head, bytes, true)).unwrap();
    assert_eq!(cookie(&with_key(Some("a"))), cookie(&with_key(Some("a"))));
    assert_ne!(cookie(&with_key(Some("a"))), cookie(&with_key(None)));
}

#[test]
fn a_client_has_one_owner_whichever_form_its_address_has() {
    let board = service(4);
    let sticky = policy(&board, "ip", 0);
    let mut owners = std::collections::HashSet::new();
    for last in 0..50 {
        let owner = sticky.owner_by_address(format!("192.0.2.{last}").parse().unwrap());
        assert_eq!(owner, sticky.owner_by_address(format!("::ffff:192.0.2.{last}").parse().unwrap()));
        owners.insert(owner.map(|owner| owner.slot));
    }
    assert_eq!(owners.len(), 4);
    let looked = look("/", "", |head, bytes| sticky.owner(head, bytes, || "2001:db8::1".parse().ok()));
    assert_eq!(looked, sticky.owner_by_address("2001:db8::1".parse().unwrap()));
}

#[test]
fn what_is_no_mode_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", "\"\" is none of"),
        ("socketio:x", "is none of"),
        ("ip:x", "is none of"),
        ("Cookie:x", "is none of"),
        ("cookie", "cookie needs the name of a cookie"),
        ("cookie:", "\"\" is no name of a cookie"),
        ("cookie:a b", "\"a b\" is no name of a cookie"),
        ("header:a;b", "\"a;b\" is no name of a header"),
        ("path", "path needs a regular expression"),
        ("path:", "path needs a regular expression"),
        ("path:(a", "the pattern \"(a\" is no regular expression"),
    ] {
        let error = StickyMode::parse(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}
