//! The layout of fanout's tables: a header, no borders, and columns two spaces
//! apart, which both people and scripts can read.

use comfy_table::{ContentArrangement, Table, TableStyle};

/// Creates an empty table with these headings.
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

/// Renders a table without trailing spaces.
pub fn render(table: &Table) -> String {
    table.trim_fmt()
}

/// Returns the suffix of a counted noun: `1 row`, `2 rows`.
pub fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}
