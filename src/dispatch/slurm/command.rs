//! Slurm's own programs: `sbatch`, `squeue`, `scancel`, `scontrol`, `sacct`, `srun`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::{self, Seen};
use crate::host::cage::{Cage, Job};
use crate::node::local::Processes;
use crate::node::{Command, ExitStatus, Stream};
use crate::text::printable_bytes;

/// How long one of them may take.
const WORD: Duration = Duration::from_secs(60);
/// How long sacct may take beside a question to the queue.
const BESIDE: Duration = Duration::from_secs(10);
/// What squeue is asked for, with `|` after each.
///
/// By the sources of Slurm, all of it is there since 20.02, and `srun --overlap` and `--whole` since 20.11; both still are in 26.05.
const COLUMNS: &[&str] = &[
    "ArrayJobID",
    "JobID",
    "ArrayTaskID",
    "State",
    "RestartCnt",
    "exit_code",
    "NodeList",
    "Name",
    "Reason",
    "TimeUsed",
    "TimeLimit",
];

/// As `env` exits when there is no such program.
const NOT_FOUND: i32 = 127;

/// Slurm does not do what it is asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SlurmError {
    /// Its programs are not here.
    #[error("Slurm is not there (`{0}` in PATH; Debian: apt-get install slurm-client)")]
    NoProgram(String),
    /// Nobody answers.
    #[error("Slurm's controller cannot be reached: {0}")]
    Unreachable(String),
    /// There is no such partition.
    #[error("Slurm has no partition `{partition}` that takes this job: {text}")]
    Partition {
        /// As it was named.
        partition: String,
        /// What sbatch says.
        text: String,
    },
    /// The array is refused.
    #[error("Slurm refuses the array of iterations: {0}")]
    Rejected(String),
    /// A node does not see the campaign's directory.
    #[error("{node} does not see the campaign's directory, although `slurm.shared` is true")]
    Blind {
        /// Which.
        node: String,
    },
    /// Another user of Slurm ended it.
    #[error("job {job} of Slurm was cancelled by somebody else: {what}")]
    Cancelled {
        /// The array.
        job: u64,
        /// Which elements.
        what: String,
    },
    /// Anything else.
    #[error("`{program}` failed: {text}")]
    Failed {
        /// The program.
        program: String,
        /// Its words.
        text: String,
    },
    /// No answer.
    #[error("`{0}` has not ended within {WORD:?}")]
    Silent(String),
    /// It cannot be started.
    #[error("cannot run `{program}`: {text}")]
    Io {
        /// The program.
        program: String,
        /// Why.
        text: String,
    },
}

/// Limits of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Elements of an array, at most.
    pub(super) elements: usize,
}

/// How Slurm's programs are started; they end with this process.
pub(super) struct Commands {
    processes: Arc<Processes>,
    directory: PathBuf,
}

impl Commands {
    pub(super) fn new(directory: &Path) -> std::io::Result<Self> {
        let processes = Arc::new(Processes::new(Cage::open_or_groups()?));
        Ok(Self { processes, directory: directory.to_owned() })
    }

    /// Ends what still runs of them.
    pub(super) async fn close(&self) -> std::io::Result<()> {
        self.processes.close().await
    }

    async fn run(&self, program: &str, words: &[String]) -> Result<String, SlurmError> {
        let talk = self.talk(program, words);
        let (status, out, err) = tokio::time::timeout(WORD, talk).await.unwrap_or_else(|_| Err(silent(program)))?;
        if status.success() { Ok(out) } else { Err(failure(program, &err)) }
    }

