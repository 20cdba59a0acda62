//! `[verify] linktest`: tests the links of a tuple before the first iteration of it, level by level, and remembers in the
//! iteration's file how far they were good.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::ids::{Better, IterationNumber, Level, ShortHash};
use crate::instrument::linktest::{Found, Loss, Rate, Reach};
use crate::node::{Command, Node, Process, Stream};
use crate::plan::{Iteration, Plan, identity};
use crate::record::{Environment, EventLevel, Metric};
use crate::spec::{LinkLevel, LinkTestSpec, Tuple};
use crate::store;
use crate::testbed::Pair;
use crate::units::format_duration;
use crate::verify::{self, Verdict, Way};

/// Environment row that says how far the links of the tuple have passed.
const PASSED: &str = "linktest.passed";
/// How long one test may take in all; a translated guest is slow.
const LIMIT: Duration = Duration::from_secs(60);
/// Trains for one direction of a link: on a busy host one may be held up.
const TRAINS: u32 = 3;
/// Between two looks at what the server has said.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// What is to be tested.
#[derive(Debug, Clone, Copy)]
pub struct LinkTest<'a> {
    /// How far, and the thresholds.
    pub spec: LinkTestSpec,
    /// What was asked for: hops, rate and MTU.
    pub tuple: &'a Tuple,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tested {
    /// The numbers; those of levels that were not reached are absent.
    pub metrics: Vec<Metric>,
    /// What they say.
    pub verdict: Verdict,
    /// The highest level that passed, with all below it, on every pair; `None` when not even the first did.
    pub passed: Option<LinkLevel>,
    /// The thresholds that it was held against, as the environment says them.
    pub thresholds: String,
}

impl LinkTest<'_> {
    /// Tests the links of all pairs, one after the other, and stops after the first level that does not pass.
    ///
    /// # Errors
    /// A node could not do what it was asked, or vptest there failed. A bad link is no error.
    pub async fn run(&self, pairs: &[Pair]) -> anyhow::Result<Tested> {
        let mut tested = Tested { thresholds: thresholds(&self.spec), ..Tested::default() };
        let mut ends = Vec::new();
        for pair in pairs {
            ends.push(Ends::open(pair).await?);
        }
        let mut reached = Vec::new();
        for level in LinkLevel::ALL.into_iter().filter(|&level| level <= self.spec.level) {
            let mut verdict = Verdict::new();
            for (index, end) in ends.iter_mut().enumerate() {
                verdict.add(self.test(level, index, end, &mut reached, &mut tested.metrics).await?);
            }
            let (good, stop) = (is_good(&verdict), !verdict.invalid.is_empty());
            tested.verdict.add(verdict);
            let before = LinkLevel::ALL.into_iter().take_while(|&below| below < level).last();
            if good && tested.passed == before {
                tested.passed = Some(level);
            }
            if stop {
                break;
            }
        }
        for end in ends {
            end.close().await?;
        }
        Ok(tested)
    }

    /// One level of one pair.
    async fn test(
        &self,
        level: LinkLevel,
        index: usize,
        ends: &mut Ends<'_>,
        reached: &mut Vec<Reach>,
        metrics: &mut Vec<Metric>,
    ) -> anyhow::Result<Verdict> {
        let pair = ends.pair.number;
        match level {
            LinkLevel::Connectivity => {
                let Found::Reach(reach) = ends.probe(&["--test", "reach"]).await? else { return other_test() };
                reached.push(reach);
                Ok(verify::link_connectivity(pair, &reach))
            }
            LinkLevel::Routing => {
                let reach = reached.get(index).context("hops are counted where the server answers")?;
                metrics.extend(hop_metrics(pair, reach));
                Ok(verify::link_routing(pair, reach, self.tuple.hops().len()))
            }
            LinkLevel::Loss => {
                let rate = self.rate().map(|bits| bits.to_string());
                let mut arguments = vec!["--test", "loss"];
                arguments.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
                let Found::Loss(loss) = ends.probe(&arguments).await? else { return other_test() };
                metrics.extend(loss_metrics(pair, &loss));
                Ok(verify::link_loss(pair, &loss, &self.spec))
            }
            LinkLevel::Bandwidth => {
                let mut verdict = Verdict::new();
                for way in Way::BOTH {
                    verdict.add(self.bandwidth(way, ends, metrics).await?);
                }
                Ok(verdict)
            }
        }
    }

    /// Bits per second that the link should carry; `None` without a limit.
    fn rate(&self) -> Option<u64> {
        self.tuple.rate().map(crate::units::Rate::bits_per_second)
    }

    /// The rate in one direction: the first of a few trains that passes, else the last.
    async fn bandwidth(&self, way: Way, ends: &mut Ends<'_>, metrics: &mut Vec<Metric>) -> anyhow::Result<Verdict> {
        let pair = ends.pair.number;
        let bits = self.rate();
        #[expect(clippy::cast_precision_loss, reason = "no link carries 2^53 bit/s")]
        let asked = bits.map(|bits| bits as f64);
        let (rate_text, mtu) = (bits.map(|bits| bits.to_string()), self.tuple.mtu().unwrap_or(1500).to_string());
        let mut arguments = vec!["--test", way.as_str(), "--mtu", &mtu];
        arguments.extend(rate_text.iter().flat_map(|rate| ["--rate", rate]));
        let mut last = (Rate::default(), Verdict::new());
        for _ in 0..TRAINS {
            let Found::Rate(rate) = ends.probe(&arguments).await? else { return other_test() };
            last = (rate, verify::link_bandwidth(pair, way, &rate, asked, &self.spec));
            if last.1.invalid.is_empty() && last.1.suspect.is_empty() {
                break;
            }
        }
        let (rate, verdict) = last;
        let value = match asked {
            Some(asked) => verify::measured(&rate, asked, self.spec.bandwidth),
            None => rate.received,
        };
        metrics.push(metric(pair, &format!("linktest_bandwidth_{}", way.as_str()), "bit/s", value, None));
        Ok(verdict)
    }
}

