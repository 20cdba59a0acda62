//! A phase: all that a node has to do until somebody has to think again, as one shell script. Pure.
//!
//! A round trip through minimega costs a heartbeat of 5 s, whatever is in it. So a node gets one script for a phase, which
//! is sent as a file: no word of it goes through a lexer or a preprocessor. It runs each step under `timeout`, keeps the
//! steps' output in files, and prints a report at the end, whose last line says that it is whole. A directory that it makes
//! first, and that nobody else makes, keeps it from being run twice.

use std::fmt::Write as _;
use std::time::Duration;

/// Bytes of each output that a report has, unless a step asks for more.
pub const SHOWN: u64 = 64 << 10;
/// Bytes of all outputs in one report: miniccc keeps them in the node's memory.
pub const SHOWN_ALL: u64 = 8 << 20;
/// How long after its end a step is killed that does not heed it.
const KILL_AFTER: u64 = 5;
/// Longest limit of a step.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// Exit status of a script that was given twice.
pub(super) const REPLAYED: i64 = 97;
/// Exit status of a script without one of the programs it needs.
pub(super) const LACKS: i64 = 96;

/// What a node does in a phase.
///
/// Its directory is in the environment of the steps, as `VPTEST_PHASE`. It stays when the phase is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Phase {
    /// Files that are sent before the first step.
    pub send: Vec<Sent>,
    /// What is run, one after the other. All run, whatever becomes of those before.
    pub steps: Vec<Step>,
    /// Paths of files that are brought after the last step, packed with `tar`.
    pub fetch: Vec<String>,
}

/// A file for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Where it is to be on the node.
    pub path: String,
    /// Its permissions, such as 0o755.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

/// A command of a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Program and arguments; no shell looks at them.
    pub argv: Vec<String>,
    /// After that it is ended. Rounded up to seconds.
    pub limit: Duration,
    /// Bytes of each output that are brought; what is more stays on the node.
    pub shown: u64,
    /// Does the next step begin while this one runs? Such a step goes on after the phase, at most for `limit`.
    pub background: bool,
}

impl Step {
    /// A step that is waited for.
    pub fn of<S: Into<String>>(argv: impl IntoIterator<Item = S>, limit: Duration) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self { argv, limit, shown: SHOWN, background: false }
    }
}

/// Where a phase happens and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// A number that no other phase has, in hexadecimal.
    pub(super) nonce: String,
    /// Directory in which miniccc leaves the files of this phase.
    pub(super) incoming: String,
}

impl Place {
    /// Directory of the phase on the node, made by the script.
    pub(super) fn directory(&self) -> String {
        format!("{}/{}.d", self.incoming, self.nonce)
    }

    /// Archive of the files that are brought.
    pub(super) fn archive(&self) -> String {
        format!("{}/files.tar", self.directory())
    }

    /// Name of the script among the files that are sent.
    pub(super) fn script(&self) -> String {
        format!("{}.sh", self.nonce)
    }

    /// Name of a file among those that are sent.
    pub(super) fn sent(&self, index: usize) -> String {
        format!("{}.{index}", self.nonce)
    }
}

/// How long the script runs at the most; `overhead` is for what is not its steps.
pub(super) fn limit(phase: &Phase, overhead: Duration) -> Duration {
    let steps = phase.steps.iter().filter(|step| !step.background);
    let steps = steps.map(|step| seconds(step).saturating_add(KILL_AFTER)).fold(0, u64::saturating_add);
    Duration::from_secs(overhead.as_secs().saturating_add(steps))
}

/// Bytes that a report can have at the most.
pub(super) fn largest_report(phase: &Phase) -> u64 {
    let shown = phase.steps.iter().map(|step| step.shown.saturating_mul(2)).fold(0, u64::saturating_add);
    let lines = 1024 * (phase.steps.len() + phase.send.len() + phase.fetch.len() + 16) as u64;
    shown.saturating_add(lines)
}

/// The limit of a step as `timeout` is given it.
pub(super) fn seconds(step: &Step) -> u64 {
    step.limit.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX / 4).max(1)
}

/// The command that runs the script.
pub(super) fn command(phase: &Phase, place: &Place, overhead: Duration) -> Vec<String> {
    let words = ["timeout", "-k", "5"].map(str::to_owned).into_iter();
    let limit = limit(phase, overhead).as_secs().to_string();
    words.chain([limit, "sh".to_owned(), format!("{}/{}", place.incoming, place.script())]).collect()
}