    /// Runs a program to its end, however long that takes: how it ended, and what it said.
    pub(super) async fn talk(
        &self,
        program: &str,
        words: &[String],
    ) -> Result<(ExitStatus, String, String), SlurmError> {
        let strange = strange_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
        let unset = strange.iter().flat_map(|name| ["-u".to_owned(), name.clone()]);
        let env = (!strange.is_empty()).then(|| "env".to_owned()).into_iter().chain(unset);
        let argv = env.chain(std::iter::once(program.to_owned())).chain(words.iter().cloned()).collect();
        // Otherwise squeue cuts long lists of elements.
        let env = vec![("SLURM_BITSTR_LEN".to_owned(), "0".to_owned())];
        let command = Command { argv, env, ..Command::default() };
        let job = Job { command, directory: self.directory.clone(), namespace: None };
        let io = |text: String| SlurmError::Io { program: program.to_owned(), text };
        let mut process = self.processes.spawn(job).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SlurmError::NoProgram(program.to_owned()),
            _ => io(error.to_string()),
        })?;
        let exit = process.wait().await.map_err(|error| io(error.to_string()))?;
        if !strange.is_empty() && program != "sh" && exit.status == ExitStatus::Code(NOT_FOUND) {
            return Err(SlurmError::NoProgram(program.to_owned()));
        }
        let text = |stream| String::from_utf8_lossy(&process.output(stream).bytes).into_owned();
        Ok((exit.status, text(Stream::Out), text(Stream::Err)))
    }

    /// What the cluster takes. Also says whether there is a Slurm at all.
    pub(super) async fn sizes(&self) -> Result<Sizes, SlurmError> {
        let text = self.run("scontrol", &words(&["show", "config"])).await?;
        Ok(queue::sizes(&text))
    }

    /// Are all nodes of a partition, or of the default one, in a list of nodes?
    pub(super) async fn is_covered(&self, partition: Option<&str>, nodes: &str) -> Result<bool, SlurmError> {
        let mut arguments = words(&["--noheader", "--Node", "--format=%P|%N"]);
        arguments.extend(partition.map(|name| format!("--partition={name}")));
        let text = self.run("sinfo", &arguments).await?;
        let expanded = self.run("scontrol", &words(&["show", "hostnames", nodes])).await?;
        Ok(queue::is_covered(&text, partition.is_some(), &expanded))
    }

    /// Nodes that take jobs in a partition; at least 1.
    pub(super) async fn nodes(&self, partition: Option<&str>) -> Result<usize, SlurmError> {
        let mut arguments = words(&["--noheader", "--responding", "--Node", "--format=%N"]);
        arguments.extend(partition.map(|name| format!("--partition={name}")));
        let text = self.run("sinfo", &arguments).await?;
        let nodes: BTreeSet<&str> = text.lines().map(str::trim).collect();
        Ok(nodes.len().max(1))
    }

    /// Puts an array into the queue; its number.
    pub(super) async fn submit(&self, arguments: &[String], partition: Option<&str>) -> Result<u64, SlurmError> {
        let text = self.run("sbatch", arguments).await.map_err(|error| match error {
            SlurmError::Failed { text, .. } if text.contains("partition") => {
                SlurmError::Partition { partition: partition.unwrap_or("(the default)").to_owned(), text }
            }
            SlurmError::Failed { text, .. } => SlurmError::Rejected(text),
            other => other,
        })?;
        // `JOB` or `JOB;CLUSTER`.
        let number = text.lines().last().and_then(|line| line.trim().split(';').next()?.parse().ok());
        number.ok_or_else(|| failure("sbatch", &format!("its answer makes no sense: {text}")))
    }

    /// What is in the queue, or was a while ago, under a name. Empty when Slurm knows nothing of it. With a number the answer comes
    /// sooner; where that is another job's, as after Slurm was set up again, the name counts.
    pub(super) async fn queue(&self, name: &str, job: Option<u64>) -> Result<Vec<Seen>, SlurmError> {
        let seen = self.look(name, job).await?;
        if seen.is_empty() && job.is_some() { self.look(name, None).await } else { Ok(seen) }
    }

    async fn look(&self, name: &str, job: Option<u64>) -> Result<Vec<Seen>, SlurmError> {
        let columns = COLUMNS.iter().map(|column| format!("{column}:|")).collect::<Vec<_>>().join(",");
        let mut arguments = words(&["--noheader", "--states=all"]);
        arguments.push(format!("--Format={columns}"));
        arguments.push(job.map_or_else(|| format!("--name={name}"), |job| format!("--jobs={job}")));
        match self.run("squeue", &arguments).await {
            Ok(text) => queue::read(&text, name).map_err(|line| SlurmError::Failed {
                program: "squeue".to_owned(),
                text: format!("its answer makes no sense (`{line}`)"),
            }),
            Err(SlurmError::Failed { text, .. }) if text.contains("Invalid job id") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Asks scancel; jobs that have ended meanwhile are no error, and one of another name is left alone.
    pub(super) async fn cancel(&self, options: &[&str], name: &str, job: &str) -> Result<(), SlurmError> {
        let mut arguments = words(options);
        arguments.push(format!("--name={name}"));
        arguments.push(job.to_owned());
        match self.run("scancel", &arguments).await {
            Err(SlurmError::Failed { text, .. })
                if ["Invalid job id", "already completing", "can not be altered now", "No active jobs match"]
                    .iter()
                    .any(|w| text.contains(w)) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// As [`Self::queue`], and of those of `elements` that the queue has forgotten what the accounts say, where there are any. The
    /// time is the queue's alone.
    pub(super) async fn queue_or_accounts(
        &self,
        name: &str,
        job: Option<u64>,
        elements: &BTreeSet<u32>,
    ) -> (Result<Vec<Seen>, SlurmError>, Duration) {
        let begun = Instant::now();
        let seen = self.queue(name, job).await;
        let took = begun.elapsed();
        let (Ok(seen), Some(job)) = (&seen, job) else { return (seen, took) };
        let by = queue::by_element(seen);
        let forgotten: BTreeSet<u32> = elements.iter().filter(|number| !by.contains_key(number)).copied().collect();
        if forgotten.is_empty() {
            return (Ok(seen.clone()), took);
        }
        // They only say why nothing came. Without them, that is not known.
        let Ok(Ok(Some(known))) = tokio::time::timeout(BESIDE, self.accounts(name, job)).await else {
            return (Ok(seen.clone()), took);
        };
        let of_forgotten = known.into_iter().filter_map(|mut seen| {
            seen.elements.retain(|number| forgotten.contains(number));
            (!seen.elements.is_empty()).then_some(seen)
        });
        (Ok(of_forgotten.chain(seen.iter().cloned()).collect()), took)
    }

    /// Keeps elements that wait from these nodes.
    pub(super) async fn exclude(&self, job: u64, nodes: &str) -> Result<(), SlurmError> {
        const SCONTROL: &str = "scontrol";
        let arguments = ["update".to_owned(), format!("jobid={job}"), format!("ExcNodeList={nodes}")];
        let talk = tokio::time::timeout(WORD, self.talk(SCONTROL, &arguments));
        let (status, _, said) = talk.await.unwrap_or_else(|_| Err(silent(SCONTROL)))?;
        match status.success() || queue::was_changed(&said) {
            true => Ok(()),
            false => Err(failure(SCONTROL, &said)),
        }
    }

    /// How elements ended, by the accounts; `None` where Slurm keeps none.
    pub(super) async fn accounts(&self, name: &str, job: u64) -> Result<Option<Vec<Seen>>, SlurmError> {
        let mut arguments = words(&["--noheader", "--parsable2", "--allocations"]);
        arguments.push(format!("--jobs={job}"));
        arguments.push("--format=JobID,State,ExitCode,NodeList,JobName,ElapsedRaw,TimelimitRaw".to_owned());
        match self.run("sacct", &arguments).await {
            Ok(text) => Ok(Some(queue::read_accounts(&text, name))),
            Err(SlurmError::Failed { text, .. }) if text.contains("accounting storage is disabled") => Ok(None),
            Err(SlurmError::NoProgram(_)) => Ok(None),
            // Who does not answer is the accounts' daemon.
            Err(SlurmError::Unreachable(text)) => Err(SlurmError::Failed { program: "sacct".to_owned(), text }),
            Err(error) => Err(error),
        }
    }
}

/// Variables that would change what Slurm's programs do or say: users' defaults for them, and what a job around this process has.
/// Those that find the cluster stay.
fn strange_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    const OF_PROGRAMS: &[&str] =
        &["SQUEUE_", "SCANCEL_", "SACCT_", "SBATCH_", "SRUN_", "SALLOC_", "SINFO_", "SCONTROL_"];
    // The last is set for each of them.
    const KEPT: &[&str] =
        &["SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_SOCKET", "SLURM_BITSTR_LEN"];
    let is_strange = |name: &String| {
        let is_programs = OF_PROGRAMS.iter().any(|prefix| name.starts_with(prefix));
        is_programs || (name.starts_with("SLURM_") && !KEPT.contains(&name.as_str()))
    };
    names.filter(is_strange).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn silent(program: &str) -> SlurmError {
    SlurmError::Silent(program.to_owned())
}

/// What a program that failed had to say: its last line, which names the reason.
fn failure(program: &str, said: &str) -> SlurmError {
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    let plain = last.trim().trim_start_matches(&format!("{program}: ")).trim_start_matches("error: ");
    let plain = plain.trim_start_matches("fatal: ").trim_start_matches("Batch job submission failed: ");
    let text = printable_bytes(plain.as_bytes(), 300);
    const UNREACHABLE: &[&str] = &[
        "Unable to contact slurm controller",
        "Could not establish a configuration source",
        "Connection refused",
        "Connection timed out",
        "Communication connection failure",
        "Socket timed out",
    ];
    match UNREACHABLE.iter().any(|words| said.contains(words)) {
        true => SlurmError::Unreachable(text),
        false => SlurmError::Failed { program: program.to_owned(), text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_find_the_cluster_stay() {
        let names = ["SLURM_CONF", "SLURM_JOB_ID", "SQUEUE_STATES", "PATH", "SLURM_BITSTR_LEN", "SBATCH_ARRAY_INX"];
        let strange = strange_variables(names.iter().map(|&name| name.to_owned()));
        assert_eq!(strange, ["SLURM_JOB_ID", "SQUEUE_STATES", "SBATCH_ARRAY_INX"]);
    }

    #[test]
    fn what_programs_say_names_the_reason() {
        let of = |said| failure("sbatch", said).to_string();
        assert_eq!(
            of("sbatch: error: Batch job submission failed: Invalid feature specification\n"),
            "`sbatch` failed: Invalid feature specification"
        );
        let unreachable =
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n";
        assert_eq!(
            of(unreachable),
            "Slurm's controller cannot be reached: Unable to contact slurm controller (connect failure)"
        );
        let none = "sinfo: error: fetch_config: DNS SRV lookup failed\nsinfo: fatal: Could not establish a configuration source\n";
        assert!(matches!(failure("sinfo", none), SlurmError::Unreachable(_)));
        assert_eq!(of(""), "`sbatch` failed: it does not say why");
    }
}
