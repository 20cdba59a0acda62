//! `vptest flows`

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tempfile::SpooledTempFile;

use super::Format;
use super::exit::{Exit, Failure};
use super::flows_text::{self, CsvRows, JsonRows, Rows, TableRows};
use crate::flow::{Beyond, BeyondOptions, Connection, Engine, Options, Order, Summary, Totals};
use crate::packet::{End, LinkType, Reader, Record, Segment, decoded};

/// Show the statistics of every TCP connection in captures
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads pcap and pcapng, plain or compressed with gzip or zstd; `-` is standard input. The CSV has tcptrace's columns \
(tcptrace -lnrW --csv); json has the same statistics as exact values, null where there is none. docs/flows.md defines \
them all. With several captures, a line `# file NAME` stands before the rows of each in CSV.

A capture that is damaged in the middle gives what was read before, and a warning.

Exit status: 0, or 4 when something is no capture at all; the others are shown all the same.

Examples:
  vptest flows trace.pcap
  vptest flows --summary --format csv *.pcapng.zst
  tcpdump -i eth0 -w - | vptest flows --filter 'port 80' -")]
pub(super) struct Args {
    /// Captures; - is standard input
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Instead of connections, show each statistic's distribution over all of them
    #[arg(long)]
    summary: bool,
    /// Look only at packets that match, in pcap filter syntax; lengths in it are captured lengths
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Largest IP packet the link carries, in bytes; longer ones in a capture were not yet cut, or joined again (TSO, GRO).
    /// Matters to --summary only
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(68..=65535))]
    mtu: u32,
    /// Most connections to follow at a time; beyond it the ones silent for longest end early
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
}

/// Memory one capture's output may take while it waits for the captures before it.
const SPOOLED: usize = 32 << 20;

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    // Rows are formatted straight into large blocks.
    write(args, &mut io::stdout().lock())
}

/// As [`run`], to any output.
fn write(args: &Args, out: &mut impl Write) -> Result<Exit, Failure> {
    check_filter(args)?;
    let mut report = Report { args, out, summary: Summary::default(), shown: 0, unreadable: 0, infos: Vec::new() };
    report.begin()?;
    if let [capture] = &args.captures[..] {
        let read = read_rows(args, capture, report.out);
        report.end_of(capture, read, None)?;
    } else {
        each_in_order(args, &mut report)?;
    }
    report.finish()
}

/// What one capture came to.
struct Done {
    totals: Totals,
    end: End,
    summary: Summary,
    beyond: Option<Beyond>,
}

/// Prints the results of all captures, in the order of the arguments.
struct Report<'a, W> {
    args: &'a Args,
    out: &'a mut W,
    summary: Summary,
    shown: usize,
    unreadable: usize,
    infos: Vec<serde_json::Value>,
}

impl<W: Write> Report<'_, W> {
    fn begin(&mut self) -> io::Result<()> {
        if self.args.summary {
            return Ok(());
        }
        match self.args.format {
            Format::Json => self.out.write_all(b"{\"captures\":["),
            Format::Csv | Format::Table => Ok(()),
        }
    }

    /// Shows the rows of one capture, unless they were printed as they came.
    fn end_of(
        &mut self,
        capture: &Path,
        read: Result<Done, Failure>,
        rows: Option<&mut SpooledTempFile>,
    ) -> Result<(), Failure> {
        match read {
            Ok(done) => {
                if let Some(rows) = rows {
                    self.copy(capture, rows)?;
                }
                warn(capture, &done);
                self.summary.merge(&done.summary);
                self.infos.push(flows_text::info_beyond(capture, &done.totals, &done.end, done.beyond.as_ref()));
            }
            Err(failure) if failure.is_closed_pipe() => return Err(failure),
            Err(failure) => {
                eprintln!("{failure}");
                self.unreadable += 1;
            }
        }
        Ok(())
    }

    fn copy(&mut self, capture: &Path, rows: &mut SpooledTempFile) -> io::Result<()> {
        if !self.args.summary {
            match self.args.format {
                Format::Csv => {
                    if self.shown == 0 {
                        self.out.write_all(&flows_text::csv_header())?;
                    }
                    writeln!(self.out, "# file {}", capture.display())?;
                }
                Format::Json if self.shown > 0 => self.out.write_all(b",\n")?,
                Format::Json => {}
                Format::Table => writeln!(self.out, "{}", capture.display())?,
            }
        }
        self.shown += 1;
        rows.rewind()?;
        io::copy(rows, self.out)?;
        Ok(())
    }

    fn finish(self) -> Result<Exit, Failure> {
        if self.args.summary {
            flows_text::summary(self.out, self.args.format, &self.summary, &self.infos)?;
        } else if self.args.format == Format::Json {
            self.out.write_all(b"]}\n")?;
        }
        self.out.flush()?;
        Ok(if self.unreadable > 0 { Exit::Unreadable } else { Exit::Done })
    }
}

