//! `vptest report`, opened in a browser.

use std::path::{Path, PathBuf};

use serde_json::json;
use vptest::ids::{Better, Level, NodeId, ShortHash, Vantage};
use vptest::record::{
    Capture, Environment, IterationRecord, Metric, Moment, Outcome, SENTINEL, SPEC, Setting, SizeBin, SyscallProcess,
    SyscallScope, SyscallSource, SyscallTrace, SyscallTransition,
};
use vptest::store::{merge, write_iteration};

use crate::browser::Browser;
use crate::campaign::Campaign;
use crate::need;
use crate::store::record;

const HOSTILE: &str = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"";

/// One iteration of two groups that differ in `rps` and not in `latency`.
fn iteration(n: u32, hostile: bool) -> IterationRecord {
    let text = |plain: &str| if hostile { format!("{plain}{HOSTILE}") } else { plain.to_owned() };
    let slow = n.is_multiple_of(2);
    let noise = f64::from(n * 7919 % 13) / 13.0;
    let metric = |name: &str, level, value| Metric {
        pair: Some(1),
        node: Some(NodeId::client(1)),
        level,
        name: text(name),
        unit: "1/s".to_owned(),
        value,
        better: Some(Better::Higher),
    };
    let mut r = record(n);
    r.header.tuple = ShortHash::of(&[u8::from(slow)]);
    r.header.host = text("lab1");
    r.factors = vec![("kind".to_owned(), text(if slow { "slow" } else { "fast" })), (text("note"), text("same"))];
    r.metrics = vec![
        metric("rps", Level::Application, Some(if slow { 50.0 } else { 100.0 } + noise)),
        metric("latency", Level::Application, Some(10.0 + noise)),
        metric("cpu", Level::Os, (n != 3).then_some(noise)),
        metric("packets", Level::Network, Some(1000.0 + noise)),
    ];
    r.settings = vec![Setting {
        node: Some(NodeId::client(1)),
        name: text("mtu"),
        requested: Some(text("1500")),
        observed: Some(text("1500")),
        ok: Some(true),
        when: Moment::Before,
    }];
    r.captures = vec![Capture {
        node: NodeId::client(1),
        vantage: Vantage::Guest,
        interface: text("veth0"),
        snaplen: 128,
        packets: 10,
        bytes: 1000,
        dropped_kernel: Some(0),
        dropped_interface: None,
        ring_bytes: 1,
        sizes: vec![SizeBin { from: 0, to: Some(64), packets: 5 }, SizeBin { from: 64, to: None, packets: 5 }],
        file: None,
        tcp: None,
    }];
    let step =
        |from: &str, to: &str, count| SyscallTransition { from: Some(from.to_owned()), to: to.to_owned(), count };
    r.syscalls = vec![SyscallTrace {
        place: None,
        scope: SyscallScope::Workload,
        source: SyscallSource::Bpf,
        processes: vec![SyscallProcess {
            node: Some(NodeId::client(1)),
            name: text("ab"),
            threads: 1,
            calls: 20,
            sequence: u64::from(n),
            by_call: Vec::new(),
            transitions: vec![
                step("read", "read", 3),
                step("read", "write", if slow { 20 } else { 10 }),
                step("write", "read", 10),
            ],
            sizes: Vec::new(),
        }],
        losses: Vec::new(),
        log: None,
    }];
    if n == 5 {
        r.outcome = Outcome::Suspect(vec![text("foreign load")]);
    }
    let spec = "name = \"two-kinds\"\nrepetitions = 1\n[factors]\ntestbed = \"fake\"\nkind = [\"slow\", \"fast\"]\n[workload]\n\
                preset = \"ab\"\n[analysis]\nmargin = \"5 %\"\n";
    let fact = |name: &str, value: String| Environment { host: text("lab1"), name: name.to_owned(), value };
    r.environment = vec![fact(SPEC, spec.to_owned()), fact("kernel", text(if n < 4 { "6.1" } else { "6.2" }))];
    r
}

fn database(dir: &Path, records: impl Iterator<Item = IterationRecord>) -> PathBuf {
    let files: Vec<PathBuf> = records.map(|record| write_iteration(dir, &record).unwrap()).collect();
    let merged = dir.join("merged.db");
    assert!(merge(&files, &merged, &mut |_| ()).unwrap().is_clean());
    merged
}

/// A page of `records`, with `arguments`.
fn page(campaign: &Campaign, records: impl Iterator<Item = IterationRecord>, arguments: &[&str]) -> PathBuf {
    database(campaign.path(), records);
    campaign.expect(0, &[&["report", "--db", "merged.db"], arguments].concat());
    campaign.path().join("report.html")
}

