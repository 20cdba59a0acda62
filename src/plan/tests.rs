//! Plans as a whole: identities, growth, exclusions, files.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn plan(text: &str) -> Plan {
    let spec = Spec::parse(text).unwrap_or_else(|found| panic!("refused:\n{}", found.render("t.toml", false)));
    Plan::expand(spec, text).unwrap()
}

fn json(plan: &Plan) -> String {
    let mut bytes = Vec::new();
    plan.to_json(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn identities(plan: &Plan) -> BTreeSet<ShortHash> {
    plan.iter().map(|iteration| iteration.identity).collect()
}

const SMALL: &str = r#"
name = "small"
repetitions = 3
seed = 42

[factors]
testbed = ["netns", "qemu"]
driver  = ["e1000", "virtio-net-pci"]
rate    = ["1 Gbit/s", "none"]
hops    = [[], ["A", "B"]]
request = [ { url = "/" }, { url = "/%22?x={y}", count = 5 } ]

[[exclude]]
testbed = "qemu"
rate    = "none"

[workload]
preset = "ab"
arguments = ["-X"]
"#;

fn small() -> Plan {
    plan(SMALL)
}

/// Every byte of the file is part of what "the same plan" means: a difference here breaks campaigns that were begun.
#[test]
fn the_plan_file_is_pinned() {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("plan", json(&small()));
    });
}

/// Vectors that another implementation of docs/plan.md must reproduce; never adapt them to the code.
#[test]
fn canonical_texts_are_pinned() {
    let spec = small().spec;
    assert_eq!(
        canonical::meaning(&spec, "netns"),
        r#"{"capture":{"filter":null,"keep":false,"ring":null,"snaplen":128,"vantage":["guest"]},"testbed":{},"workload":{"arguments":["-X"],"keepalive":false,"preset":"ab","server":"builtin"}}"#
    );
    assert_eq!(canonical::meaning(&spec, "netns"), canonical::meaning(&spec, "qemu"));
    assert_eq!(canonical::prefix("{}"), "vptest tuple 1\n44136fa355b3\n");
    let tuple = ShortHash::of(b"vptest tuple 1\n44136fa355b3\n{\"pairs\":2,\"rate\":\"1 Gbit/s\"}");
    let members = ["\"pairs\":2", "\"rate\":\"1 Gbit/s\""];
    assert_eq!(canonical::TupleHasher::new().id("vptest tuple 1\n44136fa355b3\n", members.into_iter()), tuple);
    assert_eq!(tuple.to_string(), "ddc96ceccd4d");
    assert_eq!(identity(tuple, 1), ShortHash::of(format!("{tuple}#1").as_bytes()));
    assert_eq!(identity(tuple, 4_294_967_295), ShortHash::of(format!("{tuple}#4294967295").as_bytes()));
}

#[test]
fn every_kind_of_workload_has_its_meaning() {
    let meaning = |workload: &str| canonical::meaning(&plan(&format!("name = \"t\"\n{workload}")).spec, "fake");
    let of_workload = |text: String| text.split_once("\"workload\":").unwrap().1.trim_end_matches('}').to_owned();
    assert_eq!(
        of_workload(meaning("[workload]\npreset = \"iperf3\"\nbitrate = \"100M\"\nprotocol = \"udp\"")),
        r#"{"arguments":[],"bitrate":"100 Mbit/s","duration":"10 s","preset":"iperf3","protocol":"udp","reverse":false,"streams":1"#
    );
    assert_eq!(
        of_workload(meaning("[workload]\npreset = \"protonuke\"\nservices = [\"smtp\", \"http\"]\nmean = \"20 ms\"")),
        r#"{"arguments":[],"deviation":"0 s","duration":"10 s","image_size":null,"max":"1 min","mean":"20 ms","min":"0 s","preset":"protonuke","server_arguments":[],"services":["http","smtp"],"times":true"#
    );
    assert_eq!(
        of_workload(meaning(
            "[workload]\npreset = \"command\"\nclient = [\"a\", \"\\u0001\\\"\"]\nserver = [\"b\"]\nready = { file = \"/x\" }\n\
             [[workload.metric]]\nname = \"m\"\nunit = \"s\"\nbetter = \"lower\"\nregex = \"(.)\""
        )),
        r#"{"client":["a","\u0001\""],"metric":[{"better":"lower","from":"client","level":"application","name":"m","regex":"(.)","required":true,"unit":"s"}],"preset":"command","ready":{"file":"/x"},"ready_timeout":"30 s","server":["b"],"time_limit":null"#
    );
}