/// Reads captures on all cores, each into a spool of its own.
fn each_in_order<W: Write>(args: &Args, report: &mut Report<'_, W>) -> Result<(), Failure> {
    type Sent = (usize, Result<Done, Failure>, SpooledTempFile);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(args.captures.len());
    let next = AtomicUsize::new(0);
    // Captures wait in memory or spools only as far as the workers are ahead of the printing.
    let (send, receive) = mpsc::sync_channel::<Sent>(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(capture) = args.captures.get(number) else { return };
                    let mut rows = SpooledTempFile::new(SPOOLED);
                    let done = read_rows(args, capture, &mut rows);
                    if send.send((number, done, rows)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut early = std::collections::BTreeMap::new();
        let mut wanted = 0;
        for (number, done, rows) in receive {
            early.insert(number, (done, rows));
            while let Some((done, mut rows)) = early.remove(&wanted) {
                report.end_of(&args.captures[wanted], done, Some(&mut rows))?;
                wanted += 1;
            }
        }
        Ok(())
    })
}

/// Reads one capture and writes its connections to `out`, or sums them up.
fn read_rows(args: &Args, capture: &Path, out: &mut impl Write) -> Result<Done, Failure> {
    let single = args.captures.len() == 1;
    if args.summary {
        let mut summary = Summary::default();
        let mut beyond = Beyond::new(BeyondOptions { mtu: args.mtu, ..BeyondOptions::default() });
        let sink = |connection: &Connection| summary.add(connection);
        let (totals, end) = trace(args, capture, Order::Final, Some(&mut beyond), sink)?;
        return Ok(Done { totals, end, summary, beyond: Some(beyond) });
    }
    let (totals, end) = match args.format {
        Format::Csv => rows(args, capture, CsvRows::new(out, single))?,
        Format::Json => rows(args, capture, JsonRows::new(out))?,
        Format::Table => rows(args, capture, TableRows::new(out))?,
    };
    Ok(Done { totals, end, summary: Summary::default(), beyond: None })
}

fn rows(args: &Args, capture: &Path, mut rows: impl Rows) -> Result<(Totals, End), Failure> {
    let mut result = Ok(());
    let (totals, end) = trace(args, capture, Order::Creation, None, |connection| {
        if result.is_ok() {
            result = rows.row(connection);
        }
    })?;
    result.and_then(|()| rows.finish(capture, &totals, &end))?;
    Ok((totals, end))
}

