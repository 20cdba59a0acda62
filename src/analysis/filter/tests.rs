use super::*;

fn levels() -> Levels {
    [
        ("testbed", &["netns", "qemu"][..]),
        ("driver", &["e1000", "virtio-net-pci"]),
        ("rate", &["100 Mbit/s", "1 Gbit/s", "none"]),
        ("offload", &["on", "off"]),
        ("pairs", &["2", "10"]),
        ("request.url", &["/a?size=16MB", "/b"]),
        ("hops", &["direct", "A>B"]),
        ("congestion", &["cubic", "bbr"]),
        ("loss", &["0.5", "10"]),
    ]
    .into_iter()
    .map(|(name, values)| (name.to_owned(), values.iter().map(|&v| v.to_owned()).collect()))
    .collect()
}

/// Of which of these iterations does it hold?
fn holds(text: &str, iterations: &[&str]) -> Vec<bool> {
    let filter = Filter::parse(text, &levels()).unwrap_or_else(|error| panic!("{error}"));
    let factors = |line: &&str| -> BTreeMap<String, String> {
        line.split(';').map(|pair| pair.split_once('=').unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    };
    iterations.iter().map(|line| filter.holds(&factors(line))).collect()
}

#[test]
fn values_are_of_the_factors_type() {
    let rates = ["rate=100 Mbit/s", "rate=1 Gbit/s", "rate=none"];
    assert_eq!(holds("rate>100M", &rates), [false, true, true], "no limit is above all");
    assert_eq!(holds("rate <= 0.1 Gbit/s", &rates), [true, false, false]);
    assert_eq!(holds("rate = '1000 Mbit/s'", &rates), [false, true, false]);
    assert_eq!(holds("rate = 1000 Mbit/s or rate = none", &rates), [false, true, true]);
    assert_eq!(holds("rate != none", &rates), [true, true, false]);
    assert_eq!(holds("pairs<10", &["pairs=2", "pairs=10"]), [true, false], "not by letters");
    assert_eq!(holds("offload=true", &["offload=on", "offload=off"]), [true, false]);
    assert_eq!(holds("loss >= 5", &["loss=0.5", "loss=10"]), [false, true]);
    assert_eq!(holds("loss == 10.0", &["loss=0.5", "loss=10"]), [false, true]);
    assert_eq!(holds("url = '/a?size=16MB'", &["request.url=/a?size=16MB", "request.url=/b"]), [true, false]);
    assert_eq!(holds("hops = \"A>B\"", &["hops=direct", "hops=A>B"]), [false, true]);
}

#[test]
fn and_binds_more_than_or_and_not_most() {
    let all = ["testbed=netns;pairs=2", "testbed=netns;pairs=10", "testbed=qemu;pairs=2", "testbed=qemu;pairs=10"];
    assert_eq!(holds("testbed=netns or testbed=qemu and pairs=2", &all), [true, true, true, false]);
    assert_eq!(holds("(testbed=netns or testbed=qemu) and pairs=2", &all), [true, false, true, false]);
    assert_eq!(holds("not testbed=netns and pairs=2", &all), [false, false, true, false]);
    assert_eq!(holds("NOT (testbed=netns AND pairs=2)", &all), [false, true, true, true]);
    assert_eq!(holds("not not pairs=2", &all), [true, false, true, false]);
}

#[test]
fn what_lacks_the_factor_satisfies_no_comparison() {
    let all = ["testbed=netns", "testbed=qemu;driver=e1000"];
    assert_eq!(holds("driver=e1000", &all), [false, true]);
    assert_eq!(holds("driver!=virtio-net-pci", &all), [false, true]);
    assert_eq!(holds("not driver=e1000", &all), [true, false]);
}

#[test]
fn errors_point_at_the_place() {
    let error = |text: &str| Filter::parse(text, &levels()).unwrap_err();
    let at = |text: &str| text[error(text).at].to_owned();
    assert_eq!(
        error("pairs=2 and drvier=e1000").to_string(),
        "no iteration has a factor `drvier`\n  pairs=2 and drvier=e1000\n              ^^^^^^"
    );
    assert_eq!(at("driver=e100"), "e100");
    assert_eq!(error("driver=e100").known.unwrap().1, ["e1000", "virtio-net-pci"]);
    assert_eq!(at("pairs=many"), "many");
    assert!(error("rate > 10").problem.starts_with("`10` is no value of rate: "), "{}", error("rate > 10"));
    assert_eq!(at("testbed < qemu"), "<");
    assert_eq!(at("congestion > 5"), ">");
    assert_eq!(at("loss > much"), ">");
    assert_eq!(at("(pairs=2"), "(");
    assert_eq!(at("pairs=2)"), ")");
    assert_eq!(at("testbed=qemu pairs=10"), "pairs");
    assert_eq!(at("pairs=2 pairs=10"), "2 pairs", "a number takes its unit");
    assert_eq!(at("pairs=2 and or pairs=10"), "or");
    assert_eq!(at("pairs ! 2"), "!");
    assert_eq!(at("pairs = 'a"), "'");
    for unfinished in ["", "  ", "pairs", "pairs=", "pairs=2 and", "not", "pairs=2 or not "] {
        let error = error(unfinished);
        assert_eq!(error.at, unfinished.trim_end().len()..unfinished.trim_end().len(), "{unfinished}");
        assert!(error.to_string().ends_with('^'), "{error}");
    }
    assert!(Filter::parse(&"(".repeat(100_000), &levels()).is_err());
    assert!(Filter::parse(&"not ".repeat(100_000), &levels()).is_err());
    assert!(Filter::parse("ü=’ 'ö", &levels()).is_err());
}