/// The script. `checksums` are those of the sent files.
pub(super) fn script(phase: &Phase, place: &Place, checksums: &[String]) -> String {
    let (nonce, directory) = (&place.nonce, shell(&place.directory()));
    let mut text = format!(
        "#!/bin/sh\n\
         # vptest {nonce}\n\
         umask 077\n\
         d={directory}\n\
         VPTEST_PHASE=$d; export VPTEST_PHASE\n\
         mkdir \"$d\" 2>/dev/null || {{ echo 'vptest {nonce} replayed'; exit {REPLAYED}; }}\n\
         for p in timeout wc head sha256sum tar; do\n\
         command -v $p >/dev/null 2>&1 || {{ echo \"vptest {nonce} lacks $p\"; exit {LACKS}; }}\n\
         done\n\
         size() {{ s=$(wc -c 2>/dev/null <\"$1\") && echo $s || echo -; }}\n\
         sum() {{ s=$(sha256sum 2>/dev/null <\"$1\") && echo \"${{s%% *}}\" || echo missing; }}\n\
         now() {{ read -r u _ </proc/uptime; echo \"${{u%.*}}${{u#*.}}\"; }}\n\
         run() {{ n=$1; l=$2; shift 2; b=$(now); timeout -k {KILL_AFTER} \"$l\" \"$@\" >\"$d/$n.out\" 2>\"$d/$n.err\" </dev/null; \
         echo \"$? $(($(now)-b))\" >\"$d/$n.status.new\"; mv \"$d/$n.status.new\" \"$d/$n.status\"; }}\n\
         show() {{ o=$(size \"$d/$1.out\"); e=$(size \"$d/$1.err\"); head -c $2 \"$d/$1.out\" >\"$d/o\"; \
         head -c $2 \"$d/$1.err\" >\"$d/e\"; s=$(cat \"$d/$1.status\" 2>/dev/null) || s='- -'; \
         echo \"step $1 $s $o $e $(size \"$d/o\") $(size \"$d/e\")\"; cat \"$d/o\"; echo; cat \"$d/e\"; echo; }}\n\
         take() {{ [ \"$(sum \"$1\")\" = \"$2\" ] || return; mkdir -p \"$3\" && mv -f \"$1\" \"$4\" && chmod \"$5\" \"$4\"; }}\n"
    );
    for (index, (sent, checksum)) in phase.send.iter().zip(checksums).enumerate() {
        let from = shell(&format!("{}/{}", place.incoming, place.sent(index)));
        let (to, mode) = (shell(&sent.path), sent.mode);
        let parent = sent.path.rsplit_once('/').map_or(".", |(parent, _)| if parent.is_empty() { "/" } else { parent });
        let parent = shell(parent);
        let _ = writeln!(text, "take {from} {checksum} {parent} {to} {mode:o} 2>>\"$d/take.err\"");
    }
    for (index, step) in phase.steps.iter().enumerate() {
        let argv = step.argv.iter().map(|word| shell(word)).collect::<Vec<_>>().join(" ");
        let limit = seconds(step);
        // The files are there before anybody looks, also for a step in the background.
        let _ = writeln!(text, ": >\"$d/{index}.out\"; : >\"$d/{index}.err\"");
        // miniccc waits until nobody has the script's outputs any more. A shell that redirects a function keeps them.
        let _ = match step.background {
            true => writeln!(text, "( exec >/dev/null 2>&1; run {index} {limit} {argv} ) &"),
            false => writeln!(text, "run {index} {limit} {argv}"),
        };
    }
    if !phase.fetch.is_empty() {
        let names = phase.fetch.iter().map(|path| shell(path)).collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "tar -c -f \"$d/files.tar\" -- {names} 2>\"$d/tar.err\"; t=$?");
    }
    let _ = writeln!(text, "echo 'vptest {nonce} report'");
    for (index, sent) in phase.send.iter().enumerate() {
        let _ = writeln!(text, "echo \"sent {index} $(sum {})\"", shell(&sent.path));
    }
    for (index, step) in phase.steps.iter().enumerate() {
        let _ = writeln!(text, "show {index} {}", step.shown);
    }
    if !phase.fetch.is_empty() {
        let _ = writeln!(
            text,
            "head -c 500 \"$d/tar.err\" >\"$d/e\"; \
             echo \"archive $t $(size \"$d/files.tar\") $(sum \"$d/files.tar\") $(size \"$d/e\")\"; cat \"$d/e\"; echo"
        );
    }
    let _ = writeln!(text, "echo 'vptest {nonce} end'");
    text
}