fn trace(
    args: &Args,
    capture: &Path,
    order: Order,
    mut beyond: Option<&mut Beyond>,
    sink: impl FnMut(&Connection),
) -> Result<(Totals, End), Failure> {
    let mut reader = open(capture)?;
    if let Some(link) = reader.link().filter(|link| !link.is_supported()) {
        return Err(unreadable(capture, format!("{link} is not supported")));
    }
    let max_live = usize::try_from(args.max_connections).unwrap_or(usize::MAX);
    let mut engine = Engine::new(Options { order, max_live, ..Options::default() }, sink);
    let mut filter = args.filter.as_deref().map(Filter::new);
    while let Some(record) = reader.next() {
        if !filter.as_mut().is_none_or(|filter| filter.matches(&record)) {
            continue;
        }
        let Record { time, wire_len, data, link, .. } = record;
        if let Some(beyond) = &mut beyond {
            let mut segment = Segment::default();
            if let Some(traced) = engine.observe(time, wire_len, data, link, &mut segment) {
                beyond.packet(time, wire_len, &segment, &traced);
            }
        } else {
            engine.packet(time, wire_len, data, link);
        }
    }
    let end = reader.end().cloned().expect("there is no next record");
    if let Some(beyond) = beyond {
        beyond.end(&engine.waiting(), engine.totals().last);
    }
    let (totals, _sink) = engine.finish();
    Ok((totals, end))
}

fn open(capture: &Path) -> Result<Reader<impl Read + use<>>, Failure> {
    let source: Box<dyn Read> = if capture == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(capture).map_err(|error| unreadable(capture, error))?;
        Box::new(file)
    };
    let source = decoded(source).map_err(|error| unreadable(capture, error))?;
    Reader::open(source).map_err(|error| unreadable(capture, error))
}

fn unreadable(capture: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Unreadable, format!("{}: {why}", name(capture)))
}

fn name(capture: &Path) -> std::borrow::Cow<'_, str> {
    if capture == Path::new("-") { "standard input".into() } else { capture.to_string_lossy() }
}

/// One warning a capture: whatever makes its numbers incomplete.
fn warn(capture: &Path, done: &Done) {
    let mut reasons = Vec::new();
    if done.end != End::Clean {
        reasons.push(format!("{}; what comes before is shown", done.end));
    }
    if let Some(link) = done.totals.unsupported_link {
        reasons.push(format!("{} packets of {link}, which is not supported, were left out", done.totals.unsupported));
    }
    if done.totals.ended_early > 0 {
        reasons.push(format!(
            "{} connections were ended early, more were live than --max-connections allows",
            done.totals.ended_early
        ));
    }
    if !reasons.is_empty() {
        eprintln!("warning: {}: {}", name(capture), reasons.join("; "));
    }
}

/// A pcap filter, compiled for each link type as it comes.
struct Filter<'a> {
    expression: &'a str,
    programs: Vec<(LinkType, Option<pcap::BpfProgram>)>,
}

impl<'a> Filter<'a> {
    const fn new(expression: &'a str) -> Self {
        Self { expression, programs: Vec::new() }
    }

    /// Does the frame match? None of a link type for which the filter means nothing does.
    fn matches(&mut self, record: &Record<'_>) -> bool {
        let known = self.programs.iter().position(|(link, _)| *link == record.link);
        let at = known.unwrap_or_else(|| {
            self.programs.push((record.link, compile(record.link, self.expression).ok()));
            self.programs.len() - 1
        });
        self.programs[at].1.as_ref().is_some_and(|program| program.filter(record.data))
    }
}

/// libpcap counts two link types differently in memory than in files.
fn compile(link: LinkType, expression: &str) -> Result<pcap::BpfProgram, pcap::Error> {
    let number = match link.0 {
        100 => 11,
        101 => 12,
        other => i32::try_from(other).unwrap_or(i32::MAX),
    };
    pcap::Capture::dead(pcap::Linktype(number))?.compile(expression, true)
}

fn check_filter(args: &Args) -> Result<(), Failure> {
    let Some(expression) = &args.filter else { return Ok(()) };
    match compile(LinkType::ETHERNET, expression) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::text(Exit::Usage, format!("--filter {expression:?}: {error}"))
            .hint("the syntax is that of pcap-filter(7): 'port 80', 'host 10.0.0.1 and tcp'")),
    }
}
