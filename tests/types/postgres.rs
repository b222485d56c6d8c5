//! Postgres 15 and 18: their types and values, between databases whose settings nobody should set.

use crossfade_harness::{Database, PgVersion, Postgres};
use proptest::prelude::*;

use crate::class::Class::{Bits, Bool, Bytes, Clock, Date, Float, Number, Stamp, Text};
use crate::kind::{Kind, hex, kind, some};
use crate::lab::{self, Printed, Site, round_trip};

/// A database as a source.
pub struct Server<'a> {
    /// The database.
    pub database: &'a Database,
}

impl Site for Server<'_> {
    fn url(&self) -> String {
        self.database.url()
    }

    fn run(&self, script: &str) {
        let done = self.database.try_sql(&format!("{}set search_path = public; {script}", lab::PSQL));
        done.unwrap_or_else(|e| panic!("{e}"));
    }

    fn print(&self, kinds: &[Kind]) -> Printed {
        lab::of_postgres(self.database, "public", kinds)
    }

    fn schema(&self) -> String {
        "public".into()
    }
}

/// Types that the kinds need, in a schema that is not in anybody's search path.
pub const DDL: &str = "\
    create schema shop; create schema ext; create extension citext schema ext; create extension hstore schema ext; \
    create extension ltree schema ext; create type shop.mood as enum ('ok', 'not ok', 'it''s', 'ä,\"'); \
    create type shop.comp as (a int, b text, c shop.mood); create domain shop.email as text check (value like '%@%'); \
    create domain shop.price as numeric(10,2); create domain shop.dear as shop.price check (value > 10); \
    create domain shop.list as int[]; create type shop.span as range (subtype = float8);";

fn text(value: impl AsRef<str>) -> String {
    format!("convert_from('\\x{}', 'UTF8')", hex(value.as_ref()))
}

fn quoted(values: &[&str]) -> Vec<String> {
    values.iter().map(text).collect()
}

/// Values that are printed as the type prints them.
fn printed(declared: &'static str, values: &[&str]) -> Kind {
    kind(declared, Text, values)
}

const PLAIN: [&str; 6] = ["", "a", "it's", "back\\slash \\n \\N \\.", "\"; DROP TABLE t; --", "$1 %s {0} \t|\r\n"];

fn numbers() -> Vec<Kind> {
    let digits = |n: usize| "9".repeat(n);
    let beyond = "stops at NaN";
    vec![
        kind("smallint", Number, &["-32768", "32767"]),
        kind("integer", Number, &["-2147483648", "2147483647"]),
        kind("bigint", Number, &["-9223372036854775808", "9223372036854775807"])
            .and(some(12, any::<i64>(), |n| format!("'{n}'"))),
        kind("oid", Number, &["0", "4294967295", "2147483648"]),
        kind("numeric(1,0)", Number, &["-9", "0"]).note(beyond),
        kind("numeric(10,2)", Number, &["-99999999.99", "0.01", "-0.00"]).note(beyond),
        kind("numeric(38,38)", Number, &["-0.00000000000000000000000000000000000001"]).note(beyond),
        kind("numeric(76,10)", Number, &["0"])
            .and([format!("{}.{}", digits(66), digits(10)), format!("-{}", digits(66))])
            .note(beyond),
        kind("numeric(100,10)", Number, &["'NaN'", "0.1"]).and([digits(90)]),
        kind("numeric", Number, &["'NaN'", "'Infinity'", "'-Infinity'", "1.500", "1", "0.00", "1e-16383", "-0.1"])
            .and([format!("{}.{}", digits(500), digits(300)), format!("-{}", digits(2000))])
            .and(some(12, (any::<i128>(), 0u32..40), |(n, e)| format!("{n}e-{e}")))
            .note("with the zeros behind the point that it was written with"),
        kind(
            "real",
            Float,
            &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "3.4028235e38", "1e-45", "16777215", "0.1"],
        )
        .and(some(12, -3.4e38f32..3.4e38, |f| format!("{f:e}"))),
        kind(
            "double precision",
            Float,
            &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "1.7976931348623157e308", "5e-324", "0.1"],
        )
        .and(some(20, any::<u64>().prop_map(f64::from_bits).prop_filter("a number", |f| f.is_finite()), |f| {
            format!("'{f:e}'")
        })),
        printed("money", &["-92233720368547758.08", "92233720368547758.07", "0.01::numeric::money"])
            .note("as lc_monetary = C prints it: $1,234.50"),
        kind("boolean", Bool, &["true", "false"]),
        kind("bit(1)", Bits(1), &["B'0'", "B'1'"]),
        kind("bit(70)", Bits(70), &["repeat('10', 35)::bit(70)"]),
        printed("bit varying(7)", &["B''", "B'1'", "B'0000000'"]),
        printed("bit varying", &["B''", "repeat('1', 1001)::bit varying"]),
    ]
}

