//! Tables for people.

/// A cell is in one line, whatever is in it.
fn in_one_line(cell: &str) -> String {
    cell.replace(['\n', '\r', '\t'], " ")
}

/// Columns as wide as they must be; what belongs to a row follows it, indented.
pub(super) fn table<const N: usize>(head: &[&str; N], rows: &[([String; N], Vec<String>)]) -> String {
    let rows: Vec<_> =
        rows.iter().map(|(cells, notes)| (cells.each_ref().map(|cell| in_one_line(cell)), notes)).collect();
    let wide = |at: usize| {
        let cells = rows.iter().filter_map(|(cells, _)| cells.get(at)).map(|cell| cell.chars().count());
        cells.chain(head.get(at).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(wide).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("  {}", padded.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    let mut lines = vec![line(&head.map(str::to_owned))];
    for (cells, notes) in &rows {
        lines.push(line(cells));
        lines.extend(notes.iter().map(|note| format!("      {note}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_cell_with_several_lines_breaks_no_row() {
        let rows = [(["a\nb".to_owned(), "c".to_owned()], vec!["note".to_owned()])];
        assert_eq!(table(&["ONE", "TWO"], &rows), "  ONE  TWO\n  a b  c\n      note");
    }
}
