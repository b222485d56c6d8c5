//! MySQL 9.7 and MariaDB 10.11: their types and values, under server settings that nobody should set.

use crossfade_harness::{Client, Database, MariaDb, MySql, MySqlServer, Options, PgVersion, Postgres};
use proptest::prelude::*;

use crate::class::Class::{Bits, Bytes, Date, Float, Length, Number, Stamp, Text, Vector};
use crate::kind::{Kind, hex, kind, some};
use crate::lab::{self, Printed, Site, column, round_trip};

/// What a script's session sets first, whatever the server's own settings are.
const SESSION: &str = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '';\n";

/// A database of a server of the family.
pub struct Server<'a> {
    /// The database.
    pub database: &'a Database,
}

impl Site for Server<'_> {
    fn url(&self) -> String {
        self.database.url()
    }

    fn run(&self, script: &str) {
        self.database.try_sql(&format!("{SESSION}{script}")).unwrap_or_else(|e| panic!("{e}"));
    }

    fn print(&self, kinds: &[Kind]) -> Printed {
        let list: String = kinds.iter().enumerate().map(|(i, k)| format!(", {}", k.class.mysql(&column(i)))).collect();
        lab::rows(&self.database.sql(&format!("{SESSION}SELECT id{list} FROM t ORDER BY id")))
    }

    fn schema(&self) -> String {
        self.database.name().to_owned()
    }
}

/// Text as a literal that no setting of a session reads in another way.
fn text(value: impl AsRef<str>) -> String {
    format!("_utf8mb4 X'{}'", hex(value.as_ref()))
}

fn quoted(values: &[&str]) -> Vec<String> {
    values.iter().map(text).collect()
}

const PLAIN: [&str; 6] = ["", "a", "it's", "back\\slash \\n", "\"; DROP TABLE t; --", "$1 %s {0} \t|"];

fn numbers() -> Vec<Kind> {
    let digits = |n: usize| "9".repeat(n);
    vec![
        kind("tinyint", Number, &["-128", "127", "0"]),
        kind("tinyint(1)", Number, &["-128", "127", "1"]).note("a number, not a boolean: it holds -128 to 127"),
        kind("tinyint unsigned", Number, &["0", "255"]),
        kind("smallint", Number, &["-32768", "32767"]),
        kind("smallint unsigned", Number, &["0", "65535"]),
        kind("mediumint", Number, &["-8388608", "8388607", "-1"]),
        kind("mediumint unsigned", Number, &["0", "16777215", "8388608"]),
        kind("int", Number, &["-2147483648", "2147483647"]),
        kind("int unsigned", Number, &["0", "4294967295", "2147483648"]),
        kind("int(10) unsigned zerofill", Number, &["0", "42"]).note("zeros in front are no part of the value"),
        kind("bigint", Number, &["-9223372036854775808", "9223372036854775807"])
            .and(some(12, any::<i64>(), |n| n.to_string())),
        kind("bigint unsigned", Number, &["0", "18446744073709551615", "9223372036854775808"]).and(some(
            12,
            any::<u64>(),
            |n| n.to_string(),
        )),
        kind("decimal(1,0)", Number, &["-9", "0", "9"]),
        kind("decimal(10,2)", Number, &["-99999999.99", "0.01", "-0.01", "-0.00", "1.10"]).and(some(
            12,
            -9_999_999_999i64..=9_999_999_999,
            |n| format!("{n} / 100"),
        )),
        kind("decimal(38,10)", Number, &["-0.0000000001"]).and([format!("{}.{}", digits(28), digits(10))]),
        kind("decimal(65,30)", Number, &["0", "-1.000000000000000000000000000001"])
            .and([format!("{}.{}", digits(35), digits(30)), format!("-{}.{}", digits(35), digits(30))])
            .and(some(12, any::<(i128, bool)>(), |(n, small)| {
                format!("CAST('{}{}' AS DECIMAL(65,30))", if small { "0." } else { "" }, n.unsigned_abs() >> 10)
            })),
        kind("decimal(65,0)", Number, &["0"]).and([digits(65), format!("-{}", digits(65))]),
        kind("float", Float, &["3.4028235e38", "-3.4028235e38", "1e-45", "1.17549435e-38", "16777215", "0.1", "-0e0"])
            .and(some(12, -3.4e38f32..3.4e38, |f| format!("{f:e}"))),
        kind("float(7,3)", Float, &["9999.999", "-0.001"]),
        kind("double", Float, &["1.7976931348623157e308", "-1.7976931348623157e308", "5e-324", "0.1", "-0e0", "1e15"])
            .and(some(20, any::<u64>().prop_map(f64::from_bits).prop_filter("a number", |f| f.is_finite()), |f| {
                format!("{f:e}")
            }))
            .note("no NaN, no infinity: the server has none"),
        kind("bit(1)", Bits(1), &["b'0'", "b'1'"]),
        kind("bit(10)", Bits(10), &["b'1000000001'", "b'0'"]),
        kind("bit(64)", Bits(64), &["b'1'", "0xFFFFFFFFFFFFFFFF", "0x8000000000000001"]),
    ]
}

