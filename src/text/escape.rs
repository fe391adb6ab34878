//! Makes external text safe to show on a terminal: nothing in it can move the cursor, hide, or
//! change the reading direction.
//!
//! Only for display. Stored values are not changed.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar;

/// Width of an excerpt of a value in an error, in terminal columns.
const EXCERPT_WIDTH: usize = 48;

/// Replaces every invisible or unsafe character by `\u{…}`: controls (including line feed and
/// tab), bidirectional marks, invisible characters, line and paragraph separators. Borrows the
/// text if there are none.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_hidden) else {
        return Cow::Borrowed(text);
    };
    let mut shown = String::with_capacity(text.len() + 16);
    let (plain, rest) = text.split_at(first);
    shown.push_str(plain);
    for character in rest.chars() {
        if is_hidden(character) {
            // Writing into a string cannot fail.
            let _ = write!(shown, "{}", character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Returns the text as one word of a POSIX shell, quoted if necessary.
#[must_use]
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=./:,@%+".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(shell_quoted(text))
}

/// Returns the text in single quotes, as one word of a POSIX shell.
#[must_use]
pub fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Like [`escape`], but keeps line feeds and replaces each tab by blanks.
#[must_use]
pub fn escape_lines(text: &str) -> String {
    let lines = text.lines().map(|line| {
        if line.contains('\t') {
            Cow::Owned(escape(&line.replace('\t', "    ")).into_owned())
        } else {
            escape(line)
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the text cut to at most `max_width` terminal columns. If it was cut, the last column
/// is an ellipsis.
#[must_use]
pub fn ellipsis(text: &str, max_width: usize) -> Cow<'_, str> {
    // Combining marks have no width, so their number is limited too.
    let max_chars = max_width.saturating_mul(4);
    let (mut width, mut kept) = (0_usize, 0);
    for (count, (index, character)) in text.char_indices().enumerate() {
        width += character.width().unwrap_or(0);
        if width > max_width || count >= max_chars {
            return Cow::Owned(cut(text, kept));
        }
        if width < max_width {
            kept = index + character.len_utf8();
        }
    }
    Cow::Borrowed(text)
}

fn cut(text: &str, end: usize) -> String {
    let mut shown = text.get(..end).unwrap_or_default().to_owned();
    shown.push('…');
    shown
}

/// Returns a short, escaped excerpt of a value for an error.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let end = text
        .char_indices()
        .nth(EXCERPT_WIDTH * 2)
        .map_or(text.len(), |(index, _)| index);
    let start = text.get(..end).unwrap_or_default();
    ellipsis(&escape(start), EXCERPT_WIDTH).into_owned()
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_shell_reads_back_one_word() {
        for text in ["", "plain-0:6", "it's $HOME `x` \"y\" \\ \n z", "a b", "~"] {
            let script = format!("printf %s {}", shell_word(text));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(output.expect("a shell").stdout, text.as_bytes());
        }
        assert_eq!(shell_word("0:6"), "0:6");
        assert_eq!(shell_quoted("0:6"), "'0:6'");
    }

    #[test]
    fn hidden_characters_become_visible() {
        for (text, shown) in [
            ("plain é 😀 中", "plain é 😀 中"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\0b\nc\td", "a\\u{0}b\\u{a}c\\u{9}d"),
            ("\u{7f}\u{9b}", "\\u{7f}\\u{9b}"),
            ("\u{202e}evil\u{2066}", "\\u{202e}evil\\u{2066}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("line\u{2028}two\u{2029}", "line\\u{2028}two\\u{2029}"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }

    #[test]
    fn line_breaks_are_kept() {
        assert_eq!(escape_lines("a\n\tb\x1b[2J\r\n"), "a\n    b\\u{1b}[2J");
    }

    #[test]
    fn text_is_cut_at_a_character_and_fits() {
        for (text, width, shown) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("", 0, ""),
            ("a", 0, "…"),
            ("中文字", 4, "中…"),
            ("中文字", 5, "中文…"),
            ("日本", 4, "日本"),
        ] {
            assert_eq!(ellipsis(text, width), shown, "{text} in {width}");
        }
    }

    #[test]
    fn an_excerpt_of_a_megabyte_is_short() {
        let shown = excerpt(&"\u{1b}\u{301}".repeat(500_000));
        assert!(shown.len() < 1_000, "{shown}");
    }

    proptest! {
        #[test]
        fn no_hidden_characters_remain(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(is_hidden));
            prop_assert!(!excerpt(&text).contains(is_hidden));
        }

        #[test]
        fn nothing_is_wider_than_requested(text in any::<String>(), width in 1_usize..40) {
            let shown = ellipsis(&text, width);
            let wide: usize = shown.chars().filter_map(UnicodeWidthChar::width).sum();
            prop_assert!(wide <= width);
        }
    }
}
