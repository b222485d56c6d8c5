//! Figures by the server's own SQL, see [`crossfade_core::figure`].
//!
//! Asked by the simple protocol: there every value comes as the server's text, whatever its type.

use crossfade_core::{Result, figure};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::classify::classify;
use crate::connect::Server;

/// The statement's one value, in the transaction that the session is in.
pub fn ask(server: &Server, client: &Client, statement: &str) -> Result<Option<String>> {
    let answer = server.block_on(client.simple_query(&figure::wrapped(statement)));
    let mut rows = Vec::new();
    for message in answer.map_err(|e| figure::refused(statement, classify(e)))? {
        if let SimpleQueryMessage::Row(row) = message {
            let value = |i| row.try_get(i).map(|v| v.map(str::to_owned)).map_err(classify);
            rows.push((0..row.len()).map(value).collect::<Result<Vec<_>>>()?);
        }
    }
    figure::only(statement, rows)
}