fn times() -> Vec<Kind> {
    let zero = "stops at 0000-00-00 and at dates whose month or day is 0, or beyond the month's end";
    let day = |d: i32| format!("'1970-01-01' + INTERVAL {d} DAY");
    let micros = |us: i64| format!("TIMESTAMP '1970-01-01 00:00:00' + INTERVAL {us} MICROSECOND");
    vec![
        kind("year", Number, &["1901", "2155", "0"]).note("0000 stays 0"),
        kind("date", Date, &["'0001-01-01'", "'9999-12-31'", "'1582-10-10'", "'2024-02-29'", "'1900-03-01'"])
            .and(some(12, -719_000..2_932_896, day))
            .note(zero),
        kind("datetime", Stamp, &["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59'", "'2024-03-31 02:30:00'"])
            .note(zero),
        kind("datetime(1)", Stamp, &["'2024-01-01 00:00:00.9'"]).note(zero),
        kind("datetime(3)", Stamp, &["'0999-12-31 23:59:59.999'", "'1969-12-31 23:59:59.001'"]).note(zero),
        kind("datetime(6)", Stamp, &["'0001-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'"])
            .and(some(12, -60_000_000_000_000_000i64..250_000_000_000_000_000, micros))
            .note(zero),
        kind("timestamp null", Stamp, &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'2024-03-31 01:00:00'"])
            .note("an instant: no time zone of a session or server matters; stops at 0000-00-00 00:00:00"),
        kind("timestamp(6) null", Stamp, &["'1970-01-01 00:00:01.000001'", "'2038-01-19 03:14:07.999999'"])
            .note("as timestamp"),
        kind("time", Length, &["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'", "'24:00:00'"])
            .note("a signed length of time, not a time of day"),
        kind("time(2)", Length, &["'-01:02:03.45'", "'00:00:00.01'", "'-00:00:00.01'"]).note("as time"),
        kind("time(6)", Length, &["'838:59:59.000000'", "'-838:59:58.999999'", "'-00:00:00.000001'"])
            .and(some(12, -3_000_000_000_000i64..3_000_000_000_000, |us| {
                let sign = if us < 0 { "-" } else { "" };
                let (s, us) = (us.unsigned_abs() / 1_000_000, us.unsigned_abs() % 1_000_000);
                format!("'{sign}{}:{:02}:{:02}.{us:06}'", s / 3600, s / 60 % 60, s % 60)
            }))
            .note("as time"),
    ]
}

fn texts() -> Vec<Kind> {
    let nul = "Postgres stops at NUL (U+0000), which its text cannot hold";
    let wide = || some(12, "\\PC{0,12}", text);
    vec![
        kind("char(10)", Text, &[])
            .and(quoted(&["", "a", " a", "äöü€𝄞"]))
            .note("trailing blanks are padding: no part of the value"),
        kind("char(10) collate utf8mb4_bin", Text, &[]).and(quoted(&["A", "  x"])).note("as char"),
        kind("varchar(60)", Text, &[])
            .and(quoted(&PLAIN))
            .and(quoted(&["a  ", "ßẞ ﬁ", "👩‍👩‍👧‍👧 🏳️‍🌈", "e\u{301}", "\u{feff}x", "\u{7f}\u{1}"]))
            .and(wide())
            .note(nul),
        kind("tinytext", Text, &[]).and(quoted(&["x\ny\r\n", " "])).note(nul),
        kind("text", Text, &["REPEAT('x', 65535)"]).and(quoted(&PLAIN)).and(wide()).note(nul),
        kind("mediumtext", Text, &["REPEAT('é', 70000)"]).and(wide()).note(nul),
        kind("longtext", Text, &["REPEAT('𝄞', 40000)"]).and(wide()).note(nul),
        kind("varchar(60) character set ascii", Text, &["'~'"]).and(quoted(&PLAIN)).note(nul),
        kind("varchar(60) character set latin1", Text, &["_latin1 X'80818D8F909DA0FF7FE4'"])
            .and(quoted(&["ÿ €"]))
            .note("the server's latin1 is Windows-1252 with its five holes filled"),
        kind("varchar(60) character set utf8mb3", Text, &[]).and(quoted(&["€ \u{ffff} \u{fffd}", "日本"])).note(nul),
        kind("binary(4)", Bytes, &["''", "X'00'", "X'61000000'", "X'20202020'", "X'00FF'"])
            .note("padded with zeros to its length, as the server prints it"),
        kind("varbinary(20)", Bytes, &["''", "X'00'", "X'00FF5C27'", "X'6100'"]).and(some(
            12,
            prop::collection::vec(any::<u8>(), 0..20),
            |b| format!("X'{}'", hex(b)),
        )),
        kind("tinyblob", Bytes, &["''", "X'0000'"]),
        kind("blob", Bytes, &["REPEAT(X'00', 65535)"]),
        kind("mediumblob", Bytes, &["REPEAT(X'FF00', 40000)"]),
        kind("longblob", Bytes, &["REPEAT(X'5C', 100000)"]),
    ]
}

/// What many character sets have something of; what a column cannot hold, the server has made a question mark before it is read.
const SCRIPTS: [&str; 4] =
    ["aé€ßÆŁžő ~\\¥‾·¬\u{a0}", "Жяїґ Ωψ אבג ابپ ไทย ქარ Հայ", "日本語漢字 かなｶﾅ 한글 中國", "〜∥－￠￡￢∑№①Ⅷ㈱纊"];

/// Text in every character set of both servers.
fn charsets() -> Vec<Kind> {
    let of = |declared| {
        kind(declared, Text, &[])
            .and(quoted(&SCRIPTS))
            .and(quoted(&["", "x  "]))
            .and(some(6, "\\PC{0,12}", text))
            .note("stops at codes that the server has no character for, where SELECT prints a question mark")
    };
    [
        "varchar(60) character set big5",
        "varchar(60) character set dec8",
        "varchar(60) character set cp850",
        "varchar(60) character set hp8",
        "varchar(60) character set koi8r",
        "varchar(60) character set latin2",
        "varchar(60) character set swe7",
        "varchar(60) character set ujis",
        "varchar(60) character set sjis",
        "varchar(60) character set hebrew",
        "varchar(60) character set tis620",
        "varchar(60) character set euckr",
        "varchar(60) character set koi8u",
        "varchar(60) character set gb2312",
        "varchar(60) character set greek",
        "varchar(60) character set cp1250",
        "varchar(60) character set gbk",
        "varchar(60) character set latin5",
        "varchar(60) character set armscii8",
        "varchar(60) character set cp866",
        "varchar(60) character set keybcs2",
        "varchar(60) character set macce",
        "varchar(60) character set macroman",
        "varchar(60) character set cp852",
        "varchar(60) character set latin7",
        "varchar(60) character set cp1251",
        "varchar(60) character set cp1256",
        "varchar(60) character set cp1257",
        "varchar(60) character set geostd8",
        "varchar(60) character set cp932",
        "varchar(60) character set eucjpms",
        "varchar(60) character set ucs2",
        "varchar(60) character set utf16",
        "varchar(60) character set utf16le",
        "varchar(60) character set utf32",
        "char(20) character set utf16",
        "longtext character set gbk",
        "text character set sjis",
    ]
    .map(of)
    .into()
}

fn others() -> Vec<Kind> {
    let point = "ST_GeomFromText('POINT(1.5 -2)', 4326)";
    vec![
        kind("enum('a','B','','it''s','ä,€')", Text, &["'a'", "'B'", "2", "3", "4", "5"])
            .note("its label; stops at the error value (index 0)"),
        kind("set('x','y','it''s','ä')", Text, &["''", "'y,x'", "15", "'it''s'"]).note("its labels, joined by commas"),
        kind("geometry", Bytes, &[point, "ST_GeomFromText('LINESTRING(0 0,1 1)')"])
            .note("4 bytes SRID, little-endian, then WKB: ST_GeomFromWKB(substr(c, 5)) in PostGIS"),
        kind("point", Bytes, &["ST_GeomFromText('POINT(1e300 -0.1)')"]).note("as geometry"),
        kind("linestring", Bytes, &["ST_GeomFromText('LINESTRING(0 0,1 1)')"]).note("as geometry"),
        kind("polygon", Bytes, &["ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))')"]).note("as geometry"),
        kind("multipoint", Bytes, &["ST_GeomFromText('MULTIPOINT(0 0,1 1)')"]).note("as geometry"),
        kind("multilinestring", Bytes, &["ST_GeomFromText('MULTILINESTRING((0 0,1 1))')"]).note("as geometry"),
        kind("multipolygon", Bytes, &["ST_GeomFromText('MULTIPOLYGON(((0 0,1 0,1 1,0 0)))')"]).note("as geometry"),
        kind("geometrycollection", Bytes, &["ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 2))')"]).note("as geometry"),
    ]
}

/// A JSON document in the server's binary form, from text.
fn json(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| format!("CAST({} AS JSON)", text(v))).collect()
}

