//! Makes text that an agent influences fit for a terminal, a log line or a page.
//!
//! Owns the one list of characters that may not get there: those that move the cursor, end a
//! line, reorder text or cannot be seen. Must never be the reason that such text is lost: what
//! is hostile is written out as an escape, not dropped.

use std::borrow::Cow;

/// Whether a character can mislead whoever reads it, or drive a terminal.
#[must_use]
pub const fn is_hostile(c: char) -> bool {
    match c {
        // C0, DEL and C1 controls.
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => true,
        // Soft hyphen, grapheme joiner, Mongolian selectors and vowel separator: invisible.
        '\u{ad}' | '\u{34f}' | '\u{180b}'..='\u{180f}' => true,
        // Fillers that render as nothing.
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => true,
        // Arabic letter mark: the bidi control that lives apart from the others.
        '\u{61c}' => true,
        // Zero width, joiners, bidi marks; line and paragraph separators, bidi embeddings and
        // overrides; word joiner, invisible operators, bidi isolates, deprecated format.
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        // Variation selectors, byte order mark, interlinear annotation.
        '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => true,
        // Tags and the supplementary variation selectors: invisible text inside text.
        '\u{e0000}'..='\u{e0fff}' => true,
        '\x20'..='\u{10ffff}' => false,
    }
}

/// The text with every hostile character written as its Rust escape (`\n`, `\u{202e}`).
#[must_use]
pub fn sanitize(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_hostile) else {
        return Cow::Borrowed(text);
    };
    let (clean, rest) = text.split_at(first);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(clean);
    rest.chars().for_each(|c| push(&mut out, c));
    Cow::Owned(out)
}

/// Like [`sanitize`], and at most `limit` characters long; what is cut off shows as `…`.
#[must_use]
pub fn sanitize_bounded(text: &str, limit: usize) -> Cow<'_, str> {
    // A text of that many bytes has no more characters than bytes.
    if text.len() <= limit && !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut length = 0;
    // Where the text ends if the next character does not fit: room for the ellipsis.
    let mut cut = 0;
    for c in text.chars() {
        let width = if is_hostile(c) {
            c.escape_default().count()
        } else {
            1
        };
        if length + width > limit {
            out.truncate(cut);
            if limit > 0 {
                out.push('…');
            }
            return Cow::Owned(out);
        }
        push(&mut out, c);
        length += width;
        if length < limit {
            cut = out.len();
        }
    }
    Cow::Owned(out)
}

/// Like [`sanitize`] for bytes that may not be UTF-8; what is not is written as `\xff`.
#[must_use]
pub fn sanitize_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return sanitize(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out.push_str(&sanitize(chunk.valid()));
        out.extend(
            chunk
                .invalid()
                .iter()
                .flat_map(|byte| byte.escape_ascii())
                .map(char::from),
        );
    }
    Cow::Owned(out)
}

fn push(out: &mut String, c: char) {
    if is_hostile(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clean_text_is_borrowed() {
        for text in ["", "api.github.com", "Grüße, мир, 世界 \\ \"x\" ~"] {
            assert!(matches!(sanitize(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn hostile_text_is_written_out() {
        let table = [
            ("a\nb", r"a\nb"),
            ("a\r\tb", r"a\r\tb"),
            ("\x1b[31mred", r"\u{1b}[31mred"),
            ("\x7f", r"\u{7f}"),
            ("\u{9b}2J", r"\u{9b}2J"),
            ("user\u{202e}cod.exe", r"user\u{202e}cod.exe"),
            ("\u{2066}x\u{2069}", r"\u{2066}x\u{2069}"),
            ("zero\u{200b}width\u{feff}", r"zero\u{200b}width\u{feff}"),
            ("line\u{2028}para\u{2029}", r"line\u{2028}para\u{2029}"),
            ("tag\u{e0041}", r"tag\u{e0041}"),
        ];
        for (hostile, expected) in table {
            assert_eq!(sanitize(hostile), expected, "{hostile:?}");
        }
    }

    #[test]
    fn bound_counts_what_is_written() {
        assert_eq!(sanitize_bounded("abcd", 4), "abcd");
        assert_eq!(sanitize_bounded("abcde", 4), "abc…");
        assert_eq!(sanitize_bounded("äöüß", 4), "äöüß");
        assert_eq!(sanitize_bounded("äöüßx", 4), "äöü…");
        assert_eq!(sanitize_bounded("ab\n", 4), r"ab\n");
        assert_eq!(sanitize_bounded("abc\n", 4), "abc…");
        assert_eq!(sanitize_bounded("abcd", 0), "");
    }

    #[test]
    fn bytes_that_are_no_text_are_written_out() {
        assert_eq!(sanitize_bytes(b"plain"), "plain");
        assert_eq!(sanitize_bytes(b"a\xff\xfe\nb\xc3"), r"a\xff\xfe\nb\xc3");
    }

    proptest! {
        #[test]
        fn nothing_hostile_survives(text in any::<String>(), bytes in any::<Vec<u8>>(), limit in 0usize..64) {
            prop_assert!(!sanitize(&text).contains(is_hostile));
            prop_assert!(!sanitize_bytes(&bytes).contains(is_hostile));
            let bounded = sanitize_bounded(&text, limit);
            prop_assert!(!bounded.contains(is_hostile));
            prop_assert!(bounded.chars().count() <= limit);
        }

        #[test]
        fn clean_text_stays_as_it_is(text in any::<String>()) {
            let once = sanitize(&text).into_owned();
            prop_assert!(matches!(sanitize(&once), Cow::Borrowed(same) if same == once));
        }
    }
}
