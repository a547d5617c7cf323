//! Tables of plain text: columns as wide as their widest cell, numbers to the right.

/// A table that is filled row by row.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; names that begin with `>` stand to the right.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            header: columns.iter().map(|name| name.trim_start_matches('>').to_owned()).collect(),
            right: columns.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table with two spaces between columns and a rule under the header.
    pub(crate) fn render(&self) -> String {
        let rows = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| rows().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let line = |cells: &[String]| {
            let mut line = String::new();
            for (column, (width, right)) in widths.iter().zip(&self.right).enumerate() {
                let cell = cells.get(column).map_or("", String::as_str);
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let gap = if column == 0 { "" } else { "  " };
                line.push_str(gap);
                line.push_str(&if *right { format!("{padding}{cell}") } else { format!("{cell}{padding}") });
            }
            line.trim_end().to_owned() + "\n"
        };
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut text = line(&self.header) + &line(&rule);
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }
}

/// `0.8431 ± 0.0210`, or the value alone, or a dash.
pub(crate) fn score(value: Option<f64>, standard_error: Option<f64>) -> String {
    match (value, standard_error) {
        (Some(value), Some(error)) => format!("{value:.3} ± {error:.3}"),
        (Some(value), None) => format!("{value:.3}"),
        (None, _) => "-".to_owned(),
    }
}

/// `1.2e-6`, or a dash.
pub(crate) fn difference(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") })
}

/// `98.7 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// `42.0 s`, `3 min 05 s`, `2 h 04 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `1,234,567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["task", ">score"]);
        table.row(["sst2".into(), score(Some(0.84), Some(0.0261))]);
        table.row(["a longer name".into(), score(None, None)]);
        insta::assert_snapshot!(table.render(), @r"
        task                   score
        -------------  -------------
        sst2           0.840 ± 0.026
        a longer name              -
        ");
    }

    #[test]
    fn quantities_read_well() {
        let found = [
            bytes(999),
            bytes(98_700_000),
            seconds(4.25),
            seconds(185.2),
            seconds(7_440.0),
            count(1_234_567),
            count(12),
        ];
        assert_eq!(found, ["999 B", "98.7 MB", "4.2 s", "3 min 05 s", "2 h 04 min", "1,234,567", "12"]);
        assert_eq!(difference(Some(1.23e-6)), "1.2e-6");
    }
}
