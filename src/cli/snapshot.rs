//! `snapshot`: tables copied again, or taken in, while all else goes on.

use clap::Args;
use crossfade_core::Result;

use super::Which;
use crate::pipeline::again;
use crate::service::{self, Server};

/// Copy tables again in their present shape, or take in tables that came later, while all others stream on. The daemon does
/// it at once; without one the next run does.
///
/// The target's rows of these tables are gone until the copy has brought them back. A target's table that has another shape
/// than the source's is dropped and made anew. With all tables ('*') it is also the way on where the source's log is lost: a
/// replication slot that was dropped or invalidated, a standby that was promoted without it.
#[derive(Debug, Args)]
pub struct Snapshot {
    #[command(flatten)]
    which: Which,
    /// Which: names or globs, such as 'shop.orders' or 'order_*'
    #[arg(required = true, value_name = "TABLE")]
    table: Vec<String>,
}

pub fn snapshot(args: &Snapshot) -> Result<u8> {
    let (names, who) = match service::ask_snapshot(&args.which.name()?, &args.table) {
        Some(answer) => (answer?, "the daemon copies them now"),
        None => {
            let (_config, _runtime, pipeline) = args.which.open()?;
            let _server = Server::bind(&pipeline.name)?;
            (again::reset(&pipeline, &args.table)?, "the next run copies them")
        }
    };
    for name in &names {
        println!("{name}");
    }
    println!("{} to be copied again: {who}", super::print::tables(names.len()));
    Ok(0)
}
