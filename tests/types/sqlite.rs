//! SQLite: types belong to values, declarations only ask for them.

use std::path::{Path, PathBuf};

use crossfade_harness::{PgVersion, Postgres, python};
use proptest::prelude::*;

use crate::class::Class::{Amount, Bytes, Date, Float, Literal, Number, Stamp, Text};
use crate::common::folder;
use crate::kind::{Kind, kind, some};
use crate::lab::{Printed, Site, round_trip};

/// Prints the table by Python's own SQLite; values as the forms of the classes have them, literals by type and value.
const PRINT: &str = r#"
import datetime, json, sqlite3, sys
from decimal import Decimal
c = sqlite3.connect(sys.argv[1])
day = datetime.date(1970, 1, 1).toordinal()
def stamp(v):
    seconds, _, fraction = v.partition('.')
    d = datetime.datetime.fromisoformat(seconds)
    return str(((d.toordinal() - day) * 86400 + d.hour * 3600 + d.minute * 60 + d.second) * 10**6 + int((fraction or '0').ljust(6, '0')))
def literal(v):
    if isinstance(v, str): return 't' + v.encode().hex()
    if isinstance(v, bytes): return 'b' + v.hex()
    return 'r' + v.hex() if isinstance(v, float) else 'i' + str(v)
forms = {'Number': str, 'Float': repr, 'Literal': literal, 'Stamp': stamp,
    'Amount': lambda v: format(Decimal(repr(v)), 'f') if abs(v) != float('inf') else 'Infinity' if v > 0 else '-Infinity',
    'Text': lambda v: v.encode().hex().upper(), 'Bytes': lambda v: v.hex().upper(),
    'Date': lambda v: str(datetime.date.fromisoformat(v).toordinal() - day)}
classes = sys.argv[2].split(',')
rows = c.execute('select id, ' + ', '.join(f'c{i}' for i in range(len(classes))) + ' from t').fetchall()
print(json.dumps([[r[0], [v if v is None else forms[k](v) for k, v in zip(classes, r[1:])]] for r in rows]))
"#;

/// Reads literals as any reader of the target would, and prints them by type and value.
const READ: &str = r#"
import json, sys
def read(hexed):
    t = bytes.fromhex(hexed).decode()
    if t[0] == "'": return 't' + t[1:-1].replace("''", "'").encode().hex()
    if t[0] == 'X': return 'b' + t[2:-1]
    if '.' in t or 'e' in t: return 'r' + float(t).hex()
    return 'i' + str(int(t))
print(json.dumps([read(t) for t in sys.argv[1].split(',')]))
"#;

/// A database file.
pub struct File {
    path: PathBuf,
}

impl File {
    /// A file that is not there yet.
    pub fn new(folder: &Path) -> File {
        File { path: folder.join("types.sqlite") }
    }
}

impl Site for File {
    fn url(&self) -> String {
        format!("sqlite://{}", self.path.display())
    }

    fn run(&self, script: &str) {
        let code = "import sqlite3, sys\n\
                    c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                    c.executescript(open(sys.argv[2], encoding='utf-8', newline='').read())\n";
        let file = self.path.with_extension("sql");
        std::fs::write(&file, format!("BEGIN;\n{script}COMMIT;\n")).expect("writing the script");
        python(code, &[self.path.to_str().expect("UTF-8"), file.to_str().expect("UTF-8")]);
    }

    fn print(&self, kinds: &[Kind]) -> Printed {
        let classes: Vec<String> = kinds.iter().map(|k| format!("{:?}", k.class)).collect();
        let json = python(PRINT, &[self.path.to_str().expect("UTF-8"), &classes.join(",")]);
        let rows: Vec<(i64, Vec<Option<String>>)> = serde_json::from_str(&json).expect("the script prints JSON");
        rows.into_iter().collect()
    }

    fn schema(&self) -> String {
        "main".into()
    }