#[test]
fn factors_without_meaning_are_dropped_and_duplicates_collapse() {
    let plan = small();
    // netns: 2 rates × 2 hops × 2 requests; qemu: the same × 2 drivers, less those without a rate.
    assert_eq!(plan.counts, Counts { combinations: Some(32), distinct: 8 + 16, excluded: 8 });
    assert_eq!(plan.tuples.len(), 16);
    assert_eq!(plan.iterations.len(), 48);
    for planned in &plan.tuples {
        assert_eq!(planned.tuple.get("driver").is_some(), planned.tuple.testbed() == "qemu");
        assert!(planned.tuple.testbed() == "netns" || planned.tuple.rate().is_some());
    }
}

#[test]
fn tuples_stand_in_the_order_of_the_file() {
    let text = |testbed: &str| {
        let spec = format!("name = \"t\"\norder = \"sequential\"\nworkload = \"ab\"\n[factors]\n{testbed}");
        let plan = plan(&spec);
        plan.tuples
            .iter()
            .map(|p| p.tuple.iter().map(|(_, value)| value.to_string()).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        text("testbed = [\"netns\", \"qemu\"]\ndriver = [\"x\", \"y\"]\npairs = [2, 1]"),
        ["2 netns", "1 netns", "x 2 qemu", "x 1 qemu", "y 2 qemu", "y 1 qemu"]
    );
    assert_eq!(
        text("driver = [\"x\", \"y\"]\npairs = [2, 1]\ntestbed = [\"netns\", \"qemu\"]"),
        ["2 netns", "x 2 qemu", "1 netns", "x 1 qemu", "y 2 qemu", "y 1 qemu"]
    );
}

#[test]
fn a_grown_or_reordered_spec_keeps_identities() {
    let base = "name = \"a\"\nrepetitions = 2\nworkload = \"ab\"\n[factors]\npairs = [1, 2]\nworkers = 1\n";
    let before = identities(&plan(base));
    for (from, to) in [
        ("repetitions = 2", "repetitions = 5"),
        ("pairs = [1, 2]", "pairs = [3, 2, 1]"),
        ("name = \"a\"", "name = \"b\"\nseed = 9\norder = \"shuffled\"\ntimeout = \"1 h\""),
        (
            "workers = 1\n",
            "workers = 1\n[verify]\nsteal = \"off\"\nlinktest = 4\n[analysis]\nbaseline = { pairs = 1 }\n",
        ),
        (
            "repetitions = 2\nworkload = \"ab\"",
            "workload = \"ab\"\n[stop]\nmetric = \"rps\"\nhalf_width = \"2 %\"\nmin = 5\nmax = 50",
        ),
        ("workers = 1\n", "workers = 1\n[capture]\nsnaplen = 128\nstatistics = true\nconnections = false\n"),
        ("workers = 1\n", "workers = 1\n[[testbed.fake.fault]]\nstage = \"launch\"\nkind = \"error\"\n"),
        ("pairs = [1, 2]\nworkers = 1", "workers = 1\npairs = [1, 2]"),
    ] {
        let after = identities(&plan(&base.replace(from, to)));
        assert!(before.is_subset(&after), "{to}");
    }
    let one = "name = \"a\"\nworkload = \"ab\"\n[factors]\ntestbed = \"netns\"\n";
    let two = one.replace("\"netns\"", "[\"physical\", \"netns\"]");
    assert!(identities(&plan(one)).is_subset(&identities(&plan(&two))), "another testbed");
}

#[test]
fn another_meaning_gives_other_identities() {
    let base = "name = \"a\"\nworkload = { preset = \"ab\" }\n[factors]\npairs = [1, 2]\n";
    let before = identities(&plan(base));
    for (from, to) in [
        ("\"ab\"", "\"iperf3\""),
        ("\"ab\"", "\"ab\", keepalive = true"),
        ("\"ab\"", "\"ab\", arguments = [\"-r\"]"),
        ("[factors]", "[capture]\nsnaplen = 97\n[factors]"),
        ("[factors]", "[capture]\nconnections = true\n[factors]"),
        ("[factors]", "[capture]\nstatistics = false\n[factors]"),
        ("pairs = [1, 2]", "pairs = [1, 2]\nworkers = 1"),
        ("pairs = [1, 2]", "pairs = [3, 4]"),
    ] {
        let after = identities(&plan(&base.replace(from, to)));
        assert!(before.is_disjoint(&after), "{to}");
    }
}

/// A switch keeps the identity it always had; lists are arrays of names, whatever their order in the file.
#[test]
fn instruments_have_canonical_values() {
    let sweep = |value: &str| {
        let text = format!(
            "name = \"a\"\nworkload = \"ab\"\n[instrument]\nsyscalls = true\n[factors]\ninstrument = {value}\n"
        );
        plan(&text)
    };
    let of = |value: &str| identities(&sweep(value));
    let values = sweep("[true, false, [\"syscalls\", \"capture\"]]").spec.factors[0].values.clone();
    let json: Vec<String> = values.iter().map(crate::spec::Value::canonical_json).collect();
    assert_eq!(json, ["true", "false", "[\"capture\",\"syscalls\"]"]);
    assert_eq!(of("[[\"capture\", \"syscalls\"]]"), of("[\"syscalls\", \"capture\"]"));
    assert_eq!(of("[]"), of("false"));
    assert!(of("true").is_disjoint(&of("[\"capture\", \"syscalls\"]")));
    let whole = sweep("[true, false, [\"syscalls\"], [\"capture\", \"syscalls\"]]");
    assert_eq!(Plan::from_json(self::json(&whole).as_bytes()).unwrap(), whole);
}

#[test]
fn numbers_begin_at_one() {
    let plan = small();
    assert_eq!(plan.get(IterationNumber(0)), None);
    assert_eq!(plan.get(IterationNumber(49)), None);
    assert_eq!(plan.get(IterationNumber(u32::MAX)), None);
    assert_eq!(plan.iter().next(), plan.get(IterationNumber(1)));
    assert_eq!(plan.iter().last(), plan.get(IterationNumber(48)));
    assert_eq!(size_of::<Slot>(), 12);
}

#[test]
fn too_much_is_refused_without_trying() {
    let mut spec = small().spec;
    spec.repetitions = 1_000_000;
    let error = Plan::expand(spec, "").unwrap_err().to_string();
    assert_eq!(
        error,
        "too many iterations: 2 testbed × 2 driver × 2 rate × 2 hops × 2 request × 1000000 repetitions = 24,000,000 \
         after dropping factors without meaning; at most 10,000,000 are possible"
    );
}

#[test]
fn a_file_gives_back_the_plan() {
    for order in ["blocked", "shuffled", "sequential"] {
        let text = format!("order = \"{order}\"\n{}", small().spec_text);
        let before = plan(&text);
        let after = Plan::from_json(json(&before).as_bytes()).unwrap();
        assert_eq!(after, before);
        assert_eq!(json(&after), json(&before));
    }
}

/// The plan of [`SMALL`] with a sentinel of that tuple every seven iterations.
fn watched(tuple: &str) -> Plan {
    plan(&SMALL.replace("[factors]", &format!("[sentinel]\nevery = 7\n{tuple}\n\n[factors]")))
}

#[test]
fn sentinels_are_put_between_and_change_nothing_else() {
    let (without, with) = (small(), watched("tuple = { testbed = \"qemu\", url = \"/\" }"));
    assert_eq!(with.sentinels(), 48_usize.div_ceil(7) + 1);
    let others = |plan: &Plan| {
        let all = plan.iter().filter(|it| !it.sentinel);
        all.map(|it| (it.identity, it.repetition, it.block)).collect::<Vec<_>>()
    };
    assert_eq!(others(&with), others(&without));
    let sentinels: Vec<Iteration<'_>> = with.iter().filter(|it| it.sentinel).collect();
    assert_eq!(sentinels.iter().map(|it| it.number.0).collect::<Vec<_>>(), [1, 9, 17, 25, 33, 41, 49, 56]);
    assert!(sentinels.iter().all(|it| it.tuple.testbed() == "qemu" && it.tuple.text("url") == Some("/")));
    assert!(sentinels.iter().zip(1..).all(|(it, n)| it.block.is_none() && it.repetition == n));
    assert_eq!(identities(&with).len(), 56, "each has an identity of its own");
    let watched: Vec<u32> = with.watched_by(IterationNumber(56)).into_iter().map(|number| number.0).collect();
    assert_eq!(watched, [50, 51, 52, 53, 54, 55]);
    assert!(with.watched_by(IterationNumber(1)).is_empty() && with.watched_by(IterationNumber(2)).is_empty());
    for order in ["blocked", "shuffled", "sequential"] {
        let before = plan(&format!("order = \"{order}\"\n{}", with.spec_text));
        let after = Plan::from_json(json(&before).as_bytes()).unwrap();
        assert_eq!(after, before);
        assert_eq!(json(&after), json(&before));
    }
}

#[test]
fn sentinels_are_of_the_baseline_unless_the_spec_says_otherwise() {
    let of = |plan: &Plan| plan.iter().find(|it| it.sentinel).unwrap().tuple.testbed().to_owned();
    assert_eq!(of(&watched("")), "netns");
    let text = watched("").spec_text.replace("[workload]", "[analysis]\nbaseline = { testbed = \"qemu\" }\n[workload]");
    assert_eq!(of(&plan(&text)), "qemu");
}

#[test]
fn sentinels_that_stand_elsewhere_are_refused() {
    let good = json(&watched(""));
    let check = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        let error = Plan::from_json(good.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("the plan is damaged: "), "{error}");
    };
    let list = "\"sentinel\":[1,9,17,25,33,41,49,56]";
    check(list, "\"sentinel\":[2,9,17,25,33,41,49,56]");
    check(list, "\"sentinel\":[1,9,17,25,33,41,49]");
    check(list, "\"sentinel\":[]");
    check(&format!(",\n{list}"), "");
    check("\"block\":[0,", "\"block\":[4294967295,");
    check("\"block\":[0,1", "\"block\":[0,4294967295");
    check("\"repetition\":[1,", "\"repetition\":[2,");
}

