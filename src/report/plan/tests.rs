//! What the parts of a summary say.

use super::*;
use crate::spec::Spec;

const TEXT: &str = r#"
name = "small"
repetitions = 2
timeout = "90 s"
[factors]
testbed = ["netns", "qemu"]
driver  = ["e1000", "virtio-net-pci"]
offload = ["on", "off"]
rate    = ["100 Mbit/s", "none"]
hops    = [[], ["A", "B"]]
request = [ { url = "/", count = 10 }, { url = "/a,b?size=16MB", count = 100 } ]
[[exclude]]
testbed = "qemu"
rate    = "none"
[workload]
preset = "ab"
[capture]
keep = true
"#;

fn plan(text: &str) -> Plan {
    Plan::expand(Spec::parse(text).unwrap(), text).unwrap()
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

fn summary(plan: &Plan) -> String {
    let mut text = String::new();
    write_summary(&mut text, plan, &Estimate::of(plan)).unwrap();
    text
}

#[test]
fn the_summary_is_short_and_honest() {
    let own = "name = \"own\"\nrepetitions = 1\norder = \"sequential\"\n[factors]\nn = [1, 2]\n\
               [workload]\npreset = \"command\"\nclient = [\"x\", \"{n}\"]\n[capture]\nkeep = true\n";
    let long: Vec<u32> = (1..=500).collect();
    let long = format!("name = \"long\"\nworkload = \"iperf3\"\n[factors]\npairs = {long:?}\n");
    let none = "name = \"one\"\nworkload = \"ab\"\norder = \"shuffled\"\n";
    let all = [TEXT, own, &long, none].map(|text| summary(&plan(text))).join("\n");
    snapshot("summary", &all);
}

#[test]
fn captures_that_a_rule_drops_take_no_room() {
    let bytes = |rule: &str| Estimate::of(&plan(&format!("{TEXT}[storage]\ncaptures = {rule}\n"))).bytes.unwrap();
    let [all, first, problems] = ["\"all\"", "\"first 1\"", "[\"problems\"]"].map(bytes);
    assert_eq!(problems, 64 * 220_000, "iteration files alone");
    assert!(all > 2 * problems && (all - problems).abs_diff(2 * (first - problems)) <= 2, "{all} {first} {problems}");
    assert_eq!(Estimate::of(&plan(TEXT)).bytes, Some(all));
}

#[test]
fn what_a_rule_to_stop_by_may_save_is_said() {
    let stop = "[stop]\nmetric = [\"rps\", \"latency\"]\nhalf_width = \"2 %\"\nmax = 50\n";
    let plan = plan(&format!("{}{stop}", TEXT.replace("repetitions = 2\n", "")));
    let text = summary(&plan);
    let line = "stop     a tuple ends after 5 to 50 repetitions, when the means of rps, latency are known to ± 2 %\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("so 160 to 1,600 iterations: it may save up to 1,440, very roughly "), "{text}");
    let mut json = Vec::new();
    write_json(&plan, &Estimate::of(&plan), &mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        json["stop"],
        serde_json::json!({"metrics": ["rps", "latency"], "half_width_percent": 2, "min": 5, "max": 50, "least_iterations": 160})
    );
}

#[test]
fn rows_have_a_column_for_each_factor_and_member() {
    let mut csv = Vec::new();
    write_csv(&plan(TEXT), &mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    assert_eq!(csv.lines().count(), 1 + 64);
    snapshot("csv", &csv.lines().take(12).map(|line| format!("{line}\n")).collect::<String>());
}

#[test]
fn json_is_one_object_with_every_iteration() {
    let plan = plan(TEXT);
    let mut json = Vec::new();
    write_json(&plan, &Estimate::of(&plan), &mut json).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(value["iterations"].as_array().unwrap().len(), 64);
    assert_eq!(value["counts"]["iterations"], 64);
    for (written, iteration) in value["iterations"].as_array().unwrap().iter().zip(plan.iter()) {
        assert_eq!(written["identity"], iteration.identity.to_string());
        assert_eq!(written["factors"]["driver"].as_str(), iteration.tuple.text("driver"));
        assert_eq!(written["factors"]["request"]["count"].as_i64(), iteration.tuple.integer("count"));
    }
    let text = String::from_utf8(json).unwrap();
    snapshot("json", &text.lines().take(9).map(|line| format!("{line}\n")).collect::<String>());
}

#[test]
fn there_is_a_command_for_each_iteration() {
    let mut commands = Vec::new();
    write_commands(&plan(TEXT), std::path::Path::new("my out"), &mut commands).unwrap();
    let commands = String::from_utf8(commands).unwrap();
    assert_eq!(commands.lines().count(), 64);
    assert_eq!(commands.lines().next(), Some("vptest run --iter 1 -o 'my out'"));
    assert_eq!(commands.lines().last(), Some("vptest run --iter 64 -o 'my out'"));
}

#[test]
fn a_link_test_takes_its_time_once_for_each_tuple_and_pair() {
    let time = |testbed: &str, verify: &str| {
        let text = format!(
            "name = \"linked\"\nrepetitions = 5\nworkload = \"ab\"\n[factors]\ntestbed = \"{testbed}\"\npairs = [1, 3]\n{verify}"
        );
        Estimate::of(&plan(&text)).time.unwrap().as_secs_f64()
    };
    let test = "[verify]\nlinktest = \"bandwidth\"\n";
    assert!((time("netns", test) - time("netns", "") - 4.0 * 3.0).abs() < 1e-6);
    assert!((time("fake", test) - time("fake", "")).abs() < 1e-6);
}

#[test]
fn time_is_bounded_by_the_limit() {
    let slow = "name = \"slow\"\nrepetitions = 5\ntimeout = \"10 s\"\nworkload = \"ab\"\n\
                [factors]\nrate = \"1 kbit/s\"\n";
    let estimate = Estimate::of(&plan(slow));
    assert_eq!(estimate.time, Some(std::time::Duration::from_secs(50)));
    assert_eq!(estimate.longest, std::time::Duration::from_secs(50));
}
