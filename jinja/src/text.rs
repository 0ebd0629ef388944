//! Python's view of text: what is white space, where lines end, how a string is written in quotes.

/// `str.isspace`: Unicode's white space and the four separators `\x1c` to `\x1f`.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.isprintable` for one character.
fn is_printable(c: char) -> bool {
    // A first character that is printed keeps combining marks behind it from being escaped.
    c == ' ' || (c != '\'' && c != '"' && c != '\\' && format!("a{c}").escape_debug().count() == 2)
}

/// `str.splitlines`.
pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(ends_line) {
        let tail = &rest[start..];
        let width = if tail.starts_with("\r\n") { 2 } else { first_width(tail) };
        lines.push(&rest[..if keep_ends { start + width } else { start }]);
        rest = &rest[start + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn ends_line(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn first_width(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// `str.split` at white space, from the left; at most `limit` cuts.
pub fn split_spaces(text: &str, limit: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| limit.is_none_or(|limit| parts.len() < limit));
        // The part after the last cut keeps the blanks at its end.
        let end = end.unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// `str.rsplit` at white space: as [`split_spaces`], from the right.
pub fn rsplit_spaces(text: &str, limit: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let cut = rest.rfind(is_space).filter(|_| limit.is_none_or(|limit| parts.len() < limit));
        let start = cut.map_or(0, |cut| cut + first_width(&rest[cut..]));
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// `str.capitalize`.
pub fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Of the whole text, since a letter's small form may depend on those before it.
    let small = text.to_lowercase();
    let rest = &small[first.to_lowercase().map(char::len_utf8).sum()..];
    title_char(first).chain(rest.chars()).collect()
}

/// `str.title`: every letter that follows no letter is a capital, the others are small.
pub fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            result.extend(c.to_lowercase());
        } else {
            result.extend(title_char(c));
        }
        inside = is_cased(c);
    }
    result
}

/// The form of a character at the head of a title, which is not everywhere the capital one.
fn title_char(c: char) -> impl Iterator<Item = char> {
    let own = match c {
        'Ǆ'..='ǆ' => Some("ǅ"),
        'Ǉ'..='ǉ' => Some("ǈ"),
        'Ǌ'..='ǌ' => Some("ǋ"),
        'Ǳ'..='ǳ' => Some("ǲ"),
        'ß' => Some("Ss"),
        'ﬀ' => Some("Ff"),
        'ﬁ' => Some("Fi"),
        'ﬂ' => Some("Fl"),
        'ﬃ' => Some("Ffi"),
        'ﬄ' => Some("Ffl"),
        'ﬅ' | 'ﬆ' => Some("St"),
        'և' => Some("Եւ"),
        _ => None,
    };
    let georgian = ('ა'..='ჿ').contains(&c);
    let upper = (own.is_none() && !georgian).then(|| c.to_uppercase());
    let same = georgian.then_some(c);
    own.into_iter().flat_map(str::chars).chain(upper.into_iter().flatten()).chain(same)
}

pub fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// `repr` of a string.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut result = String::with_capacity(text.len() + 2);
    result.push(quote);
    for c in text.chars() {
        match c {
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            '\\' => result.push_str("\\\\"),
            c if c == quote => result.extend(['\\', c]),
            '\'' | '"' => result.push(c),
            c if is_printable(c) => result.push(c),
            c => result.push_str(&escape(c)),
        }
    }
    result.push(quote);
    result
}

/// `\x1c`, `\u200b` or `\U000e0001`.
pub fn escape(c: char) -> String {
    match u32::from(c) {
        code @ ..=0xff => format!("\\x{code:02x}"),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// Text as HTML writes it.
pub fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '\'' => result.push_str("&#39;"),
            '"' => result.push_str("&#34;"),
            c => result.push(c),
        }
    }
    result
}

/// `repr` of a float: the shortest digits that read back the same, with an exponent where Python has one.
pub fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        assert_eq!(lines("a\r\nb\x0bc\x1cd\u{2028}\n", false), ["a", "b", "c", "d", ""]);
        assert_eq!(lines("a\r\n\rb", true), ["a\r\n", "\r", "b"]);
    }

    #[test]
    fn blanks_are_cut_from_either_side() {
        assert_eq!(split_spaces(" a  b c ", Some(1)), ["a", "b c "]);
        assert_eq!(rsplit_spaces(" a  b c ", Some(1)), [" a  b", "c"]);
        assert_eq!(split_spaces("\x1fa\x1cb", None), ["a", "b"]);
    }
}
