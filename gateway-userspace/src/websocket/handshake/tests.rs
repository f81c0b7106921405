use proptest::prelude::*;

use super::*;

/// The example of RFC 6455, 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const REQUEST: [(&str, &str); 5] = [
    ("Host", "example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("sec-websocket-version", "13"),
];

const ANSWER: [(&str, &str); 3] = [
    ("upgrade", "WebSocket"),
    ("connection", "upgrade"),
    ("Sec-WebSocket-Accept", ACCEPT),
];

fn octets<'a>(fields: &'a [(&str, &str)]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

/// `fields` without those called `name`, and with `more`.
fn with<'a>(
    fields: &[(&'a str, &'a str)],
    name: &str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let kept = fields
        .iter()
        .filter(|(other, _)| !other.eq_ignore_ascii_case(name));
    kept.chain(more).copied().collect()
}

fn offer(more: &[(&str, &str)]) -> Result<Offer, OfferError> {
    Offer::http1(octets(&with(&REQUEST, "", more))).map(|(_, offer)| offer)
}

fn value(lines: &[(&str, String)], name: &str) -> Option<String> {
    lines
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, value)| value.clone())
}

/// What is forwarded of this offer of extensions.
fn forwarded(extensions: &str) -> Option<String> {
    let offer = offer(&[("Sec-WebSocket-Extensions", extensions)]).unwrap();
    value(&offer.http2_fields(), "sec-websocket-extensions")
}

#[test]
fn the_example_of_the_standard() {
    let (key, offer) = Offer::http1(octets(&REQUEST)).unwrap();
    assert_eq!(key, Key::new(*b"the sample nonce"));
    assert_eq!(key.accept(), ACCEPT);
    assert_eq!(
        offer.http1_answer(&key, 101, octets(&ANSWER)),
        Ok(Negotiated::default())
    );
    assert_eq!(
        offer.http1_fields(&key),
        [
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Key", KEY.to_owned()),
            ("sec-websocket-version", "13".to_owned()),
        ]
    );
    assert_eq!(
        Negotiated::default().http1_fields(&key).last(),
        Some(&("Sec-WebSocket-Accept", ACCEPT.to_owned()))
    );
}

#[test]
fn a_request_that_is_not_one_is_refused() {
    use OfferError::{Extensions, Key as BadKey, Protocols, Upgrade, Version};
    let long = "x;".repeat(PROTOCOLS_MAX);
    let members = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("x{n}")).collect();
        names.join(",")
    };
    let (fits, protocols) = (members(PROTOCOLS_MAX), members(PROTOCOLS_MAX + 1));
    let extensions = members(EXTENSIONS_MAX + 1);
    for (name, more, error) in [
        ("upgrade", &[][..], Upgrade),
        ("upgrade", &[("Upgrade", "h2c")], Upgrade),
        ("upgrade", &[("Upgrade", "websocket, h2c")], Upgrade),
        ("", &[("Upgrade", "websocket")], Upgrade),
        ("connection", &[("Connection", "close")], Upgrade),
        ("sec-websocket-key", &[], BadKey),
        ("", &[("Sec-WebSocket-Key", KEY)], BadKey),
        ("sec-websocket-key", &[("Sec-WebSocket-Key", "")], BadKey),
        (
            "sec-websocket-key",
            &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")],
            BadKey,
        ),
        (
            "sec-websocket-key",
            &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR==")],
            BadKey,
        ),
        (
            "sec-websocket-key",
            &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j")],
            BadKey,
        ),
        (
            "sec-websocket-key",
            &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZWU=")],
            BadKey,
        ),
        ("sec-websocket-version", &[], Version),
        ("", &[("Sec-WebSocket-Version", "13")], Version),
        (
            "sec-websocket-version",
            &[("Sec-WebSocket-Version", "8")],
            Version,
        ),
        (
            "sec-websocket-version",
            &[("Sec-WebSocket-Version", "13, 8")],
            Version,
        ),
        ("", &[("Sec-WebSocket-Protocol", "a, a")], Protocols),
        (
            "",
            &[
                ("Sec-WebSocket-Protocol", "a"),
                ("Sec-WebSocket-Protocol", "a"),
            ],
            Protocols,
        ),
        ("", &[("Sec-WebSocket-Protocol", "a b")], Protocols),
        ("", &[("Sec-WebSocket-Protocol", "")], Protocols),
        ("", &[("Sec-WebSocket-Protocol", &protocols)], Protocols),
        ("", &[("Sec-WebSocket-Extensions", "a b")], Extensions),
        ("", &[("Sec-WebSocket-Extensions", "a;")], Extensions),
        ("", &[("Sec-WebSocket-Extensions", ";a")], Extensions),
        ("", &[("Sec-WebSocket-Extensions", "a; b=")], Extensions),
        (
            "",
            &[("Sec-WebSocket-Extensions", "a; b=\"c,d\"")],
            Extensions,
        ),
        (
            "",
            &[("Sec-WebSocket-Extensions", "a; b=\"\\c\"")],
            Extensions,
        ),
        ("", &[("Sec-WebSocket-Extensions", "a; b=\"")], Extensions),
        ("", &[("Sec-WebSocket-Extensions", &long)], Extensions),
        ("", &[("Sec-WebSocket-Extensions", &extensions)], Extensions),
    ] {
        let fields = with(&REQUEST, name, more);
        assert_eq!(Offer::http1(octets(&fields)).err(), Some(error), "{more:?}");
    }
    let most = offer(&[("Sec-WebSocket-Protocol", &fits)]).unwrap();
    assert_eq!(most.protocols().len(), PROTOCOLS_MAX);
}

