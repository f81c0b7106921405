//! JSON (RFC 8259) read so that no other reader sees something else: a key stands once.
//!
//! Numbers are what `serde_json` makes of them: integers of 64 bits, or the nearest double.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The deepest nesting that [`Limits::depth`] can ask for.
pub const DEPTH_MAX: usize = 126;

/// Octets of memory that a value in an array is counted as.
const ELEMENT: usize = 64;
/// Octets of memory that an object with at least one member is counted as.
const OBJECT: usize = 640;
/// Octets of memory that a member of an object is counted as, besides its key.
const MEMBER: usize = 128;

/// How large a document may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of text; 16 MiB by default.
    pub size: usize,
    /// Arrays and objects within each other, at most [`DEPTH_MAX`]; 64 by default.
    pub depth: usize,
    /// Octets of memory that the value may take, by a rough count on the high side; 128 MiB by
    /// default. Objects of one member take a hundred times their text.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            size: 16 << 20,
            depth: 64,
            memory: 128 << 20,
        }
    }
}

/// Why a document is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JsonError {
    /// More than [`Limits::size`].
    #[error("the JSON text is larger than the limit")]
    TooLarge,
    /// More than [`Limits::depth`].
    #[error("the JSON text is nested deeper than the limit")]
    TooDeep,
    /// More than [`Limits::memory`].
    #[error("the JSON text has more values than the limit on memory allows")]
    TooMany,
    /// An object has a key twice: some readers take the first, some the last.
    #[error("an object has the same key twice")]
    DuplicateKey,
    /// Not JSON, or not UTF-8.
    #[error("not valid JSON at line {line}, column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The octet in the line, from 1; 0 before the first.
        column: usize,
    },
}

impl JsonError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "json_too_large",
            Self::TooDeep => "json_too_deep",
            Self::TooMany => "json_too_many",
            Self::DuplicateKey => "json_duplicate_key",
            Self::Syntax { .. } => "json_syntax",
        }
    }
}

/// Reads one document, within the default [`Limits`].
///
/// # Errors
/// [`JsonError`].
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    parse_within(text, Limits::default())
}

/// Reads one document.
///
/// # Errors
/// [`JsonError`].
pub fn parse_within(text: &[u8], limits: Limits) -> Result<Value, JsonError> {
    if text.len() > limits.size {
        return Err(JsonError::TooLarge);
    }
    let budget = Budget {
        left: Cell::new(limits.memory),
        over: Cell::new(None),
    };
    let node = Node {
        budget: &budget,
        depth: limits.depth.min(DEPTH_MAX),
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    node.deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| {
            budget.over.get().unwrap_or(JsonError::Syntax {
                line: error.line(),
                column: error.column(),
            })
        })
}

/// Whether somebody may read this as an object or an array, be it by rules of his own: with a byte
/// order mark, in another encoding of Unicode, or behind a comment.
#[must_use]
pub fn is_meant(text: &[u8]) -> bool {
    let before = |byte: &&u8| {
        byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0b | 0xef | 0xbb | 0xbf | 0xfe | 0xff)
    };
    let first = text.iter().find(|byte| !before(byte));
    matches!(first, Some(b'{' | b'[' | b'/'))
}

/// What is left, and which limit was met first.
struct Budget {
    left: Cell<usize>,
    over: Cell<Option<JsonError>>,
}

impl Budget {
    fn refuse<E: serde::de::Error>(&self, error: JsonError) -> E {
        self.over.set(Some(error));
        E::custom("refused")
    }

    fn spend<E: serde::de::Error>(&self, octets: usize) -> Result<(), E> {
        match self.left.get().checked_sub(octets) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(self.refuse(JsonError::TooMany)),
        }
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Budget,
    /// Arrays and objects that may still be opened.
    depth: usize,
}

