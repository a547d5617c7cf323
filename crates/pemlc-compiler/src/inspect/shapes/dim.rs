//! A dimension as a polynomial over symbols, so that `batch_size*sequence_length` can be formed, divided and evaluated.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// Polynomials beyond these sizes become unknown: no real shape has them, and a hostile file must not make them grow.
const MAX_TERMS: usize = 8;
const MAX_DEGREE: usize = 6;
const MAX_SYMBOL: usize = 64;

/// A size, perhaps symbolic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Dim {
    #[default]
    Unknown,
    Fixed(i64),
    /// Coefficients by product of sorted symbols; the empty product is the constant. Never a constant alone.
    Sum(Rc<BTreeMap<Vec<Rc<str>>, i64>>),
}

impl Dim {
    /// The meaning of a symbol's name: exporters write `past_sequence_length + 1` and the like.
    pub(crate) fn parse(text: &str) -> Self {
        if text.is_empty() || text.len() > MAX_SYMBOL {
            return Self::Unknown;
        }
        let identifier = |part: &str| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '%'))
        };
        let factor = |part: &str| match part.parse::<i64>() {
            Ok(number) => Some(Self::Fixed(number)),
            Err(_) => identifier(part).then(|| Self::symbol(part)),
        };
        let product = |term: &str| {
            term.split('*').try_fold(Self::Fixed(1), |product, part| Some(product.times(&factor(part.trim())?)))
        };
        let sum = text.split('+').try_fold(Self::Fixed(0), |sum, term| Some(sum.plus(&product(term)?)));
        sum.unwrap_or_else(|| Self::symbol(text))
    }

    fn symbol(name: &str) -> Self {
        Self::Sum(Rc::new(BTreeMap::from([(vec![Rc::from(name)], 1)])))
    }

    fn terms(&self) -> Option<BTreeMap<Vec<Rc<str>>, i64>> {
        match self {
            Self::Unknown => None,
            Self::Fixed(0) => Some(BTreeMap::new()),
            Self::Fixed(size) => Some(BTreeMap::from([(Vec::new(), *size)])),
            Self::Sum(terms) => Some((**terms).clone()),
        }
    }

    fn from_terms(mut terms: BTreeMap<Vec<Rc<str>>, i64>) -> Self {
        terms.retain(|_, coefficient| *coefficient != 0);
        let constant = terms.keys().all(Vec::is_empty);
        match terms.values().next() {
            None => Self::Fixed(0),
            Some(size) if constant => Self::Fixed(*size),
            _ if terms.len() > MAX_TERMS || terms.keys().any(|product| product.len() > MAX_DEGREE) => Self::Unknown,
            _ => Self::Sum(Rc::new(terms)),
        }
    }

    pub(crate) fn fixed(&self) -> Option<i64> {
        if let Self::Fixed(size) = self { Some(*size) } else { None }
    }

    pub(crate) fn is_known(&self) -> bool {
        *self != Self::Unknown
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        if let (Self::Fixed(left), Self::Fixed(right)) = (self, other) {
            return left.checked_add(*right).map_or(Self::Unknown, Self::Fixed);
        }
        let (Some(mut terms), Some(others)) = (self.terms(), other.terms()) else { return Self::Unknown };
        for (product, coefficient) in others {
            let sum = terms.entry(product).or_insert(0);
            match sum.checked_add(coefficient) {
                Some(value) => *sum = value,
                None => return Self::Unknown,
            }
        }
        Self::from_terms(terms)
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.plus(&other.times(&Self::Fixed(-1)))
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        if let (Self::Fixed(left), Self::Fixed(right)) = (self, other) {
            return left.checked_mul(*right).map_or(Self::Unknown, Self::Fixed);
        }
        let (Some(left), Some(right)) = (self.terms(), other.terms()) else { return Self::Unknown };
        let mut terms: BTreeMap<Vec<Rc<str>>, i64> = BTreeMap::new();
        for (first, coefficient) in &left {
            for (second, factor) in &right {
                let mut product = [first.as_slice(), second.as_slice()].concat();
                product.sort_unstable();
                let sum = terms.entry(product).or_insert(0);
                let Some(value) = coefficient.checked_mul(*factor).and_then(|value| sum.checked_add(value)) else {
                    return Self::Unknown;
                };
                *sum = value;
            }
        }
        Self::from_terms(terms)
    }

    /// The quotient, if `other` is a single product that divides every term.
    pub(crate) fn divided_by(&self, other: &Self) -> Self {
        let (Some(terms), Some(divisor)) = (self.terms(), other.terms()) else { return Self::Unknown };
        let Some((symbols, size)) = divisor.iter().next().filter(|_| divisor.len() == 1) else { return Self::Unknown };
        let mut quotient = BTreeMap::new();
        for (mut product, coefficient) in terms {
            for symbol in symbols {
                let Some(place) = product.iter().position(|own| own == symbol) else { return Self::Unknown };
                product.remove(place);
            }
            match coefficient.checked_rem(*size) {
                Some(0) => quotient.insert(product, coefficient / size),
                _ => return Self::Unknown,
            };
        }
        Self::from_terms(quotient)
    }

    /// Its value where `size` gives those of the symbols; `missing` gets the symbols that it does not know.
    pub(crate) fn evaluate(&self, size: &dyn Fn(&str) -> Option<u64>, missing: &mut dyn FnMut(&str)) -> Option<u64> {
        let terms = self.terms()?;
        let mut sum = Some(0i64);
        for (product, coefficient) in &terms {
            let mut value = Some(*coefficient);
            for symbol in product {
                let factor = size(symbol);
                if factor.is_none() {
                    missing(symbol);
                }
                value = value.zip(factor).and_then(|(value, factor)| value.checked_mul(i64::try_from(factor).ok()?));
            }
            sum = sum.zip(value).and_then(|(sum, value)| sum.checked_add(value));
        }
        u64::try_from(sum?).ok()
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("?"),
            Self::Fixed(size) => size.fmt(f),
            Self::Sum(terms) => {
                // The constant, an empty product, sorts first and reads best last.
                let ordered = terms.iter().filter(|(product, _)| !product.is_empty());
                for (place, (product, coefficient)) in
                    ordered.chain(terms.iter().filter(|(product, _)| product.is_empty())).enumerate()
                {
                    let sign = match (place, *coefficient < 0) {
                        (0, false) => "",
                        (0, true) => "-",
                        (_, false) => " + ",
                        (_, true) => " - ",
                    };
                    f.write_str(sign)?;
                    let size = coefficient.unsigned_abs();
                    let number = (size != 1 || product.is_empty()).then(|| size.to_string());
                    let factors: Vec<&str> =
                        number.iter().map(String::as_str).chain(product.iter().map(|symbol| &**symbol)).collect();
                    f.write_str(&factors.join("*"))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_read_as_they_were_written() {
        for text in ["batch", "past + sequence", "past + 1", "2*batch*heads", "12", "batch - 1", "?"] {
            let dim = match text {
                "batch - 1" => Dim::parse("batch").minus(&Dim::Fixed(1)),
                "?" => Dim::Unknown,
                _ => Dim::parse(text),
            };
            assert_eq!(dim.to_string(), text);
        }
        // What is no sum of products is a symbol as it stands.
        assert_eq!(Dim::parse("max(a, b)").to_string(), "max(a, b)");
        assert_eq!(Dim::parse(&"x".repeat(65)), Dim::Unknown);
    }

    #[test]
    fn a_product_divides_what_it_is_in() {
        let rows = Dim::parse("batch").times(&Dim::parse("past + sequence"));
        assert_eq!(rows.times(&Dim::Fixed(6)).divided_by(&Dim::parse("2*batch")), Dim::parse("3*past + 3*sequence"));
        assert_eq!(rows.divided_by(&Dim::parse("sequence")), Dim::Unknown);
        assert_eq!(Dim::Fixed(7).divided_by(&Dim::Fixed(2)), Dim::Unknown);
        assert_eq!(Dim::Fixed(7).divided_by(&Dim::Fixed(0)), Dim::Unknown);
        assert_eq!(rows.minus(&rows), Dim::Fixed(0));
    }

    #[test]
    fn overflow_is_unknown() {
        assert_eq!(Dim::Fixed(i64::MAX).plus(&Dim::Fixed(1)), Dim::Unknown);
        assert_eq!(Dim::Fixed(i64::MIN).times(&Dim::Fixed(-1)), Dim::Unknown);
        assert_eq!(Dim::Fixed(i64::MIN).divided_by(&Dim::Fixed(-1)), Dim::Unknown);
        let wide = (0..20).fold(Dim::Fixed(0), |sum, index| sum.plus(&Dim::parse(&format!("s{index}"))));
        assert_eq!(wide, Dim::Unknown);
    }

    #[test]
    fn values_come_from_the_symbols() {
        let mut missing = Vec::new();
        let mut evaluate = |text: &str| {
            let size = |symbol: &str| (symbol == "batch").then_some(8);
            Dim::parse(text).evaluate(&size, &mut |symbol| missing.push(symbol.to_owned()))
        };
        assert_eq!(evaluate("2*batch + 1"), Some(17));
        assert_eq!(evaluate("batch*heads"), None);
        assert_eq!(Dim::Fixed(-1).evaluate(&|_| None, &mut |_| {}), None);
        assert_eq!(missing, ["heads"]);
    }
}