fn times() -> Vec<Kind> {
    let far =
        "infinity stays infinity; stops after 294247-01-10 04:00:54 (what 64 bits of microseconds since 1970 hold)";
    let micros = |us: i64| format!("'epoch'::timestamptz at time zone 'UTC' + '{us} us'::interval");
    vec![
        kind(
            "date",
            Date,
            &["'4714-11-24 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'", "'0001-12-31 BC'", "'1582-10-10'"],
        )
        .and(some(12, -2_440_588i32..3_000_000, |d| format!("date '1970-01-01' + {d}")))
        .note("infinity stays infinity"),
        kind(
            "timestamp",
            Stamp,
            &[
                "'4714-11-24 00:00:00 BC'",
                "'294247-01-10 04:00:54.775806'",
                "'infinity'",
                "'-infinity'",
                "'0044-03-15 12:00:00.000001 BC'",
            ],
        )
        .and(some(12, -200_000_000_000_000_000i64..250_000_000_000_000_000, micros))
        .note(far),
        kind("timestamp(0)", Stamp, &["'2024-02-29 23:59:59'"]).note(far),
        kind(
            "timestamp with time zone",
            Stamp,
            &[
                "'4714-11-24 00:00:00+00 BC'",
                "'294247-01-10 04:00:54.775806+00'",
                "'infinity'",
                "'-infinity'",
                "'2024-03-31 02:30:00 Europe/Berlin'",
                "'1900-01-01 00:00:00 Europe/Amsterdam'",
            ],
        )
        .note(far),
        kind("timestamp(3) with time zone", Stamp, &["'2024-02-29 23:59:59.999+14'"]).note(far),
        kind("time", Clock, &["'00:00:00'", "'24:00:00'", "'23:59:59.999999'", "'00:00:00.1'"]),
        kind("time(3)", Clock, &["'12:34:56.789'"]),
        printed("time with time zone", &["'00:00:00+15:59:59'", "'24:00:00-15:59'", "'10:00:00.5+05:30'"]),
        printed(
            "interval",
            &[
                "'1 year 2 mons -3 days +04:05:06.789'",
                "'-178000000 years'",
                "'1000000:00:00'",
                "'0'",
                "'-1 day +00:00:00.000001'",
            ],
        )
        .and(some(12, (any::<i16>(), any::<i32>(), any::<i32>()), |(m, d, s)| format!("'{m} mons {d} days {s} ms'"))),
        printed("interval day to second(3)", &["'-3 days 04:05:06.789'"]),
        printed("interval year to month", &["'-3 years 1 mon'"]),
    ]
}

