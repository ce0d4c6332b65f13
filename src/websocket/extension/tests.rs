//! Fields as a client sends them, and the answers.

use super::*;

/// The answer to one field.
fn answer(field: &str, compression: Compression) -> Option<String> {
    let offer = Offer::of([field.as_bytes()].into_iter()).expect("well-formed");
    offer.and_then(|offer| offer.agree(compression)).map(|agreement| String::from_utf8(agreement.answer()).unwrap())
}

const ALONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[test]
fn each_offer_is_answered_as_this_table_says() {
    // Browsers, `websockets`, and the parameters of RFC 7692 7.1 one by one.
    let table = [
        ("permessage-deflate", ALONE, "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", ALONE, "permessage-deflate; client_max_window_bits=12"),
        (
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=\"10\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
        ),
        (
            "permessage-deflate ;server_max_window_bits = 15;client_max_window_bits=8",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=8",
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
        ),
        (
            "permessage-deflate; client_no_context_takeover; client_max_window_bits=10",
            ALONE,
            "permessage-deflate; client_no_context_takeover",
        ),
        // The examples of RFC 7692 5.2 and 7.1.3: the next offer counts where the first cannot be kept.
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", ALONE, "permessage-deflate"),
        (
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits; foo, permessage-deflate",
            ALONE,
            "permessage-deflate",
        ),
        (" ,, permessage-deflate,", ALONE, "permessage-deflate"),
    ];
    for (field, on, takeover) in table {
        assert_eq!(answer(field, Compression::On).as_deref(), Some(on), "{field}");
        assert_eq!(answer(field, Compression::Takeover).as_deref(), Some(takeover), "{field}");
        assert_eq!(answer(field, Compression::Off), None);
    }
}

#[test]
fn offers_with_unknown_repeated_or_invalid_parameters_are_declined() {
    let parameters = [
        "unknown",
        "unknown=1",
        "Server_No_Context_Takeover",
        "server_no_context_takeover=1",
        "client_no_context_takeover=\"true\"",
        "server_no_context_takeover; server_no_context_takeover",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits",
        "server_max_window_bits=8",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=09",
        "server_max_window_bits=1000000000000000000000",
        "server_max_window_bits=a",
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=08",
        "client_max_window_bits; client_max_window_bits",
        "client_max_window_bits=10; client_max_window_bits",
    ];
    for parameter in parameters {
        assert_eq!(answer(&format!("permessage-deflate; {parameter}"), Compression::On), None, "{parameter}");
        let next = format!("permessage-deflate; {parameter}, permessage-deflate");
        assert_eq!(answer(&next, Compression::On).as_deref(), Some(ALONE), "{parameter}");
    }
    for other in ["", ",", "Permessage-Deflate", "permessage-deflate-2", "permessage-bzip2; a=\"b\\c\""] {
        assert_eq!(answer(other, Compression::On), None, "{other}");
    }
}

#[test]
fn offers_of_several_fields_count_in_their_order() {
    let fields: [&[u8]; 3] = [b"x", b"permessage-deflate; client_max_window_bits=9", b"permessage-deflate"];
    let offer = Offer::of(fields.into_iter()).unwrap().unwrap();
    assert_eq!(offer.client_max_window_bits, Some(9));
}

#[test]
fn a_field_that_breaks_the_grammar_is_malformed() {
    let fields: [&[u8]; 14] = [
        b"permessage-deflate;",
        b"permessage-deflate; ;",
        b"; a",
        b"=",
        b"permessage-deflate a",
        b"permessage-deflate; a=",
        b"permessage-deflate; a=\"",
        b"permessage-deflate; a=\"\"",
        b"permessage-deflate; a=\"b c\"",
        b"permessage-deflate; a=\"b\"c",
        b"permessage-deflate; a=\"b\\",
        b"permessage-deflate; a=b=c",
        b"permessage-deflate, \xff",
        b"permessage-deflate; a=(",
    ];
    for field in fields {
        assert_eq!(Offer::of([field].into_iter()), Err(Malformed), "{}", field.escape_ascii());
    }
}
