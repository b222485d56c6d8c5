//! Types that nobody named: those of extensions and of C code beyond the ones that are known here.
//!
//! Every value travels as its type's output function prints it. Of the built-in types it is known, and tested, that the text is
//! the value; of enums, domains, ranges, arrays and composite types it follows from what they are made of; and of a few
//! extensions it was tried. Of all other types it is not known: an output function may round, leave out what does not matter
//! to its author, or depend on a setting. Such a column is refused by name rather than carried in good faith.

use std::collections::HashMap;

use crossfade_core::Result;

use super::prepared::Prepared;
use crate::classify::classify;

/// Types of extensions whose text was tried: extension and type. Those of pgvector print every `float4` (`vector.c`, `sparsevec.c`)
/// and half (`halfutils.h`) by the fewest digits that read back to it.
const KNOWN: [(&str, &str); 6] = [
    ("citext", "citext"),
    ("hstore", "hstore"),
    ("ltree", "ltree"),
    ("vector", "vector"),
    ("vector", "halfvec"),
    ("vector", "sparsevec"),
];

/// The base types that the columns' types are made of, but for the built-in ones. Multiranges exist from 14 on.
const UNNAMED: &str = "\
    WITH RECURSIVE parts (root, oid) AS ( \
        SELECT a.atttypid, a.atttypid FROM pg_catalog.pg_attribute a \
        WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped \
        UNION SELECT p.root, u.oid FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.oid CROSS JOIN LATERAL ( \
            SELECT t.typbasetype WHERE t.typtype = 'd' \
            UNION ALL SELECT t.typelem WHERE t.typtype = 'b' AND t.typelem <> 0 \
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r \
                WHERE t.typtype = 'r' AND r.rngtypid = t.oid \
                    OR t.typtype = 'm' AND (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid = t.oid \
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) u (oid)) \
    SELECT p.root, pg_catalog.format_type(t.oid, NULL), e.extname::text, t.typname::text \
    FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
    LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid \
        AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' \
    LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
    WHERE t.typtype = 'b' AND (n.nspname <> 'pg_catalog' OR e.oid IS NOT NULL) \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_type i WHERE i.oid = t.typelem AND i.typarray = t.oid) \
    ORDER BY p.root, 2";

/// A type that nobody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// As `format_type` prints it.
    name: String,
    /// The extension that brought it.
    extension: Option<String>,
}

impl Unnamed {
    /// Why a column whose type is `sql` cannot be carried.
    pub fn why(&self, sql: &str) -> String {
        let of = self.extension.as_ref().map_or_else(String::new, |e| format!(" of extension {e}"));
        let made = if sql == self.name { String::new() } else { format!("type {sql} is made of ") };
        format!("{made}type {}{of}: whether its text holds the whole value is not known here", self.name)
    }
}

/// The first unnamed type in each type of a column of these tables, by the column's type.
pub async fn read(client: &Prepared, tables: &[u32]) -> Result<HashMap<u32, Unnamed>> {
    let mut found = HashMap::new();
    for row in client.query(UNNAMED, &[&tables]).await.map_err(classify)? {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        let (root, name, extension, typname): (u32, String, Option<String>, String) = read().map_err(classify)?;
        if !KNOWN.iter().any(|(e, t)| extension.as_deref() == Some(e) && typname == *t) {
            found.entry(root).or_insert(Unnamed { name, extension });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_culprit_is_named() {
        let seg = Unnamed { name: "ext.seg".into(), extension: Some("seg".into()) };
        assert!(seg.why("ext.seg").starts_with("type ext.seg of extension seg: whether"));
        assert!(
            seg.why("shop.pair[]").starts_with("type shop.pair[] is made of type ext.seg of extension seg: whether")
        );
        let own = Unnamed { name: "s.own".into(), extension: None };
        assert!(own.why("s.own").starts_with("type s.own: whether"));
    }
}
