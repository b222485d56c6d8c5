//! The production pipeline over ends in memory, under seeded faults.
mod apply;
mod codec;
mod conformance;
mod random;
mod source;
mod stream;
mod target;