fn quiet(browser: &Browser, page: &Path) {
    assert_eq!(browser.complaints, Vec::<String>::new());
    let own = format!("file://{}", page.display());
    let others: Vec<_> = browser.requests.iter().filter(|&url| *url != own && url != "about:blank").collect();
    assert!(others.is_empty(), "the page asks for {others:?}");
}

#[test]
fn a_browser_draws_every_figure_and_asks_for_nothing() {
    if !need::program("chromium") {
        return;
    }
    let campaign = Campaign::new("");
    let page = page(&campaign, (1..=20).map(|n| iteration(n, false)), &["--baseline", "kind=fast"]);
    let mut browser = Browser::open(1200, 900);
    browser.show(&page);
    let figures =
        browser.evaluate("[...document.querySelectorAll('figure')].map((f) => [f.dataset.figure, f.dataset.drawn])");
    let drawn = |id: &str| json!([id, "yes"]);
    assert_eq!(figures, json!(["heat", "forest", "means", "ecdf", "run", "factor", "sizes", "chain"].map(drawn)));
    let empty = "[...document.querySelectorAll('figure svg')].filter((svg) => svg.childElementCount < 3).length";
    assert_eq!(browser.evaluate(empty), json!(0));
    let broken = "[...document.querySelectorAll('svg *')].filter((e) => [...e.attributes].some((a) => /NaN|Infinity|undefined/.test(a.value))).length";
    assert_eq!(browser.evaluate(broken), json!(0), "no coordinate is missing");
    // One contrast for each of four metrics.
    let rows = "document.querySelectorAll('#contrast-table tbody tr').length";
    assert_eq!(browser.evaluate(rows), json!(4));
    let filter = |text: &str| {
        format!(
            "(() => {{ const f = document.getElementById('f-text'); f.value = '{text}'; f.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
        )
    };
    browser.evaluate(&filter("rps slow"));
    assert_eq!(browser.evaluate(rows), json!(1));
    browser.evaluate(&filter("nothing like it"));
    assert_eq!(browser.evaluate(rows), json!(0));
    browser.evaluate(&filter(""));
    browser.evaluate("document.querySelector('.tile.t-d').click()");
    let names = "[...document.querySelectorAll('#contrast-table tbody tr')].map((r) => r.cells[0].textContent)";
    assert_eq!(browser.evaluate(names), json!(["rps@client"]), "the only one that differs by more than 5 %");
    browser.evaluate("document.querySelectorAll('input[name=verdict]').forEach((box) => { box.checked = true; }); document.getElementById('f-level').value = 'os'; document.getElementById('filters').dispatchEvent(new Event('input'))");
    assert_eq!(browser.evaluate(names), json!(["cpu@client"]));
    browser.evaluate(
        "document.getElementById('f-level').value = ''; document.querySelector('th[data-sort=mean] button').click()",
    );
    let sorted = browser.evaluate(names);
    assert_eq!(sorted[0], json!("cpu@client"), "ascending by mean: {sorted}");
    quiet(&browser, &page);
}

/// Names and content of the files that every figure offers.
fn saved(browser: &mut Browser) -> Vec<(String, String)> {
    // What a click would save, without the browser's limits on how much a page may save at once.
    let saved = browser.evaluate(
        "(async () => { const blobs = [], names = []; URL.createObjectURL = (blob) => { blobs.push(blob); return '#'; }; \
         HTMLAnchorElement.prototype.click = function () { names.push(this.download); }; \
         document.querySelectorAll('figure .tools').forEach((tools) => [...tools.children].forEach((button) => button.click())); \
         const texts = await Promise.all(blobs.map((blob) => blob.text())); return names.map((name, i) => [name, texts[i]]); })()",
    );
    serde_json::from_value(saved).unwrap()
}

/// The rows of the only CSV whose name has `part` in it, without its header, each with its columns.
fn rows_of(saved: &[(String, String)], part: &str) -> (String, Vec<Vec<String>>) {
    let found: Vec<_> = saved.iter().filter(|(name, _)| name.contains(part) && name.ends_with(".csv")).collect();
    let [(name, text)] = found[..] else { panic!("{part}: {found:?}") };
    let row = |line: &str| line.split(',').map(str::to_owned).collect();
    (name.clone(), text.lines().map(row).collect())
}

