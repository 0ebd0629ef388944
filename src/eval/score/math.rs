//! Answers in LaTeX, read and compared as the MATH set's scorer does (Hendrycks et al. 2021, `math_equivalence.py`):
//! two answers are one if a fixed list of spellings makes them the same string.

/// Whether two answers are one.
pub(super) fn equivalent(ours: &str, right: &str) -> bool {
    match spelled(ours).zip(spelled(right)) {
        Some((ours, right)) => ours == right,
        // What the list of spellings stumbles over is compared as it is.
        None => ours == right,
    }
}

/// An answer in the one spelling that is compared; `None` if the list of spellings does not fit it.
fn spelled(answer: &str) -> Option<String> {
    let mut text = answer.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    text = text.replace("tfrac", "frac").replace("dfrac", "frac");
    for nothing in ["\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"] {
        text = text.replace(nothing, "");
    }
    text = without_unit(&text)?.to_owned();
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.");
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    text = without_name(&text).to_owned();
    text = braced_roots(&text)?.replace(' ', "");
    text = braced_fractions(&text)?;
    if text == "0.5" {
        return Some("\\frac{1}{2}".into());
    }
    slash_as_fraction(text)
}

/// Without `\text{ …` at its end, which is a unit.
fn without_unit(text: &str) -> Option<&str> {
    let mut parts = text.split("\\text{ ");
    let first = parts.next()?;
    (parts.count() <= 1).then_some(first)
}

/// Without `x =` before it, a name of at most two characters, blanks counted.
fn without_name(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value)) if name.chars().count() <= 2 && !value.contains('=') => value,
        _ => text,
    }
}

/// `\sqrt3` as `\sqrt{3}`.
fn braced_roots(text: &str) -> Option<String> {
    let mut parts = text.split("\\sqrt");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let first = part.chars().next()?;
        out += "\\sqrt";
        match first {
            '{' => out += part,
            _ => out += &format!("{{{first}}}{}", &part[first.len_utf8()..]),
        }
    }
    Some(out)
}

/// `\frac12`, `\frac1b` and `\frac1{72}` with braces around both.
fn braced_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out += "\\frac";
        if part.starts_with('{') {
            out += part;
            continue;
        }
        let mut characters = part.chars();
        let above = characters.next()?;
        // The scorer leaves an answer alone that ends in a fraction cut short.
        let Some(below) = characters.next() else { return Some(text.to_owned()) };
        let rest = characters.as_str();
        match below {
            '{' => out += &format!("{{{above}}}{{{rest}"),
            _ => out += &format!("{{{above}}}{{{below}}}{rest}"),
        }
    }
    Some(out)
}

/// `1/2` as `\frac{1}{2}`, of whole numbers only.
fn slash_as_fraction(text: String) -> Option<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let &[above, below] = &parts[..] else { return Some(text) };
    let whole = |part: &str| -> Option<bool> {
        let digits = part.strip_prefix(['-', '+']).unwrap_or(part);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let plain = !part.starts_with('+') && (digits == "0" || !digits.starts_with('0'));
        is_number.then_some(plain && part != "-0")
    };
    match whole(above)? && whole(below)? {
        true => Some(format!("\\frac{{{above}}}{{{below}}}")),
        false => Some(text),
    }
}
