//! Where iterations run. So far: which hosts igor has reserved.

pub mod igor;
