//! What the script of a phase prints. It comes from a node and is bounded and checked. Pure.

use super::super::error::PhaseFailure;
use super::phase::{Phase, Place, Step, seconds};
use crate::text::{printable, printable_bytes};

/// What came of a phase on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One for each step.
    pub steps: Vec<StepReport>,
    /// The archive of the files that are brought; `None` where none are.
    pub(super) archive: Option<Archive>,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepReport {
    /// How it ended; `None` for one that still runs.
    pub status: Option<StepStatus>,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
    /// Bytes it has written to standard output.
    pub stdout_bytes: u64,
    /// Bytes it has written to standard error.
    pub stderr_bytes: u64,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStatus {
    /// With this exit status. 126 and 127 are those of `timeout` for a program that cannot be started or is not there.
    Exit(i32),
    /// Its time was up.
    TimedOut,
}

/// The archive of the files that are brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What is known while a report is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is not whole.
    Part,
    /// It is.
    Whole(Box<Report>),
    /// The script says that it does not run.
    Refused(PhaseFailure),
}

struct Reader<'a> {
    left: &'a [u8],
}

/// Why a report cannot be read.
enum Bad {
    /// More of it may come.
    Cut,
    Wrong(String),
    Failed(PhaseFailure),
}

fn wrong<T>(why: String) -> Result<T, Bad> {
    Err(Bad::Wrong(why))
}

impl<'a> Reader<'a> {
    /// Words of the next line, which must begin with these.
    fn line(&mut self, beginning: &[&str], words: usize) -> Result<Vec<&'a str>, Bad> {
        let end = self.left.iter().position(|&byte| byte == b'\n').ok_or(Bad::Cut)?;
        let (line, rest) = self.left.split_at(end);
        self.left = &rest[1..];
        let all: Vec<&str> = str::from_utf8(line).unwrap_or_default().split(' ').collect();
        if all.len() == words && all.starts_with(beginning) {
            return Ok(all);
        }
        let beginning = beginning.join(" ");
        wrong(format!("a line `{beginning}` of {words} words was expected, and `{}` came", printable_bytes(line, 80)))
    }

    /// That many bytes and the newline after them.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Bad> {
        let count = usize::try_from(count).map_err(|_| Bad::Wrong("a length is out of range".to_owned()))?;
        let taken = self.left.get(..count).ok_or(Bad::Cut)?;
        match self.left.get(count).ok_or(Bad::Cut)? {
            b'\n' => {
                self.left = &self.left[count + 1..];
                Ok(taken.to_vec())
            }
            _ => wrong("an output is longer than its length".to_owned()),
        }
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, Bad> {
    word.parse().or_else(|_| wrong(format!("`{}` is no number", printable(word, 40))))
}

/// Reads what the script has printed so far. `checksums` are those of the sent files.
pub(super) fn read(output: &[u8], phase: &Phase, place: &Place, checksums: &[String]) -> Result<Seen, PhaseFailure> {
    let nonce = &place.nonce;
    if output == format!("vptest {nonce} replayed\n").as_bytes() {
        return Ok(Seen::Refused(PhaseFailure::Replayed));
    }
    let lacks = format!("vptest {nonce} lacks ");
    if let Some(program) = output.strip_prefix(lacks.as_bytes()).and_then(|rest| rest.strip_suffix(b"\n")) {
        return Ok(Seen::Refused(PhaseFailure::Lacks(printable_bytes(program, 40))));
    }
    match parse(output, phase, place, checksums) {
        Ok(report) => Ok(Seen::Whole(Box::new(report))),
        Err(Bad::Cut) => Ok(Seen::Part),
        Err(Bad::Wrong(why)) => Err(PhaseFailure::Report(why)),
        Err(Bad::Failed(failure)) => Err(failure),
    }
}

fn parse(output: &[u8], phase: &Phase, place: &Place, checksums: &[String]) -> Result<Report, Bad> {
    let mut reader = Reader { left: output };
    reader.line(&["vptest", &place.nonce, "report"], 3)?;
    let mut not_sent = None;
    for (index, (sent, wanted)) in phase.send.iter().zip(checksums).enumerate() {
        let found = reader.line(&["sent", &index.to_string()], 3)?[2];
        if found != wanted && not_sent.is_none() {
            let why = match found {
                "missing" => "it is missing".to_owned(),
                other => format!("its checksum is {}", printable(other, 64)),
            };
            not_sent = Some(PhaseFailure::NotSent { name: sent.path.clone(), why });
        }
    }
    let mut steps = Vec::new();
    for (index, step) in phase.steps.iter().enumerate() {
        steps.push(read_step(&mut reader, index, step)?);
    }
    let archive = if phase.fetch.is_empty() { None } else { Some(read_archive(&mut reader)?) };
    reader.line(&["vptest", &place.nonce, "end"], 3)?;
    match not_sent {
        Some(failure) => Err(Bad::Failed(failure)),
        None if reader.left.is_empty() => Ok(Report { steps, archive }),
        None => wrong("it goes on after its end".to_owned()),
    }
}

