//! Tests that need more than the library: privileges, tools, several processes.

mod need;
mod netns;
