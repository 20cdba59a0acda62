//! Several iterations at once on this host (`--jobs`), each with CPU cores that no other one uses.
//!
//! Each job is a thread bound to its cores, with a runtime of its own: what it starts (threads, processes, guests) inherits
//! that, and so does the kernel's work on packets, which is done where they are sent. What the kernel does for nobody in
//! particular (removing namespaces, writing files back) is not bound, and caches, memory and disks are shared.

use std::collections::BTreeMap;

use super::campaign::{CampaignError, Options};
use super::load;
use crate::host::cpus;
use crate::ids::IterationNumber;
use crate::instrument::host::started;
use crate::record::{Setting, SyscallScope};
use crate::spec::{Instrument, Tuple};
use crate::testbed::{self, Beside, Testbed};

/// What one job among several has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// Which job, from 1.
    pub(super) job: usize,
    /// How many there are.
    pub(super) jobs: usize,
    /// Its CPUs, ascending.
    pub(super) cpus: Vec<usize>,
    /// CPUs of the other jobs.
    others: Vec<usize>,
}

impl Share {
    /// Binds the thread that calls it, and all that it will start.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn enter(&self) -> std::io::Result<()> {
        cpus::pin(0, &self.cpus)
    }

    /// How many jobs there are and the CPUs of this one, as they are asked for and in force. To be called in the job.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let jobs = Some(self.jobs.to_string());
        vec![
            Setting::compare(None, "jobs", jobs.clone(), jobs),
            Setting::compare(None, "job_cpus", Some(list(&self.cpus)), cpus::usable().map(|cpus| list(&cpus))),
        ]
    }

    /// Processes below vptest that may run both on CPUs of this job and on those of another, as what they started has bound
    /// itself to other CPUs.
    pub(super) fn strays(&self) -> Vec<String> {
        let Some(started) = started() else {
            return vec!["nobody knows whether the iterations beside kept to their CPUs: /proc could not be read".to_owned()];
        };
        let strays = started.into_iter().filter(|(pid, _)| self.is_stray(*pid));
        strays.map(|(pid, name)| format!("{name} (process {pid}) may run on CPUs of several jobs")).collect()
    }

    fn is_stray(&self, pid: u32) -> bool {
        // A thread may end while the others are looked at.
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse::<i32>().ok());
        numbers.filter_map(cpus::of).any(|cpus| self.is_astride(&cpus))
    }

    fn is_astride(&self, cpus: &[usize]) -> bool {
        let any = |of: &[usize]| cpus.iter().any(|cpu| of.contains(cpu));
        any(&self.cpus) && any(&self.others)
    }
}

/// `0-3,7`
fn list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let range = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// What each job has; empty for one job, which has the whole host.
///
/// # Errors
/// [`CampaignError::Jobs`] when the iterations cannot run beside each other without being in each other's way, or when there are
/// too few cores.
pub(super) fn shares(options: &Options<'_>, to_do: &[IterationNumber]) -> Result<Vec<Share>, CampaignError> {
    let jobs = options.jobs.get();
    if jobs == 1 {
        return Ok(Vec::new());
    }
    let refused = |why: String| CampaignError::Jobs(format!("--jobs {jobs}: {why}"));
    let mut testbeds = BTreeMap::new();
    for iteration in to_do.iter().filter_map(|&number| options.plan.get(number)) {
        let name = iteration.tuple.testbed();
        if !testbeds.contains_key(name) {
            testbeds.insert(name, testbed::by_name(name, &options.plan.spec.testbed)?);
        }
        let why = in_the_way(options, iteration.tuple, testbeds[name].as_ref());
        why.map_err(|why| refused(format!("{why} (iteration {})", iteration.number)))?;
    }
    let cores = cpus::cores().ok_or_else(|| refused("the kernel says no CPUs that may be used".to_owned()))?;
    divide(&cores, jobs).ok_or_else(|| {
        let many = if cores.len() == 1 { "1 core".to_owned() } else { format!("{} cores", cores.len()) };
        refused(format!("each job needs a core of its own, and vptest may use {many} here"))
    })
}

/// Why iterations of a tuple cannot run beside others.
fn in_the_way(options: &Options<'_>, tuple: &Tuple, testbed: &dyn Testbed) -> Result<(), String> {
    let kernel = match testbed.beside() {
        Beside::No(why) => return Err(format!("testbed {}: {why}", testbed.name())),
        Beside::Kernel => true,
        Beside::Guests => false,
    };
    if load::wanted(tuple) {
        return Err("the load of `stress_…` would reach the iterations beside".to_owned());
    }
    let has = |instrument| tuple.instruments().has(instrument);
    if options.plan.spec.instrument.counters.is_some() && has(Instrument::Counters) {
        return Err("`[instrument] counters` counts what the whole host does, the iterations beside included".to_owned());
    }
    let follows_all =
        options.plan.spec.instrument.syscalls.as_ref().is_some_and(|syscalls| syscalls.scope == SyscallScope::Node);
    if kernel && follows_all && has(Instrument::Syscalls) {
        return Err(
            "`instrument.syscalls.scope = \"node\"` follows all processes of the host, those of the iterations beside included"
                .to_owned(),
        );
    }
    Ok(())
}

/// Gives each job as many neighbouring cores as every other; those that are left over are used by none. `None` when there are too
/// few.
fn divide(cores: &[Vec<usize>], jobs: usize) -> Option<Vec<Share>> {
    let each = cores.len() / jobs;
    if each == 0 {
        return None;
    }
    let sorted = |cores: &[Vec<usize>]| {
        let mut cpus = cores.concat();
        cpus.sort_unstable();
        cpus
    };
    let parts: Vec<Vec<usize>> = cores.chunks_exact(each).take(jobs).map(sorted).collect();
    let of = |(index, cpus): (usize, &Vec<usize>)| {
        let others = parts.iter().enumerate().filter(|(other, _)| *other != index).flat_map(|(_, cpus)| cpus);
        let mut others: Vec<usize> = others.copied().collect();
        others.sort_unstable();
        Share { job: index + 1, jobs, cpus: cpus.clone(), others }
    };
    Some(parts.iter().enumerate().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_dealt_out_evenly_and_threads_of_a_core_stay_together() {
        let cores = [vec![0, 8], vec![1, 9], vec![2, 10], vec![3, 11], vec![4, 12]];
        let shares = divide(&cores, 2).unwrap();
        assert_eq!(shares[0], Share { job: 1, jobs: 2, cpus: vec![0, 1, 8, 9], others: vec![2, 3, 10, 11] });
        assert_eq!(shares[1], Share { job: 2, jobs: 2, cpus: vec![2, 3, 10, 11], others: vec![0, 1, 8, 9] });
        assert_eq!(divide(&cores, 5).unwrap().len(), 5);
        assert_eq!(divide(&cores, 6), None);
    }

    #[test]
    fn lists_are_written_as_the_kernel_writes_them() {
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn who_may_run_on_cpus_of_two_jobs_is_a_stray() {
        let share = Share { job: 1, jobs: 2, cpus: vec![0, 1], others: vec![2, 3] };
        assert!(share.is_astride(&[1, 2]) && share.is_astride(&[0, 1, 2, 3, 4]));
        for kept in [&[0, 1][..], &[1], &[2, 3], &[1, 4], &[]] {
            assert!(!share.is_astride(kept), "{kept:?}");
        }
    }
}