    fn read(&self, kinds: &[Kind], printed: &mut Printed) {
        let mut cells: Vec<&mut String> = printed
            .values_mut()
            .flat_map(|row| row.iter_mut().zip(kinds))
            .filter(|(_, kind)| kind.class == Literal)
            .filter_map(|(value, _)| value.as_mut())
            .collect();
        let list: Vec<&str> = cells.iter().map(|c| c.as_str()).collect();
        let json = python(READ, &[&list.join(",")]);
        let read: Vec<String> = serde_json::from_str(&json).expect("the script prints JSON");
        cells.iter_mut().zip(read).for_each(|(cell, read)| **cell = read);
    }
}

fn text(value: impl AsRef<str>) -> String {
    format!("'{}'", value.as_ref().replace('\'', "''"))
}

/// All kinds of declaration, with values that keep to them and that do not.
pub fn all() -> Vec<Kind> {
    let later = "stops at a later value of another type: what a column holds is decided once, when the log begins";
    let floats = || {
        some(20, any::<u64>().prop_map(f64::from_bits).prop_filter("a number", |f| f.is_finite()), |f| format!("{f:e}"))
    };
    let words = || some(12, "[^\\x00]{0,12}", text);
    let blob = "X'00ff27'";
    vec![
        kind("INTEGER", Number, &["-9223372036854775808", "9223372036854775807", "0"]).note(later),
        kind("TINYINT UNSIGNED", Number, &["-9223372036854775808", "256"]).note("64 bits, whatever the name; as INTEGER"),
        kind("BOOLEAN", Number, &["0", "1", "2"]).note(later),
        kind("REAL", Float, &["9e999", "-9e999", "5e-324", "1.7976931348623157e308", "0.1", "3", "-0.0"]).and(floats()).note(later),
        kind("NUMERIC", Amount, &["1", "0.1", "1e300", "1e-300", "9223372036854775807", "9e999"]).and(floats())
            .note("all digits that tell the double apart; stops at text and blobs"),
        kind("DECIMAL(10,2)", Amount, &["12.5", "-99999999.99", "3", "0.07"]).note("stops at a number that needs more digits"),
        kind("DECIMAL(76,0)", Amount, &["9223372036854775807", "-1"]).note("as DECIMAL(10,2)"),
        kind("TEXT", Text, &[]).and(["", "it''s", "\"; DROP TABLE t; --", "$1 %s \\n \t|", "ä€𝄞"].map(text)).and(words())
            .note("stops at text that is not UTF-8, Postgres also at NUL"),
        kind("VARCHAR(3)", Text, &["'longer than that'"]).note("the length is not enforced; as TEXT"),
        kind("BLOB", Bytes, &["X''", blob, "zeroblob(100000)"]).note(later),
        kind("DATE", Date, &["'0001-01-01'", "'9999-12-31'", "'2024-02-29'"])
            .note("where all values are YYYY-MM-DD, else text, integers or literals"),
        kind("DATETIME", Stamp, &["'0001-01-01 00:00:00'", "'9999-12-31T23:59:59.999999'", "'2024-02-29 10:00:00.5'"])
            .note("where all values are YYYY-MM-DD HH:MM:SS, with a fraction of up to 6 digits or without, else as DATE; a T for the blank and zeros at the fraction's end are not kept. In a key: text"),
        kind("TIMESTAMP", Text, &["'2024-02-29T10:00:00Z'", "'2024-02-29 10:00:00'"]).note("as DATETIME: these values make it text"),
        kind("JSON", Text, &["'{\"a\" : 1.0, \"a\": 2}'", "'12345678901234567890'||'a'"]).note("whatever its values are; literals where they are of several types"),
        kind("", Literal, &["1", "1.0", "'1'", "X'31'", "-9223372036854775808", "0.1", "9e999", "-0.0", "'it''s'", "X''", "''", "1e16", "1e-5"])
            .and(floats()).and(words()).note("values of any type, as SQL literals; blobs alone: bytes"),
        kind("TEXT ", Literal, &["'a'", blob]).note("where values of several types are there: as without a type"),
        kind("INT", Literal, &["1", "'n/a'", "1.5"]).note("as TEXT"),
    ]
}

#[test]
fn from_sqlite() {
    let (_keep, folder) = folder();
    let target = Postgres::shared(PgVersion::V15).fresh_database("types");
    round_trip(&File::new(&folder), &all(), &target);
}