#[test]
fn data_of_figures_are_whole_or_say_what_is_left_out() {
    if !need::program("chromium") {
        return;
    }
    let campaign = Campaign::new("");
    // Of a group the page holds 400 values at most.
    let page = page(&campaign, (1..=812).map(|n| iteration(n, false)), &["--baseline", "kind=fast"]);
    let mut browser = Browser::open(1000, 800);
    browser.show(&page);
    let files = saved(&mut browser);
    let (name, rows) = rows_of(&files, "-ecdf-");
    assert!(name.contains("thinned"), "{name}");
    assert_eq!(rows[0], ["metric", "unit", "kind", "iteration", "rank", "n", "value"]);
    let slow: Vec<&Vec<String>> = rows.iter().filter(|row| row[2] == "slow").collect();
    assert_eq!(slow.len(), 400);
    let rank = |i: usize| slow[i][4].parse::<usize>().unwrap();
    assert_eq!((rank(0), rank(1), rank(399)), (1, 2, 406), "ranks among all values");
    assert_eq!(rank(200), 200 * 405 / 399 + 1);
    assert!(slow.iter().all(|row| row[5] == "406"));
    let note = browser.evaluate("document.querySelector('#fig-ecdf .thinned').textContent");
    // One iteration is suspect.
    assert!(note.as_str().unwrap().contains(" of the 811 values"), "{note}");
    let (name, _) = rows_of(&files, "-forest-");
    assert!(!name.contains("thinned"), "{name}");
    quiet(&browser, &page);
}

#[test]
fn every_value_is_saved_with_all_its_digits_and_no_text_is_a_formula() {
    if !need::program("chromium") {
        return;
    }
    let campaign = Campaign::new("");
    let odd = |n: u32| {
        let mut record = iteration(n, false);
        record.factors[0].1 = if n.is_multiple_of(2) { "=2+3" } else { "-7" }.to_owned();
        record
    };
    let page = page(&campaign, (1..=12).map(odd), &["--baseline", "kind=-7"]);
    let mut browser = Browser::open(1000, 800);
    browser.show(&page);
    let files = saved(&mut browser);
    let (name, rows) = rows_of(&files, "-run-");
    assert!(!name.contains("thinned"), "{name}");
    let title = [
        "metric",
        "unit",
        "kind",
        "run",
        "iteration",
        "block",
        "seconds_after_first",
        "n",
        "value",
        "level_changes_here",
    ];
    assert_eq!(rows[0], title);
    assert_eq!(rows.len(), 12, "eleven of twelve iterations count");
    for row in &rows[1..] {
        let n: u32 = row[4].parse().unwrap();
        assert_eq!(row[2], if n.is_multiple_of(2) { "'=2+3" } else { "-7" }, "a number is none, a formula is one");
        let value = iteration(n, false).metrics[0].value.unwrap();
        assert_eq!(row[8].parse::<f64>().unwrap(), value, "iteration {n}");
    }
    quiet(&browser, &page);
}

#[test]
fn figures_are_saved_as_svg_and_csv() {
    if !need::program("chromium") {
        return;
    }
    let campaign = Campaign::new("");
    let page = page(&campaign, (1..=12).map(|n| iteration(n, false)), &["--baseline", "kind=fast"]);
    let mut browser = Browser::open(800, 600);
    browser.show(&page);
    let saved = saved(&mut browser);
    assert_eq!(saved.len(), 16, "an SVG and a CSV of each of eight figures");
    for (name, text) in saved {
        if name.ends_with(".svg") {
            assert!(text.starts_with("<svg") && text.contains("xmlns=") && text.ends_with("</svg>"), "{name}");
        } else {
            // Commas between quotes separate nothing.
            let fields = |line: &str| line.split('"').step_by(2).map(|part| part.matches(',').count()).sum::<usize>();
            let widths: Vec<usize> = text.lines().map(fields).collect();
            assert!(widths.len() > 1 && widths.windows(2).all(|w| w[0] == w[1]), "{name}: {text}");
        }
    }
    quiet(&browser, &page);
}

