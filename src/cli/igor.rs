//! `vptest igor`

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use regex::Regex;

use super::exit::{Exit, Failure};
use crate::dispatch::Host;
use crate::dispatch::from_list;
use crate::dispatch::igor::{Igor, IgorError, Order, Reservation, Size, matching, read};

/// Name of igor's program.
const PROGRAM: &str = "igor";
/// Longest list of reservations that is read from a file.
const LONGEST: u64 = 16 << 20;

/// Hosts reserved with igor: who has which, for how long
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reservations come from the program igor (classic igor, 2.6 or later), or with --from from a file: classic igor's \
reservations.json of any version, or an answer of igor2's REST interface. Only reservations in force count; one that \
begins later is not one that you have. Those of other users count unless --owner says whose.

Exit status: 1 when no reservation in force matches, or when one was made that begins later or whose hosts do not boot as asked.

Examples:
  vptest igor heads 'que[0-9]+'                 first host of each: kn1,kn4
  vptest igor nodes que1                        all hosts: kn1,kn2,kn3
  vptest igor show
  vptest igor reserve que1 --count 3 --kernel vmlinuz --initrd initrd --time 2d
  vptest igor release que1
  vptest igor heads 'que.*' --owner alice --from /tftpboot/igor/reservations.json
  curl -H \"Authorization: Bearer $TOKEN\" https://igor/igor/reservations | vptest igor heads 'que.*' --from -")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Name or path of the program
    #[arg(long, value_name = "PROGRAM", default_value = PROGRAM, global = true)]
    igor: String,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// First host of each reservation, separated by commas
    Heads(Which),
    /// All hosts of the reservations, separated by commas
    Nodes(Which),
    /// One line for each reservation: name, owner, from, until, hosts
    Show(Shown),
    /// Reserve hosts from now on
    Reserve(Reserve),
    /// End a reservation
    Release {
        /// Its name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Regular expression for whole names
    expression: Regex,
    /// Only reservations of this user (default: anybody's)
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Read them from this file instead (`-` for standard input)
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Shown {
    /// Read them from this file instead (`-` for standard input)
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("size").required(true), group = clap::ArgGroup::new("boot").required(true))]
struct Reserve {
    /// Name of the reservation
    name: String,
    /// How many hosts
    #[arg(long, group = "size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Which hosts: kn[1-3]
    #[arg(long, group = "size")]
    hosts: Option<String>,
    /// Kernel that they boot
    #[arg(long, group = "boot", requires = "initrd")]
    kernel: Option<String>,
    /// Initramfs that they boot
    #[arg(long, requires = "kernel")]
    initrd: Option<String>,
    /// Profile of Cobbler's that they boot
    #[arg(long, group = "boot", conflicts_with = "kernel")]
    profile: Option<String>,
    /// For how long: 2d, or minutes
    #[arg(long)]
    time: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let igor = Igor::new(&args.igor);
    let clock = || jiff::Timestamp::now().as_second();
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::Heads(which) => {
            let all = reservations(&runtime, &igor, which.from.as_ref())?;
            let found = chosen(&all, which, clock())?;
            let heads: Vec<&str> = found.iter().filter_map(|one| one.head()).collect();
            writeln!(out, "{}", heads.join(","))?;
        }
        Command::Nodes(which) => {
            let all = reservations(&runtime, &igor, which.from.as_ref())?;
            let nodes: Vec<&str> =
                chosen(&all, which, clock())?.iter().flat_map(|one| &one.hosts).map(String::as_str).collect();
            writeln!(out, "{}", nodes.join(","))?;
        }
        Command::Show(shown) => {
            for one in reservations(&runtime, &igor, shown.from.as_ref())? {
                writeln!(out, "{}", line(&one, clock()))?;
            }
        }
        Command::Reserve(reserve) => {
            let made = runtime.block_on(igor.reserve(&order(reserve), clock)).map_err(failure)?;
            writeln!(out, "{}", line(&made, clock()))?;
            if made.failure.is_some() {
                return Ok(Exit::SomeFailed);
            }
        }
        Command::Release { name } => runtime.block_on(igor.release(name)).map_err(failure)?,
    }
    Ok(Exit::Done)
}

