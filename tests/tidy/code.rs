//! Checks of Rust text: module docs and sizes. A small lexer blanks comments and literals first, so that a brace inside a string
//! does not count; it keeps every line where it was.

/// A file has fewer lines than this, tests included.
const FILE_LINES: usize = 500;

/// A function has fewer lines than this, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;

pub(crate) fn module_docs(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") || text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!("{path} does not begin with `//!`: what it does, how, and why so")]
}

pub(crate) fn file_size(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if !path.ends_with(".rs") || lines < FILE_LINES {
        return Vec::new();
    }
    vec![format!("{path} has {lines} lines; a file stays under {FILE_LINES}")]
}

pub(crate) fn function_sizes(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let long = functions(text).into_iter().filter(|f| f.lines >= FUNCTION_LINES);
    long.map(|f| {
        format!("{path}:{}: fn {} has {} lines; a function stays under {FUNCTION_LINES}", f.at, f.name, f.lines)
    })
    .collect()
}

struct Function {
    name: String,
    /// Line of `fn`, from 1.
    at: usize,
    lines: usize,
}

/// Every function with a body.
fn functions(text: &str) -> Vec<Function> {
    let code = without_literals(text);
    let bytes = code.as_bytes();
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        if start > 0 && is_word(bytes[start - 1]) {
            continue;
        }
        let name: String = code[start + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        if let Some(end) = end_of_body(bytes, start) {
            let at = code[..start].matches('\n').count() + 1;
            found.push(Function { name, at, lines: code[start..end].matches('\n').count() + 1 });
        }
    }
    found
}

/// Where the body that follows `start` closes; none for a declaration without a body.
fn end_of_body(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (i, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.checked_sub(1)?,
            // A semicolon inside brackets is an array's length.
            b';' if braces == 0 && others == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && others == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments, strings and character literals replaced by blanks.
pub(crate) fn without_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = literal_end(&chars, i);
        if end == i {
            out.push(chars[i]);
            i += 1;
        } else {
            out.extend(chars[i..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out
}

/// End of the comment or literal that begins at `i`; `i` itself when none does.
fn literal_end(chars: &[char], i: usize) -> usize {
    let at = |n: usize| chars.get(n).copied().unwrap_or('\0');
    let after_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
    match at(i) {
        '/' if at(i + 1) == '/' => (i..chars.len()).find(|&n| at(n) == '\n').unwrap_or(chars.len()),
        '/' if at(i + 1) == '*' => block_comment_end(chars, i),
        '"' => quoted_end(chars, i, '"'),
        '\'' if at(i + 1) == '\\' => quoted_end(chars, i, '\''),
        // Otherwise it is a lifetime.
        '\'' if at(i + 2) == '\'' => i + 3,
        // The prefixes b and c need no care: the quote behind them begins an ordinary string.
        'r' if !after_word || (matches!(at(i - 1), 'b' | 'c') && (i < 2 || !at(i - 2).is_alphanumeric())) => {
            raw_end(chars, i)
        }
        _ => i,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0_usize, start);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// End of a raw string `r#"…"#` at `start`, or `start` when it is an ordinary word or a raw identifier.
fn raw_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let closes =
        |i: usize| chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    (open + 1..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_docs_is_flagged() {
        assert_eq!(module_docs("a.rs", "use x;").len(), 1);
        assert!(module_docs("a.rs", "//! Does it.").is_empty() && module_docs("a.sh", "x").is_empty());
    }

    #[test]
    fn a_long_file_is_flagged_and_the_longest_allowed_is_not() {
        assert_eq!(file_size("a.rs", &"\n".repeat(500)).len(), 1);
        assert!(file_size("a.rs", &"\n".repeat(499)).is_empty());
    }

    #[test]
    fn a_long_function_is_flagged_by_name_and_line() {
        let body = "    x;\n".repeat(68);
        let text = format!("struct S;\n\npub fn long(a: [u8; 3]) {{\n{body}}}\nfn next() {{}}\n");
        let complaint = function_sizes("a.rs", &text);
        assert_eq!(complaint, ["a.rs:3: fn long has 70 lines; a function stays under 70"]);
        assert!(function_sizes("a.rs", &text.replacen("    x;\n", "", 1)).is_empty());
    }

    #[test]
    fn braces_in_literals_and_comments_do_not_count() {
        let tricky = "fn a() { \"{\\\"{\"; r#\"{\"{\"#; br\"{\"; '{'; '\\''; b'{'; /* { /* { */ */ } // {\n}\nfn b<'a>(x: &'a str) {}\n";
        let names: Vec<_> =
            functions(&tricky.replacen("// {\n}", "// {\n", 1)).into_iter().map(|f| (f.name, f.lines)).collect();
        assert_eq!(names, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
        assert_eq!(without_literals("for r in x { \"a\nb\" }"), "for r in x {   \n   }");
    }

    #[test]
    fn declarations_have_no_body() {
        let found = functions("trait T { fn one(&self) -> [u8; 2]; fn two() {} }\ntype F = fn (u8);");
        assert_eq!(found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["two"]);
    }
}
