//! The counters of a network stack: a namespace of this kernel. Everything is opened inside it once, and stays bound to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::kernel::Depth;
use super::text;
use super::value::{Counter, Kind, Read, Unit};
use crate::host::ethtool;
use crate::host::link_statistics::{self, LINK_COUNTERS, QdiscStatistics};
use crate::host::namespace::Namespace;
use crate::host::netlink::Netlink;
use crate::host::sockets::{SocketDiagnosis, TcpSocket};

/// Longest file that is read.
const LIMIT: usize = 4 << 20;

/// An interface that belongs to a place and has a name of its own there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its name in the namespace.
    pub(super) interface: String,
    /// Number of the place.
    pub(super) place: usize,
    /// As whose its counters go: the workload's own interface, or the host's end of it.
    pub(super) side: Side,
}

/// Which end of a node's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The node's.
    Node,
    /// The host's.
    Host,
}

impl Side {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Node => "if",
            Self::Host => "host.if",
        }
    }

    const fn sources(self) -> [&'static str; 2] {
        match self {
            Self::Node => ["links", "qdisc"],
            Self::Host => ["host_links", "host_qdisc"],
        }
    }
}

/// Reads one stack.
#[derive(Debug)]
pub(super) struct StackReader {
    /// The place to which everything belongs that nobody claims.
    place: usize,
    /// Before the names of interfaces that nobody claims: `if.`, `switch.if.`.
    prefix: &'static str,
    claims: Vec<Claim>,
    /// Whose sockets are looked at; a stack that the workload shares with others has none of its own.
    sockets: Option<Sockets>,
    files: Vec<(&'static str, io::Result<File>)>,
    netlink: io::Result<Netlink>,
}

/// TCP connections, with what is known of each.
#[derive(Debug)]
struct Sockets {
    diagnosis: io::Result<SocketDiagnosis>,
    /// By cookie: segments sent again so far.
    known: HashMap<u64, u32>,
    seen: u64,
    retrans: u64,
}

/// What a stack is read for.
#[derive(Debug, Clone)]
pub(super) struct StackPlan {
    /// `None` for the namespace vptest is in.
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) place: usize,
    pub(super) prefix: &'static str,
    pub(super) claims: Vec<Claim>,
    pub(super) sockets: bool,
    /// Does the protocols' part count? Not for the switch, which has no sockets.
    pub(super) protocols: bool,
}

impl StackReader {
    /// Opens everything. What cannot be opened is told by every reading.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub(super) fn open(plan: StackPlan) -> io::Result<Self> {
        let StackPlan { namespace, place, prefix, claims, sockets, protocols } = plan;
        let open = move || {
            let file = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
            let names = ["snmp", "netstat", "snmp6"].into_iter().filter(|_| protocols);
            let sockets = sockets.then(|| Sockets {
                diagnosis: SocketDiagnosis::open(),
                known: HashMap::new(),
                seen: 0,
                retrans: 0,
            });
            let files = names.map(|name| (name, file(name))).collect();
            Ok(Self { place, prefix, claims, sockets, files, netlink: Netlink::open() })
        };
        match namespace {
            Some(namespace) => namespace.run(open),
            None => open(),
        }
    }

    /// Everything that it says, by place and source.
    pub(super) fn read(&mut self, depth: Depth) -> Vec<(usize, &'static str, Read)> {
        let mut all = Vec::new();
        for (name, file) in self.files.iter().filter(|(name, _)| depth.wants(name)) {
            let read = file.as_ref().map_err(ToString::to_string).and_then(whole);
            let parse = if *name == "snmp6" { text::mib6 } else { text::mib };
            all.push((self.place, *name, read.and_then(|text| parse(&text)).map_err(|why| format!("{name}: {why}"))));
        }
        if let Some(sockets) = self.sockets.as_mut().filter(|_| depth.wants("sockets")) {
            all.push((self.place, "sockets", sockets.read()));
        }
        let (claims, place, prefix) = (self.claims.as_slice(), self.place, self.prefix);
        match &mut self.netlink {
            Ok(netlink) => read_links(netlink, depth, claims, place, prefix, &mut all),
            Err(error) => tell(&error.to_string(), claims, place, &[0, 1], &mut all),
        }
        all
    }
}