/// Was everything tested, and as it should be? What could not be measured has not passed, also where it does no harm.
fn is_good(verdict: &Verdict) -> bool {
    let known = verdict.events.iter().all(|note| note.level == EventLevel::Info);
    known && verdict.invalid.is_empty() && verdict.suspect.is_empty()
}

fn other_test<T>() -> anyhow::Result<T> {
    anyhow::bail!("the link test printed the result of another test")
}

fn metric(pair: u32, name: &str, unit: &str, value: Option<f64>, better: Option<Better>) -> Metric {
    let (name, unit) = (name.to_owned(), unit.to_owned());
    Metric { pair: Some(pair), node: None, level: Level::Network, name, unit, value, better }
}

fn hop_metrics(pair: u32, reach: &Reach) -> [Metric; 2] {
    [("linktest_hops_there", reach.hops_there), ("linktest_hops_back", reach.hops_back)]
        .map(|(name, hops)| metric(pair, name, "1", hops.map(f64::from), None))
}

fn loss_metrics(pair: u32, loss: &Loss) -> Vec<Metric> {
    let mut all = vec![metric(pair, "linktest_loss", "1", verify::loss_share(loss), Some(Better::Lower))];
    let times = [
        ("linktest_rtt_min", loss.rtt_min),
        ("linktest_rtt_median", loss.rtt_median),
        ("linktest_rtt_max", loss.rtt_max),
    ];
    all.extend(times.map(|(name, value)| metric(pair, name, "s", value, Some(Better::Lower))));
    all
}

/// The two ends of one pair: the server's runs, the client's is started for each test.
struct Ends<'a> {
    pair: &'a Pair,
    server: Box<dyn Process>,
    address: String,
    token: String,
    run: u32,
}

impl<'a> Ends<'a> {
    async fn open(pair: &'a Pair) -> anyhow::Result<Self> {
        let token = RandomState::new().hash_one(pair.number).to_string();
        let node = pair.server.as_ref();
        let listen = format!("{}:0", node.address());
        let mut server = node.spawn(&command(node, &token, &["serve", &listen])).await?;
        let address = listening(node, server.as_mut()).await?;
        Ok(Self { pair, server, address, token, run: 0 })
    }

    /// Makes one test.
    async fn probe(&mut self, arguments: &[&str]) -> anyhow::Result<Found> {
        self.run += 1;
        let node = self.pair.client.as_ref();
        let run = self.run.to_string();
        let mut all = vec!["probe", self.address.as_str(), "--run", &run];
        all.extend(arguments);
        let mut client = node.spawn(&command(node, &self.token, &all)).await?;
        let exit = match tokio::time::timeout(LIMIT, client.wait()).await {
            Ok(exit) => exit?,
            Err(_) => anyhow::bail!("{}: the link test did not end within {} s", node.id(), LIMIT.as_secs()),
        };
        anyhow::ensure!(exit.status.success(), "{}: the link test failed: {}", node.id(), complaint(client.as_ref()));
        let text = client.output(Stream::Out).bytes;
        serde_json::from_slice(&text).with_context(|| format!("{}: the link test printed no result", node.id()))
    }

    async fn close(mut self) -> anyhow::Result<()> {
        self.server.signal(libc::SIGKILL)?;
        self.server.wait().await?;
        Ok(())
    }
}

fn command(node: &dyn Node, token: &str, arguments: &[&str]) -> Command {
    let head = [node.vptest(), "linktest", "--token", token];
    Command { argv: head.iter().chain(arguments).map(|&text| text.to_owned()).collect(), ..Command::default() }
}

