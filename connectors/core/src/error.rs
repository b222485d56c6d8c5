//! Errors by consequence, not by origin.
//!
//! Whoever handles an error needs to know what happens next, not which library spoke. So there are three classes:
//! *transient* (drop both ends, back off, recover, start again), *data* (one table cannot go on: a value that would not
//! arrive exactly as it was), *fatal* (a person must act). Each carries a message that says what and where, and a hint
//! with the statement or setting that mends it. Each connector has one `classify()` that maps its driver's errors here.

use std::fmt;

/// The result of everything a connector does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its consequence, its place and a hint for the operator.
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    message: String,
    hint: Option<String>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What follows from an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// The same attempt may succeed later: reconnect and recover.
    Transient,
    /// A value or a change of one table that cannot be carried exactly.
    Data(Place),
    /// Trying again cannot help; the process ends with this exit code.
    Fatal(Exit),
}

/// Where in the data an error lies, as precisely as is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// `schema.table`.
    pub table: String,
    /// The column, if one is to blame.
    pub column: Option<String>,
    /// The row's key as text, `a=1, b=x`.
    pub key: Option<String>,
    /// The target's unique index that refuses the row.
    pub index: Option<String>,
}

/// Exit codes of fatal errors, after `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command line was wrong.
    Usage = 64,
    /// The data cannot be carried.
    Data = 65,
    /// A server, a privilege or a log that must be there is not.
    Unavailable = 69,
    /// Somebody else owns the pipeline now; later it may be free.
    TryAgain = 75,
    /// The configuration is wrong.
    Config = 78,
}

impl Error {
    fn new(class: Class, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { class, message: message.into(), hint: None, cause: None }))
    }

    /// A fault that may pass: connection lost, deadlock, server restarting.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Class::Transient, message)
    }

    /// A value or change of `table` that cannot be carried exactly.
    pub fn data(table: impl fmt::Display, message: impl Into<String>) -> Self {
        let place = Place { table: table.to_string(), ..Place::default() };
        Self::new(Class::Data(place), message)
    }

    /// Something outside that must be there is not: server, privilege, log, slot.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Class::Fatal(Exit::Unavailable), message)
    }

    /// The configuration, a URL or a server's setting is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Class::Fatal(Exit::Config), message)
    }

    /// Bytes or states that must not occur: a corrupt event, a broken invariant, an unknown event type.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Class::Fatal(Exit::Data), message)
    }

    /// Somebody else owns the pipeline.
    pub fn owned(message: impl Into<String>) -> Self {
        Self::new(Class::Fatal(Exit::TryAgain), message)
    }

    /// The command line was wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Fatal(Exit::Usage), message)
    }

    /// Adds what the operator can do: the statement or the setting that mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Names the column of a data error. Has no effect on other classes.
    #[must_use]
    pub fn column(mut self, column: impl Into<String>) -> Self {
        if let Class::Data(place) = &mut self.0.class {
            place.column = Some(column.into());
        }
        self
    }

    /// Names the row of a data error. Has no effect on other classes.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        if let Class::Data(place) = &mut self.0.class {
            place.key = Some(key.into());
        }
        self
    }

    /// Names the unique index that refuses the row of a data error. Has no effect on other classes.
    #[must_use]
    pub fn index(mut self, index: impl Into<String>) -> Self {
        if let Class::Data(place) = &mut self.0.class {
            place.index = Some(index.into());
        }
        self
    }

    /// Makes of what a person must mend the trouble of one table, which stops that table alone: for whoever knows that nothing
    /// else is concerned. What may pass by itself stays as it is, and so does the loss of the pipeline to another owner.
    #[must_use]
    pub fn concerning(mut self, table: impl fmt::Display) -> Self {
        let lone = match self.0.class {
            Class::Fatal(Exit::TryAgain) | Class::Transient | Class::Data(_) => false,
            Class::Fatal(Exit::Usage | Exit::Data | Exit::Unavailable | Exit::Config) => true,
        };
        if lone {
            let table = table.to_string();
            // The place is printed in front of the message, and need not stand in it too.
            let said = self.0.message.strip_prefix("table ").and_then(|m| m.strip_prefix(table.as_str()));
            if let Some(rest) = said.and_then(|m| m.strip_prefix(": ")) {
                self.0.message = rest.to_owned();
            }
            self.0.class = Class::Data(Place { table, ..Place::default() });
        }
        self
    }

    /// Attaches the underlying error, which is printed behind the message.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Puts what was being done in front of the message.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// What follows from this error.
    pub fn class(&self) -> &Class {
        &self.0.class
    }

    /// What happened, without place and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the operator can do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether the same attempt may succeed later.
    pub fn is_transient(&self) -> bool {
        self.0.class == Class::Transient
    }

    /// The process's exit code if nothing handles this error.
    pub fn exit(&self) -> Exit {
        match self.0.class {
            Class::Transient => Exit::TryAgain,
            Class::Data(_) => Exit::Data,
            Class::Fatal(exit) => exit,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Class::Data(place) = &self.0.class {
            write!(f, "table {}", place.table)?;
            if let Some(column) = &place.column {
                write!(f, ", column {column}")?;
            }
            if let Some(key) = &place.key {
                write!(f, ", row {key}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.0.message)?;
        let mut cause = self.0.cause.as_ref().map(|c| &**c as &dyn std::error::Error);
        while let Some(c) = cause {
            write!(f, ": {c}")?;
            cause = c.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.class)?;
        match &self.0.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_error_says_where() {
        let e = Error::data("shop.orders", "zero date 0000-00-00 has no equivalent")
            .column("placed")
            .key("id=7")
            .hint("set zero_date = \"null\"");
        assert_eq!(e.to_string(), "table shop.orders, column placed, row id=7: zero date 0000-00-00 has no equivalent");
        assert_eq!(e.exit(), Exit::Data);
        assert_eq!(e.hint_text(), Some("set zero_date = \"null\""));
    }

    #[test]
    fn what_concerns_one_table_is_its_own() {
        let e = Error::unavailable("a view depends on it").hint("drop the view").concerning("shop.orders");
        assert_eq!(e.to_string(), "table shop.orders: a view depends on it");
        assert_eq!((e.exit(), e.hint_text()), (Exit::Data, Some("drop the view")));
        assert!(Error::transient("lost").concerning("t").is_transient());
        assert_eq!(Error::owned("taken").concerning("t").exit(), Exit::TryAgain);
        assert_eq!(Error::config("table t: no room").concerning("t").to_string(), "table t: no room");
        let column = Error::data("t", "zero date").column("c").concerning("other");
        assert_eq!(column.to_string(), "table t, column c: zero date");
    }

    #[test]
    fn causes_are_printed() {
        let e = Error::transient("reading the binlog").caused_by(std::io::Error::other("reset by peer"));
        assert_eq!(e.to_string(), "reading the binlog: reset by peer");
        assert!(e.is_transient());
    }
}
