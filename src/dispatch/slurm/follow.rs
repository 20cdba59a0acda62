//! Follows an array to its end: what its workers say, what Slurm says of its elements, and what becomes of both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::super::coordinator::{Coordinator, DispatchError};
use super::SlurmError;
use super::array::{self, Array};
use super::command::Commands;
use super::element::{Begun, Element, Stream};
use super::queue::{self, Bound, Life, Seen};
use super::script;
use super::submit::{excluded, slurm};
use crate::ids::IterationNumber;
use crate::node::ExitStatus;

mod listen;
mod steps;

/// Between two looks at what workers say.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks for new ones.
const LIST: Duration = Duration::from_millis(300);
/// Between two questions to Slurm, at least; otherwise so many times what its answer takes.
const ASK: Duration = Duration::from_secs(1);
const ASK_TIMES: u32 = 20;
/// Between two notes of what nodes do.
const NOTE: Duration = Duration::from_secs(1);
/// Between two tries to end what was begun meanwhile.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two questions whether a node is left that is used, where elements wait and none runs.
const CHECK: Duration = Duration::from_secs(10);
/// How long a worker's last words may take on a shared file system, once Slurm says that it has ended.
const GRACE: Duration = Duration::from_secs(10);
/// Silence after which an element is cancelled. Its worker gives a sign of life every two seconds.
const SILENCE: Duration = Duration::from_secs(180);
/// How long elements may take to end that were told to, before they are killed, and how long then.
const END: Duration = Duration::from_secs(180);
const KILLED: Duration = Duration::from_secs(60);
/// How long Slurm's controller may be away.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Why an element was cancelled that was found so.
const FOUND: &str = "it was cancelled before";
/// What is said for why an element waits, where nobody has to do anything about it.
const USUAL: &[&str] = &[
    "Priority",
    "Resources",
    "BeginTime",
    "JobArrayTaskLimit",
    "Cleaning",
    "NodesBusy",
    "Prolog",
    "WaitingForScheduling",
];

/// Something that goes on beside.
enum Errand {
    Asked(Result<Vec<Seen>, SlurmError>, Duration),
    Told(Result<(), SlurmError>),
    /// An element alone was to be cancelled.
    Killed(u32, Result<(), SlurmError>),
    /// Is no node left that is used?
    Covered(Result<bool, SlurmError>),
    Stepped(u32, Begun, Result<(ExitStatus, String), SlurmError>),
}

