use super::hosts::{Course, Hosts, Line};
use super::model::*;
use super::*;
use crate::analysis::anomalies::Kind;
use crate::report::anomalies::{At, Found, Row};

const HOSTILE: &str = "<script>alert('x')</script>\"'>&";

/// A page with hostile text wherever a text from outside can stand.
pub(crate) fn hostile() -> Model {
    let contrast = |verdict| Contrast {
        verdict,
        remark: Some(HOSTILE.to_owned()),
        difference: Some(1.0),
        difference_interval: None,
        percent: Some(5.0),
        percent_interval: None,
        g: None,
        g_interval: None,
        delta: None,
        p: Some(0.5),
        p_holm: None,
        p_bh: None,
        p_rank: None,
    };
    let cell = Cell {
        n: 1,
        mean: Some(1.0),
        sd: None,
        interval: None,
        points: vec![(1.0, 0)],
        changes: Vec::new(),
        levels: vec![1.0],
    };
    let text = || HOSTILE.to_owned();
    Model {
        title: text(),
        source: text(),
        counts: Counts {
            iterations: 3,
            counted: 2,
            by_status: vec![(text(), 1)],
            superseded: 1,
            time: Some((text(), text())),
            hosts: vec![text()],
            versions: vec![text()],
        },
        factors: vec![text()],
        constant: vec![(text(), text())],
        baseline: Some((text(), text())),
        groups: vec![Group { values: vec![Some(text())], n: 1 }, Group { values: vec![None], n: 1 }],
        pairs: vec![(0, 1)],
        no_pair: vec![(0, text())],
        metrics: Verdict::ALL
            .into_iter()
            .map(|verdict| Metric {
                name: text(),
                level: crate::ids::Level::Os,
                unit: text(),
                better: None,
                margin: Some(text()),
                cells: vec![cell.clone(), cell.clone()],
                contrasts: vec![contrast(verdict)],
            })
            .collect(),
        runs: [0, 1].map(|group| Run { number: 1, start: 0.0, block: Some(1), group }).into(),
        first_ns: 0,
        change_level: 0.05,
        family: 1,
        adjusted: 1,
        anomalies: Found {
            rows: vec![Row {
                kind: Kind::Humps { p: 0.01 },
                metric: 0,
                name: text(),
                group: 0,
                iteration: Some(At { number: 1, file: text(), host: text() }),
                series: None,
                text: text(),
            }],
            notes: vec![text()],
        },
        histograms: vec![Histogram {
            title: text(),
            unit: text(),
            from: vec![0.0],
            to: vec![None],
            shares: vec![Some(vec![1.0]), None],
        }],
        packetization: vec![Packetization {
            place: text(),
            direction: text(),
            group: 0,
            n: 1,
            payload: None,
            super_share: None,
            longest: None,
            stalls: 0,
        }],
        series: vec![SeriesFigure {
            title: text(),
            section: "time".to_owned(),
            x: text(),
            y: text(),
            joined: true,
            lines: vec![SeriesLine { group: 0, name: text(), main: true, x: vec![0.0, 1.0], y: vec![1.0, 2.0] }],
        }],
        chains: vec![Chain {
            process: text(),
            group: text(),
            bits: 0.5,
            by_chance: 0.1,
            p: 0.01,
            total: 1,
            differing: 1,
            transitions: vec![Transition { from: text(), to: text(), share: 0.5, baseline: 0.1, q: 0.01 }],
        }],
        excluded: vec![Excluded {
            number: 1,
            attempt: 2,
            host: text(),
            status: text(),
            factors: text(),
            reasons: vec![text()],
        }],
        settings: vec![Setting {
            name: text(),
            place: text(),
            testbed: text(),
            requested: Some(text()),
            observed: None,
            ok: Some(false),
            when: text(),
            count: 1,
        }],
        differing: vec![Fact { name: text(), place: text(), values: vec![(text(), 1)] }],
        same: vec![Fact { name: text(), place: text(), values: vec![(text(), 1)] }],
        methods: vec![text()],
        references: vec![text()],
        notes: vec![text()],
        hosts: Hosts {
            sentinels: 1,
            remarks: vec![text()],
            course: Course {
                lines: vec![Line { name: text(), number: vec![1], start: vec![0.0], ..Line::default() }],
                values: vec![vec![vec![Some(1.0)]]; Verdict::ALL.len()],
            },
        },
    }
}

#[test]
fn text_from_outside_is_never_markup() {
    let page = page(&hostile());
    assert!(page.contains("&lt;script&gt;alert('x')"), "hostile text is shown as text");
    let own = page.replace(SCRIPT, "");
    assert_eq!(own.matches("<script").count(), 2, "the data and the page's own script");
    assert!(!own.contains("alert('x')</script>"));
    // An attribute that a quote ended would leave the rest of the text bare.
    assert!(!own.contains("\"'>&"), "a quote got into an attribute");
}

#[test]
fn nothing_is_fetched_from_anywhere() {
    let page = page(&Model::default());
    assert!(page.contains("default-src 'none'"));
    for address in ["http://", "https://", "src=", "@import", "url(", "<link", "<iframe", "<img"] {
        let own = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(address), "{address}");
    }
    for call in [
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "innerHTML",
        "eval(",
        "sendBeacon",
        "insertAdjacentHTML",
        "document.write",
    ] {
        assert!(!SCRIPT.contains(call), "{call}");
    }
}

#[test]
fn a_page_without_data_says_so() {
    let empty = page(&Model::default());
    assert!(empty.contains("The database holds no iterations"));
    let mut model = Model { counts: Counts { iterations: 3, ..Counts::default() }, ..Model::default() };
    assert!(page(&model).contains("No iteration counts"));
    model.counts.counted = 3;
    assert!(page(&model).contains("No iteration that counts has a metric"));
    let cell = Cell {
        n: 3,
        mean: Some(1.0),
        sd: None,
        interval: None,
        points: vec![(1.0, 0)],
        changes: Vec::new(),
        levels: vec![1.0],
    };
    model.groups = vec![Group { values: Vec::new(), n: 3 }];
    model.metrics = hostile().metrics;
    model.metrics.truncate(1);
    (model.metrics[0].cells, model.metrics[0].contrasts) = (vec![cell], Vec::new());
    assert!(page(&model).contains("Nothing was compared: there is one group."));
}
