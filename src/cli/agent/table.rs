//! Columns for people.

use std::io::{self, Write};

use crate::cli::escape::escape;

/// Left-aligned columns under a header, each cell safe for a terminal.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self {
            rows: vec![header.map(ToString::to_string).to_vec()],
        }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| match cell.is_empty() {
            true => "-".to_string(),
            false => escape(&cell),
        };
        self.rows.push(cells.map(shown).to_vec());
    }

    /// Without its first column, where nobody needs it.
    pub fn write(mut self, first: bool, out: &mut dyn Write) -> io::Result<()> {
        if !first {
            for row in &mut self.rows {
                row.remove(0);
            }
        }
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += cell;
                let padding = width - cell.chars().count() + 2;
                line.extend(std::iter::repeat_n(' ', padding));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_what_a_terminal_would_act_on_is_escaped() {
        let mut table = Table::new(["NODE", "POD", "STATE"]);
        table.row(["a".into(), "shop/web\u{1b}[2J".into(), "open".into()]);
        table.row(["bb".into(), "shop/é".into(), String::new()]);
        let mut out = Vec::new();
        table.write(true, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "NODE  POD                STATE\n\
             a     shop/web\\u{1b}[2J  open\n\
             bb    shop/é             -\n"
        );
    }
}