/// The heads of the reservations that are in force and called so.
pub(super) fn heads(expression: &str) -> Result<Vec<Host>, Failure> {
    let wrong = |error| Failure::new(Exit::Usage, error);
    let expression = Regex::new(expression).map_err(|error| {
        wrong(anyhow::Error::new(error).context(format!("`{expression}` is no regular expression")))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all = reservations(&runtime, &Igor::new(PROGRAM), None)?;
    let which = Which { expression, owner: None, from: None };
    let found = chosen(&all, &which, jiff::Timestamp::now().as_second())?;
    let heads: Vec<&str> = found.iter().filter_map(|one| one.head()).collect();
    from_list(&heads.join(",")).map_err(|error| wrong(anyhow::Error::new(error).context("igor names its hosts oddly")))
}

fn reservations(
    runtime: &tokio::runtime::Runtime,
    igor: &Igor,
    from: Option<&PathBuf>,
) -> Result<Vec<Reservation>, Failure> {
    let Some(path) = from else { return runtime.block_on(igor.show()).map_err(failure) };
    let mut text = String::new();
    let read_text = match path.to_str() {
        Some("-") => std::io::stdin().lock().take(LONGEST).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)),
    };
    read_text.map_err(|error| Failure::text(Exit::Usage, format!("cannot read {}: {error}", path.display())))?;
    read(&text).map_err(|error| Failure::text(Exit::Usage, format!("{}: {error}", path.display())))
}

fn chosen<'a>(all: &'a [Reservation], which: &Which, now: i64) -> Result<Vec<&'a Reservation>, Failure> {
    let mut found = matching(all, &which.expression, now);
    found.retain(|one| which.owner.as_ref().is_none_or(|owner| one.owner == *owner));
    if let Some(empty) = found.iter().find(|one| one.hosts.is_empty()) {
        return Err(Failure::text(Exit::SomeFailed, format!("igor names no hosts of the reservation {}", empty.name)));
    }
    for one in found.iter().filter(|one| one.failure.is_some() || one.installed == Some(false)) {
        let why = one.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        eprintln!("warning: hosts of {} do not have what they were to boot{why}", one.name);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let by = which.owner.as_ref().map(|owner| format!(" of {owner}")).unwrap_or_default();
    let text = format!("no reservation{by} in force has a name that is `{}`", which.expression);
    Err(Failure::text(Exit::SomeFailed, text).hint("`vptest igor show` lists them all"))
}

fn order(reserve: &Reserve) -> Order {
    let size = match (reserve.count, &reserve.hosts) {
        (Some(count), _) => Size::Count(count),
        (None, hosts) => Size::Hosts(hosts.clone().unwrap_or_default()),
    };
    let options = [("-k", &reserve.kernel), ("-i", &reserve.initrd), ("-profile", &reserve.profile)];
    let given = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value.clone()?]));
    Order { name: reserve.name.clone(), size, boot: given.flatten().collect(), time: reserve.time.clone() }
}

/// `que1  root  2026-11-22T21:18:00Z  2026-11-24T21:18:00Z  kn1,kn2,kn3`, with what is wrong with it.
fn line(one: &Reservation, now: i64) -> String {
    let time = |seconds| jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string());
    let state = match (one.is_active(now), &one.failure, one.installed) {
        (false, _, _) if one.start > now => "  (later)".to_owned(),
        (false, _, _) => "  (over)".to_owned(),
        (true, Some(failure), _) => format!("  (not installed: {failure})"),
        (true, None, Some(false)) => "  (not installed)".to_owned(),
        (true, None, _) => String::new(),
    };
    format!("{}  {}  {}  {}  {}{state}", one.name, one.owner, time(one.start), time(one.end), one.hosts.join(","))
}

fn failure(error: IgorError) -> Failure {
    let hint = match error {
        IgorError::NoProgram(_) => Some("give its path with --igor, or a list of reservations with --from"),
        IgorError::TimedOut { .. } => Some("it may have done what it was asked all the same: see `vptest igor show`"),
        IgorError::Later { .. } => Some("it stays reserved; `vptest igor release NAME` gives it back"),
        _ => None,
    };
    let exit = if matches!(error, IgorError::NoProgram(_)) { Exit::Unsupported } else { Exit::SomeFailed };
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
