//! `vptest image`

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::exit::{Exit, Failure};
use super::{PageFormat, Verbosity};
use crate::image::{self, Image, ImageError, KernelChoice, Request, Step, Stop};

/// Make, list and remove guest images: kernel and initramfs of the VMs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where images are kept [default: vptest in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR", env = "VPTEST_CACHE", global = true)]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an image, or find it in the cache; `vptest run` does so by itself
    #[command(after_help = "\
The kernel comes from a package of this host's distribution (Debian, Ubuntu), which is downloaded and unpacked; the \
programs are those of this host. No root, no mounting, no booting. Every image holds vptest and, where this host has \
them, ab, busybox, ethtool, ip, iperf3, nginx and tc. docs/images.md says more.

Prints id and paths on standard output, progress on standard error.

Exit status: 0 done, 2 what is asked for is not there, 3 this host cannot make it.

Examples:
  vptest image build                                          Debian's or Ubuntu's usual kernel
  vptest image build --kernel cloud                           their kernel for VMs: smaller, fewer drivers
  vptest image build --program stress-ng --program ./mytool   further programs, with their libraries
  vptest image build --kernel /boot/vmlinuz-6.1.0-50-amd64 --modules /lib/modules/6.1.0-50-amd64")]
    Build(Build),
    /// List the images in the cache, the newest first
    #[command(after_help = "\
Examples:
  vptest image list
  vptest image list --format json")]
    List {
        /// How to print it
        #[arg(long, value_enum, default_value_t = PageFormat::Table)]
        format: PageFormat,
    },
    /// Remove images from the cache
    #[command(after_help = "\
What is downloaded and unpacked stays: the same image can be made again without the network.

Examples:
  vptest image remove 1f0c           the image whose id begins so
  vptest image remove --all          every image")]
    Remove {
        /// Ids, or how they begin
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// Every image
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Build {
    /// `full`, `cloud`, or the path of a vmlinuz or vmlinux
    #[arg(long, value_name = "KERNEL", default_value = "full")]
    kernel: String,
    /// Directory with the modules of the kernel at a path
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// A further program, by name or path (repeatable)
    #[arg(long = "program", value_name = "PROGRAM")]
    programs: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = PageFormat::Table)]
    format: PageFormat,
}

pub(super) fn run(args: &Args, verbosity: Verbosity) -> Result<Exit, Failure> {
    let cache = args.cache.clone().map_or_else(image::default_cache, Ok).map_err(failure)?;
    match &args.command {
        Command::Build(wanted) => build(wanted, cache, verbosity),
        Command::List { format } => list(&image::list(&cache).map_err(failure)?, *format),
        Command::Remove { ids, all } => {
            let every = if *all { image::list(&cache).map_err(failure)? } else { Vec::new() };
            for id in ids.iter().chain(every.iter().map(|image| &image.id)) {
                let bytes = image::remove(&cache, id).map_err(failure)?;
                eprintln!("removed {id}, {}", size(bytes));
            }
            Ok(Exit::Done)
        }
    }
}

fn build(wanted: &Build, cache: PathBuf, verbosity: Verbosity) -> Result<Exit, Failure> {
    let kernel = match (wanted.kernel.as_str(), &wanted.modules) {
        ("full", None) => KernelChoice::Full,
        ("cloud", None) => KernelChoice::Cloud,
        ("full" | "cloud", Some(_)) => {
            return Err(Failure::text(Exit::Usage, "--modules goes with the path of a kernel")
                .hint("the modules of a packaged kernel come with its package"));
        }
        (path, modules) => KernelChoice::Paths { kernel: path.into(), modules: modules.clone() },
    };
    let vptest = std::env::current_exe().context("cannot find out which program this is")?;
    let request = Request { kernel, programs: wanted.programs.clone(), vptest, cache };
    let mut tell = |step: Step<'_>| {
        if !verbosity.quiet {
            eprintln!("{step}");
        }
    };
    let stop = Stop::default();
    stop_on_signals(&stop)?;
    let image = image::build_until(&request, &stop, &mut tell).map_err(failure)?;
    if !image.missing.is_empty() && !verbosity.quiet {
        eprintln!("not on this host, so not in the image: {}", image.missing.join(" "));
    }
    let mut out = std::io::stdout().lock();
    match wanted.format {
        PageFormat::Json => json(&mut out, &image)?,
        PageFormat::Table => {
            writeln!(out, "image      {}", image.id)?;
            writeln!(out, "kernel     {} ({})", image.kernel.display(), image.kernel_source)?;
            writeln!(out, "initramfs  {} ({})", image.initramfs.display(), size(image.initramfs_bytes))?;
        }
    }
    Ok(Exit::Done)
}

/// Ctrl-C and its like end the build, which removes what it had begun.
fn stop_on_signals(stop: &Stop) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = stop.clone();
    let (ready, listening) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let listen = || kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>();
            let mut signals = match listen() {
                Ok(signals) => signals,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // The other side waits for exactly this.
            let _ = ready.send(Ok(()));
            let _ = futures_util::future::select_all(signals.iter_mut().map(|one| Box::pin(one.recv()))).await;
            stop.stop();
        });
    });
    match listening.recv() {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

fn list(images: &[Image], format: PageFormat) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    if format == PageFormat::Json {
        json(&mut out, images)?;
        return Ok(Exit::Done);
    }
    if images.is_empty() {
        eprintln!("no images yet: `vptest image build` makes one");
        return Ok(Exit::Done);
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["id", "kernel", "size", "built", "programs"]);
    for image in images {
        let names = image.programs.iter().map(|path| path.rsplit('/').next().unwrap_or(path)).collect::<Vec<_>>();
        let built = jiff::Timestamp::from_second(image.built).map_or_else(|_| "?".to_owned(), |at| at.to_string());
        let bytes = size(image.kernel_bytes + image.initramfs_bytes);
        table.add_row([image.id.clone(), image.kernel_release.clone(), bytes, built, names.join(" ")]);
    }
    writeln!(out, "{table}")?;
    let all = images.iter().map(|image| image.kernel_bytes + image.initramfs_bytes).sum();
    eprintln!("{} in all; `vptest image remove ID` removes one", size(all));
    Ok(Exit::Done)
}

fn json(out: &mut impl std::io::Write, value: &(impl serde::Serialize + ?Sized)) -> Result<(), Failure> {
    writeln!(out, "{}", serde_json::to_string_pretty(value).context("cannot print JSON")?)?;
    Ok(())
}

fn size(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

/// What the user asked for and is not there is a matter of usage; all else is one of this host.
fn failure(error: ImageError) -> Failure {
    let exit = match &error {
        ImageError::Stopped => Exit::Interrupted,
        ImageError::NoProgram { .. }
        | ImageError::Program { .. }
        | ImageError::Kernel { .. }
        | ImageError::Module { .. }
        | ImageError::Id { .. } => Exit::Usage,
        ImageError::Damaged { .. } => Exit::Unreadable,
        _ => Exit::Unsupported,
    };
    let hint = error.hint();
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