struct Following<'r, 'a> {
    coordinator: &'r mut Coordinator<'a>,
    commands: Arc<Commands>,
    array: Array,
    /// Those that are not done.
    elements: BTreeMap<u32, Element>,
    errands: FuturesUnordered<BoxFuture<'static, Errand>>,
    listed: Option<Instant>,
    /// When Slurm is asked again; `None` while it is being asked.
    ask: Option<Instant>,
    was_asked: bool,
    /// Has Slurm said that the number is that of an array of this name?
    was_met: bool,
    /// When it was asked last whether a node is left that is used.
    checked: Option<Instant>,
    /// Only what runs is waited for, whatever the limits are.
    soon: bool,
    /// Why the run ends once the array has.
    end: Option<DispatchError>,
    /// Since when it does not answer.
    unanswered: Option<Instant>,
    noted: Instant,
    /// The wish that was told, since when, and when it was told last.
    halted: Option<(&'static str, Instant, Instant)>,
    was_killed: bool,
    /// What was said for why elements wait.
    reasons: BTreeSet<String>,
    excluded: String,
    /// Elements that somebody else cancelled.
    cancelled: Vec<u32>,
}

/// See the module. `soon`: elements that wait are taken out of the queue.
pub(super) async fn follow(coordinator: &mut Coordinator<'_>, array: Array, soon: bool) -> Result<(), DispatchError> {
    let now = Instant::now();
    let waiting = array.orders.shares.iter().filter(|share| !array.done.contains(&share.number));
    let mut following = Following {
        commands: Arc::clone(&slurm(coordinator).commands),
        excluded: excluded(coordinator),
        elements: waiting.map(|share| (share.number, Element::of(share))).collect(),
        coordinator,
        array,
        errands: FuturesUnordered::new(),
        listed: None,
        ask: Some(now),
        was_asked: false,
        was_met: false,
        checked: None,
        soon,
        end: None,
        unanswered: None,
        noted: now,
        halted: None,
        was_killed: false,
        reasons: BTreeSet::new(),
        cancelled: Vec::new(),
    };
    following.go().await
}

impl Following<'_, '_> {
    async fn go(&mut self) -> Result<(), DispatchError> {
        while !self.elements.is_empty() {
            tokio::select! {
                Some(errand) = self.errands.next() => self.errand(errand)?,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.list()?;
            self.read_all()?;
            self.finish_all()?;
            self.wishes()?;
            self.ask();
            self.care()?;
            if self.halted.is_some_and(|(wish, since, _)| wish == "now" && since.elapsed() > END + KILLED) {
                self.coordinator.say("elements of Slurm's have not ended: `vptest run` goes on with them");
                break;
            }
        }
        self.rest()
    }

    /// Nothing more comes of it.
    fn rest(&mut self) -> Result<(), DispatchError> {
        let coordinator = &mut *self.coordinator;
        coordinator.rest()?;
        if self.elements.is_empty() {
            self.array.remove()?;
        }
        coordinator.write_state()?;
        if let Some(error) = self.end.take() {
            return Err(error);
        }
        if self.cancelled.is_empty() {
            return Ok(());
        }
        let word = if self.cancelled.len() == 1 { "element" } else { "elements" };
        let what = format!("{} {word} of {}", self.cancelled.len(), self.array.orders.shares.len());
        Err(SlurmError::Cancelled { job: self.array.job.unwrap_or_default(), what }.into())
    }

    fn errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        match errand {
            Errand::Asked(result, took) => self.asked(result, took),
            Errand::Told(Err(error)) => {
                self.coordinator.say(&error.to_string());
                Ok(())
            }
            Errand::Told(Ok(())) | Errand::Killed(_, Ok(())) => Ok(()),
            Errand::Killed(number, Err(error)) => {
                self.coordinator.say(&error.to_string());
                if let Some(element) = self.elements.get_mut(&number) {
                    element.kill_again = Some(Instant::now() + AGAIN);
                }
                Ok(())
            }
            Errand::Covered(Ok(is_covered)) => {
                let runs = |element: &Element| element.runs_since.is_some() && element.ended.is_none();
                if is_covered && self.halted.is_none() && !self.elements.values().any(runs) {
                    self.end = Some(DispatchError::NoHost(self.coordinator.fleet.why()));
                }
                Ok(())
            }
            Errand::Covered(Err(error)) => {
                self.coordinator.say(&error.to_string());
                Ok(())
            }
            Errand::Stepped(number, begun, result) => self.stepped(number, begun, result),
        }
    }

    fn ask(&mut self) {
        if self.ask.is_some_and(|at| at <= Instant::now()) {
            self.ask = None;
            let (commands, name, job) = (Arc::clone(&self.commands), self.array.name.clone(), self.array.job);
            let elements: BTreeSet<u32> = self.elements.keys().copied().collect();
            self.errands.push(Box::pin(async move {
                let (seen, took) = commands.queue_or_accounts(&name, job, &elements).await;
                Errand::Asked(seen, took)
            }));
        }
    }

    fn asked(&mut self, result: Result<Vec<Seen>, SlurmError>, took: Duration) -> anyhow::Result<()> {
        self.ask = Some(Instant::now() + ASK.max(took * ASK_TIMES));
        let seen = match result {
            Ok(seen) => seen,
            Err(error) => {
                let since = *self.unanswered.get_or_insert_with(|| {
                    self.coordinator.say(&format!("{error}; going on as soon as Slurm answers"));
                    Instant::now()
                });
                return if since.elapsed() < PATIENCE { Ok(()) } else { Err(error.into()) };
            }
        };
        if self.unanswered.take().is_some() {
            self.coordinator.say("Slurm answers again");
        }
        if let Some(first) = seen.first() {
            if self.array.job != Some(first.array) {
                self.array.submitted(first.array)?;
            }
            self.was_met = true;
        }
        let by = queue::by_element(&seen);
        let is_first = !std::mem::replace(&mut self.was_asked, true);
        for (number, element) in &mut self.elements {
            let seen = by.get(number).copied();
            element.see(seen);
            if is_first && element.state() == "CANCELLED" {
                // Nobody looked after it then, and it is submitted again because somebody wishes so now.
                element.killed = Some(FOUND.to_owned());
            }
        }
        if let Some((wish, ..)) = self.halted.filter(|_| is_first) {
            self.tell(wish);
        }
        self.check_nodes();
        self.tell_reasons();
        Ok(())
    }

