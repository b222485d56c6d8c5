//! How a value is printed so that two databases print the same, and nothing is lost by printing.
//!
//! Text and bytes in hexadecimal, dates in days and times in microseconds since 1970, floats by their bits. Each form has an
//! expression for every database that holds such values.

/// What a value is printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// An integer or decimal: its own text.
    Number,
    /// A number whose zeros at the end mean nothing.
    Amount,
    /// A float: compared by its bits.
    Float,
    /// Text, and all that travels as text: its UTF-8 in hexadecimal.
    Text,
    /// Bytes in hexadecimal.
    Bytes,
    /// So many bits, as 0 and 1.
    Bits(u32),
    /// `true` or `false`.
    Bool,
    /// Days since 1970, or an infinity.
    Date,
    /// Microseconds since 1970, or an infinity.
    Stamp,
    /// `HH:MM:SS.ffffff`.
    Clock,
    /// A length of time in microseconds.
    Length,
    /// Singles one after the other, little-endian, in hexadecimal.
    Vector,
    /// A value of any type as an SQL literal of SQLite.
    Literal,
}

impl Class {
    /// For MySQL and MariaDB, in a session in UTC.
    pub fn mysql(self, c: &str) -> String {
        match self {
            // By itself a ZEROFILL column is printed with zeros in front, and a YEAR with four digits.
            Class::Number => format!("CAST({c} + 0 AS CHAR)"),
            // As a double: a FLOAT by itself is printed with six digits. A sum would lose the sign of -0.
            Class::Float => format!("({c} * 1e0)"),
            Class::Text => format!("HEX(CAST({c} AS CHAR CHARACTER SET utf8mb4))"),
            Class::Bytes | Class::Vector => format!("HEX({c})"),
            Class::Bits(n) => format!("LPAD(BIN({c}), {n}, '0')"),
            Class::Date => format!("TO_DAYS({c}) - TO_DAYS('1970-01-01')"),
            Class::Stamp => format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {c})"),
            Class::Length => format!(
                "CONCAT(IF({c} < 0, '-', ''), ((HOUR({c}) * 60 + MINUTE({c})) * 60 + SECOND({c})) * 1000000 + MICROSECOND({c}))"
            ),
            Class::Amount | Class::Bool | Class::Clock | Class::Literal => panic!("MySQL has no {self:?}"),
        }
    }

    /// For Postgres, as a source and as a target.
    pub fn postgres(self, c: &str) -> String {
        // A cast to text would strip the blanks of char(n) and give inet a netmask; this is what the type prints.
        let printed = format!("case when {c} is distinct from null then format('%s', {c}) end");
        match self {
            Class::Number | Class::Amount | Class::Bits(_) | Class::Bool => format!("{c}::text"),
            Class::Float => format!("{c}::float8::text"),
            Class::Text | Class::Literal => format!("upper(encode(convert_to({printed}, 'UTF8'), 'hex'))"),
            Class::Bytes => format!("upper(encode({c}, 'hex'))"),
            Class::Vector => format!(
                "(select upper(string_agg(encode(substr(b, 4, 1) || substr(b, 3, 1) || substr(b, 2, 1) || substr(b, 1, 1), 'hex'), '' \
                 order by o)) from unnest({c}) with ordinality u (e, o), float4send(e) b)"
            ),
            Class::Date => format!("case when isfinite({c}) then ({c} - date '1970-01-01')::text else {c}::text end"),
            Class::Stamp => format!(
                "case when isfinite({c}) then (extract(epoch from {c}) * 1000000)::int8::text else {c}::text end"
            ),
            Class::Clock => format!("to_char({c}::interval, 'HH24:MI:SS.US')"),
            Class::Length => format!("(extract(epoch from {c}) * 1000000)::int8::text"),
        }
    }

    /// As the Python that reads Parquet names it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Text | Class::Literal => "text",
            Class::Vector => "vector",
            _ => "plain",
        }
    }

    /// Whether two printed values are one.
    pub fn same(self, a: &str, b: &str) -> bool {
        let short = |text: &str| match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        };
        match (self, a.parse::<f64>(), b.parse::<f64>()) {
            (Class::Float, Ok(a), Ok(b)) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
            (Class::Amount, ..) => short(a) == short(b),
            _ => a == b,
        }
    }

    /// A printed value as people read it.
    pub fn shown(self, printed: &str) -> String {
        let byte = |i: usize| u8::from_str_radix(printed.get(i..i + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..printed.len()).step_by(2).map(byte).collect();
        match (self, bytes) {
            (Class::Text | Class::Literal, Some(bytes)) => format!("{:?}", String::from_utf8_lossy(&bytes)),
            _ => printed.to_owned(),
        }
    }
}
