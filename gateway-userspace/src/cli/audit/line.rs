//! One record on one line, for people.

use serde_json::Value;

use crate::sanitize::{is_hostile, sanitize_bounded, sanitize_bytes};

/// Most characters of one value on the line; the file has the whole.
const VALUE_MAX: usize = 200;

/// Whether verdicts are coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colour {
    /// For a terminal.
    On,
    /// For everything else.
    Off,
}

/// A record of any version: fields that are missing or of another type are left out.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let text = self.0.get(name)?.as_str()?;
        if !text.contains([' ', '"']) {
            return Some(sanitize_bounded(text, VALUE_MAX).into_owned());
        }
        // A blank in a name must not look like the start of the next field.
        let inner = text.replace('\\', r"\\").replace('"', "\\\"");
        Some(format!("\"{}\"", sanitize_bounded(&inner, VALUE_MAX)))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// Time, to the millisecond.
    fn time(&self) -> String {
        let time = self.text("time").and_then(|text| text.parse().ok());
        time.map_or_else(
            || "-".to_owned(),
            |time: jiff::Timestamp| format!("{time:.3}"),
        )
    }

    /// `pid/comm`, and the executable where its name is another.
    fn process(&self) -> Option<String> {
        let process = Fields(self.0.get("process").filter(|value| value.is_object())?);
        let mut text = match process.number("pid") {
            Some(pid) => pid.to_string(),
            None => "?".to_owned(),
        };
        let comm = process.text("comm").unwrap_or_default();
        text += "/";
        text += &comm;
        if let Some(exe) = process.text("exe")
            && exe.rsplit('/').next() != Some(&comm)
        {
            text += &format!("({exe})");
        }
        Some(text)
    }

    /// What was asked for: the name, or else the address.
    fn target(&self) -> Option<String> {
        let Some(host) = self.text("host") else {
            return self.text("original_destination");
        };
        let bare_v6 = host.contains(':') && !host.starts_with('[');
        Some(match self.number("port") {
            Some(port) if bare_v6 => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host,
        })
    }
}

/// The compact line of a record; none if the bytes are no record.
pub(super) fn compact(line: &[u8], colour: Colour) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let fields = Fields(&value);
    let kind = fields.text("kind")?;
    let verdict = fields.text("outcome").unwrap_or_else(|| "-".to_owned());

    let mut out = format!("{} {} ", fields.time(), paint(&verdict, colour));
    out += &fields.text("agent").unwrap_or_else(|| "-".to_owned());
    out += " ";
    out += &kind;
    if fields.text("phase").as_deref() == Some("open") {
        out += "(open)";
    }
    for part in [
        fields.process(),
        fields.text("method"),
        fields.target(),
        fields.text("path"),
    ]
    .into_iter()
    .flatten()
    {
        out += " ";
        out += &part;
    }
    for (label, name) in [
        ("rule", "rule"),
        ("reason", "reason"),
        ("blame", "blame"),
        ("upstream", "upstream"),
        ("status", "status"),
    ] {
        let value = fields
            .text(name)
            .or_else(|| fields.number(name).map(|n| n.to_string()));
        if let Some(value) = value {
            push(&mut out, label, &value);
        }
    }
    for (label, name) in [
        ("out", "bytes_out"),
        ("in", "bytes_in"),
        ("repeated", "repeated"),
    ] {
        if let Some(number) = fields.number(name).filter(|number| *number > 0) {
            push(&mut out, label, &number.to_string());
        }
    }
    if let Some(duration) = fields
        .number("duration_us")
        .filter(|duration| *duration > 0)
    {
        push(&mut out, "took", &milliseconds(duration));
    }
    if kind == "loss"
        && let Some(hint) = fields.text("hint")
    {
        push(&mut out, "hint", &hint);
    }
    Some(out)
}

/// The line for bytes that are no record.
pub(super) fn foreign(line: &[u8]) -> String {
    let text = sanitize_bytes(line);
    format!("? no audit record: {}", sanitize_bounded(&text, VALUE_MAX))
}

/// The record as it stands in the file. What a terminal might fall for is escaped: our writer
/// leaves nothing of that, but the file need not be its.
pub(super) fn verbatim(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?;
    let value: Value = serde_json::from_str(text).ok()?;
    value.is_object().then(|| escaped(text))
}

/// Hostile characters stand within JSON's strings or, as blanks, between its tokens.
pub(in crate::cli) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' | '\r' => out.push(' '),
            c if is_hostile(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out += &format!("\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn push(out: &mut String, label: &str, value: &str) {
    out.push(' ');
    out.push_str(label);
    out.push('=');
    out.push_str(value);
}

fn paint(verdict: &str, colour: Colour) -> String {
    let code = match (colour, verdict) {
        (Colour::On, "allow") => "32",
        (Colour::On, "deny") => "31",
        (Colour::On, "observe") => "33",
        (Colour::On | Colour::Off, _) => return format!("{verdict:<7}"),
    };
    format!("\x1b[{code}m{verdict:<7}\x1b[0m")
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03}ms", microseconds / 1000, microseconds % 1000)
}
