//! `vptest trace`: follows the system calls of one command. For tests and benches.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use crate::host::cage::{Cage, Job};
use crate::instrument::syscalls::{Options, Room, Tracer, Workload};
use crate::node::{Command, Process as _, Stream};
use crate::record::{SyscallScope, SyscallSource};

/// Run a command, follow its system calls and print them as JSON; its own output goes to standard error
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Follow every process of this kernel
    #[arg(long)]
    node: bool,
    /// How: bpf or perf; without it perf where BPF is refused
    #[arg(long, value_parser = source)]
    source: Option<SyscallSource>,
    /// Write single calls to this file
    #[arg(long)]
    log: Option<PathBuf>,
    /// Rows or bytes of a table: threads, names, calls, transitions, sizes, ring
    #[arg(long, value_name = "TABLE=ROWS", value_parser = room)]
    room: Vec<(String, u32)>,
    /// Follow nothing: what the same costs without
    #[arg(long)]
    off: bool,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn source(text: &str) -> Result<SyscallSource, String> {
    SyscallSource::from_name(text).ok_or_else(|| "bpf or perf".to_owned())
}

fn room(text: &str) -> Result<(String, u32), String> {
    let (name, rows) = text.split_once('=').ok_or("TABLE=ROWS")?;
    Ok((name.to_owned(), rows.parse().map_err(|error| format!("{rows}: {error}"))?))
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(args))
}

async fn follow(args: &Args) -> Result<Exit, Failure> {
    let mut cage = Cage::open_or_groups()?;
    let tracer = if args.off { None } else { Some(start(args, &cage)?) };
    let command = Command { argv: args.command.clone(), ..Command::default() };
    let directory = std::env::current_dir()?;
    let mut child = cage.spawn(Job { command, directory, namespace: None }).await?;
    let exit = child.wait().await.map_err(anyhow::Error::from)?;
    let trace = tracer.map(Tracer::stop).transpose().map_err(anyhow::Error::from)?;
    for stream in [Stream::Out, Stream::Err] {
        std::io::stderr().lock().write_all(&child.output(stream).bytes)?;
    }
    cage.close().await?;
    let text = serde_json::to_string(&trace).context("cannot print what was counted")?;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(if exit.status.success() { Exit::Done } else { Exit::SomeFailed })
}

fn start(args: &Args, cage: &Cage) -> Result<Tracer, Failure> {
    let scope = if args.node { SyscallScope::Node } else { SyscallScope::Workload };
    let mut options = Options::here(scope, Workload::of(cage));
    options.source = args.source;
    options.log.clone_from(&args.log);
    for (name, rows) in &args.room {
        *table(&mut options.room, name)? = *rows;
    }
    let tracer = Tracer::start(options).map_err(|error| Failure::new(Exit::Unsupported, error))?;
    for note in &tracer.notes {
        eprintln!("{note}");
    }
    Ok(tracer)
}

fn table<'a>(room: &'a mut Room, name: &str) -> Result<&'a mut u32, Failure> {
    Ok(match name {
        "threads" => &mut room.threads,
        "names" => &mut room.names,
        "calls" => &mut room.calls,
        "transitions" => &mut room.transitions,
        "sizes" => &mut room.sizes,
        "ring" => &mut room.ring,
        other => return Err(Failure::text(Exit::Usage, format!("there is no table `{other}`"))),
    })
}
