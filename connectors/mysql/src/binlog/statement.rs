//! Statements in the log: just enough of SQL to know what they do to which tables.
//!
//! In a row-based log statements are transaction control and DDL. The reader is conservative: what it cannot place is
//! [`Statement::Dml`], and the caller looks whether a carried table is mentioned there at all.

use crossfade_core::TableName;

use super::alter::{AlterStep, alter_steps};

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT.
    Commit,
    /// ROLLBACK of everything.
    Rollback,
    /// ROLLBACK TO a savepoint.
    RollbackTo,
    /// SAVEPOINT, RELEASE SAVEPOINT: nothing by itself.
    Savepoint,
    /// XA START, END, PREPARE, COMMIT, ROLLBACK.
    Xa,
    /// TRUNCATE TABLE.
    Truncate(TableName),
    /// ALTER TABLE, CREATE INDEX, DROP INDEX.
    Alter(TableName, Vec<AlterStep>),
    /// RENAME TABLE: old names.
    Rename(Vec<TableName>),
    /// DROP TABLE, CREATE OR REPLACE TABLE: the table and its rows are gone.
    Drop(Vec<TableName>),
    /// DROP DATABASE.
    DropDatabase(String),
    /// INSERT, UPDATE, DELETE and all that may change rows without row events.
    Dml,
    /// Neither rows nor shapes of tables: users, views, routines, temporary tables, new tables.
    Harmless,
}

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A keyword, a name without quotes, a number.
    Word(String),
    /// A name in quotes.
    Quoted(String),
    /// A string.
    Text(String),
    /// Any other character.
    Mark(char),
}

impl Token {
    /// Whether it is this keyword.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(w) if w.eq_ignore_ascii_case(keyword))
    }

    /// The name that it is.
    pub fn name(&self) -> Option<&str> {
        match self {
            Token::Word(w) => Some(w),
            Token::Quoted(q) => Some(q),
            Token::Text(_) | Token::Mark(_) => None,
        }
    }
}

/// Cuts a statement into tokens. Comments vanish; what stands in `/*! */` is code.
pub fn tokens(sql: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = sql.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let rest = &sql[at..];
        let mut skip = |n: usize| (1..n).for_each(|_| _ = chars.next());
        match c {
            _ if c.is_whitespace() => {}
            '#' => skip(rest.find('\n').map_or(rest.chars().count(), |n| rest[..n].chars().count())),
            '-' if rest.starts_with("-- ") || rest.starts_with("--\t") || rest.starts_with("--\n") => {
                skip(rest.find('\n').map_or(rest.chars().count(), |n| rest[..n].chars().count()));
            }
            '/' if rest.starts_with("/*!") || rest.starts_with("/*M!") => {
                let open = if rest.starts_with("/*!") { 3 } else { 4 };
                skip(open + rest[open..].bytes().take_while(u8::is_ascii_digit).count());
            }
            '*' if rest.starts_with("*/") => skip(2),
            '/' if rest.starts_with("/*") => {
                skip(rest.find("*/").map_or(rest.chars().count(), |n| rest[..n + 2].chars().count()));
            }
            '`' | '\'' | '"' => {
                let (text, length) = quoted(rest, c);
                skip(length);
                out.push(if c == '`' { Token::Quoted(text) } else { Token::Text(text) });
            }
            _ if is_word(c) => {
                let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
                skip(word.chars().count());
                out.push(Token::Word(word));
            }
            _ => out.push(Token::Mark(c)),
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || c == '@'
}

/// What stands in quotes, and how many characters that takes. Quotes are doubled inside; backslashes escape in strings.
fn quoted(rest: &str, quote: char) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.chars().skip(1).peekable();
    let mut length = 1;
    while let Some(c) = chars.next() {
        length += 1;
        if c == quote {
            if chars.peek() != Some(&quote) {
                break;
            }
            chars.next();
            length += 1;
            text.push(quote);
        } else if c == '\\' && quote != '`' {
            if let Some(escaped) = chars.next() {
                length += 1;
                // These two keep their backslash: it is for LIKE.
                if matches!(escaped, '%' | '_') {
                    text.push('\\');
                }
                text.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '0' => '\0',
                    'b' => '\u{8}',
                    'Z' => '\u{1a}',
                    other => other,
                });
            }
        } else {
            text.push(c);
        }
    }
    (text, length)
}

/// A place in a statement.
pub struct Cursor<'a> {
    /// What follows.
    pub rest: &'a [Token],
    database: &'a str,
}

