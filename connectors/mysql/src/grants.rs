//! What the user may do, read from SHOW GRANTS.

use crossfade_core::Result;

use crate::connect::{Flavor, Server};
use crate::session::Session;

/// The user's privileges, those of its active roles included.
#[derive(Debug)]
pub struct Grants {
    user: String,
    /// Privileges in capitals, and the object as the server prints it: `*.*`, `` `shop`.* ``.
    granted: Vec<(Vec<String>, String)>,
}

impl Grants {
    /// Asks the server.
    pub fn read(server: &Server, session: &mut Session) -> Result<Self> {
        let user = session.value("SELECT CURRENT_USER()")?.unwrap_or_default();
        let roles = match server.flavor {
            Flavor::MySql => session.value("SELECT CURRENT_ROLE()")?.filter(|roles| roles != "NONE"),
            // MariaDB lists an active role's grants with the user's.
            Flavor::MariaDb => None,
        };
        let rows = session.rows(&match roles {
            Some(roles) => format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}"),
            None => "SHOW GRANTS".to_owned(),
        })?;
        let granted = rows.iter().filter_map(|row| parse(row.first()?.as_deref()?)).collect();
        let quoted = match user.rsplit_once('@') {
            Some((name, host)) => format!("'{name}'@'{host}'"),
            None => user,
        };
        Ok(Grants { user: quoted, granted })
    }

    /// The user as statements name it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether a privilege is granted on everything.
    pub fn has_global(&self, privilege: &str) -> bool {
        self.granted.iter().any(|(list, object)| object == "*.*" && holds(list, privilege))
    }

    /// Whether a privilege is granted on a database.
    pub fn has(&self, privilege: &str, database: &str) -> bool {
        let covers = |object: &str| {
            let pattern = object.strip_suffix(".*").map(|name| name.trim_matches('`').replace("``", "`"));
            object == "*.*" || pattern.is_some_and(|pattern| like(pattern.as_bytes(), database.as_bytes()))
        };
        self.granted.iter().any(|(list, object)| covers(object) && holds(list, privilege))
    }
}

fn holds(list: &[String], privilege: &str) -> bool {
    list.iter().any(|p| p == privilege || p == "ALL PRIVILEGES" || p == "ALL")
}

/// `GRANT SELECT, REPLICATION SLAVE ON *.* TO ...`; a granted role has no ON.
fn parse(line: &str) -> Option<(Vec<String>, String)> {
    let rest = line.strip_prefix("GRANT ")?;
    let (list, rest) = rest.split_once(" ON ")?;
    let (object, _) = rest.split_once(" TO ")?;
    Some((list.split(',').map(|p| p.trim().to_ascii_uppercase()).collect(), object.to_owned()))
}

/// SQL's LIKE, as databases in grants are matched: `%`, `_`, and `\` before a literal one.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'%', rest @ ..], _) => (0..=text.len()).any(|skip| like(rest, &text[skip..])),
        ([b'\\', c, rest @ ..], [t, text @ ..]) => c == t && like(rest, text),
        ([b'_', rest @ ..], [_, text @ ..]) => like(rest, text),
        ([c, rest @ ..], [t, text @ ..]) => c == t && like(rest, text),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_by_object() {
        let lines = [
            "GRANT REPLICATION SLAVE ADMIN, SELECT ON *.* TO `u`@`%`",
            r"GRANT LOCK TABLES, SELECT ON `my\_shop%`.* TO `u`@`%`",
            "GRANT ALL PRIVILEGES ON `all`.* TO `u`@`%`",
            "GRANT `role`@`%` TO `u`@`%`",
        ];
        let grants = Grants { user: String::new(), granted: lines.iter().filter_map(|l| parse(l)).collect() };
        assert!(!grants.has_global("REPLICATION SLAVE"), "another privilege whose name only begins so");
        assert!(grants.has_global("SELECT"));
        assert!(grants.has("LOCK TABLES", "my_shop1") && grants.has("LOCK TABLES", "all"));
        assert!(!grants.has("LOCK TABLES", "myXshop") && !grants.has("LOCK TABLES", "other"));
    }
}