/// Where the server says that it listens.
async fn listening(node: &dyn Node, server: &mut dyn Process) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    let mut pause = PAUSES.0;
    loop {
        let output = server.output(Stream::Out).bytes;
        let text = String::from_utf8_lossy(&output);
        if let Some((line, _)) = text.split_once('\n') {
            let address = line.strip_prefix("listening on ");
            return Ok(address.with_context(|| format!("{}: the link test says `{line}`", node.id()))?.to_owned());
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}: the link test does not start", node.id());
        tokio::select! {
            biased;
            exit = server.wait() => {
                let status = exit?.status;
                anyhow::bail!("{}: the link test ended at once ({status}): {}", node.id(), complaint(&*server));
            }
            () = tokio::time::sleep(pause) => pause = (pause * 5 / 4).min(PAUSES.1),
        }
    }
}

/// The last line that it wrote to its standard error.
fn complaint(process: &dyn Process) -> String {
    let output = process.output(Stream::Err).bytes;
    let text = String::from_utf8_lossy(&output);
    text.lines().last().unwrap_or("it says nothing").to_owned()
}

/// The iteration of this tuple whose file says that its links have passed `level` on this host, against the thresholds that
/// are asked for now; `None` when there is none.
///
/// A file that cannot be read says nothing.
pub(super) fn passed_before(
    plan: &Plan,
    out: &Path,
    iteration: &Iteration<'_>,
    level: LinkLevel,
    host: &str,
) -> anyhow::Result<Option<IterationNumber>> {
    let Some(asked) = plan.spec.verify.linktest.as_ref().map(thresholds) else { return Ok(None) };
    let attempts = store::scan(out)?;
    let repetitions = (1..=plan.spec.repetitions).map(|repetition| identity(iteration.tuple_id, repetition));
    for name in repetitions.flat_map(|identity: ShortHash| attempts.of(identity)) {
        let Ok(facts) = store::environment(out, *name) else { continue };
        let passed = facts
            .iter()
            .find(|fact| fact.name == PASSED && fact.host == host)
            .and_then(|fact| passed_against(&fact.value, &asked));
        if passed >= Some(level) {
            return Ok(Some(name.number));
        }
    }
    Ok(None)
}

/// What later iterations of the tuple go by; nothing when not even the first level passed.
pub(super) fn fact(host: &str, tested: &Tested) -> Option<Environment> {
    let (name, value) = (PASSED.to_owned(), format!("{} {}", tested.passed?.as_str(), tested.thresholds));
    Some(Environment { host: host.to_owned(), name, value })
}

/// The level that the row names, if it was held against these thresholds.
fn passed_against(value: &str, asked: &str) -> Option<LinkLevel> {
    let (level, thresholds) = value.split_once(' ')?;
    LinkLevel::from_name(level).filter(|_| thresholds == asked)
}

/// The thresholds as the environment says them.
fn thresholds(spec: &LinkTestSpec) -> String {
    let text = |threshold: Option<String>| threshold.unwrap_or_else(|| "off".to_owned());
    let (loss, delay) = (text(spec.loss.map(|limit| limit.to_string())), text(spec.delay.map(format_duration)));
    format!("loss={loss} delay={delay} bandwidth={}", text(spec.bandwidth.map(|limit| limit.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_passed_against_its_thresholds_only() {
        let spec = LinkTestSpec::new(LinkLevel::Loss);
        let tested = Tested { passed: Some(LinkLevel::Loss), thresholds: thresholds(&spec), ..Tested::default() };
        let value = fact("host", &tested).unwrap().value;
        assert_eq!(value, "loss loss=1 % delay=off bandwidth=10 %");
        assert_eq!(passed_against(&value, &thresholds(&spec)), Some(LinkLevel::Loss));
        let tight = LinkTestSpec { delay: Some(Duration::from_millis(10)), ..spec };
        assert_eq!(thresholds(&tight), "loss=1 % delay=10 ms bandwidth=10 %");
        assert_eq!(passed_against(&value, &thresholds(&tight)), None);
        assert_eq!(passed_against("loss", &thresholds(&spec)), None, "a row without thresholds");
        assert!(fact("host", &Tested { passed: None, ..tested }).is_none());
    }

    #[test]
    fn what_is_not_known_has_not_passed() {
        let off = LinkTestSpec { bandwidth: None, ..LinkTestSpec::new(LinkLevel::Bandwidth) };
        let rate = |received| Rate { received, offered: Some(150e6), packets: 100, overflow: 0 };
        assert!(is_good(&verify::link_bandwidth(1, Way::There, &rate(Some(100e6)), Some(100e6), &off)));
        assert!(!is_good(&verify::link_bandwidth(1, Way::There, &rate(None), Some(100e6), &off)));
    }
}