    /// Says why elements wait, when it is not that it is not their turn yet.
    fn tell_reasons(&mut self) {
        let waits = self
            .elements
            .values()
            .filter_map(|element| element.seen.as_ref())
            .filter(|seen| seen.life() == Life::Waits);
        let reasons: BTreeSet<String> = waits.filter_map(|seen| seen.reason.clone()).collect();
        let job = self.array.job.unwrap_or_default();
        for reason in reasons {
            let is_usual = reason.split(", ").all(|one| USUAL.contains(&one));
            if is_usual || !self.reasons.insert(reason.clone()) {
                continue;
            }
            let hint = match reason.contains("JobHeld") || reason.contains("requeued held") {
                true => format!(" (`scontrol release {job}` lets them run)"),
                false => String::new(),
            };
            self.coordinator.say(&format!("job {job} of Slurm has elements that wait: {reason}{hint}"));
        }
    }

    /// Has somebody wished that it ends?
    fn wishes(&mut self) -> anyhow::Result<()> {
        let wish = match self.coordinator.options.cancel.requested() {
            Some(_) => Some("now"),
            None if self.halted.is_none() && (self.soon || self.end.is_some()) => Some("soon"),
            None if self.halted.is_none() => self.coordinator.limits.reached(0)?.map(|_| "soon"),
            None => None,
        };
        let now = Instant::now();
        if let Some(wish) = wish.filter(|wish| self.halted.is_none_or(|(before, ..)| before != *wish)) {
            self.halted = Some((wish, now, now));
            self.tell(wish);
        }
        if let Some((wish, since, told)) = self.halted {
            if told.elapsed() > AGAIN {
                // What had no node then may have one now.
                self.halted = Some((wish, since, now));
                self.tell(wish);
                if self.was_killed {
                    self.scancel(&[]);
                }
            }
            if wish == "now" && since.elapsed() > END && !std::mem::replace(&mut self.was_killed, true) {
                self.scancel(&[]);
            }
        }
        Ok(())
    }

    fn tell(&mut self, wish: &'static str) {
        // Each by itself: scancel tries for minutes where Slurm is just moving an element.
        self.scancel(&["--state=PENDING"]);
        if wish == "now" {
            // Their workers take the iteration down. scancel alone would leave them `KillWait` for that.
            self.scancel(&["--batch", "--signal=TERM", "--state=RUNNING"]);
        }
    }

    /// Calls scancel on the array, once its number is known to be its own: what an earlier coordinator has noted may be that of
    /// another job by now.
    fn scancel(&mut self, options: &'static [&'static str]) {
        let Some(job) = self.array.job.filter(|_| self.was_met) else { return };
        let (commands, name) = (Arc::clone(&self.commands), self.array.name.clone());
        self.errands
            .push(Box::pin(async move { Errand::Told(commands.cancel(options, &name, &job.to_string()).await) }));
    }

    /// Cancels an element alone.
    fn kill(&mut self, element: &mut Element, why: String) {
        element.killed.get_or_insert(why);
        let Some(job) = self.array.job.filter(|_| self.was_met) else {
            element.kill_again = Some(Instant::now() + AGAIN);
            return;
        };
        element.kill_again = None;
        let (commands, name, number) = (Arc::clone(&self.commands), self.array.name.clone(), element.number);
        self.errands.push(Box::pin(async move {
            Errand::Killed(number, commands.cancel(&[], &name, &format!("{job}_{number}")).await)
        }));
    }

