//! DNS questions.

use hickory_proto::op::{Message, MessageType};

use crate::{
    dns::server::{Asked, begin_response},
    names::HostName,
};

/// What is answered can be encoded, is an answer, and names in it are read the same again.
pub(super) fn message(input: &[u8]) {
    let response = match Asked::read(input) {
        Asked::Nothing => return,
        Asked::Malformed(response) => response,
        Asked::Question(question) => {
            let response = begin_response(&question);
            for query in &question.queries {
                assert_stable(&query.name().to_ascii());
            }
            assert_eq!(response.queries, question.queries);
            response
        }
    };
    let encoded = response.to_vec().expect("an answer can be encoded");
    let again = Message::from_vec(&encoded).expect("and read");
    assert_eq!(again.metadata.message_type, MessageType::Response);
    assert_eq!(
        again.metadata.id.to_be_bytes(),
        input[..2],
        "the asker's transaction"
    );
}

/// A name that was put in its one form stays in it.
fn assert_stable(asked: &str) {
    let Ok(name) = HostName::parse(asked) else {
        return;
    };
    let text = name.as_str();
    assert_eq!(HostName::parse(text).as_ref(), Ok(&name));
    assert!(!text.ends_with('.') && !text.bytes().any(|b| b.is_ascii_uppercase()));
    let bare = asked.strip_suffix('.').unwrap_or(asked);
    assert!(
        text.eq_ignore_ascii_case(bare) || !bare.is_ascii(),
        "{asked} became {text}"
    );
}
