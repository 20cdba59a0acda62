//! Makes and merges iteration files, for `benches/merge.sh`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use vptest::ids::{Better, IterationNumber, Level, NodeId, ShortHash, Stage};
use vptest::record::{Environment, Event, EventLevel, Header, IterationRecord, Metric, Outcome, Setting, StageTiming};
use vptest::store;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["generate", dir, count, metrics] => generate(Path::new(dir), count.parse()?, metrics.parse()?),
        ["campaign", dir, count, metrics, groups] => {
            campaign(Path::new(dir), count.parse()?, metrics.parse()?, groups.parse()?)
        }
        ["dataset", file] => dataset(Path::new(file)),
        ["merge", output, dir] => merge(Path::new(output), Path::new(dir)),
        ["status", dir] => status(Path::new(dir)),
        ["values", file, metric] => values(Path::new(file), metric),
        _ => anyhow::bail!(
            "usage: store_bench generate DIR COUNT METRICS | campaign DIR COUNT METRICS GROUPS | dataset FILE | merge OUTPUT DIR | status DIR | values FILE METRIC"
        ),
    }
}

fn generate(dir: &Path, count: u32, metrics: u32) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for n in 1..=count {
        let record = record(n, metrics);
        let start = Instant::now();
        store::write_iteration(dir, &record)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("write: median {:?}, p95 {:?}", times[times.len() / 2], times[times.len() * 95 / 100]);
    Ok(())
}

fn merge(output: &Path, dir: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let attempts = store::scan(dir)?;
    let mut inputs: Vec<PathBuf> = attempts.iter().map(|name| dir.join(name.to_string())).collect();
    inputs.sort_unstable();
    let report = store::merge(&inputs, output, &mut |_| ())?;
    anyhow::ensure!(report.is_clean(), "{report:?}");
    println!("merge: {} added, {} known in {:?}", report.added, report.known, start.elapsed());
    Ok(())
}

fn status(dir: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let names = store::scan(dir)?.len();
    println!("scan: {names} names in {:?}", start.elapsed());
    let start = Instant::now();
    let heads = store::heads(dir)?;
    println!("heads: {} in {:?}", heads.len(), start.elapsed());
    Ok(())
}

fn values(file: &Path, metric: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let found = store::Database::open(file)?.values(metric, &[vptest::record::Status::Complete])?;
    println!("values: {} in {:?}", found.values.len(), start.elapsed());
    Ok(())
}

fn dataset(file: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let all = store::Database::open(file)?.dataset(&[vptest::record::Status::Complete])?;
    println!("dataset: {} iterations, {} metrics in {:?}", all.iterations.len(), all.metrics.len(), start.elapsed());
    Ok(())
}

/// Files of a campaign with a real plan: two testbeds, `groups` / 2 rates, a spec with a baseline and a margin. Every
/// seventh metric differs between the testbeds, the others only by noise.
fn campaign(dir: &Path, count: u32, metrics: u32, groups: u32) -> anyhow::Result<()> {
    let spec = "name = \"synthetic\"\nrepetitions = 1\n[factors]\ntestbed = [\"netns\", \"qemu\"]\nrate = \"1M\"\n[workload]\npreset = \"ab\"\n\
                [analysis]\nbaseline = { testbed = \"netns\" }\nmargin = \"5 %\"\n";
    for n in 0..count {
        let mut record = record(n + 1, 0);
        let (group, repetition) = (n % groups, n / groups);
        let (qemu, rate) = (group % 2 == 1, group / 2 + 1);
        record.header.tuple = ShortHash::of(&group.to_be_bytes());
        record.header.testbed = if qemu { "qemu" } else { "netns" }.to_owned();
        record.factors =
            vec![("rate".to_owned(), format!("{rate}M")), ("testbed".to_owned(), record.header.testbed.clone())];
        record.environment.push(Environment {
            host: "lab1".to_owned(),
            name: vptest::record::SPEC.to_owned(),
            value: spec.to_owned(),
        });
        for i in 0..metrics {
            let noise = f64::from((n.wrapping_mul(2_654_435_761) ^ i.wrapping_mul(40_503)) % 10_007) / 10_007.0;
            let shift = if qemu && i % 7 == 0 { 0.8 } else { 1.0 };
            let level = [Level::Application, Level::Os, Level::Network][i as usize % 3];
            record.metrics.push(Metric {
                pair: Some(1),
                node: Some(NodeId::client(1)),
                level,
                name: if i == 0 { "rps".to_owned() } else { format!("metric_{i}") },
                unit: "1/s".to_owned(),
                value: Some((1000.0 + f64::from(i)) * f64::from(rate) * shift * (1.0 + 0.05 * noise)),
                better: Some(Better::Higher),
            });
        }
        record.header.repetition = repetition + 1;
        store::write_iteration(dir, &record)?;
    }
    Ok(())
}

/// 40 factors and settings, `metrics` metrics, and a few rows of everything else.
fn record(n: u32, metrics: u32) -> IterationRecord {
    let at_ns = 1_700_000_000_000_000_000 + i64::from(n) * 1_000_000_000;
    let metric = |i: u32| Metric {
        pair: Some(1),
        node: Some(NodeId::client(1)),
        level: Level::Application,
        name: format!("metric_{i}"),
        unit: "1/s".to_owned(),
        value: Some(1000.0 / f64::from(n + i)),
        better: Some(Better::Higher),
    };
    let setting = |i: usize| Setting {
        node: Some(NodeId::client(1)),
        name: format!("setting_{i}"),
        requested: Some("on".to_owned()),
        observed: Some("on".to_owned()),
        ok: Some(true),
        when: vptest::record::Moment::Before,
    };
    let event =
        |stage: &Stage| Event { at_ns, stage: *stage, level: EventLevel::Info, text: format!("{stage} begins") };
    IterationRecord {
        header: Header {
            identity: ShortHash::of(&n.to_be_bytes()),
            tuple: ShortHash::of(&(n / 10).to_be_bytes()),
            number: IterationNumber(n),
            repetition: n % 10 + 1,
            block: Some(n % 10 + 1),
            attempt: 1,
            testbed: "netns".to_owned(),
            host: "lab1".to_owned(),
            started_ns: at_ns,
            finished_ns: Some(at_ns + 1),
            spec_hash: ShortHash::of(b"spec"),
            vptest_version: "0.1.0".to_owned(),
        },
        outcome: Outcome::Complete,
        factors: (0..40).map(|i| (format!("factor_{i:02}"), format!("value {}", n % 7))).collect(),
        settings: (0..10).map(setting).collect(),
        metrics: (0..metrics).map(metric).collect(),
        quantiles: Vec::new(),
        captures: Vec::new(),
        paths: Vec::new(),
        syscalls: Vec::new(),
        probes: Vec::new(),
        counters: Vec::new(),
        events: Stage::ALL.iter().map(event).collect(),
        stages: Stage::ALL
            .iter()
            .map(|&stage| StageTiming { stage, started_ns: at_ns, duration_ns: Some(1_000_000) })
            .collect(),
        environment: (0..10)
            .map(|i| Environment { host: "lab1".to_owned(), name: format!("fact_{i}"), value: "6.1".to_owned() })
            .collect(),
    }
}
