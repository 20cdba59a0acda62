//! The first process of a guest.

use std::io;

/// Prepares the system and serves the agent's port until the guest is switched off.
///
/// # Errors
/// What cannot be done; the caller ends, and with it the guest.
pub fn run() -> io::Result<()> {
    super::server::serve(&super::server::Source::Port(super::PORT.to_owned()), super::server::Options::guest()?)
}