/// A file of `/proc` from its beginning, as it is now.
fn whole(file: &File) -> Result<String, String> {
    let mut bytes = vec![0; 16 << 10];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) => return Err(error.to_string()),
        }
        if length > LIMIT {
            return Err(format!("it is longer than {LIMIT} bytes"));
        }
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())
}

fn read_links(
    netlink: &mut Netlink,
    depth: Depth,
    claims: &[Claim],
    place: usize,
    prefix: &'static str,
    all: &mut Vec<(usize, &'static str, Read)>,
) {
    let links = match link_statistics::links(netlink) {
        Ok(links) => links,
        Err(error) => {
            return tell(&chain(&error), claims, place, &[0, 1], all);
        }
    };
    // Where the counters of an interface go: place, what its names begin with, and the sources.
    let owner = |name: &str| match claims.iter().find(|claim| claim.interface == name) {
        Some(claim) => (claim.place, claim.side.prefix().to_owned(), claim.side.sources()),
        None => (place, format!("{prefix}{name}"), Side::Node.sources()),
    };
    for link in &links {
        let (place, prefix, [source, _]) = owner(&link.name);
        let counters = LINK_COUNTERS.iter().zip(&link.counters).map(|(name, value)| {
            let unit = if name.ends_with("_bytes") { Unit::Byte } else { Unit::Count };
            Counter::grows(format!("{prefix}.{name}"), *value).in_unit(unit)
        });
        all.push((place, source, Ok(counters.collect())));
    }
    match link_statistics::qdiscs(netlink) {
        Ok(qdiscs) => {
            let names: HashMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
            for qdisc in qdiscs {
                let Some(name) = names.get(&qdisc.index) else { continue };
                let (place, prefix, [_, source]) = owner(name);
                all.push((place, source, Ok(of_qdisc(&prefix, &qdisc))));
            }
        }
        Err(error) => tell(&chain(&error), claims, place, &[1], all),
    }
    if depth.wants("ethtool") {
        for link in &links {
            let (place, prefix, _) = owner(&link.name);
            all.push((place, "ethtool", of_driver(netlink, &link.name, &prefix)));
        }
    }
}

/// Some of the two sources of links failed: for all that belongs to anybody here.
fn tell(why: &str, claims: &[Claim], place: usize, sources: &[usize], all: &mut Vec<(usize, &'static str, Read)>) {
    let claimed = claims.iter().map(|claim| (claim.place, claim.side));
    let everywhere: BTreeSet<(usize, &'static str)> = claimed
        .chain([(place, Side::Node)])
        .flat_map(|(place, side)| sources.iter().map(move |&source| (place, side.sources()[source])))
        .collect();
    all.extend(everywhere.into_iter().map(|(place, source)| (place, source, Err(why.to_owned()))));
}

/// The discipline at the root has the interface's name alone, those below it their own: `if.qdisc.fq_codel.8001:0.drops`.
/// Those of the queues of a NIC often have no handle, and then the name of their queue:
/// `if.qdisc.fq_codel.parent.0:2.drops`.
fn of_qdisc(prefix: &str, q: &QdiscStatistics) -> Vec<Counter> {
    let number = |number: u32| format!("{:x}:{:x}", number >> 16, number & 0xffff);
    let below = match q.handle {
        _ if q.root => String::new(),
        0 => format!(".{}.parent.{}", q.kind, number(q.parent)),
        handle => format!(".{}.{}", q.kind, number(handle)),
    };
    let name = |name: &str| format!("{prefix}.qdisc{below}.{name}");
    vec![
        Counter::grows(name("bytes"), q.bytes).in_unit(Unit::Byte),
        Counter { kind: Kind::Grows32, ..Counter::grows(name("packets"), q.packets) },
        Counter::grows32(name("drops"), q.drops.into()),
        Counter::grows32(name("requeues"), q.requeues.into()),
        Counter::grows32(name("overlimits"), q.overlimits.into()),
        Counter::gauge(name("backlog"), q.backlog.into()).in_unit(Unit::Byte),
        Counter::gauge(name("queued"), q.queued.into()),
    ]
}

/// The driver's own; of a name that is there twice, the sum. A driver without any has an empty list.
fn of_driver(netlink: &Netlink, interface: &str, prefix: &str) -> Read {
    let listed = ethtool::statistics(netlink, interface).map_err(|error| format!("{interface}: {error}"))?;
    let mut sums: Vec<Counter> = Vec::new();
    for (name, value) in listed {
        let name = format!("{prefix}.ethtool.{}", name.trim());
        match sums.iter_mut().find(|counter| counter.name == name) {
            Some(counter) => counter.value = counter.value.wrapping_add(value),
            None => sums.push(Counter::grows(name, value)),
        }
    }
    Ok(sums)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A connection that moves in the kernel's table while that is listed is there twice: the later view of it.
fn each_once(listed: &[TcpSocket]) -> Vec<&TcpSocket> {
    let mut once: BTreeMap<u64, &TcpSocket> = BTreeMap::new();
    for socket in listed {
        let kept = once.entry(socket.cookie).or_insert(socket);
        if socket.total_retrans >= kept.total_retrans {
            *kept = socket;
        }
    }
    once.into_values().collect()
}

impl Sockets {
    fn read(&mut self) -> Read {
        let listed = match &mut self.diagnosis {
            Ok(diagnosis) => diagnosis.tcp().map_err(|error| format!("sock_diag: {error}"))?,
            Err(error) => return Err(format!("sock_diag: {error}")),
        };
        Ok(self.take(&listed))
    }

    fn take(&mut self, listed: &[TcpSocket]) -> Vec<Counter> {
        let listed = each_once(listed);
        let mut now = HashMap::with_capacity(listed.len());
        for socket in &listed {
            let before = self.known.get(&socket.cookie).copied();
            self.seen += u64::from(before.is_none());
            // All of one that is seen for the first time.
            let more = before.map_or(socket.total_retrans, |before| socket.total_retrans.saturating_sub(before));
            self.retrans += u64::from(more);
            now.insert(socket.cookie, before.map_or(socket.total_retrans, |before| before.max(socket.total_retrans)));
        }
        self.known = now;
        let sum = |of: fn(&TcpSocket) -> u64| listed.iter().copied().map(of).sum::<u64>();
        let mut counters = vec![
            Counter::gauge("tcpinfo.sockets", listed.len() as u64),
            Counter::grows("tcpinfo.sockets_seen", self.seen),
            Counter::grows("tcpinfo.retrans_seen", self.retrans),
            Counter::gauge("tcpinfo.unacked", sum(|socket| socket.unacked.into())),
        ];
        // A mean over nothing is nothing.
        let measured: Vec<_> = listed.iter().copied().filter(|socket| socket.rtt_us > 0).collect();
        if !measured.is_empty() {
            let mean = |of: fn(&TcpSocket) -> u32| {
                measured.iter().map(|socket| u64::from(of(socket))).sum::<u64>() / measured.len() as u64
            };
            let most = measured.iter().map(|socket| socket.rtt_us).max().unwrap_or_default();
            let time = |name: &str, value: u64| Counter::gauge(name, value).in_unit(Unit::Microsecond);
            counters.push(time("tcpinfo.rtt", mean(|socket| socket.rtt_us)));
            counters.push(time("tcpinfo.rttvar", mean(|socket| socket.rttvar_us)));
            counters.push(time("tcpinfo.rtt_max", most.into()));
        }
        if !listed.is_empty() {
            let cwnd = sum(|socket| u64::from(socket.cwnd) * 1000) / listed.len() as u64;
            counters.push(Counter::gauge("tcpinfo.cwnd", cwnd).in_unit(Unit::Milli));
            let rates: Option<Vec<u64>> = listed.iter().map(|socket| socket.delivery_rate).collect();
            if let Some(rates) = rates {
                let rate = rates.into_iter().fold(0_u64, u64::saturating_add);
                counters.push(Counter::gauge("tcpinfo.delivery_rate", rate).in_unit(Unit::Rate));
            }
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(cookie: u64, rtt_us: u32, total_retrans: u32) -> TcpSocket {
        TcpSocket {
            cookie,
            state: 1,
            rtt_us,
            rttvar_us: 5,
            cwnd: 10,
            unacked: 2,
            total_retrans,
            bytes_acked: None,
            delivery_rate: Some(100),
        }
    }

    fn value(counters: &[Counter], name: &str) -> Option<u64> {
        counters.iter().find(|counter| counter.name == name).map(|counter| counter.value)
    }

    #[test]
    fn sockets_that_come_and_go_are_each_counted_once() {
        let diagnosis = Err(io::Error::other("not asked"));
        let mut sockets = Sockets { diagnosis, known: HashMap::new(), seen: 0, retrans: 0 };
        let none = sockets.take(&[]);
        assert_eq!((value(&none, "tcpinfo.sockets"), value(&none, "tcpinfo.rtt")), (Some(0), None));
        let first = sockets.take(&[socket(1, 100, 1), socket(2, 300, 0), socket(3, 0, 0)]);
        assert_eq!((value(&first, "tcpinfo.rtt"), value(&first, "tcpinfo.rtt_max")), (Some(200), Some(300)));
        assert_eq!((value(&first, "tcpinfo.retrans_seen"), value(&first, "tcpinfo.sockets_seen")), (Some(1), Some(3)));
        assert_eq!((value(&first, "tcpinfo.cwnd"), value(&first, "tcpinfo.delivery_rate")), (Some(10_000), Some(300)));
        let later = sockets.take(&[socket(1, 100, 4), socket(4, 100, 2)]);
        assert_eq!((value(&later, "tcpinfo.retrans_seen"), value(&later, "tcpinfo.sockets_seen")), (Some(6), Some(4)));
        let twice = sockets.take(&[socket(1, 100, 6), socket(1, 100, 5), socket(4, 100, 2)]);
        assert_eq!((value(&twice, "tcpinfo.retrans_seen"), value(&twice, "tcpinfo.sockets")), (Some(8), Some(2)));
    }

    #[test]
    fn queues_of_one_interface_have_names_of_their_own() {
        let queue = |handle, parent| QdiscStatistics {
            index: 2,
            kind: "fq_codel".to_owned(),
            handle,
            parent,
            root: parent == u32::MAX,
            bytes: 1,
            packets: 2,
            queued: 3,
            backlog: 4,
            drops: 5,
            requeues: 6,
            overlimits: 7,
        };
        let name = |handle, parent| of_qdisc("if", &queue(handle, parent))[0].name.clone();
        assert_eq!(name(0, u32::MAX), "if.qdisc.bytes");
        assert_eq!(name(0x8001_0000, 1), "if.qdisc.fq_codel.8001:0.bytes");
        assert_eq!(name(0, 1), "if.qdisc.fq_codel.parent.0:1.bytes");
        assert_ne!(name(0, 1), name(0, 2));
    }

    #[test]
    fn a_failure_at_the_switch_is_told_to_every_node_whose_link_ends_there() {
        let claim = |place| Claim { interface: format!("p{place}"), place, side: Side::Host };
        let mut all = Vec::new();
        tell("no memory", &[claim(3), claim(4)], 0, &[0, 1], &mut all);
        let told: Vec<_> = all.iter().map(|(place, source, _)| (*place, *source)).collect();
        let of = |place| [(place, "host_links"), (place, "host_qdisc")];
        assert_eq!(told, [[(0, "links"), (0, "qdisc")], of(3), of(4)].concat());
        assert!(all.iter().all(|(_, _, read)| *read == Err("no memory".to_owned())));
    }

    #[test]
    fn this_stack_is_read_twice_from_the_same_files() {
        let plan = StackPlan {
            namespace: None,
            place: 0,
            prefix: "if.",
            claims: vec![Claim { interface: "lo".to_owned(), place: 1, side: Side::Node }],
            sockets: false,
            protocols: true,
        };
        let mut reader = StackReader::open(plan).unwrap();
        for _ in 0..2 {
            let read = reader.read(Depth::Full);
            let of = |place, source| read.iter().find(|(p, s, _)| (*p, *s) == (place, source)).map(|(_, _, read)| read);
            let segments = of(0, "snmp").unwrap().as_ref().unwrap();
            assert!(value(segments, "TcpOutSegs").is_some());
            assert!(value(of(1, "links").unwrap().as_ref().unwrap(), "if.rx_packets").is_some());
        }
    }
}