impl Cursor<'_> {
    /// Skips the keywords if they follow.
    pub fn skip(&mut self, keywords: &str) -> bool {
        let words: Vec<&str> = keywords.split(' ').collect();
        let follows = words.len() <= self.rest.len() && words.iter().zip(self.rest).all(|(w, t)| t.is(w));
        if follows {
            self.rest = &self.rest[words.len()..];
        }
        follows
    }

    /// A name, quoted or not. Under `ANSI_QUOTES` names stand in double quotes.
    pub fn name(&mut self) -> Option<String> {
        let (first, rest) = self.rest.split_first()?;
        let name = match first {
            Token::Text(t) => t.clone(),
            other => other.name()?.to_owned(),
        };
        self.rest = rest;
        Some(name)
    }

    /// `table` or `database.table`.
    pub fn table(&mut self) -> Option<TableName> {
        let first = self.name()?;
        if self.rest.first() != Some(&Token::Mark('.')) {
            return Some(TableName::new(self.database, first));
        }
        self.rest = &self.rest[1..];
        Some(TableName::new(first, self.name()?))
    }

    /// Skips tokens up to and including the keyword or mark.
    fn skip_past(&mut self, found: impl Fn(&Token) -> bool) -> bool {
        match self.rest.iter().position(found) {
            Some(i) => {
                self.rest = &self.rest[i + 1..];
                true
            }
            None => false,
        }
    }
}

/// What the statement does; `database` is the one it ran in.
pub fn read(sql: &str, database: &str) -> Statement {
    // By far the most common ones, without cutting.
    match sql {
        "BEGIN" => return Statement::Begin,
        "COMMIT" => return Statement::Commit,
        _ => {}
    }
    let tokens = tokens(sql);
    let mut c = Cursor { rest: &tokens, database };
    // SET STATEMENT ... FOR, MariaDB's prefix.
    if c.skip("SET STATEMENT") && !c.skip_past(|t| t.is("FOR")) {
        return Statement::Dml;
    }
    control(&mut c).or_else(|| ddl(&mut c)).unwrap_or(Statement::Dml)
}

fn control(c: &mut Cursor<'_>) -> Option<Statement> {
    if c.skip("BEGIN") || c.skip("START TRANSACTION") {
        return Some(Statement::Begin);
    }
    if c.skip("COMMIT") {
        return Some(Statement::Commit);
    }
    if c.skip("ROLLBACK") {
        c.skip("WORK");
        return Some(if c.skip("TO") { Statement::RollbackTo } else { Statement::Rollback });
    }
    if c.skip("SAVEPOINT") || c.skip("RELEASE SAVEPOINT") {
        return Some(Statement::Savepoint);
    }
    c.skip("XA").then_some(Statement::Xa)
}

fn ddl(c: &mut Cursor<'_>) -> Option<Statement> {
    if c.skip("TRUNCATE") {
        c.skip("TABLE");
        return c.table().map(Statement::Truncate);
    }
    if c.skip("ALTER") {
        while c.skip("ONLINE") || c.skip("IGNORE") {}
        if !c.skip("TABLE") {
            return Some(Statement::Harmless);
        }
        c.skip("IF EXISTS");
        let table = c.table()?;
        if !c.skip("NOWAIT") && c.skip("WAIT") {
            c.name();
        }
        let steps = alter_steps(c);
        return Some(Statement::Alter(table, steps));
    }
    if c.skip("RENAME") {
        return rename(c);
    }
    if c.skip("DROP") {
        return drop_statement(c);
    }
    if c.skip("CREATE") {
        return create(c);
    }
    const HARMLESS: [&str; 19] = [
        "GRANT",
        "REVOKE",
        "FLUSH",
        "ANALYZE",
        "OPTIMIZE",
        "REPAIR",
        "CHECK",
        "CHECKSUM",
        "INSTALL",
        "UNINSTALL",
        "SET",
        "LOCK",
        "UNLOCK",
        "KILL",
        "USE",
        "SHUTDOWN",
        "RESTART",
        "PURGE",
        "RESET",
    ];
    HARMLESS.iter().any(|k| c.skip(k)).then_some(Statement::Harmless)
}

fn rename(c: &mut Cursor<'_>) -> Option<Statement> {
    if !c.skip("TABLE") && !c.skip("TABLES") {
        return Some(Statement::Harmless); // RENAME USER
    }
    c.skip("IF EXISTS");
    let mut tables = Vec::new();
    loop {
        tables.push(c.table()?);
        // [WAIT n | NOWAIT] TO new
        if !c.skip_past(|t| t.is("TO")) {
            return None;
        }
        c.table()?;
        match c.rest.first() {
            Some(Token::Mark(',')) => c.rest = &c.rest[1..],
            _ => return Some(Statement::Rename(tables)),
        }
    }
}

