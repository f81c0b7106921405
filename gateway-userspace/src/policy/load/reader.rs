//! Takes the tables of a file apart, key by key.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue, ValueDeserializer},
};

use super::schema::{Key, State, Table};
use crate::policy::{Fault, report::Problems, settings::Word};

/// A table with only keys that are built, each to be taken once.
pub(super) struct Section<'i> {
    table: DeTable<'i>,
    schema: &'static Table,
    span: Range<usize>,
}

impl<'i> Section<'i> {
    /// Reports the keys that are unknown or not built, and keeps the others.
    pub(super) fn new(
        table: Spanned<DeTable<'i>>,
        schema: &'static Table,
        problems: &mut Problems,
    ) -> Self {
        let span = table.span();
        let mut keep = |key: &Spanned<DeString<'i>>| {
            let name: &str = key.get_ref();
            let fault = match schema.keys.iter().find(|known| known.name == name) {
                Some(Key {
                    state: State::Built(_),
                    ..
                }) => return true,
                Some(Key {
                    state: State::NotBuilt(instead),
                    ..
                }) => Fault::NotBuilt {
                    name: name.to_owned(),
                    instead,
                },
                None => unknown(name, schema),
            };
            problems.add(fault, key.span());
            false
        };
        let entries = table.into_inner().into_iter();
        Self {
            table: entries.filter(|(key, _)| keep(key)).collect(),
            schema,
            span,
        }
    }

    /// An optional section that is not there.
    fn empty(schema: &'static Table) -> Self {
        Self {
            table: DeTable::new(),
            schema,
            span: 0..0,
        }
    }

    /// Where the section begins.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A look at a value, which stays.
    pub(super) fn value(&self, key: &str) -> Option<&Spanned<DeValue<'i>>> {
        self.table.get(key)
    }

    /// A value as TOML has it.
    pub(super) fn take_value(&mut self, key: &str) -> Option<Spanned<DeValue<'i>>> {
        self.table.remove(key)
    }

    /// A value of this type, if the key is there; one of another type is reported.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Spanned<T>> {
        let value = self.take_value(key)?;
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(Spanned::new(span, value)),
            Err(error) => {
                let fault = self.wrong_type(key, error.message());
                problems.add(fault, error.span().unwrap_or(span));
                None
            }
        }
    }

    /// As [`Self::take`]; that the key is not there is reported too.
    pub(super) fn require<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Spanned<T>> {
        self.demand(key, problems);
        self.take(key, problems)
    }

    /// Reports a key that is not there.
    pub(super) fn demand(&self, key: &'static str, problems: &mut Problems) {
        if !self.has(key) {
            let example = self.example(key);
            problems.add(Fault::Missing { key, example }, self.span());
        }
    }

    /// One word of a few; the first of them if the key is not there.
    pub(super) fn word<T: Word>(&mut self, key: &'static str, problems: &mut Problems) -> T {
        let (_, default) = T::WORDS[0];
        let Some(found) = self.take::<String>(key, problems) else {
            return default;
        };
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        match T::WORDS.iter().find(|(word, _)| word == found.get_ref()) {
            Some((_, value)) => *value,
            None => {
                let fault = Fault::Word {
                    key,
                    found: found.get_ref().clone(),
                    allowed: words().collect::<Vec<_>>().join(", "),
                    meant: nearest(found.get_ref(), words()),
                };
                problems.add(fault, found.span());
                default
            }
        }
    }

    /// A table below; empty if it is not there.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        schema: &'static Table,
        problems: &mut Problems,
    ) -> Self {
        let Some(value) = self.take_value(key) else {
            return Self::empty(schema);
        };
        self.open(key, value, schema, problems)
            .unwrap_or_else(|| Self::empty(schema))
    }

    /// The tables of a list of tables, none if it is not there.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        schema: &'static Table,
        problems: &mut Problems,
    ) -> Vec<Self> {
        let Some(value) = self.take_value(key) else {
            return Vec::new();
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(tables) => tables
                .into_iter()
                .filter_map(|table| self.open(key, table, schema, problems))
                .collect(),
            other => {
                problems.add(self.wrong_type(key, &not_a("list of tables", &other)), span);
                Vec::new()
            }
        }
    }

    fn open(
        &self,
        key: &'static str,
        value: Spanned<DeValue<'i>>,
        schema: &'static Table,
        problems: &mut Problems,
    ) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Self::new(Spanned::new(span, table), schema, problems)),
            other => {
                problems.add(self.wrong_type(key, &not_a("table", &other)), span);
                None
            }
        }
    }

    /// A value of the wrong type.
    pub(super) fn wrong_type(&self, key: &'static str, message: &str) -> Fault {
        Fault::Type {
            key,
            message: message.to_owned(),
            example: self.example(key),
        }
    }

    fn example(&self, key: &str) -> &'static str {
        let known = self.schema.keys.iter().find(|known| known.name == key);
        match known.map(|known| known.state) {
            Some(State::Built(example)) => example,
            Some(State::NotBuilt(_)) | None => "",
        }
    }
}

/// What to say of a value that is not what was expected.
pub(super) fn not_a(expected: &str, found: &DeValue<'_>) -> String {
    format!(
        "a {expected} is needed, not a value of type {}",
        found.type_str()
    )
}

fn unknown(name: &str, schema: &'static Table) -> Fault {
    let built = || {
        schema
            .keys
            .iter()
            .filter(|key| matches!(key.state, State::Built(_)))
            .map(|key| key.name)
    };
    Fault::Unknown {
        what: schema.what,
        name: name.to_owned(),
        meant: nearest(name, built()),
        known: built().collect::<Vec<_>>().join(", "),
    }
}

/// The word that was probably meant: the most alike, if it is rather alike.
fn nearest(found: &str, words: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let found = found.to_ascii_lowercase();
    words
        .map(|word| (strsim::jaro_winkler(&found, word), word))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}
