//! stub
use crate::connect::Server;
use crossfade_core::{Finding, Result, Selection};
/// stub
pub fn check(_server: &Server, _selection: &Selection) -> Result<Vec<Finding>> {
    Ok(vec![])
}
