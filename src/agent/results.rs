//! The disk on which a guest leaves files for its host.