    /// Where elements wait, and no node is left that is used, the array would wait forever.
    fn check_nodes(&mut self) {
        let life = |element: &Element| element.seen.as_ref().map(Seen::life);
        let is_stuck = self.elements.values().any(|element| life(element) == Some(Life::Waits))
            && !self.elements.values().any(|element| life(element) == Some(Life::Runs));
        let is_due = self.checked.is_none_or(|checked| checked.elapsed() > CHECK);
        if !is_stuck || !is_due || self.excluded.is_empty() || self.halted.is_some() {
            return;
        }
        self.checked = Some(Instant::now());
        let spec = self.coordinator.options.plan.spec.slurm.partition.clone();
        let partition = slurm(self.coordinator).partition.clone().or(spec);
        let (commands, nodes) = (Arc::clone(&self.commands), self.excluded.clone());
        self.errands
            .push(Box::pin(async move { Errand::Covered(commands.is_covered(partition.as_deref(), &nodes).await) }));
    }

    /// Elements that wait are kept from nodes that are not used any more.
    fn nodes_changed(&mut self) {
        let nodes = excluded(self.coordinator);
        if let Some(job) = self.array.job.filter(|_| nodes != self.excluded && self.was_met) {
            let (commands, list) = (Arc::clone(&self.commands), nodes.clone());
            self.errands.push(Box::pin(async move { Errand::Told(commands.exclude(job, &list).await) }));
        }
        self.excluded = nodes;
    }

    fn care(&mut self) -> anyhow::Result<()> {
        if self.noted.elapsed() >= NOTE {
            self.noted = Instant::now();
            self.coordinator.write_state()?;
        }
        self.each(|this, element| {
            if element.kill_again.is_some_and(|at| at <= Instant::now()) && element.ended.is_none() {
                this.kill(element, String::new());
            }
            this.watch(element);
            this.send_step(element)
        })
    }

    /// Does something with each element.
    fn each(&mut self, mut work: impl FnMut(&mut Self, &mut Element) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut elements = std::mem::take(&mut self.elements);
        let result = elements.values_mut().try_for_each(|element| work(self, element));
        self.elements = elements;
        result
    }

    /// An element whose worker gives no sign of life is cancelled.
    fn watch(&mut self, element: &mut Element) {
        // Workers of the times before may have been lost without a word, and the last one may not have begun yet.
        let was_long_ago = |since: Instant| since.elapsed() > SILENCE;
        let is_silent = element.streams.values().any(Stream::is_open)
            && element.streams.values().all(|stream| was_long_ago(stream.heard))
            && element.runs_since.is_some_and(was_long_ago);
        if is_silent && element.state() == "RUNNING" && element.killed.is_none() {
            let seconds = SILENCE.as_secs();
            self.coordinator.say(&format!("{}: no sign of life for {seconds} s: it is cancelled", element.name()));
            self.kill(element, format!("no sign of life for {seconds} s"));
        }
    }