/// Types of MySQL alone, and of both.
pub fn of_mysql() -> Vec<Kind> {
    let mut kinds = common();
    kinds.push(
        kind("varchar(60) character set gb18030", Text, &[])
            .and(quoted(&SCRIPTS))
            .and(some(12, "\\PC{0,12}", text))
            .note("as gbk"),
    );
    kinds.push(kind("enum('é','中','\u{a5}') character set gbk", Text, &["1", "2"]).note("its label"));
    kinds.push(
        kind("vector(3)", Vector, &["STRING_TO_VECTOR('[1,-0.5,1e6]')", "STRING_TO_VECTOR('[0]')"])
            .and(some(12, any::<[f32; 3]>().prop_filter("numbers", |v| v.iter().all(|f| f.is_finite())), |v| {
                format!("X'{}'", hex(v.map(f32::to_le_bytes).concat()))
            }))
            .note("a Postgres array, to which pgvector has a cast"),
    );
    kinds.push(
        kind("json", Text, &[])
            .and(json(&["null", "true", "[]", "{}", "\"\"", "[1, -1, 0, 1.0, -0.0, 0.1]", "{\"b\": 1, \"a\": {\"a\": [null]}}"]))
            .and(json(&["9007199254740993", "18446744073709551615", "-9223372036854775808", "18446744073709551616"]))
            .and(json(&["1e400000", "1e300", "1.5e-300", "1E5", "123456789012345678.5", "1e15", "1e16", "1e-5"][1..]))
            .and(json(&["\"\\u0000\\u001f\\\"\\\\/\\n€𝄞\"", "{\"\": 1, \"a\\\"b\": 2}", "{\"a\": 1, \"a\": 2}"]))
            .and(
                [
                    "JSON_ARRAY(CAST(1.50 AS DECIMAL(10,2)), CAST('-123456789012345678901234567890.12' AS DECIMAL(65,30)))",
                    "JSON_ARRAY(DATE '2024-02-29', TIME '-10:11:12.5', TIMESTAMP '2024-02-29 10:00:00.000001')",
                    "JSON_ARRAY(CAST(X'00FF' AS BINARY), b'101', CAST(2024 AS YEAR))",
                    "JSON_OBJECT('k', REPEAT('x', 70000), 'l', 1)",
                    "JSON_ARRAY(1e0, 1e1, 0.1e0, 1e22, 123456789e-20, -0e0)",
                ]
                .map(String::from),
            )
            .and(some(12, any::<u64>().prop_map(f64::from_bits).prop_filter("a number", |f| f.is_finite()), |f| {
                format!("JSON_ARRAY({f:e})")
            }))
            .and(some(12, any::<(i64, u64)>(), |(i, u)| format!("JSON_ARRAY({i}, {u})")))
            .note("as the server prints it; Postgres: json, not jsonb, which would change the text"),
    );
    kinds
}

