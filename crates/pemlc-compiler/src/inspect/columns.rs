//! Tables of plain text, and numbers that read well.

/// Rows of cells; columns become as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Columns {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// A table with these columns; names that begin with `>` stand to the right.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            header: columns.iter().map(|name| name.trim_start_matches('>').to_owned()).collect(),
            right: columns.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, two spaces between columns. The last column is not padded, and a wide cell does not widen those of other rows
    /// beyond `MAX_WIDTH`.
    pub(crate) fn render(&self) -> String {
        const MAX_WIDTH: usize = 80;
        let rows = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            let cells = rows().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.filter(|width| *width <= MAX_WIDTH).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        for row in rows() {
            let start = text.len();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                let parts: [&str; 2] = if self.right[column] { [&padding, cell] } else { [cell, &padding] };
                text.extend([if column == 0 { "" } else { "  " }].into_iter().chain(parts));
            }
            text.truncate(start + text[start..].trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// `1.234 k`, `56.78 M`: four digits and a power of a thousand.
pub(crate) fn count(value: u64) -> String {
    scaled(value, &["", " k", " M", " G", " T", " P", " E"])
}

/// `1.234 kB`, `56.78 MB`.
pub(crate) fn bytes(value: u64) -> String {
    scaled(value, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

fn scaled(value: u64, units: &[&str]) -> String {
    let mut power = 0;
    let mut scaled = value as f64;
    // What would round up to 1000 belongs to the next unit.
    while scaled >= 999.95 && power + 1 < units.len() {
        scaled /= 1000.0;
        power += 1;
    }
    let digits = match (power, scaled) {
        (0, _) => 0,
        (_, ..9.9995) => 3,
        (_, ..99.995) => 2,
        _ => 1,
    };
    format!("{scaled:.digits$}{}", units[power])
}

/// A measured value in five digits, for instance `0.012345`, `-1.25` or `3.1e-7`.
pub(crate) fn value(value: f64) -> String {
    let short = format!("{value:.4e}").parse::<f64>().unwrap_or(value);
    if short == 0.0 || (1e-4..1e6).contains(&short.abs()) { format!("{short}") } else { format!("{short:e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let counts = [0, 999, 1000, 1234, 99_994, 999_999, 12_345_678, u64::MAX].map(count);
        assert_eq!(counts, ["0", "999", "1.000 k", "1.234 k", "99.99 k", "1.000 M", "12.35 M", "18.45 E"]);
        assert_eq!([bytes(12), bytes(540_000_000)], ["12 B", "540.0 MB"]);
        let values = [0.0, 1.0 / 3.0, -1.25, 3.1e-7, 65504.0, 1e9, f64::INFINITY].map(value);
        assert_eq!(values, ["0", "0.33333", "-1.25", "3.1e-7", "65504", "1e9", "inf"]);
    }

    #[test]
    fn columns_line_up() {
        let mut columns = Columns::new(&["name", ">bytes", "place"]);
        columns.row(["a".into(), "12".into(), "inline".into()]);
        columns.row(["longer".into(), "1".into(), String::new()]);
        insta::assert_snapshot!(columns.render(), @r"
        name    bytes  place
        a          12  inline
        longer      1
        ");
    }
}
