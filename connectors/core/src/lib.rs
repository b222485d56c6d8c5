//! What a connector is: schema, values, batch, position, source, target.
//!
//! This crate fixes the words that every other part of Crossfade speaks. It holds no driver and does no I/O, so that
//! it can be read in half an hour and tested without a server. The one idea that everything here serves:
//!
//! > A batch ends at a position. A target commits the batch and the position together.
//! > Everything else can be forgotten and rebuilt.
//!
//! Read in this order: [`schema`] (what a table is), [`batch`] (what moves), [`position`] (where we are),
//! [`source`] and [`target`] (the two ends), [`fingerprint`] and [`buckets`] (the proof).

pub mod batch;
pub mod batcher;
pub mod buckets;
pub mod builder;
pub mod details;
pub mod endpoint;
pub mod error;
pub mod figure;
pub mod finding;
pub mod fingerprint;
pub mod orphans;
pub mod policy;
pub mod position;
pub mod schema;
pub mod selection;
pub mod sequence;
pub mod source;
pub mod target;
pub mod totals;
pub mod trouble;
pub mod unfit;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use batch::{Batch, Boundary, Item, Op, Rows, SchemaChange};
pub use batcher::Batcher;
pub use builder::{ColumnBuilder, RowsBuilder};
pub use details::{Check, ColumnDetails, DefaultValue, Details, LeftOut};
pub use endpoint::{Endpoint, Secret};
pub use error::{Class, Error, Exit, Place, Result};
pub use finding::{Finding, Level};
pub use fingerprint::Fingerprint;
pub use orphans::Orphans;
pub use policy::{Policies, Policy, PolicyRule, PolicyRules};
pub use position::{Checkpoint, Owner, Phase, Position};
pub use schema::{Column, ForeignKey, Index, Logical, TableName, TableSchema};
pub use selection::{Omissions, Selection};
pub use source::{Consistency, Keeping, KeyPart, KeyRange, Limit, Retained, Snapshot, Source, Stream};
pub use target::{Chunk, ChunkState, History, Kept, Loaded, Loader, Surveyor, Suspension, Target, Writer};
pub use trouble::Trouble;
pub use unfit::Unfit;