#[test]
fn sentinels_show_how_hosts_drift_and_differ() {
    if !need::program("chromium") {
        return;
    }
    let campaign = Campaign::new("");
    // Every third of two hosts' iterations is a sentinel. The second host is slower, and gets slower still.
    let of_host = |n: u32| {
        let mut record = iteration(n, false);
        let second = n > 60;
        record.header.host = if second { "lab2" } else { "lab1" }.to_owned();
        if n.is_multiple_of(3) {
            record.header.tuple = ShortHash::of(b"sentinel");
            let host = record.header.host.clone();
            record.environment.push(Environment { host, name: SENTINEL.to_owned(), value: (n / 3).to_string() });
            let level = if !second {
                100.0
            } else if n <= 90 {
                90.0
            } else {
                60.0
            };
            record.metrics[0].value = Some(level + f64::from(n * 31 % 7));
        }
        record
    };
    let page = page(&campaign, (1..=120).map(of_host), &["--baseline", "kind=fast"]);
    let mut browser = Browser::open(1000, 800);
    browser.show(&page);
    browser.evaluate("(() => { const pick = document.getElementById('pick-metric'); pick.value = [...pick.options].findIndex((o) => o.textContent.includes('rps')); pick.dispatchEvent(new Event('change')); })()");
    assert_eq!(browser.evaluate("document.querySelectorAll('#fig-sentinels svg circle').length"), json!(40));
    let text = browser.evaluate("document.getElementById('hosts').innerText");
    let text = text.as_str().unwrap();
    assert!(text.contains("application.rps@client is not the same on all hosts"), "{text}");
    assert!(text.contains("application.rps@client on lab2: the level changed before iteration 93"), "{text}");
    assert!(!text.contains("rps@client on lab1"), "{text}");
    let (_, rows) = rows_of(&saved(&mut browser), "sentinels-");
    assert_eq!(rows[0], ["metric", "unit", "line", "iteration", "seconds_after_first", "value_7_digits"]);
    let last = rows.last().unwrap();
    assert_eq!((&*last[2], &*last[3], last[5].parse()), ("lab2", "120", Ok(60.0 + f64::from(120 * 31 % 7))));
    assert!(rows.iter().all(|row| row.len() == 6) && rows.len() == 41);
    quiet(&browser, &page);
}

#[test]
fn text_from_outside_stays_text() {
    if !need::program("chromium") {
        return;
    }
    let campaign = Campaign::new("");
    let baseline = format!("kind=fast{HOSTILE}");
    let page = page(&campaign, (1..=8).map(|n| iteration(n, true)), &["--baseline", &baseline]);
    let mut browser = Browser::open(800, 600);
    browser.show(&page);
    let title = browser.evaluate("document.title");
    assert_eq!(title, json!("two-kinds – vptest report"));
    assert_eq!(browser.evaluate("document.querySelectorAll('img, iframe, object, embed').length"), json!(0));
    assert_eq!(browser.evaluate("document.scripts.length"), json!(2), "the data, and the page's own");
    let text = browser.evaluate("document.body.innerText");
    for what in ["rps", "mtu", "foreign load"] {
        assert!(text.as_str().unwrap().contains(&format!("{what}{HOSTILE}")), "{what} is not shown as it is");
    }
    let drawn =
        browser.evaluate("[...document.querySelectorAll('svg text')].some((t) => t.textContent.includes('<script>'))");
    assert_eq!(drawn, json!(true));
    quiet(&browser, &page);
}

#[test]
fn a_page_of_little_data_states_the_result() {
    let cases: [(u32, &[&str], &str); 4] = [
        (0, &[], "The database holds no iterations"),
        (1, &[], "Nothing was compared: there is one group."),
        (2, &["--baseline", "kind=fast"], "4 cannot be compared"),
        (8, &["--no-baseline"], "no baseline is named"),
    ];
    let chromium = need::program("chromium");
    for (n, arguments, says) in cases {
        let campaign = Campaign::new("");
        if n == 0 {
            let one = write_iteration(campaign.path(), &iteration(1, false)).unwrap();
            merge(&[one], &campaign.path().join("merged.db"), &mut |_| ()).unwrap();
            let db = rusqlite::Connection::open(campaign.path().join("merged.db")).unwrap();
            db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
            let tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
            let names: Vec<String> = { tables }.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            for name in names {
                db.execute(&format!("DELETE FROM {name}"), []).unwrap();
            }
            drop(db);
            campaign.expect(0, &[&["report"], arguments].concat());
        } else {
            page(&campaign, (1..=n).map(|n| iteration(n, false)), arguments);
        }
        let path = campaign.path().join("report.html");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(says), "{n} iterations: not `{says}`");
        if chromium {
            let mut browser = Browser::open(390, 800);
            browser.show(&path);
            quiet(&browser, &path);
        }
    }
}

#[test]
fn wrong_questions_are_named() {
    let campaign = Campaign::new("");
    database(campaign.path(), (1..=4).map(|n| iteration(n, false)));
    let said = campaign.expect(2, &["report", "--by", "kidn"]);
    assert!(said.err.contains("did you mean `kind`?"), "{}", said.err);
    let said = campaign.expect(2, &["report", "--baseline", "kind=blue"]);
    assert!(said.err.contains("no iteration that counts has kind = blue"), "{}", said.err);
    let said = campaign.expect(4, &["report", "--db", "none.db"]);
    assert!(said.err.contains("none.db"), "{}", said.err);
    let said = campaign.expect(3, &["report", "-o", "no/such/place.html"]);
    assert!(said.err.contains("no/such/place.html"), "{}", said.err);
    assert!(!campaign.path().join("report.html").exists());
}
