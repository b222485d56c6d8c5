//! Parquet on object storage as a target.