#[test]
fn a_plan_built_from_tuples_of_its_own_is_written_the_same() {
    let mut own = small();
    for planned in &mut own.tuples {
        let values = planned.tuple.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        planned.tuple = Tuple::new(values);
    }
    assert_eq!(json(&own), json(&small()));
    own.tuples[0].tuple = Tuple::new([("pairs".to_owned(), crate::spec::Value::Integer(7))].into());
    assert!(own.to_json(Vec::new()).is_ok(), "a factor the spec does not have is not written");
    own.tuples[0].tuple = Tuple::new([("rate".to_owned(), crate::spec::Value::Integer(7))].into());
    assert!(own.to_json(Vec::new()).is_err());
}

#[test]
fn what_is_no_whole_plan_is_refused() {
    let good = json(&small());
    let check = |bytes: &str, expected: &str| {
        let error = Plan::from_json(bytes.as_bytes()).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}\nexpected: {expected}");
    };
    check("", "not a plan of vptest: EOF");
    check("[]", "not a plan of vptest: ");
    check("{\"format\":\"other\",\"version\":1}", "not a plan of vptest: its format is `other`");
    check(
        &good.replace("\"version\":1", "\"version\":2"),
        "the plan has format version 2, this vptest reads version 1; write it anew with `vptest sweep`",
    );
    check("{\"format\":\"vptest-plan\",\"version\":3,\"new\":[]}", "the plan has format version 3");
    check(&good[..good.len() / 2], "the plan is damaged: EOF");
    check(&good.replace("\"seed\":42", "\"seed\":43"), "the plan is damaged: name, seed, order");
    check(&good.replace("seed = 42", "seed = 43"), "the plan is damaged: the spec does not have the hash");
    check(&good.replace("[\"e1000\",", "[\"e1001\","), "the plan is damaged: its factors differ");
    let row = good.lines().find(|line| line.starts_with("[\"")).unwrap();
    check(&good.replacen(row, &row.replace("0]", "1]").replace("0],", "1],"), 1), "this vptest gives tuple 0 the id");
    check(&good.replacen(row, "[\"000000000000\",0],", 1), "the plan is damaged: tuple 0 does not fit");
    check(&good.replacen(row, "[\"000000000000\",9,0,0,0,0],", 1), "the plan is damaged: tuple 0 does not fit");
    check(&good.replacen("\"repetition\":[1,", "\"repetition\":[2,", 1), "the plan is damaged: iteration");
    check(&good.replacen("\"block\":[1,", "\"block\":[2,", 1), "the plan is damaged: the order of iterations");
    check(&good.replacen("\"block\":[1,", "\"block\":[", 1), "the plan is damaged: its blocks");
}

