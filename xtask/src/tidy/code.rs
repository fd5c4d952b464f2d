//! Rust text without its comments, strings and tests, line by line as it was.

/// Source text in which everything but shipped code is blank. Columns move,
/// lines do not.
pub(super) struct Code {
    text: String,
}

impl Code {
    pub(super) fn new(source: &str) -> Self {
        Self { text: without_tests(&without_comments_and_strings(source)) }
    }

    /// The lines, from 1, where `needle` begins a path or word. A needle that
    /// ends in an identifier character must end one, too.
    pub(super) fn lines_with(&self, needle: &str) -> Vec<usize> {
        let mut lines: Vec<usize> = Vec::new();
        for (at, _) in self.text.match_indices(needle) {
            let before = self.text[..at].chars().next_back();
            let after = self.text[at + needle.len()..].chars().next();
            let joined = |outer: Option<char>, inner: Option<char>| {
                outer.is_some_and(is_word) && inner.is_some_and(is_word)
            };
            let first = needle.chars().next();
            let last = needle.chars().next_back();
            if !joined(before, first) && !joined(after, last) {
                lines.push(self.text[..at].matches('\n').count() + 1);
            }
        }
        lines.dedup();
        lines
    }

    /// True when the code defines `name`: as an item, a field or a variant.
    pub(super) fn defines(&self, name: &str) -> bool {
        const KEYWORDS: [&str; 10] = [
            "fn",
            "struct",
            "enum",
            "trait",
            "type",
            "const",
            "static",
            "mod",
            "macro_rules!",
            "union",
        ];
        let item =
            KEYWORDS.iter().any(|kind| !self.lines_with(&format!("{kind} {name}")).is_empty());
        let is_member = |line: &str| {
            let line = line.trim_start();
            let line =
                line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([',', ':', '(', ' ']) || rest.is_empty())
        };
        item || self.text.lines().any(is_member)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Comments become spaces, strings and characters empty quotes.
fn without_comments_and_strings(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let (skipped, stands_for) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), "")
        } else if rest.starts_with("/*") {
            (block_comment_length(rest), " ")
        } else if let Some(length) = string_length(rest).filter(|_| !out.ends_with(is_word)) {
            (length, "\"\"")
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push_str(stands_for);
        out.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string or character literal that `text` begins with.
fn string_length(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r'))?;
    let body = &text[prefix..];
    if text[..prefix].contains('r') {
        let n_hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(n_hashes));
        let inner = body[n_hashes..].strip_prefix('"')?;
        let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
        return Some(prefix + n_hashes + 1 + length);
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    if quote == '\'' && !is_character(body) {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(prefix + at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    Some(text.len())
}

/// `'x'` and `'\…'` are characters, `'x` is a lifetime.
fn is_character(text: &str) -> bool {
    let mut inner = text.chars().skip(1);
    let first = inner.next();
    first == Some('\\') || inner.next() == Some('\'')
}

/// Blanks each item behind `#[cfg(test)]`, up to its `;` or closing brace.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let mut depth = 0;
        let mut end = rest.len();
        for (i, c) in rest.char_indices().skip_while(|&(i, _)| i < at) {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 && (c == '}' || c == ';') {
                end = i + 1;
                break;
            }
        }
        out.extend(rest[at..end].chars().filter(|&c| c == '\n'));
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::Code;

    fn check(source: &str, needle: &str, lines: &[usize]) {
        assert_eq!(Code::new(source).lines_with(needle), lines, "`{needle}` in\n{source}");
    }

    #[test]
    fn words_are_found_where_they_are_code() {
        check("use std::fs;\nlet x = fs::read(p);", "fs::read", &[2]);
        check("let offs::x = 1; // fs::read\n/* fs::read\n fs::read */ fs::read", "fs::read", &[3]);
        check("xfs::read; fs::read_dir", "fs::read", &[]);
        check("xfs::read; fs::read_dir", "fs::", &[1]);
    }

    #[test]
    fn strings_and_characters_are_not_code() {
        check(
            r##"let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; unsafe {}"##,
            "unsafe",
            &[1],
        );
        check("let q = '\"'; unsafe {} let r = '\\''; // unsafe", "unsafe", &[1]);
        check("fn f<'a>(x: &'a str) {}\nlet s = \"two\nlines\";\nunsafe {}", "unsafe", &[4]);
        check("br\"unsafe\"; b'\\n'; let car = \"unsafe\";", "unsafe", &[]);
    }

    #[test]
    fn tests_are_not_shipped_code() {
        let source = "fn f() {}\n#[cfg(test)]\nmod tests {\n  fn g() { fs::read }\n}\nfs::read";
        check(source, "fs::read", &[6]);
        check("#[cfg(test)]\nuse std::fs;\nfs::x", "fs::x", &[3]);
    }

    #[test]
    fn definitions_are_items_fields_and_variants() {
        let code = Code::new("pub fn f() {}\nenum E {\n    Exact,\n    Other(u8),\n}\n// fn g");
        for (name, expected) in
            [("f", true), ("E", true), ("Exact", true), ("Other", true), ("g", false)]
        {
            assert_eq!(code.defines(name), expected, "{name}");
        }
    }
}
