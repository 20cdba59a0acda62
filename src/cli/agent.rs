//! `vptest agent`: vptest on a node, doing what the host asks.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::agent::server::{self, Mailbox, Options, Source};
use crate::agent::{self, init};

/// Serve this machine to a vptest on another one (started in guests and over ssh, seldom by hand)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("channel").required(true).args(["stdio", "port", "init", "container", "mailbox"]))]
pub(super) struct Args {
    /// Talk over standard input and output, and end with the conversation
    #[arg(long)]
    stdio: bool,
    /// Talk over the virtio-serial port of this name, one host after the other
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Be the first process of a guest: mount, load modules, then serve the port
    #[arg(long)]
    init: bool,
    /// Be the first process of a container: serve a unix socket of this name, for root alone
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["scratch", "results"])]
    container: Option<PathBuf>,
    /// A word for those who look for this process
    #[arg(long, value_name = "WORD", requires = "container", hide = true)]
    machine: Option<String>,
    /// Talk by letters in this directory, which somebody else carries (minimega's cc, rond), and end with the conversation
    #[arg(long, value_name = "DIRECTORY", hide = true, requires_all = ["incoming", "conversation"])]
    mailbox: Option<PathBuf>,
    /// Directory in which letters of the host arrive
    #[arg(long, value_name = "DIRECTORY", hide = true, requires = "mailbox")]
    incoming: Option<PathBuf>,
    /// Which conversation it is, in hexadecimal
    #[arg(long, value_name = "HEX", hide = true, requires = "mailbox", value_parser = |text: &str| u64::from_str_radix(text, 16))]
    conversation: Option<u64>,
    /// Directory for files of an iteration, used for relative paths [default: a new one, removed at the end]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "init")]
    scratch: Option<PathBuf>,
    /// File or block device for results [default: the virtio disk with serial number vptest-results]
    #[arg(long, value_name = "FILE", conflicts_with = "init")]
    results: Option<PathBuf>,
    /// File or block device for kept packets [default: the virtio disk with serial number vptest-packets]
    #[arg(long, value_name = "FILE", conflicts_with = "init", hide = true)]
    packets: Option<PathBuf>,
    /// Path of the script that starts this program, for those who are to start it again
    #[arg(long, value_name = "FILE", conflicts_with = "init", hide = true)]
    program: Option<PathBuf>,
}

const EXAMPLES: &str = "\
The agent listens on no network. Whoever can write to its channel can run anything with its rights.

Examples:
  ssh node vptest agent --stdio               what a vptest on another host starts
  vptest agent --port org.vptest.agent.0      in a guest with a disk image of its own, as a service";

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    if args.init {
        init::run()?;
        return Ok(Exit::Done);
    }
    if let Some(socket) = &args.container {
        init::run_container(socket, args.program.clone())?;
        return Ok(Exit::Done);
    }
    let source = source(args);
    if source == Source::Stdio && server::is_terminal() {
        return Err(Failure::text(Exit::Usage, "a person cannot speak the agent's protocol")
            .hint("--stdio is for another vptest, at the other end of a pipe or of ssh"));
    }
    // Removed when it goes out of scope.
    let own = match &args.scratch {
        Some(_) => None,
        None if args.port.is_some() => None,
        None => Some(tempfile::Builder::new().prefix("vptest-agent-").tempdir()?),
    };
    let scratch = args.scratch.clone().or_else(|| own.as_ref().map(|own| own.path().to_owned()));
    // A mailbox is in a directory that was made for it and goes with it.
    let owns_scratch = args.scratch.is_none() || args.mailbox.is_some();
    let scratch = scratch.unwrap_or_else(|| PathBuf::from(agent::GUEST_SCRATCH));
    server::serve(
        &source,
        Options {
            scratch,
            results: args.results.clone(),
            packets: args.packets.clone(),
            owns_scratch,
            program: args.program.clone(),
            ..Options::guest()?
        },
    )?;
    Ok(Exit::Done)
}

fn source(args: &Args) -> Source {
    match (&args.port, &args.mailbox, &args.incoming, args.conversation) {
        (Some(port), ..) => Source::Port(port.clone()),
        (None, Some(directory), Some(incoming), Some(conversation)) => {
            Source::Mailbox(Mailbox { directory: directory.clone(), incoming: incoming.clone(), conversation })
        }
        _ => Source::Stdio,
    }
}
