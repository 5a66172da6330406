//! CSV (RFC 4180) that neither a spreadsheet nor a reader of lines can be led astray by.

/// Adds a row. Every field is quoted, so that no separator counts, whichever a spreadsheet goes by.
pub fn push_row<'a>(text: &mut String, fields: impl IntoIterator<Item = &'a str>) {
    for (place, field) in fields.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        push_field(text, field);
    }
    text.push_str("\r\n");
}

fn push_field(text: &mut String, field: &str) {
    text.push('"');
    // Source: OWASP, "CSV Injection": spreadsheets take what follows for a text then.
    if field.trim_start().starts_with(is_formula_sign) || field.starts_with(char::is_control) {
        text.push('\'');
    }
    for sign in field.chars() {
        match sign {
            '"' => text.push_str("\"\""),
            // No name begins a line of its own.
            sign if sign.is_control() || matches!(sign, '\u{2028}' | '\u{2029}') => {
                text.extend(sign.escape_default());
            }
            sign => text.push(sign),
        }
    }
    text.push('"');
}

/// Whether a spreadsheet computes what begins like this; the wide signs are those of East Asian keyboards.
fn is_formula_sign(sign: char) -> bool {
    matches!(sign, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[&str]) -> String {
        let mut text = String::new();
        push_row(&mut text, fields.iter().copied());
        text
    }

    #[test]
    fn every_field_is_quoted_and_quotes_are_doubled() {
        assert_eq!(row(&["1", "", "a,b;c", "say \"hi\""]), "\"1\",\"\",\"a,b;c\",\"say \"\"hi\"\"\"\r\n");
    }

    #[test]
    fn nothing_is_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", "\u{a0}=1"] {
            assert!(row(&[formula]).starts_with("\"'"), "{formula:?}: {}", row(&[formula]));
        }
        assert_eq!(row(&["a=1"]), "\"a=1\"\r\n");
    }

    #[test]
    fn no_name_begins_a_line_of_its_own() {
        let written = row(&["eve\r\n\"1\",\"2\"\u{2028}\u{0}"]);
        assert_eq!(written, "\"eve\\r\\n\"\"1\"\",\"\"2\"\"\\u{2028}\\u{0}\"\r\n");
        assert_eq!(written.lines().count(), 1);
    }
}