proptest! {
    #[test]
    fn no_change_of_a_plan_file_makes_reading_panic(at in 0usize..4000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = json(&small()).into_bytes();
        let at = at.min(bytes.len() - 1);
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(plan) = Plan::from_json(&bytes) {
            prop_assert_eq!(plan.tuples.len(), 16);
        }
    }

    #[test]
    fn sweeps_of_any_shape_expand_to_their_count(
        pairs in 1usize..5, rates in 1usize..4, drivers in 1usize..4, repetitions in 1u32..4, seed: u64,
        testbeds in proptest::sample::subsequence(vec!["netns", "qemu", "physical", "minimega-kvm"], 1..5),
    ) {
        let list = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
        let text = format!(
            "name = \"t\"\nrepetitions = {repetitions}\nseed = {seed}\nworkload = \"ab\"\n[factors]\n\
             pairs = [{}]\ndriver = [{}]\ntestbed = [{}]\nrate = [{}]\n",
            list(pairs, &|i| (i + 1).to_string()),
            list(drivers, &|i| format!("\"d{i}\"")),
            list(testbeds.len(), &|i| format!("\"{}\"", testbeds[i])),
            list(rates, &|i| format!("\"{} Mbit/s\"", i + 1)),
        );
        let plan = plan(&text);
        let vms = testbeds.iter().filter(|t| ["qemu", "minimega-kvm"].contains(t)).count();
        let expected = pairs * rates * (testbeds.len() - vms + vms * drivers);
        prop_assert_eq!(plan.tuples.len(), expected);
        prop_assert_eq!(identities(&plan).len(), expected * repetitions as usize);
        prop_assert_eq!(Plan::from_json(json(&plan).as_bytes()).unwrap(), plan);
    }
}