#[test]
fn only_compression_is_offered_to_the_server() {
    for (sent, expected) in [
        ("permessage-deflate", Some("permessage-deflate")),
        (
            "x-webkit-deflate-frame, Permessage-Deflate ; client_max_window_bits",
            Some("permessage-deflate; client_max_window_bits"),
        ),
        (
            "permessage-deflate; client_max_window_bits=\"10\"; server_max_window_bits=8;\
             client_no_context_takeover; server_no_context_takeover, permessage-deflate",
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=8; client_max_window_bits=10, permessage-deflate",
            ),
        ),
        ("bbf-usp-protocol; x=1", None),
        ("", None),
        // Offers that a server must decline.
        ("permessage-deflate; x", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=010", None),
        ("permessage-deflate; client_max_window_bits=+9", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        (
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            None,
        ),
    ] {
        assert_eq!(forwarded(sent).as_deref(), expected, "{sent}");
    }
    let offer = offer(&[
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Sec-WebSocket-Protocol", "b, a"),
        ("Sec-WebSocket-Protocol", "c"),
    ]);
    let fields = offer.unwrap().without_deflate().http2_fields();
    assert_eq!(value(&fields, "sec-websocket-extensions"), None);
    assert_eq!(
        value(&fields, "sec-websocket-protocol").as_deref(),
        Some("b, a, c")
    );
}

#[test]
fn an_answer_that_was_not_asked_for_is_refused() {
    use AnswerError::{Accept, Extensions, Protocol, Status, Upgrade};
    let key = Key::new(*b"the sample nonce");
    let offer = offer(&[("Sec-WebSocket-Protocol", "chat, superchat")]).unwrap();
    let answer = |status, name, more: &[(&str, &str)]| {
        offer.http1_answer(&key, status, octets(&with(&ANSWER, name, more)))
    };
    for (status, name, more, error) in [
        (200, "", &[][..], Status),
        (101, "upgrade", &[], Upgrade),
        (101, "connection", &[], Upgrade),
        (101, "sec-websocket-accept", &[], Accept),
        (101, "", &[("Sec-WebSocket-Accept", ACCEPT)], Accept),
        (
            101,
            "sec-websocket-accept",
            &[("Sec-WebSocket-Accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")],
            Accept,
        ),
        (101, "", &[("Sec-WebSocket-Protocol", "Chat")], Protocol),
        (101, "", &[("Sec-WebSocket-Protocol", "")], Protocol),
        (
            101,
            "",
            &[("Sec-WebSocket-Protocol", "chat, superchat")],
            Protocol,
        ),
        (
            101,
            "",
            &[
                ("Sec-WebSocket-Protocol", "chat"),
                ("Sec-WebSocket-Protocol", "chat"),
            ],
            Protocol,
        ),
        (
            101,
            "",
            &[("Sec-WebSocket-Extensions", "permessage-deflate")],
            Extensions,
        ),
        (101, "", &[("Sec-WebSocket-Extensions", "x")], Extensions),
    ] {
        assert_eq!(answer(status, name, more), Err(error), "{more:?}");
    }
    let chat = answer(101, "", &[("Sec-WebSocket-Protocol", "superchat")]).unwrap();
    assert_eq!(chat.protocol.as_deref(), Some("superchat"));
    assert_eq!(offer.http2_answer(101, []), Err(Status));
    assert_eq!(offer.http2_answer(200, []), Ok(Negotiated::default()));
}

#[test]
fn parameters_of_compression_fit_one_offer() {
    const P: &str = "permessage-deflate";
    let answers = |offered: &str, answered: &str| {
        let offer = offer(&[("Sec-WebSocket-Extensions", offered)]).unwrap();
        let fields = [("sec-websocket-extensions", answered)];
        offer
            .http2_answer(200, octets(&fields))
            .map(|negotiated| value(&negotiated.http2_fields(), "sec-websocket-extensions"))
    };
    for (offered, answered, fits) in [
        ("", "", true),
        ("", "; server_no_context_takeover", true),
        ("", "; client_no_context_takeover", true),
        ("", "; server_max_window_bits=10", true),
        ("", "; client_max_window_bits=10", false),
        (
            "; client_max_window_bits",
            "; client_max_window_bits=10",
            true,
        ),
        (
            "; client_max_window_bits",
            "; client_max_window_bits",
            false,
        ),
        ("; client_max_window_bits", "", true),
        (
            "; client_max_window_bits=10",
            "; client_max_window_bits=10",
            true,
        ),
        (
            "; client_max_window_bits=10",
            "; client_max_window_bits=11",
            false,
        ),
        ("; server_no_context_takeover", "", false),
        (
            "; server_no_context_takeover",
            "; server_no_context_takeover",
            true,
        ),
        ("; server_max_window_bits=10", "", false),
        (
            "; server_max_window_bits=10",
            "; server_max_window_bits=11",
            false,
        ),
        (
            "; server_max_window_bits=10",
            "; server_max_window_bits=8",
            true,
        ),
        ("; server_max_window_bits=10, permessage-deflate", "", true),
        ("", "; x", false),
        (
            "",
            "; server_no_context_takeover; server_no_context_takeover",
            false,
        ),
        ("", ", permessage-deflate", false),
        ("", ", x", false),
    ] {
        let answered = format!("{P}{answered}");
        let expected = match fits {
            true => Ok(Some(answered.clone())),
            false => Err(AnswerError::Extensions),
        };
        assert_eq!(
            answers(&format!("{P}{offered}"), &answered),
            expected,
            "{offered} | {answered}"
        );
    }
    assert_eq!(answers("x", "x"), Err(AnswerError::Extensions));
}

proptest! {
    #[test]
    fn keys_are_answered_as_tungstenite_answers_them(nonce: [u8; 16]) {
        let key = Key::new(nonce);
        let expected = tungstenite::handshake::derive_accept_key(key.as_str().as_bytes());
        prop_assert_eq!(key.accept(), expected);
        prop_assert_eq!(Key::parse(key.as_str().as_bytes()), Some(key));
    }

    #[test]
    fn fields_never_panic_and_what_is_forwarded_is_read_again(
        text in "[a-c;,= \"\\\\]{0,12}|(permessage-deflate(; ?(server|client)_max_window_bits(=1[0-9])?)?,? ?){0,3}",
    ) {
        for name in ["Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"] {
            if let Ok(first) = offer(&[(name, &text)]) {
                let lines = first.http2_fields();
                let again = Offer::http2(
                    lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
                );
                prop_assert_eq!(again, Ok(first));
            }
        }
    }
}
