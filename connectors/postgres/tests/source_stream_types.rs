//! Values of every type: what the log gives as text equals what a snapshot reads in binary, bit for bit.

mod source;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use crossfade_core::{Class, Item, Logical};
use crossfade_harness::{PgVersion, Postgres};
use crossfade_postgres::decode::Decoder;
use futures::TryStreamExt;
use source::{Site, failure, read};

const TYPES: &str = "id int primary key, a smallint, b bigint, c boolean, d real, e double precision, f numeric, \
    g numeric(12,3), h numeric(60,20), i bytea, j uuid, k date, l time, m timestamp, n timestamptz, o bit(5), p json, q jsonb, \
    r text, s varchar(5), t char(5), u interval, v int[], w text[], x inet, y int4range, z tsvector, aa point, ab mood, ac money, \
    ad xml, ae bit varying(7), af timetz, ag int4multirange, ah macaddr, ai comp, aj email";

const ROWS: [&str; 5] = [
    "1, 32767, 9223372036854775807, true, 3.4028235e38, 1.7976931348623157e308, 'NaN', 999999999.999, \
     9999999999999999999999999999999999999999.99999999999999999999, '\\x00ff10', '01234567-89ab-cdef-0123-456789abcdef', \
     '5874897-12-31', '24:00:00', '294246-12-31 23:59:59.999999', '294246-12-31 23:59:59.999999+00', '10101', '{\"a\" : 1.0}', \
     '{\"a\" : 1.0}', E'a\\tb\\n''\\\\', 'abc', 'ab', '1 year 2 mons 3 days -04:05:06.789', '{1,NULL,3}', '{\"a,b\",\"NULL\",NULL,\"\"}', \
     '10.0.0.1/8', '[1,5)', 'a:1 b', '(1.5,-2)', 'ok', 1234.56, '<a>x</a>', '101', '10:00:00.5+05:30', '{[1,2],[5,7)}', \
     '08:00:2b:01:02:03', '(1,\"x,y\")', 'a@b'",
    "2, -32768, -9223372036854775808, false, '-Infinity', '-0', 'Infinity', -0.001, -0.00000000000000000001, '', null, \
     '4714-11-24 BC', '00:00:00', '4714-11-24 00:00:00 BC', '4714-11-24 00:00:00+00 BC', '00000', 'null', '[]', '', '', '', '0', '{}', \
     '{{a,b},{c,d}}', '::1', 'empty', '', '(0,0)', 'not ok', -0.01, '', '', '00:00:00+00', '{}', null, null, null",
    "3, 0, 0, null, 'NaN', 'NaN', '-Infinity', 0, 0, null, null, 'infinity', null, 'infinity', '-infinity', null, null, null, 'grün', \
     'äöü', null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null",
    "4, 1, 1, true, 1e-45, 5e-324, 12345678901234567890.12345678901234567890, 1.5, 1e39, '\\x', null, '-infinity', \
     '12:34:56.000001', '-infinity', 'infinity', '11111', '\"\\u00e9\"', '\"\\u00e9\"', 'x', 'x', 'x', '-1 days', '[0:1]={1,2}', null, null, \
     '(,)', null, null, null, null, null, null, null, null, null, null, null",
    "5, 1, 1, true, 0.1, 0.1, 1e-30, 0.1, 0.1, null, null, '0001-01-01', '00:00:00.1', '0001-12-31 23:59:59.5 BC', \
     '2024-06-30 12:00:00+02', null, null, '1e400', null, null, null, '1000000:00:00', null, null, null, null, null, null, null, null, \
     null, null, null, null, null, null, null",
];

#[test]
fn text_and_binary_agree() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let ddl = format!(
            "create type mood as enum ('ok', 'not ok'); create type comp as (a int, b text); create domain email as text; \
             create table t ({TYPES}); alter table t replica identity full"
        );
        let site = Site::new(Postgres::shared(version), &ddl);
        // Defaults of the database must not show.
        for setting in [
            "DateStyle = 'SQL, DMY'",
            "IntervalStyle = 'iso_8601'",
            "bytea_output = 'escape'",
            "TimeZone = 'Asia/Tokyo'",
            "extra_float_digits = 0",
        ] {
            site.sql(&format!("alter database {} set {setting}", site.db.name()));
        }
        let from = site.begin();
        let table = site.table("t", &["id"]);
        let mut stream = site.stream(&from, std::slice::from_ref(&table)).unwrap();
        let rows: Vec<String> =
            ROWS.iter().map(|r| format!("set timezone = 'UTC'; insert into t values ({r});")).collect();
        site.sql(&rows.concat());
        let batches = read(&mut stream, &site.now());
        let of_log: Vec<RecordBatch> = batches
            .iter()
            .flat_map(|b| &b.items)
            .map(|item| if let Item::Rows(r) = item { r.batch.clone() } else { panic!("{item:?}") })
            .collect();
        let of_log = concat_batches(&table.arrow(), &of_log).unwrap();

        let column = |c: &crossfade_core::Column| match c.logical {
            // Casts differ from what the types print: char(n) loses its blanks, inet gains its mask.
            Logical::Text | Logical::Json => format!("CASE WHEN {0} IS NOT NULL THEN format('%s', {0}) END", c.name),
            _ => c.name.clone(),
        };
        let list: Vec<String> = table.columns.iter().map(column).collect();
        let sql = format!("COPY (SELECT {} FROM public.t ORDER BY id) TO STDOUT (FORMAT binary)", list.join(", "));
        let mut decoder = Decoder::new(&table);
        site.server.block_on(async {
            let client = site.server.client().await.unwrap();
            let mut copy = std::pin::pin!(client.copy_out(&sql).await.unwrap());
            while let Some(piece) = copy.try_next().await.unwrap() {
                decoder.feed(&piece).unwrap();
            }
        });
        let of_snapshot = decoder.take().unwrap().unwrap();
        assert_eq!(of_snapshot.num_rows(), ROWS.len());
        for (i, c) in table.columns.iter().enumerate() {
            assert_eq!(of_log.column(i), of_snapshot.column(i), "{version:?} column {} {}", c.name, c.source_type);
        }
    }
}

#[test]
fn values_that_do_not_fit_name_their_row() {
    let site = Site::new(Postgres::shared(PgVersion::V15), "create table t (id int primary key, n numeric(12,3))");
    let from = site.begin();
    let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
    site.sql("insert into t values (7, 'NaN')");
    let error = failure(&mut stream);
    let Class::Data(place) = error.class() else { panic!("{error:?}") };
    assert_eq!(
        (place.table.as_str(), place.column.as_deref(), place.key.as_deref()),
        ("public.t", Some("n"), Some("id=7"))
    );
}
