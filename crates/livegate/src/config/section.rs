//! Reading tables key by key: what is asked for becomes a type, what is left is unknown.
//!
//! Nothing stops at the first error: every reader records what is wrong, where and under which
//! key, and goes on with the default.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::errors::Errors;

/// One value of the file.
#[derive(Clone)]
pub(super) struct Value<'d> {
    /// The key path: `services.orders.instances[1].address`.
    pub(super) path: String,
    /// Where the value stands in the text.
    pub(super) span: Range<usize>,
    pub(super) errors: &'d Errors,
    value: &'d DeValue<'d>,
}

impl<'d> Value<'d> {
    fn new(path: String, value: &'d Spanned<DeValue<'d>>, errors: &'d Errors) -> Self {
        Self {
            path,
            span: value.span(),
            errors,
            value: value.get_ref(),
        }
    }

    /// Records an error at this value.
    pub(super) fn error(&self, message: impl Into<String>) {
        self.errors
            .push(self.span.start, self.path.clone(), message);
    }

    /// The parsed value; an error is recorded here.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&Self) -> Result<T, String>) -> Option<T> {
        parse(self).map_err(|message| self.error(message)).ok()
    }

    /// A string.
    pub(super) fn string(&self) -> Result<&'d str, String> {
        self.value.as_str().ok_or_else(|| self.expected("a string"))
    }

    /// A string that is not empty.
    pub(super) fn text(&self) -> Result<&'d str, String> {
        match self.string()? {
            "" => Err("must not be empty".to_owned()),
            text => Ok(text),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, String> {
        self.value
            .as_bool()
            .ok_or_else(|| self.expected("true or false"))
    }

    /// A whole number in `range`.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>) -> Result<T, String>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let integer = self
            .value
            .as_integer()
            .ok_or_else(|| self.expected("a whole number"))?;
        i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                format!(
                    "{integer} is out of range, {} to {}",
                    range.start(),
                    range.end()
                )
            })
    }

    /// The text of a number that stands without quotes.
    pub(super) fn bare_number(&self) -> Option<String> {
        match self.value {
            DeValue::Integer(integer) => Some(integer.to_string()),
            DeValue::Float(float) => Some(float.to_string()),
            DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, String> {
        let text = self.string()?;
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            if let [(only, _)] = choices {
                return format!("\"{text}\" is not known, only \"{only}\" is");
            }
            let names: Vec<String> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            let nearest = nearest(text, choices.iter().map(|(name, _)| *name));
            let hint = nearest
                .map(|name| format!(", the nearest is \"{name}\""))
                .unwrap_or_default();
            format!("\"{text}\" is not one of {}{hint}", names.join(", "))
        })
    }

    /// The elements of an array.
    pub(super) fn elements(&self) -> Result<Vec<Value<'d>>, String> {
        let array = self
            .value
            .as_array()
            .ok_or_else(|| self.expected("an array"))?;
        let element = |(index, value): (usize, &'d Spanned<DeValue<'d>>)| {
            Value::new(format!("{}[{index}]", self.path), value, self.errors)
        };
        Ok(array.iter().enumerate().map(element).collect())
    }

    /// The elements of an array, each parsed; wrong ones are recorded and left out.
    pub(super) fn list<T>(
        &self,
        parse: impl Fn(&Value<'d>) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        Ok(self
            .elements()?
            .iter()
            .filter_map(|element| element.parse(&parse))
            .collect())
    }

    /// The entries of a table whose keys are the user's own.
    pub(super) fn entries(&self) -> Result<Vec<Entry<'d>>, String> {
        let table = self.table()?;
        let entry = |(key, value): (&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let name: &'d std::borrow::Cow<'d, str> = key.get_ref();
            let path = join(&self.path, name);
            Entry {
                key: name,
                key_start: key.span().start,
                value: Value::new(path, value, self.errors),
            }
        };
        let mut entries: Vec<Entry<'d>> = table.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.key_start);
        Ok(entries)
    }

    /// A table whose keys are ours.
    pub(super) fn section(&self) -> Result<Section<'d>, String> {
        Ok(Section {
            path: self.path.clone(),
            start: self.span.start,
            table: self.table()?,
            known: Vec::new(),
            errors: self.errors,
        })
    }

    fn table(&self) -> Result<&'d DeTable<'d>, String> {
        self.value
            .as_table()
            .ok_or_else(|| self.expected("a table"))
    }

    fn expected(&self, what: &str) -> String {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        format!("expected {what}, found {found}")
    }
}

/// One entry of a table whose keys are the user's own.
pub(super) struct Entry<'d> {
    pub(super) key: &'d str,
    /// Where the key stands in the text.
    pub(super) key_start: usize,
    pub(super) value: Value<'d>,
}

impl Entry<'_> {
    /// Records an error at the key.
    pub(super) fn key_error(&self, message: impl Into<String>) {
        self.value
            .errors
            .push(self.key_start, self.value.path.clone(), message);
    }
}

/// A table whose keys are ours. The keys it has been asked for are the known ones.
pub(super) struct Section<'d> {
    pub(super) path: String,
    /// Where the table begins.
    pub(super) start: usize,
    table: &'d DeTable<'d>,
    known: Vec<&'static str>,
    pub(super) errors: &'d Errors,
}

impl<'d> Section<'d> {
    /// The whole file.
    pub(super) fn root(table: &'d Spanned<DeTable<'d>>, errors: &'d Errors) -> Self {
        Self {
            path: String::new(),
            start: 0,
            table: table.get_ref(),
            known: Vec::new(),
            errors,
        }
    }

    /// The value of a key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Value::new(join(&self.path, key), value, self.errors))
    }

    /// The parsed value of a key; `None` when it is absent or wrong.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value<'d>) -> Result<T, String>,
    ) -> Option<T> {
        self.get(key).and_then(|value| value.parse(parse))
    }

    /// Sets `target` when the key is there and right.
    pub(super) fn set<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        parse: impl FnOnce(&Value<'d>) -> Result<T, String>,
    ) {
        if let Some(value) = self.read(key, parse) {
            *target = value;
        }
    }

    /// The table under a key.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'d>> {
        self.read(key, Value::section)
    }

    /// Records that something is not there. Says nothing of a file that could only be read in
    /// part, where it may well be.
    pub(super) fn absent(&self, message: impl Into<String>) {
        if !self.errors.partial() {
            self.errors.push(self.start, self.path.clone(), message);
        }
    }

    /// Records every key that has not been asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let message = match nearest(name, self.known.iter().copied()) {
                Some(known) => format!("unknown key, the nearest known one is \"{known}\""),
                None => "unknown key, there are none here".to_owned(),
            };
            self.errors
                .push(key.span().start, join(&self.path, name), message);
        }
    }
}

/// The one of `known` that `name` was most likely meant to be.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    known.min_by_key(distance)
}

/// The path of `key` in the table at `path`; quoted as TOML would have it.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}