fn texts() -> Vec<Kind> {
    let wide = || some(12, "[^\\x00]{0,12}", text);
    vec![
        kind("text", Text, &["repeat('é', 100000)"])
            .and(quoted(&PLAIN))
            .and(quoted(&["ßẞ ﬁ", "👩‍👩‍👧‍👧", "e\u{301}", "\u{feff}", "\u{10ffff}\u{fffe}"]))
            .and(wide()),
        kind("character varying(20)", Text, &[]).and(quoted(&["a  ", "", "𝄞"])),
        kind("character varying", Text, &[]).and(wide()),
        kind("character(5)", Text, &[]).and(quoted(&["", "ab", "äöü€𝄞", " a"])).note("with its padding"),
        kind("name", Text, &[]).and(quoted(&["Ä\"b"])),
        printed("\"char\"", &["'a'", "'é'::text::\"char\"", "''"]),
        kind("bytea", Bytes, &["''", "'\\x00ff5c27'", "decode(repeat('00ff', 50000), 'hex')"]).and(some(
            12,
            prop::collection::vec(any::<u8>(), 0..20),
            |b| format!("'\\x{}'", hex(b)),
        )),
        kind("uuid", Text, &["'00000000-0000-0000-0000-000000000000'"])
            .and(some(12, any::<u128>(), |n| format!("'{n:032x}'"))),
        kind(
            "json",
            Text,
            &[
                "'{\"b\" : 1,\"a\":1.0, \"a\":2}'",
                "'1e400'",
                "'9007199254740993'",
                "'\"\\u00e9\\u0000\"'",
                "' [ ] '",
                "'null'",
            ],
        )
        .note("the text as it was written, duplicate keys and blanks included"),
        kind(
            "jsonb",
            Text,
            &[
                "'{\"b\" : 1,\"a\":1.0, \"a\":2}'",
                "'1e400'",
                "'12345678901234567890.0123456789'",
                "'\"\\u00e9\"'",
                "'null'",
                "'[]'",
            ],
        )
        .note("as jsonb prints it; Postgres: json"),
        printed("xml", &["'<a>x &amp; é</a>'", "'text'", "''", "'<?xml version=\"1.0\" standalone=\"yes\"?><a/>'"]),
        printed("tsvector", &["'a:1A b:2,3 ''it''''s'''", "''"]),
        printed("tsquery", &["'a & !b <-> c:*A'"]),
        printed("jsonpath", &["'$.a[*] ? (@ > 1e2)'"]),
    ]
}