fn drop_statement(c: &mut Cursor<'_>) -> Option<Statement> {
    if c.skip("DATABASE") || c.skip("SCHEMA") {
        c.skip("IF EXISTS");
        return c.name().map(Statement::DropDatabase);
    }
    if c.skip("INDEX") {
        let on_table = c.skip_past(|t| t.is("ON"));
        return if on_table { c.table().map(|t| Statement::Alter(t, vec![AlterStep::DropIndex])) } else { None };
    }
    if !c.skip("TABLE") && !c.skip("TABLES") {
        return Some(Statement::Harmless); // views, users, routines, temporary tables
    }
    c.skip("IF EXISTS");
    let mut tables = vec![c.table()?];
    while c.rest.first() == Some(&Token::Mark(',')) {
        c.rest = &c.rest[1..];
        tables.push(c.table()?);
    }
    Some(Statement::Drop(tables))
}

fn create(c: &mut Cursor<'_>) -> Option<Statement> {
    let replaces = c.skip("OR REPLACE");
    if c.skip("TABLE") {
        c.skip("IF NOT EXISTS");
        let table = c.table()?;
        return Some(if replaces { Statement::Drop(vec![table]) } else { Statement::Harmless });
    }
    while c.skip("UNIQUE") || c.skip("FULLTEXT") || c.skip("SPATIAL") || c.skip("ONLINE") || c.skip("OFFLINE") {}
    if c.skip("INDEX") {
        let on_table = c.skip_past(|t| t.is("ON"));
        let steps = if replaces { vec![AlterStep::DropIndex] } else { Vec::new() };
        return if on_table { c.table().map(|t| Statement::Alter(t, steps)) } else { None };
    }
    Some(Statement::Harmless)
}

/// Whether any name in the statement could be this table.
pub fn mentions(sql: &str, table: &str) -> bool {
    tokens(sql).iter().any(|t| match t {
        Token::Text(text) => text.eq_ignore_ascii_case(table),
        other => other.name().is_some_and(|n| n.eq_ignore_ascii_case(table)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn t(name: &str) -> TableName {
        TableName::new("shop", name)
    }

    #[test]
    fn statements() {
        let other = TableName::new("o.x", "b`c");
        for (sql, want) in [
            ("BEGIN", Statement::Begin),
            ("START TRANSACTION", Statement::Begin),
            ("ROLLBACK /* x */ TO `sp`", Statement::RollbackTo),
            ("SAVEPOINT sp", Statement::Savepoint),
            ("XA START X'01',X'',1", Statement::Xa),
            ("truncate orders", Statement::Truncate(t("orders"))),
            ("/* hi */ TRUNCATE TABLE `o.x`.`b``c`", Statement::Truncate(other.clone())),
            (
                "DROP TABLE IF EXISTS `orders` , `o.x`.`b``c` /* generated by server */",
                Statement::Drop(vec![t("orders"), other]),
            ),
            ("DROP TEMPORARY TABLE IF EXISTS `orders`", Statement::Harmless),
            ("RENAME TABLE orders TO old, new TO orders", Statement::Rename(vec![t("orders"), t("new")])),
            ("DROP DATABASE `shop`", Statement::DropDatabase("shop".into())),
            ("CREATE OR REPLACE TABLE orders (a int)", Statement::Drop(vec![t("orders")])),
            ("CREATE TABLE orders (a int)", Statement::Harmless),
            ("CREATE UNIQUE INDEX i ON orders (a)", Statement::Alter(t("orders"), vec![])),
            ("CREATE DEFINER=`r`@`%` TRIGGER x BEFORE INSERT ON orders FOR EACH ROW SET @a=1", Statement::Harmless),
            ("INSERT INTO orders VALUES (1)", Statement::Dml),
            ("SET STATEMENT max_statement_time=1 FOR DELETE FROM orders", Statement::Dml),
            ("# c\nTRUNCATE -- d\n orders", Statement::Truncate(t("orders"))),
            ("DROP /*!50001 TABLE */ orders", Statement::Drop(vec![t("orders")])),
        ] {
            assert_eq!(read(sql, "shop"), want, "{sql}");
        }
    }

    #[test]
    fn mentions_by_name_and_not_by_accident() {
        assert!(mentions("insert into shop.`Orders` values ('x')", "orders"));
        assert!(!mentions("insert into shop.orders_old values ('my orders')", "orders"));
    }

    proptest! {
        #[test]
        fn any_text_is_read(sql in "(ALTER TABLE|DROP TABLE|RENAME TABLE|CREATE|TRUNCATE|/\\*!|#|--|`|')? ?\\PC{0,60}") {
            let _ = read(&sql, "shop");
            let _ = mentions(&sql, "x");
        }
    }
}