fn read_step(reader: &mut Reader<'_>, index: usize, step: &Step) -> Result<StepReport, Bad> {
    let words = reader.line(&["step", &index.to_string()], 8)?;
    let status = match (words[2], words[3]) {
        ("-", "-") => None,
        (code, took) => {
            // The status does not say: coreutils' `timeout` ends with 124 or 137, busybox's as the step itself does.
            let (code, centiseconds): (i32, u64) = (number(code)?, number(took)?);
            let ended = centiseconds / 100 >= seconds(step);
            Some(if ended { StepStatus::TimedOut } else { StepStatus::Exit(code) })
        }
    };
    let (stdout_bytes, stderr_bytes) = (number(words[4])?, number(words[5])?);
    let (out, err) = (number::<u64>(words[6])?, number::<u64>(words[7])?);
    if out > step.shown || err > step.shown {
        return wrong(format!("step {index} shows more than the {} bytes it was asked for", step.shown));
    }
    Ok(StepReport { status, stdout: reader.bytes(out)?, stderr: reader.bytes(err)?, stdout_bytes, stderr_bytes })
}

fn read_archive(reader: &mut Reader<'_>) -> Result<Archive, Bad> {
    let words = reader.line(&["archive"], 5)?;
    let status: i32 = number(words[1])?;
    let said = reader.bytes(number(words[4])?)?;
    if status != 0 {
        let why = format!("tar ended with {status}: {}", printable_bytes(&said, 400));
        return Err(Bad::Failed(PhaseFailure::NotFetched(why)));
    }
    Ok(Archive { bytes: number(words[2])?, sha256: words[3].to_owned() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn phase(fetch: bool) -> Phase {
        let mut step = Step::of(["x"], Duration::from_secs(3));
        step.shown = 10;
        Phase { steps: vec![step], fetch: if fetch { vec!["/f".to_owned()] } else { vec![] }, ..Phase::default() }
    }

    fn place() -> Place {
        Place { nonce: "ab".to_owned(), incoming: "/in".to_owned() }
    }

    fn seen(text: &str, fetch: bool) -> Result<Seen, PhaseFailure> {
        read(text.as_bytes(), &phase(fetch), &place(), &[])
    }

    fn status(line: &str) -> Option<StepStatus> {
        match seen(&format!("vptest ab report\nstep 0 {line}\n\n\nvptest ab end\n"), false).unwrap() {
            Seen::Whole(report) => report.steps[0].status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_report_is_whole_only_with_its_last_line() {
        let text = "vptest ab report\nstep 0 3 0 4 2 4 2\nvpte\nst\nvptest ab end\n";
        for cut in 0..text.len() {
            assert_eq!(seen(&text[..cut], false), Ok(Seen::Part), "{cut}");
        }
        let Seen::Whole(report) = seen(text, false).unwrap() else { panic!() };
        let step = &report.steps[0];
        assert_eq!(
            (step.status, &step.stdout[..], &step.stderr[..]),
            (Some(StepStatus::Exit(3)), &b"vpte"[..], &b"st"[..])
        );
        assert!(seen(&format!("{text}x"), false).is_err());
    }

    #[test]
    fn an_output_with_the_last_line_in_it_is_not_the_end() {
        let output = "\nvptest ab end\n";
        let text = format!("vptest ab report\nstep 0 0 0 {0} 0 {0} 0\n{output}", output.len());
        let phase = Phase { steps: vec![Step::of(["x"], Duration::from_secs(3))], ..Phase::default() };
        assert_eq!(read(text.as_bytes(), &phase, &place(), &[]), Ok(Seen::Part));
    }

    #[test]
    fn a_step_is_timed_out_only_when_its_time_was_up() {
        for line in ["124 300 0 0 0 0", "137 801 0 0 0 0", "143 300 0 0 0 0", "0 302 0 0 0 0"] {
            assert_eq!(status(line), Some(StepStatus::TimedOut), "{line}");
        }
        assert_eq!(status("124 299 0 0 0 0"), Some(StepStatus::Exit(124)));
        assert_eq!(status("137 0 0 0 0 0"), Some(StepStatus::Exit(137)));
        assert_eq!(status("- - 0 0 0 0"), None);
    }

    #[test]
    fn the_output_of_another_phase_is_refused() {
        let text = "vptest cd report\nstep 0 3 0 0 0 0 0\n\n\nvptest cd end\n";
        assert!(matches!(seen(text, false), Err(PhaseFailure::Report(_))));
    }

    #[test]
    fn a_script_that_does_not_run_says_why() {
        assert_eq!(seen("vptest ab replayed\n", false), Ok(Seen::Refused(PhaseFailure::Replayed)));
        let lacks = PhaseFailure::Lacks("timeout".to_owned());
        assert_eq!(seen("vptest ab lacks timeout\n", false), Ok(Seen::Refused(lacks)));
    }

    #[test]
    fn lies_about_lengths_are_found() {
        for line in ["0 0 99 0 99 0", "0 0 x 0 0 0", "0 0 -1 0 0 0", "0 0 0 0 18446744073709551616 0"] {
            let text = format!("vptest ab report\nstep 0 {line}\n\n\nvptest ab end\n");
            assert!(matches!(seen(&text, false), Err(PhaseFailure::Report(_))), "{line}");
        }
    }

    #[test]
    fn a_failing_tar_is_no_archive() {
        let text = "vptest ab report\nstep 0 0 0 0 0 0 0\n\n\narchive 2 10240 00 5\nno /f\nvptest ab end\n";
        let why = "tar ended with 2: no /f".to_owned();
        assert_eq!(seen(text, true), Err(PhaseFailure::NotFetched(why)));
    }
}
