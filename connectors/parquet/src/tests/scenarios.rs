//! Single situations by name.