impl Node<'_> {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.budget.refuse(JsonError::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut elements = Vec::new();
        while let Some(element) = access.next_element_seed(inner)? {
            self.budget.spend(ELEMENT)?;
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if members.is_empty() {
                self.budget.spend(OBJECT)?;
            }
            self.budget.spend(MEMBER.saturating_add(key.len()))?;
            if members.contains_key(&key) {
                return Err(self.budget.refuse(JsonError::DuplicateKey));
            }
            let value = access.next_value_seed(inner)?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_read_as_serde_json_reads_them() {
        for text in [
            "null",
            " [true, false, null] ",
            "0",
            "-0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "1.5e300",
            "\"\\ud83d\\ude00 \\u0000\"",
            "{\"a\":{\"a\":[{\"a\":1},{\"a\":2}]},\"b\":{}}",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_key_stands_once() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"[{"x":{"":0,"":{}}}]"#,
        ] {
            assert_eq!(
                parse(text.as_bytes()),
                Err(JsonError::DuplicateKey),
                "{text}"
            );
        }
        assert_eq!(
            parse(br#"{"a":1,"A":1}"#),
            Ok(json!({ "a": 1, "A": 1 })),
            "keys differ by case"
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            &b""[..],
            b" ",
            b"\xef\xbb\xbf{}",
            b"{} {}",
            b"{}\0",
            b"[1,]",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{a:1}",
            b"[1 2]",
            b"01",
            b"+1",
            b".5",
            b"1e999",
            b"NaN",
            b"Infinity",
            b"\"\\ud800\"",
            b"\"\x01\"",
            b"\"\xff\"",
            b"\"\xc0\xaf\"",
            b"// x\n1",
            b"{\"a\"",
        ] {
            let result = parse(text);
            assert!(
                matches!(result, Err(JsonError::Syntax { .. })),
                "{}: {result:?}",
                text.escape_ascii()
            );
        }
        assert_eq!(
            parse(b"[\n1,\n x]"),
            Err(JsonError::Syntax { line: 3, column: 2 })
        );
    }

    #[test]
    fn limits_fit_exactly() {
        let limits = Limits {
            size: 40,
            depth: 3,
            memory: 1000,
        };
        let read = |text: &str| parse_within(text.as_bytes(), limits).map(|_| ());
        assert_eq!(read(&format!("{:40}", 1)), Ok(()));
        assert_eq!(read(&format!("{:41}", 1)), Err(JsonError::TooLarge));
        assert_eq!(read("[{\"a\":[]}]"), Ok(()));
        assert_eq!(read("[{\"a\":[[]]}]"), Err(JsonError::TooDeep));
        assert_eq!(read("[{\"a\":[{}]}]"), Err(JsonError::TooDeep));
        // 1000 octets: fifteen elements, or one object of two members with 104 octets in keys and values.
        assert_eq!(read("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), Ok(()));
        assert_eq!(
            read("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"),
            Err(JsonError::TooMany)
        );
        let wide = Limits {
            size: 400,
            ..limits
        };
        for (octets, expected) in [(104, Ok(())), (105, Err(JsonError::TooMany))] {
            let text = format!("{{\"a\":\"{}\",\"b\":0}}", "x".repeat(octets - 2));
            assert_eq!(
                parse_within(text.as_bytes(), wide).map(|_| ()),
                expected,
                "{octets}"
            );
        }
    }

    #[test]
    fn the_deepest_limit_is_one_that_the_reader_has() {
        let limits = Limits {
            depth: usize::MAX,
            ..Limits::default()
        };
        for (depth, expected) in [
            (DEPTH_MAX, Ok(())),
            (DEPTH_MAX + 1, Err(JsonError::TooDeep)),
            (1 << 20, Err(JsonError::TooDeep)),
        ] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let result = parse_within(text.as_bytes(), limits).map(|_| ());
            assert_eq!(result, expected, "{depth}");
        }
    }

    #[test]
    fn many_small_objects_end_at_the_limit_on_memory() {
        let text = format!("[{}0]", "{\"\":0},".repeat(1 << 20));
        assert_eq!(parse(text.as_bytes()), Err(JsonError::TooMany));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back(value in values()) {
            prop_assert_eq!(parse(&serde_json::to_vec(&value).unwrap()), Ok(value));
        }

        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}:, \"a\\\\0-9e.-]{0,24}") {
            match parse(text.as_bytes()) {
                Ok(value) => prop_assert_eq!(Some(value), serde_json::from_str(&text).ok()),
                Err(JsonError::DuplicateKey) => {}
                Err(_) => prop_assert!(serde_json::from_str::<Value>(&text).is_err()),
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _any = parse(&bytes).is_ok();
        }
    }
}