/// A word as a POSIX shell gives it back.
fn shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Why a phase must not be posted; `None` for one that may.
pub(super) fn fault(phase: &Phase) -> Option<String> {
    let shown: u64 = phase.steps.iter().map(|step| step.shown.saturating_mul(2)).fold(0, u64::saturating_add);
    if shown > SHOWN_ALL {
        return Some(format!("a phase with {shown} bytes of output ({SHOWN_ALL} at most)"));
    }
    if let Some(step) = phase.steps.iter().find(|step| step.limit > LONGEST) {
        return Some(format!("a step of {:?} ({LONGEST:?} at most)", step.limit));
    }
    let words = phase.steps.iter().flat_map(|step| &step.argv);
    let paths = phase.send.iter().map(|sent| &sent.path).chain(&phase.fetch);
    if words.chain(paths.clone()).any(|word| word.contains('\0')) {
        return Some("a word with a NUL".to_owned());
    }
    if let Some(path) = paths.into_iter().find(|path| !path.starts_with('/')) {
        return Some(format!("the path {path} (only absolute ones)"));
    }
    phase.steps.iter().any(|step| step.argv.is_empty()).then(|| "a step without a program".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn place() -> Place {
        Place { nonce: "ab".to_owned(), incoming: "/tmp/in".to_owned() }
    }

    #[test]
    fn a_phase_is_one_command_with_a_limit() {
        let steps = vec![Step::of(["true"], Duration::from_millis(1500)), Step::of(["x"], Duration::from_secs(10))];
        let phase = Phase { steps, ..Phase::default() };
        assert_eq!(command(&phase, &place(), Duration::from_secs(60)).join(" "), "timeout -k 5 82 sh /tmp/in/ab.sh");
    }

    #[test]
    fn a_step_in_the_background_does_not_lengthen_the_phase() {
        let mut step = Step::of(["server"], Duration::from_secs(3600));
        step.background = true;
        assert_eq!(
            limit(&Phase { steps: vec![step], ..Phase::default() }, Duration::from_secs(60)),
            Duration::from_secs(60)
        );
    }

    /// Output of the script, run here.
    fn run(script: &Path) -> String {
        let output = std::process::Command::new("sh").arg(script).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_script_runs_once() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { nonce: "ab".to_owned(), incoming: directory.path().to_str().unwrap().to_owned() };
        let phase = Phase { steps: vec![Step::of(["printf", "x"], Duration::from_secs(9))], ..Phase::default() };
        let path = directory.path().join(place.script());
        std::fs::write(&path, script(&phase, &place, &[])).unwrap();
        let first = run(&path);
        let lines: Vec<&str> = first.lines().collect();
        let [begin, step, shown, end @ ..] = lines.as_slice() else { panic!("{first}") };
        assert_eq!((*begin, *shown, end), ("vptest ab report", "x", &["", "vptest ab end"][..]));
        assert!(step.starts_with("step 0 0 ") && step.ends_with(" 1 0 1 0"), "{step}");
        assert_eq!(run(&path), "vptest ab replayed\n");
    }

    #[test]
    fn what_would_break_the_script_is_found_before() {
        let step = |argv: &[&str]| Phase { steps: vec![Step::of(argv.to_vec(), Duration::ZERO)], ..Phase::default() };
        assert_eq!(fault(&step(&["a", "b'c\n"])), None);
        assert_eq!(fault(&step(&[])).unwrap(), "a step without a program");
        assert_eq!(fault(&step(&["a\0"])).unwrap(), "a word with a NUL");
        let fetch = Phase { fetch: vec!["relative".to_owned()], ..Phase::default() };
        assert_eq!(fault(&fetch).unwrap(), "the path relative (only absolute ones)");
        let mut long = step(&["a"]);
        long.steps[0].limit = Duration::MAX;
        assert!(fault(&long).unwrap().starts_with("a step of"));
        let mut large = step(&["a"]);
        large.steps[0].shown = u64::MAX;
        assert!(fault(&large).unwrap().starts_with("a phase with"));
    }
}