/// Types of MariaDB alone, and of both.
pub fn of_mariadb() -> Vec<Kind> {
    let mut kinds = common();
    kinds.extend([
        kind("json", Text, &[])
            .and(quoted(&["{\"b\" : 1,\"a\":1.0, \"a\":2}", "12345678901234567890123", "1e999", "[ ]", "\"\\u00e9\""]))
            .note("the text as it was written"),
        kind("uuid", Text, &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"])
            .and(some(20, any::<u128>(), uuid)),
        kind("inet4", Text, &["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'"]),
        kind("inet6", Text, &["'::'", "'::1'", "'2001:db8::ff00:42:8329'", "'::ffff:192.0.2.128'", "'::192.0.2.128'"])
            .and(["'1::'", "'0:0:0:1::'", "'1:0:2::'"].map(String::from))
            .and(some(12, any::<u128>(), |n| format!("'{}'", std::net::Ipv6Addr::from(n)))),
    ]);
    kinds
}

/// The server takes known versions and variants only.
fn uuid(n: u128) -> String {
    let version = 1 + n % 7;
    let h = format!("{:032x}", n & !(0xf << 76) & !(0xc << 60) | version << 76 | 8 << 60);
    format!("'{}-{}-{}-{}-{}'", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// Types of both.
pub fn common() -> Vec<Kind> {
    [numbers(), times(), texts(), charsets(), others()].into_iter().flatten().collect()
}

/// A server whose defaults differ from the harness's in all that changes how values or statements read.
fn odd(mode: &str) -> Options {
    Options::new().set("default_time_zone", "-03:30").set("sql_mode", mode).set("character_set_server", "latin1")
}

fn carried(server: &MySqlServer, kinds: &[Kind], version: PgVersion) {
    every_charset_is_tried(server, kinds);
    let client: &Client = server;
    let source = client.fresh_database("types");
    source.sql(&format!("ALTER DATABASE {} CHARACTER SET utf8mb4", source.name()));
    let target = Postgres::shared(version).fresh_database("types");
    round_trip(&Server { database: &source }, kinds, &target);
}

/// Every character set that a server has is tried.
fn every_charset_is_tried(server: &MySqlServer, kinds: &[Kind]) {
    let names = server.sql("mysql", "SELECT CHARACTER_SET_NAME FROM information_schema.CHARACTER_SETS");
    for name in names.lines().filter(|n| !["binary", "utf8mb4"].contains(n)) {
        let declared = format!("character set {name}");
        assert!(kinds.iter().any(|k| k.declared.ends_with(&declared)), "no text in {name}");
    }
}

#[test]
fn from_mysql() {
    let server = MySql::start(odd("ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES"));
    carried(&server, &of_mysql(), PgVersion::V18);
}

#[test]
fn from_mariadb() {
    let server = MariaDb::start(odd("ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES"));
    carried(&server, &of_mariadb(), PgVersion::V15);
}
