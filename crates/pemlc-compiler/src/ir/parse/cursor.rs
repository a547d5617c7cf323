//! Words, numbers and types of a line.

use super::ParseError;
use crate::ir::{DType, Dim, Symbol, Tensor, ValueType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A place in a line.
pub(super) struct Cursor<'a> {
    pub(super) text: &'a str,
    /// In bytes.
    pub(super) place: usize,
    /// Counted from 1.
    pub(super) line: usize,
    /// Constants that the text has digests of.
    pub(super) constants: &'a BTreeMap<String, Arc<Tensor>>,
}

impl<'a> Cursor<'a> {
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.place..]
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> ParseError {
        let column = self.text[..self.place].chars().count() + 1;
        ParseError { line: self.line, column, reason: reason.into() }
    }

    pub(super) fn skip(&mut self) {
        self.place += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes `token` when it is next.
    pub(super) fn take(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        self.place += if found { token.len() } else { 0 };
        found
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.take(token) { Ok(()) } else { Err(self.error(format!("expected `{token}`"))) }
    }

    /// A run of the characters of plain names, perhaps empty.
    pub(super) fn plain(&mut self) -> &'a str {
        self.skip();
        let rest = self.rest();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '/');
        let end = rest.find(|c: char| !is_plain(c)).unwrap_or(rest.len());
        self.place += end;
        &rest[..end]
    }

    pub(super) fn word(&mut self, word: &str) -> Result<(), ParseError> {
        let start = self.place;
        if self.plain() == word {
            return Ok(());
        }
        self.place = start;
        Err(self.error(format!("expected `{word}`")))
    }

    pub(super) fn end(&mut self) -> Result<(), ParseError> {
        self.skip();
        if self.rest().is_empty() { Ok(()) } else { Err(self.error("expected the end of the line")) }
    }

    /// A plain or quoted name.
    pub(super) fn name(&mut self) -> Result<String, ParseError> {
        self.skip();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        match self.plain() {
            "" => Err(self.error("expected a name")),
            name => Ok(name.to_owned()),
        }
    }

    /// A string as Rust's `{:?}` writes it.
    pub(super) fn quoted(&mut self) -> Result<String, ParseError> {
        self.expect("\"")?;
        let mut value = String::new();
        let mut characters = self.rest().char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.place += at + 1;
                    return Ok(value);
                }
                '\\' => {
                    let escaped = match characters.next().map(|(_, c)| c) {
                        Some('n') => Some('\n'),
                        Some('r') => Some('\r'),
                        Some('t') => Some('\t'),
                        Some('0') => Some('\0'),
                        Some(c @ ('"' | '\\' | '\'')) => Some(c),
                        Some('u') => {
                            let digits: String =
                                characters.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').take(8).collect();
                            u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
                        }
                        _ => None,
                    };
                    value.push(escaped.ok_or_else(|| self.error("expected an escape such as \\n or \\u{7f}"))?);
                }
                c => value.push(c),
            }
        }
        Err(self.error("expected a closing quote"))
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, ParseError> {
        self.skip();
        let start = self.place;
        let found = self.plain();
        found.parse().map_err(|_| {
            self.place = start;
            self.error(format!("expected {what}, found `{found}`"))
        })
    }

    /// Items between `open` and `close`, separated by commas.
    pub(super) fn list<T>(
        &mut self,
        (open, close): (&str, &str),
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        self.expect(open)?;
        let mut items = Vec::new();
        if self.take(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(close) {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }

    pub(super) fn dtype(&mut self) -> Result<DType, ParseError> {
        self.skip();
        let start = self.place;
        let found = self.plain();
        DType::ALL.into_iter().find(|dtype| dtype.name() == found).ok_or_else(|| {
            self.place = start;
            self.error(format!("expected a number type, found `{found}`"))
        })
    }

    /// A word that names one of `all`.
    pub(super) fn one_of<T: Copy>(&mut self, all: &[T], name: fn(T) -> &'static str) -> Result<T, ParseError> {
        self.skip();
        let start = self.place;
        let found = self.plain();
        all.iter().copied().find(|one| name(*one) == found).ok_or_else(|| {
            self.place = start;
            let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
            self.error(format!("expected one of {}, found `{found}`", names.join(", ")))
        })
    }

    pub(super) fn value_type(&mut self) -> Result<ValueType, ParseError> {
        let dtype = self.dtype()?;
        Ok(ValueType { dtype, shape: self.list(("[", "]"), Self::dim)? })
    }

    /// A sum of symbols and sizes.
    pub(super) fn dim(&mut self) -> Result<Dim, ParseError> {
        let mut sum = Dim::from(0);
        loop {
            self.skip();
            let start = self.place;
            let term = self.plain();
            let term = match Symbol::named(term) {
                Some(symbol) => Dim::from(symbol),
                None if term == "total_sequence_length" => Dim::total_sequence(),
                None => Dim::from(term.parse::<u32>().map(|size| size as usize).map_err(|_| {
                    self.place = start;
                    self.error(format!("expected a size or a symbol, found `{term}`"))
                })?),
            };
            sum = sum.plus(&term);
            if !self.take("+") {
                return Ok(sum);
            }
        }
    }
}