    /// Elements of which nothing more can come.
    fn finish_all(&mut self) -> anyhow::Result<()> {
        let is_over = |element: &&Element| {
            let never_ran = element.streams.is_empty() && element.node().is_none();
            let has_refused = element.seen.as_ref().and_then(|seen| seen.exit).and_then(script::meaning).is_some();
            let is_heard_out = element.was_heard_out() || never_ran || has_refused;
            let is_quiet = element.step.running.is_none();
            is_quiet && element.ended.is_some_and(|ended| is_heard_out || ended.elapsed() > GRACE)
        };
        let over: Vec<u32> = self.elements.values().filter(is_over).map(|element| element.number).collect();
        for number in over {
            if let Some(element) = self.elements.remove(&number) {
                self.finish(&element)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, element: &Element) -> anyhow::Result<()> {
        self.coordinator.all_came(&element.iterations)?;
        if let Some(at) = element.node().and_then(|node| self.coordinator.fleet.find(node)) {
            self.coordinator.fleet.member(at).state.doing = None;
        }
        let is_ours = self.halted.is_some() || element.killed.is_some();
        if element.state() == "CANCELLED" && !is_ours {
            self.cancelled.push(element.number);
        } else if !element.was_heard_out() {
            self.lost(element);
        } else {
            self.interrupted(element);
        }
        // Noted first: what is half removed would be taken for an element of which nothing came.
        self.array.finish(element.number)?;
        // Files of workers that have said all are of no use any more, and may be large.
        for begun in element.streams.keys() {
            array::forget(&begun.said(&self.array.directory, element.number));
        }
        Ok(())
    }

    /// It ended without its worker's last word.
    fn lost(&mut self, element: &Element) {
        // It was told to end, or never began.
        if self.halted.is_some() {
            return;
        }
        let seen = element.seen.as_ref();
        let code = seen.and_then(|seen| seen.exit);
        let ending = element.killed.clone().or_else(|| code.and_then(script::meaning).map(str::to_owned));
        let ending = ending.or_else(|| seen.and_then(Seen::ending));
        let mut why = ending.unwrap_or_else(|| "nothing came of it".to_owned());
        if let Some(complaint) = self.complaint(element) {
            why = format!("{why}: {complaint}");
        }
        if element.killed.is_none() {
            self.bind(element, seen.and_then(Seen::bound));
        }
        let state = element.state();
        // What is no fault of its node's, or may have been long ago.
        let is_innocent = match element.killed.as_deref() {
            Some(why) => why == FOUND,
            None => {
                code == Some(script::ALONE)
                    || seen.is_some_and(|seen| seen.is_account)
                    || ["TIMEOUT", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE", "CANCELLED", "REVOKED"].contains(&state)
            }
        };
        slurm(self.coordinator).trouble = Some(format!("{}: {why}", element.name()));
        if code == Some(script::BLIND) {
            let node = element.node().unwrap_or("a node").to_owned();
            self.end.get_or_insert(SlurmError::Blind { node }.into());
        }
        let news = match element.node().filter(|_| !is_innocent).map(str::to_owned) {
            Some(node) => {
                let at = self.coordinator.fleet.node(&node);
                self.coordinator.fleet.struck(at, why)
            }
            None => Some(format!("{}: {why}", element.name())),
        };
        if let Some(text) = news {
            self.coordinator.say(&text);
        }
        self.nodes_changed();
    }

    /// Its worker left iterations because somebody other than the user wished it.
    fn interrupted(&mut self, element: &Element) {
        if element.state() == "OUT_OF_MEMORY" {
            // Its worker lives, and has stored what became of the iteration.
            let text = format!("{}: Slurm ended processes of it for want of memory (OUT_OF_MEMORY)", element.name());
            self.coordinator.say(&text);
        }
        let by = element.streams.values().last().and_then(|stream| stream.was_interrupted.clone());
        let Some(by) = by.filter(|_| self.halted.is_none() && element.killed.is_none()) else { return };
        let bound = element.seen.as_ref().and_then(|seen| seen.was_warned(array::warning));
        self.bind(element, bound);
        let why = bound.map_or_else(|| format!("ended by {by}"), |bound| bound.to_string());
        let text = format!("{}: {why}", element.name());
        self.coordinator.say(&text);
        slurm(self.coordinator).trouble = Some(text);
    }

    /// Where nothing of an element was brought to its end, the same kind of element would not do so either. One of several
    /// iterations that got on has less to do the next time.
    fn bind(&mut self, element: &Element, bound: Option<Bound>) {
        let Some(bound) = bound else { return };
        // An earlier coordinator may have stored what it brought.
        let options = self.coordinator.options;
        // Where that cannot be known, they are tried again.
        let Ok(complete) = crate::runner::complete(options.out) else { return };
        let is_complete =
            |number: IterationNumber| options.plan.get(number).is_some_and(|one| complete.contains(&one.identity));
        if element.iterations.iter().any(|&number| self.coordinator.was_tried(number) || is_complete(number)) {
            return;
        }
        let bounds = element.iterations.iter().map(|number| (*number, bound));
        slurm(self.coordinator).bound.extend(bounds);
    }

    /// Last line of what the element that was begun last had to complain about.
    fn complaint(&self, element: &Element) -> Option<String> {
        let begun = element.streams.keys().last()?;
        let text = std::fs::read(begun.said(&self.array.directory, element.number).join("stderr")).ok()?;
        let is_it = |line: &&[u8]| !line.is_empty() && !line.starts_with(b"hint: ") && !line.starts_with(b"srun: ");
        let last = text.rsplit(|&byte| byte == b'\n').find(is_it)?;
        Some(crate::text::printable_bytes(last, 300))
    }
}