/// Where minimega is, and how long it is waited for, is no part of what an iteration does.
#[test]
fn what_minimega_is_told_changes_what_iterations_mean_and_where_it_is_does_not() {
    let spec = "name = \"t\"\nworkload = \"ab\"\n[factors]\ntestbed = \"minimega-kvm\"\n[testbed.minimega]\n";
    let with = |line: &str| identities(&plan(&format!("{spec}{line}\n")));
    for same in ["socket = \"/run/m\"", "boot_timeout = \"90 s\"", "programs = [\"tc\"]", "capture = \"vptest\""] {
        assert_eq!(with(same), with(""), "{same}");
    }
    let others = [
        "capture = \"minimega\"",
        "kernel = \"cloud\"",
        "append = [\"a\"]",
        "cpu = \"max\"",
        "qemu = \"/q\"",
        "stress = \"guest\"",
        "kernel = \"/k\"\ninitrd = \"/i\"",
        "kernel = \"/k\"\ninitrd = \"/i\"\nreach = \"cc\"",
        "disk = \"/d\"",
        "disk = \"/{node}\"\nsnapshot = false",
    ];
    let by_cc = "disk = \"/d\"\nreach = \"cc\"\n";
    assert_eq!(with(&format!("{by_cc}files = \"/f\"")), with(by_cc), "where files arrive changes nothing");
    assert_eq!(with("filesystem = \"/f\""), with(""), "a virtual machine has none");
    for other in others {
        assert!(with(other).is_disjoint(&with("")), "{other}");
    }
    let contained = spec.replace("minimega-kvm", "minimega-container");
    let with = |line: &str| identities(&plan(&format!("{contained}{line}\n")));
    let own = "disk = \"/d\"";
    for same in ["kernel = \"cloud\"", "append = [\"a\"]", "cpu = \"max\"", "qemu = \"/q\"", "socket = \"/run/m\"", own]
    {
        assert_eq!(with(same), with(""), "{same}: a container has none");
    }
    for other in ["filesystem = \"/f\"", "capture = \"minimega\"", "stress = \"guest\""] {
        assert!(with(other).is_disjoint(&with("")), "{other}");
    }
    let elsewhere = |line: &str| identities(&plan(&format!("{SMALL}[testbed.minimega]\n{line}\n")));
    assert_eq!(elsewhere(others[0]), elsewhere(""), "it means nothing on other testbeds");
}

#[test]
fn a_probe_changes_what_iterations_mean_and_its_threshold_does_not() {
    let with = |more: &str| identities(&plan(&format!("{SMALL}{more}\n")));
    let probed = with("[instrument]\nprobe = true");
    assert!(probed.is_disjoint(&with("")));
    assert_eq!(with("[instrument]\nprobe = false"), with(""));
    assert_eq!(with("[instrument]\nprobe = { rate = \"100/s\", max_late = \"1 %\" }"), probed);
    for other in ["rate = \"50/s\"", "size = 100", "dscp = 1", "timeout = \"2 s\"", "series = \"1 s\""] {
        assert!(with(&format!("[instrument.probe]\n{other}")).is_disjoint(&probed), "{other}");
    }
}
