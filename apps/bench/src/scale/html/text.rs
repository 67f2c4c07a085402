//! Text of the report: escaped, with numbers as people read them.

/// Returns text that is safe within elements and quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters, which an error message of a server may have, are not allowed in HTML.
            control if control.is_control() && control != '\n' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Returns a number with three significant digits, its thousands apart.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction = fraction.trim_end_matches('0');
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("−", whole));
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{fraction}") }
}

/// Returns a time of microseconds in the unit that suits it.
pub(crate) fn time(micros: f64) -> String {
    match micros {
        micros if micros >= 999_500.0 => format!("{} s", number(micros / 1e6)),
        micros if micros >= 999.5 => format!("{} ms", number(micros / 1e3)),
        micros => format!("{} µs", number(micros)),
    }
}

/// Returns a share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", number(100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let all = [0.0, 0.00012, 0.5, 1.0, 12.345, 999.7, 1234.5, 1_234_567.0, -4.5, f64::NAN].map(number);
        assert_eq!(all, ["0", "0.0001", "0.5", "1", "12.3", "1,000", "1,234", "1,234,567", "−4.5", "–"]);
        assert_eq!([500.0, 12_345.0, 999_900.0, 2.5e6].map(time), ["500 µs", "12.3 ms", "1 s", "2.5 s"]);
    }

    #[test]
    fn markup_in_text_is_escaped() {
        assert_eq!(escape("<a href=\"x\">'&\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}");
    }
}
