//! Plans of a million iterations: expansion, writing, loading, rows. `cargo bench --bench plan`.
//!
//! `max alloc` is the most memory held at one time; the goal is 2 s and 1 GiB for expanding and writing, 1 s for
//! loading.

use std::io::sink;
use std::path::Path;

use divan::{AllocProfiler, Bencher};
use vptest::plan::Plan;
use vptest::report::plan::{Estimate, write_commands, write_csv, write_json};
use vptest::spec::Spec;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Iterations of each plan.
const ITERATIONS: usize = 1_000_000;

/// Many tuples, and few with ten repetitions.
const TUPLES: [usize; 2] = [100_000, 1_000_000];

fn main() {
    divan::main();
}

/// Eleven factors, as in a large study; one of them has as many values as give that number of tuples.
fn spec_text(tuples: usize) -> String {
    let repetitions = ITERATIONS / tuples;
    // Five other factors have two values.
    let rounds: Vec<usize> = (0..tuples / 32).collect();
    format!(
        "name = \"large\"\nrepetitions = {repetitions}\n\n[factors]\ntestbed = \"netns\"\n\
         pairs = [1, 2]\noffload = [\"on\", \"off\"]\nrate = [\"1 Gbit/s\", \"none\"]\nworkers = [1, 10]\n\
         request = {{ url = \"/image.png?size=16MB\", count = 1000 }}\ninstrument = [true, false]\nmtu = 1500\n\
         hops = [\"A\", \"B\"]\nstress_cpu = 0\nround = {rounds:?}\n\n\
         [workload]\npreset = \"ab\"\narguments = [\"-H\", \"Round: {{round}}\"]\n"
    )
}

fn plan(tuples: usize) -> Plan {
    let text = spec_text(tuples);
    let spec = Spec::parse(&text).expect("the spec is right");
    let plan = Plan::expand(spec, text).expect("the spec can be expanded");
    assert_eq!(plan.iterations.len(), ITERATIONS);
    plan
}

fn json(plan: &Plan) -> Vec<u8> {
    let mut bytes = Vec::new();
    plan.to_json(&mut bytes).expect("memory takes everything");
    bytes
}

#[divan::bench(args = TUPLES, sample_count = 10)]
fn expand_and_write(tuples: usize) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let out = std::io::BufWriter::new(file.as_file());
    plan(tuples).to_json(out).expect("the disk takes it");
}

#[divan::bench(args = TUPLES, sample_count = 10)]
fn expand(tuples: usize) -> usize {
    plan(tuples).iterations.len()
}

#[divan::bench(args = TUPLES, sample_count = 10)]
fn load(bencher: Bencher, tuples: usize) {
    let bytes = json(&plan(tuples));
    bencher.bench_local(|| Plan::from_json(&bytes).expect("the plan is whole").iterations.len());
}

#[divan::bench(args = TUPLES, sample_count = 10)]
fn iterate(bencher: Bencher, tuples: usize) {
    let plan = plan(tuples);
    bencher.bench_local(|| plan.iter().filter(|iteration| iteration.repetition == 1).count());
}

#[divan::bench(args = TUPLES, sample_count = 10)]
fn rows(bencher: Bencher, tuples: usize) {
    let plan = plan(tuples);
    bencher.bench_local(|| {
        write_csv(&plan, sink()).expect("a sink takes everything");
        write_json(&plan, &Estimate::of(&plan), sink()).expect("a sink takes everything");
        write_commands(&plan, Path::new("out"), sink()).expect("a sink takes everything");
    });
}