fn nets() -> Vec<Kind> {
    vec![
        printed("inet", &["'10.0.0.1/8'", "'10.0.0.1'", "'::1'", "'::ffff:1.2.3.4/96'", "'2001:db8::/32'"]),
        printed("cidr", &["'10.0.0.0/8'", "'10.0.0.1'", "'::/0'"]),
        printed("macaddr", &["'08:00:2b:01:02:03'"]),
        printed("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
        printed("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
        printed("xid", &["'4294967295'"]),
        printed("xid8", &["'18446744073709551615'"]),
        printed("cid", &["'7'"]),
        printed("tid", &["'(4294967295,65535)'"]),
        printed("pg_snapshot", &["'10:20:10,14,15'"]),
        printed("txid_snapshot", &["'10:20:10,14,15'"]),
        printed("int2vector", &["'1 2 -3'"]),
        printed("oidvector", &["'1 4294967295'"]),
        printed("refcursor", &["'c 1'"]),
        printed("point", &["'(1.5,-2)'", "'(0.1,1e300)'", "'(NaN,Infinity)'"]),
        printed("line", &["'{1,2,0.1}'"]),
        printed("lseg", &["'[(0,0),(0.1,1)]'"]),
        printed("box", &["'(1,1),(0.1,0)'"]),
        printed("path", &["'[(0,0),(1,0.1)]'", "'((0,0),(1,1))'"]),
        printed("polygon", &["'((0,0),(1,0),(1,0.1))'"]),
        printed("circle", &["'<(0.1,0),2>'"]),
        printed("regclass", &["'pg_class'", "'shop.comp'", "0"])
            .note("text: the name of an object means nothing to another database"),
        printed("regtype", &["'integer'", "'shop.mood'"]).note("text, as regclass"),
        printed("regproc", &["'pg_catalog.now'"]).note("text, as regclass"),
        printed("regprocedure", &["'pg_catalog.abs(integer)'"]).note("text, as regclass"),
        printed("regoper", &["'pg_catalog.||/'"]).note("text, as regclass"),
        printed("regoperator", &["'pg_catalog.+(integer,integer)'"]).note("text, as regclass"),
        printed("regrole", &["'pg_monitor'"]).note("text, as regclass"),
        printed("regnamespace", &["'shop'"]).note("text, as regclass"),
        printed("regconfig", &["'english'"]).note("text, as regclass"),
        printed("regdictionary", &["'simple'"]).note("text, as regclass"),
        printed("regcollation", &["'pg_catalog.\"C\"'"]).note("text, as regclass"),
        printed("aclitem", &["'=r/pg_monitor'"]).note("text, as regclass"),
    ]
}

fn made_of_others() -> Vec<Kind> {
    let foreign = "text: whether the target has the type is not known";
    vec![
        printed(
            "integer[]",
            &["'{}'", "'{1,NULL,-3}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "'[-2:-1][5:5]={{1},{NULL}}'"],
        ),
        printed("text[]", &["'{\"a,b\",\"NULL\",NULL,\"\",\"{}\",\"\\\"\\\\\"}'", "array[['a','b'],['c','d']]"]),
        printed("character varying(3)[]", &["'{abc}'"]),
        printed("numeric(5,2)[]", &["'{1.50,NaN}'"]),
        printed("double precision[]", &["'{0.1,-0,1e300,NaN,Infinity}'"]),
        printed("bytea[]", &["array['\\x00ff'::bytea, '\\x']"]),
        printed("timestamp with time zone[]", &["'{\"2024-02-29 10:00:00+02\",infinity}'"]),
        printed("json[]", &["array['{\"a\": [1, 2]}'::json]"]),
        printed("int4range", &["'[1,5)'", "'empty'", "'(,)'", "'(,5]'"]),
        printed("numrange", &["'[1.50,2)'"]),
        printed("tstzrange", &["'[2024-01-01 00:00:00+02,infinity)'"]),
        printed("daterange", &["'[2024-01-01,)'"]),
        printed("int4multirange", &["'{}'", "'{[1,2],[5,7)}'"]),
        printed("nummultirange", &["'{[1.0,2.50]}'"]),
        printed("shop.mood", &["'not ok'", "'it''s'", "'ä,\"'"]).note("text: a label may come at any time"),
        printed("shop.mood[]", &["'{ok,\"not ok\",NULL}'"]).note(foreign),
        printed("shop.comp", &["'(1,\"x,y\",ok)'", "'(,,)'", "'(,\"\",\"ä,\"\"\")'"]).note(foreign),
        printed("shop.comp[]", &["array['(1,x,ok)'::shop.comp]"]).note(foreign),
        printed("shop.span", &["'[0.1,2)'"]).note(foreign),
        printed("shop.email", &["'a@b'"]).note("as what the domain is made of"),
        kind("shop.price", Number, &["12.30"]).note("as what the domain is made of"),
        kind("shop.dear", Number, &["12.30"]).note("as what the domain is made of"),
        printed("shop.list", &["'{1,NULL}'"]).note("as what the domain is made of"),
        printed("ext.citext", &["'Aa'"]).note(foreign),
        printed("ext.hstore", &["'\"a b\"=>\"1\", c=>NULL'", "''"]).note(foreign),
        printed("ext.ltree", &["'a.b.c'"]).note(foreign),
    ]
}

/// All types.
pub fn all() -> Vec<Kind> {
    [numbers(), times(), texts(), nets(), made_of_others()].into_iter().flatten().collect()
}

/// Settings of a database that must not show in any value.
fn odd(database: &Database) {
    for setting in [
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "TimeZone = 'Asia/Kathmandu'",
        "extra_float_digits = -3",
        "standard_conforming_strings = off",
        "client_encoding = 'LATIN1'",
        "xmloption = 'document'",
        "lc_monetary = 'C.utf8'",
        "search_path = shop, ext, public",
        "default_transaction_isolation = 'serializable'",
    ] {
        database.sql(&format!("alter database {} set {setting}", database.name()));
    }
}

fn carried(from: PgVersion, to: PgVersion) {
    let source = Postgres::shared(from).fresh_database("types");
    source.sql(DDL);
    odd(&source);
    let target = Postgres::shared(to).fresh_database("types");
    odd(&target);
    round_trip(&Server { database: &source }, &all(), &target);
}

#[test]
fn from_postgres_15() {
    carried(PgVersion::V15, PgVersion::V18);
}

#[test]
fn from_postgres_18() {
    carried(PgVersion::V18, PgVersion::V15);
}
