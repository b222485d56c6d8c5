//! Tests of the whole target against a real file system, with faults around it.

mod faults;
mod fuzz;
mod protocol;
mod scenarios;
mod support;
mod types;
