//! The one look of fanout's tables: no borders, a header, columns two blanks
//! apart; what scripts cut with ease and people read without help.

use comfy_table::{ContentArrangement, Table, TableStyle};

/// An empty table under these headings.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The text of a table without blanks at the ends of its lines.
pub fn render(table: &Table) -> String {
    table.trim_fmt()
}

/// The end of a counted noun: `1 row`, `2 rows`.
pub fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}
