//! `word; name=value; name="value"`: the notation of `Content-Type` and `Content-Disposition`.

/// The parameters are not written in the one plain way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// What stands behind the first word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters<'a>(&'a str);

/// Splits a value at its first semicolon.
pub(super) fn split(value: &str) -> (&str, Parameters<'_>) {
    let end = value.find(';').unwrap_or(value.len());
    let (word, rest) = value.split_at(end);
    (word.trim_matches([' ', '\t']), Parameters(rest))
}

impl<'a> Parameters<'a> {
    /// Takes the next parameter: its name as written, and its value without quotes.
    ///
    /// # Errors
    /// [`Malformed`], also for a backslash in quotes: for some readers it quotes what follows, for
    /// others, browsers among them, it is part of a file's name.
    pub(super) fn next_parameter(&mut self) -> Result<Option<(&'a str, &'a str)>, Malformed> {
        let rest = self.0.trim_matches([' ', '\t']);
        if rest.is_empty() {
            return Ok(None);
        }
        let rest = rest
            .strip_prefix(';')
            .ok_or(Malformed)?
            .trim_start_matches([' ', '\t']);
        let (name, rest) = rest.split_once('=').ok_or(Malformed)?;
        if !is_token(name) {
            return Err(Malformed);
        }
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (value, rest) = quoted.split_once('"').ok_or(Malformed)?;
                if value.contains('\\') || value.chars().any(char::is_control) {
                    return Err(Malformed);
                }
                (value, rest)
            }
            None => {
                let end = rest.find([';', ' ', '\t']).unwrap_or(rest.len());
                let (value, rest) = rest.split_at(end);
                if !is_token(value) {
                    return Err(Malformed);
                }
                (value, rest)
            }
        };
        self.0 = rest;
        Ok(Some((name, value)))
    }
}

/// Whether text is a token (RFC 9110, 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
