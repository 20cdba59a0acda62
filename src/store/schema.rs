//! The schema, shared by iteration files and merged files. Every column is explained in `docs/schema.md`.

use rusqlite::Connection;

use super::check::{MAX_CONNECTIONS, MAX_ROWS};
use crate::flow::STATISTICS;

/// `PRAGMA application_id` of every vptest database: `vpts` in ASCII.
pub const APPLICATION_ID: u32 = u32::from_be_bytes(*b"vpts");

/// `PRAGMA user_version`: version of the schema. Other versions are refused.
pub const SCHEMA_VERSION: u32 = 3;

/// Page size of iteration files: small, because two dozen tables need a page each.
pub(super) const ITERATION_PAGE_BYTES: u32 = 1024;

/// Page size of merged files.
pub(super) const MERGED_PAGE_BYTES: u32 = 8192;

/// A table: its name, its SQL, and what its columns hold.
///
/// The SQL is compared literally when a database is read, so that a table which merely looks like ours (a view, a
/// column computed by an expression) is refused.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) columns: &'static [Kind],
}

/// What a column holds besides NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Real,
    Text,
    Blob,
}

use Kind::{Blob, Int, Real, Text};

/// Columns of `connection_direction`: place, direction and one for each of [`crate::flow::STATISTICS`].
const PER_DIRECTION: [Kind; 4 + STATISTICS.len()] = {
    let mut kinds = [Real; 4 + STATISTICS.len()];
    (kinds[0], kinds[1], kinds[2], kinds[3]) = (Int, Int, Int, Text);
    kinds
};

/// Tables in the order in which their rows are written and hashed.
pub(super) const TABLES: [Table; 33] = [
    Table {
        name: "iteration",
        sql: "CREATE TABLE iteration(\
              id INTEGER PRIMARY KEY, \
              identity TEXT NOT NULL CHECK(length(identity)=12), \
              number INTEGER NOT NULL CHECK(number>0), \
              tuple TEXT NOT NULL CHECK(length(tuple)=12), \
              repetition INTEGER NOT NULL CHECK(repetition>0), \
              block INTEGER CHECK(block>0), \
              attempt INTEGER NOT NULL CHECK(attempt>0), \
              testbed TEXT NOT NULL, \
              host TEXT NOT NULL, \
              status TEXT NOT NULL \
              CHECK(status IN('complete','suspect','invalid','failed','timed_out','interrupted')), \
              reasons TEXT NOT NULL CHECK(json_type(reasons)='array' AND (status='complete')=(reasons='[]')), \
              started_ns INTEGER NOT NULL, \
              finished_ns INTEGER, \
              spec_hash TEXT NOT NULL CHECK(length(spec_hash)=12), \
              vptest_version TEXT NOT NULL, \
              parts BLOB NOT NULL CHECK(length(parts)%16=0), \
              sha256 BLOB NOT NULL CHECK(length(sha256)=32), \
              UNIQUE(identity, attempt, host, started_ns)) STRICT",
        columns: &[Int, Text, Int, Text, Int, Int, Int, Text, Text, Text, Text, Int, Int, Text, Text, Blob, Blob],
    },
    Table {
        name: "factor",
        sql: "CREATE TABLE factor(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              name TEXT NOT NULL, \
              value TEXT NOT NULL, \
              PRIMARY KEY(iteration, name)) STRICT, WITHOUT ROWID",
        columns: &[Int, Text, Text],
    },
    Table {
        name: "setting",
        sql: "CREATE TABLE setting(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              node TEXT, \
              name TEXT NOT NULL, \
              requested TEXT, \
              observed TEXT, \
              ok INTEGER CHECK(ok IN(0,1)), \
              when_read TEXT NOT NULL CHECK(when_read IN('before','after')), \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Text, Text, Text, Int, Text],
    },
    Table {
        name: "metric",
        sql: "CREATE TABLE metric(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              pair INTEGER CHECK(pair>0), \
              node TEXT, \
              level TEXT NOT NULL CHECK(level IN('application','os','network')), \
              name TEXT NOT NULL, \
              unit TEXT NOT NULL, \
              value REAL CHECK(abs(value)<=1.7976931348623157e308), \
              better TEXT CHECK(better IN('higher','lower')), \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Text, Text, Text, Text, Real, Text],
    },
    Table {
        name: "quantile",
        sql: "CREATE TABLE quantile(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              pair INTEGER CHECK(pair>0), \
              node TEXT, \
              name TEXT NOT NULL, \
              unit TEXT NOT NULL, \
              q REAL NOT NULL CHECK(q BETWEEN 0 AND 1), \
              value REAL CHECK(abs(value)<=1.7976931348623157e308), \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Text, Text, Text, Real, Real],
    },
    Table {
        name: "capture",
        sql: "CREATE TABLE capture(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              node TEXT NOT NULL, \
              vantage TEXT NOT NULL CHECK(vantage IN('guest','host','endpoint','switch')), \
              interface TEXT NOT NULL, \
              snaplen INTEGER NOT NULL CHECK(snaplen>=0), \
              packets INTEGER NOT NULL CHECK(packets>=0), \
              bytes INTEGER NOT NULL CHECK(bytes>=0), \
              dropped_kernel INTEGER CHECK(dropped_kernel>=0), \
              dropped_interface INTEGER CHECK(dropped_interface>=0), \
              ring_bytes INTEGER NOT NULL CHECK(ring_bytes>=0), \
              file TEXT, \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Text, Text, Int, Int, Int, Int, Int, Int, Text],
    },
    Table {
        name: "capture_size",
        sql: "CREATE TABLE capture_size(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              from_bytes INTEGER NOT NULL CHECK(from_bytes>=0), \
              to_bytes INTEGER CHECK(to_bytes>from_bytes), \
              packets INTEGER NOT NULL CHECK(packets>=0), \
              PRIMARY KEY(iteration, capture, from_bytes)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Int, Int],
    },
    Table {
        name: "tcp",
        sql: "CREATE TABLE tcp(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              connections INTEGER NOT NULL CHECK(connections>=0), \
              complete INTEGER NOT NULL CHECK(complete BETWEEN 0 AND connections), \
              reset INTEGER NOT NULL CHECK(reset BETWEEN 0 AND connections), \
              ended_early INTEGER NOT NULL CHECK(ended_early>=0), \
              duration_ns INTEGER NOT NULL CHECK(duration_ns>=0), \
              packets INTEGER NOT NULL CHECK(packets>=0), \
              first_ns INTEGER, \
              mtu INTEGER CHECK(mtu>0), \
              bin_ms INTEGER NOT NULL CHECK(bin_ms>0), \
              stalls INTEGER NOT NULL CHECK(stalls>=0), \
              stalled_ns INTEGER NOT NULL CHECK(stalled_ns>=0), \
              longest_stall_ns INTEGER CHECK(longest_stall_ns>=0), \
              PRIMARY KEY(iteration, capture)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int],
    },
    Table {
        name: "tcp_direction",
        sql: "CREATE TABLE tcp_direction(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              direction TEXT NOT NULL CHECK(direction IN('a2b','b2a')), \
              packets INTEGER NOT NULL CHECK(packets>=0), \
              data_packets INTEGER NOT NULL CHECK(data_packets>=0), \
              data_bytes INTEGER NOT NULL CHECK(data_bytes>=0), \
              longest INTEGER CHECK(longest>=0), \
              super_segments INTEGER CHECK(super_segments>=0), \
              super_bytes INTEGER CHECK(super_bytes>=0), \
              super_on_wire INTEGER CHECK(super_on_wire>=0), \
              unbinned INTEGER NOT NULL CHECK(unbinned>=0), \
              PRIMARY KEY(iteration, capture, direction)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int, Int, Int, Int, Int, Int, Int],
    },
    // Without a key, as connection_direction: pages of tables with one hold a quarter of a page of each row, and the rest of it
    // takes pages of its own.
    Table {
        name: "connection_statistic",
        sql: "CREATE TABLE connection_statistic(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              position INTEGER NOT NULL, \
              direction TEXT NOT NULL CHECK(direction IN('a2b','b2a')), \
              name TEXT NOT NULL, \
              unit TEXT NOT NULL, \
              count INTEGER NOT NULL CHECK(count>=0), \
              sum REAL, mean REAL, sd REAL, min REAL, p5 REAL, p25 REAL, median REAL, p75 REAL, p95 REAL, p99 REAL, \
              max REAL, \
              sketch BLOB) STRICT",
        columns: &[
            Int, Int, Int, Text, Text, Text, Int, Real, Real, Real, Real, Real, Real, Real, Real, Real, Real, Real,
            Blob,
        ],
    },
    Table {
        name: "tcp_series",
        sql: "CREATE TABLE tcp_series(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              direction TEXT NOT NULL CHECK(direction IN('a2b','b2a')), \
              at_ms INTEGER NOT NULL, \
              packets INTEGER NOT NULL CHECK(packets>=0), \
              bytes INTEGER NOT NULL CHECK(bytes>=0), \
              PRIMARY KEY(iteration, capture, direction, at_ms)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int, Int],
    },
    Table {
        name: "tcp_stall",
        sql: "CREATE TABLE tcp_stall(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              position INTEGER NOT NULL, \
              connection INTEGER NOT NULL CHECK(connection>0), \
              from_ns INTEGER, \
              duration_ns INTEGER NOT NULL CHECK(duration_ns>=0), \
              ended_by TEXT CHECK(ended_by IN('a2b','b2a')), \
              PRIMARY KEY(iteration, capture, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Int, Int, Int, Text],
    },
    Table {
        name: "connection",
        sql: "CREATE TABLE connection(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              number INTEGER NOT NULL CHECK(number>0), \
              a_address TEXT NOT NULL, \
              a_port INTEGER NOT NULL, \
              b_address TEXT NOT NULL, \
              b_port INTEGER NOT NULL, \
              first_ns INTEGER, \
              last_ns INTEGER, \
              complete INTEGER NOT NULL CHECK(complete IN(0,1)), \
              reset INTEGER NOT NULL CHECK(reset IN(0,1)), \
              PRIMARY KEY(iteration, capture, number)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Text, Int, Text, Int, Int, Int, Int, Int],
    },
    Table {
        name: "connection_direction",
        sql: "CREATE TABLE connection_direction(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              capture INTEGER NOT NULL, \
              connection INTEGER NOT NULL, \
              direction TEXT NOT NULL CHECK(direction IN('a2b','b2a')), \
              total_packets REAL, resets_sent REAL, ack_pkts_sent REAL, pure_acks_sent REAL, sack_pkts_sent REAL, \
              dsack_pkts_sent REAL, \"max_sack_blks/ack\" REAL, unique_bytes_sent REAL, actual_data_pkts REAL, \
              actual_data_bytes REAL, rexmt_data_pkts REAL, rexmt_data_bytes REAL, zwnd_probe_pkts REAL, \
              zwnd_probe_bytes REAL, outoforder_pkts REAL, pushed_data_pkts REAL, SYN_pkts_sent REAL, \
              FIN_pkts_sent REAL, req_1323_ws REAL, req_1323_ts REAL, adv_wind_scale REAL, req_sack REAL, \
              sacks_sent REAL, urgent_data_pkts REAL, urgent_data_bytes REAL, mss_requested REAL, \
              max_segm_size REAL, min_segm_size REAL, avg_segm_size REAL, max_win_adv REAL, min_win_adv REAL, \
              zero_win_adv REAL, avg_win_adv REAL, max_owin REAL, \"min_non-zero_owin\" REAL, avg_owin REAL, \
              wavg_owin REAL, initial_window_bytes REAL, initial_window_pkts REAL, ttl_stream_length REAL, \
              missed_data REAL, truncated_data REAL, truncated_packets REAL, data_xmit_time REAL, \
              idletime_max REAL, hardware_dups REAL, throughput REAL, RTT_samples REAL, RTT_min REAL, \
              RTT_max REAL, RTT_avg REAL, RTT_stdev REAL, RTT_from_3WHS REAL, RTT_full_sz_smpls REAL, \
              RTT_full_sz_min REAL, RTT_full_sz_max REAL, RTT_full_sz_avg REAL, RTT_full_sz_stdev REAL, \
              \"post-loss_acks\" REAL, ambiguous_acks REAL, \"RTT_min_(last)\" REAL, \"RTT_max_(last)\" REAL, \
              \"RTT_avg_(last)\" REAL, \"RTT_sdv_(last)\" REAL, segs_cum_acked REAL, duplicate_acks REAL, \
              triple_dupacks REAL, \"max_#_retrans\" REAL, min_retr_time REAL, max_retr_time REAL, \
              avg_retr_time REAL, sdv_retr_time REAL) STRICT",
        columns: &PER_DIRECTION,
    },
    Table {
        name: "path",
        sql: "CREATE TABLE path(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              near INTEGER NOT NULL CHECK(near>=0), \
              far INTEGER NOT NULL CHECK(far>=0 AND far<>near), \
              shared_clock INTEGER NOT NULL CHECK(shared_clock IN(0,1)), \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Int, Int],
    },
    // Without a key, as connection_statistic.
    Table {
        name: "path_direction",
        sql: "CREATE TABLE path_direction(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              path INTEGER NOT NULL, \
              direction TEXT NOT NULL CHECK(direction IN('a2b','b2a')), \
              sent INTEGER NOT NULL CHECK(sent>=0), \
              sent_bytes INTEGER NOT NULL CHECK(sent_bytes>=0), \
              received INTEGER NOT NULL CHECK(received>=0), \
              received_bytes INTEGER NOT NULL CHECK(received_bytes>=0), \
              both INTEGER CHECK(both>=0), \
              lost INTEGER CHECK(lost>=0), \
              appeared INTEGER CHECK(appeared>=0), \
              sent_resegmented INTEGER CHECK(sent_resegmented>=0), \
              received_resegmented INTEGER CHECK(received_resegmented>=0), \
              reordered INTEGER CHECK(reordered>=0), \
              edge INTEGER CHECK(edge>=0), \
              delay_count INTEGER CHECK(delay_count>0), \
              delay_mean REAL, delay_sd REAL, delay_min REAL, delay_p50 REAL, delay_p95 REAL, delay_p99 REAL, \
              delay_max REAL, \
              delay_sketch BLOB) STRICT",
        columns: &[
            Int, Int, Text, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Real, Real, Real, Real, Real,
            Real, Real, Blob,
        ],
    },
    Table {
        name: "syscall_trace",
        sql: "CREATE TABLE syscall_trace(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              place TEXT, \
              scope TEXT NOT NULL CHECK(scope IN('workload','node')), \
              source TEXT NOT NULL CHECK(source IN('bpf','perf')), \
              log TEXT, \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Text, Text, Text],
    },
    Table {
        name: "syscall_loss",
        sql: "CREATE TABLE syscall_loss(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              trace INTEGER NOT NULL, \
              position INTEGER NOT NULL, \
              cpu INTEGER CHECK(cpu>=0), \
              begun INTEGER NOT NULL CHECK(begun>=0), \
              returned INTEGER NOT NULL CHECK(returned>=0), \
              steps INTEGER NOT NULL CHECK(steps>=0), \
              errors INTEGER NOT NULL CHECK(errors>=0), \
              sizes INTEGER NOT NULL CHECK(sizes>=0), \
              logged INTEGER NOT NULL CHECK(logged>=0), \
              PRIMARY KEY(iteration, trace, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Int, Int, Int, Int, Int, Int, Int],
    },
    Table {
        name: "syscall_process",
        sql: "CREATE TABLE syscall_process(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              process INTEGER NOT NULL, \
              trace INTEGER NOT NULL, \
              node TEXT, \
              name TEXT NOT NULL, \
              threads INTEGER NOT NULL CHECK(threads>=0), \
              calls INTEGER NOT NULL CHECK(calls>=0), \
              sequence INTEGER NOT NULL, \
              PRIMARY KEY(iteration, process)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Text, Text, Int, Int, Int],
    },
    Table {
        name: "syscall",
        sql: "CREATE TABLE syscall(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              process INTEGER NOT NULL, \
              call TEXT NOT NULL, \
              calls INTEGER NOT NULL CHECK(calls>=0), \
              returned INTEGER NOT NULL CHECK(returned>=0), \
              errors INTEGER NOT NULL CHECK(errors>=0), \
              total_ns INTEGER NOT NULL CHECK(total_ns>=0), \
              most_ns INTEGER NOT NULL CHECK(most_ns>=0), \
              times BLOB NOT NULL, \
              PRIMARY KEY(iteration, process, call)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int, Int, Int, Int, Blob],
    },
    Table {
        name: "syscall_error",
        sql: "CREATE TABLE syscall_error(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              process INTEGER NOT NULL, \
              call TEXT NOT NULL, \
              errno INTEGER NOT NULL CHECK(errno>0), \
              count INTEGER NOT NULL CHECK(count>=0), \
              PRIMARY KEY(iteration, process, call, errno)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int],
    },
    Table {
        name: "syscall_transition",
        sql: "CREATE TABLE syscall_transition(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              process INTEGER NOT NULL, \
              position INTEGER NOT NULL, \
              from_call TEXT, \
              to_call TEXT NOT NULL, \
              count INTEGER NOT NULL CHECK(count>=0), \
              PRIMARY KEY(iteration, process, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Text, Text, Int],
    },
    Table {
        name: "syscall_size",
        sql: "CREATE TABLE syscall_size(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              process INTEGER NOT NULL, \
              call TEXT NOT NULL, \
              kind TEXT NOT NULL CHECK(kind IN('unknown','socket','file','pipe','other')), \
              count INTEGER NOT NULL CHECK(count>=0), \
              bytes INTEGER NOT NULL CHECK(bytes>=0), \
              most INTEGER NOT NULL CHECK(most>=0), \
              zero INTEGER NOT NULL CHECK(zero>=0), \
              returned BLOB NOT NULL, \
              PRIMARY KEY(iteration, process, call, kind)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Text, Int, Int, Int, Int, Blob],
    },
    Table {
        name: "probe",
        sql: "CREATE TABLE probe(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              probe INTEGER NOT NULL, \
              pair INTEGER NOT NULL CHECK(pair>0), \
              interval_ns INTEGER NOT NULL CHECK(interval_ns>0), \
              size_bytes INTEGER NOT NULL CHECK(size_bytes>0), \
              dscp INTEGER NOT NULL CHECK(dscp BETWEEN 0 AND 63), \
              timeout_ns INTEGER NOT NULL CHECK(timeout_ns>0), \
              started_ns INTEGER, \
              clock TEXT NOT NULL CHECK(clock IN('shared','synchronised','unsynchronised')), \
              clock_error_ns INTEGER CHECK(clock_error_ns>=0), \
              slots INTEGER CHECK(slots>=0), \
              missed INTEGER CHECK(missed>=0), \
              late INTEGER CHECK(late>=0), \
              errors INTEGER CHECK(errors>=0), \
              refused INTEGER CHECK(refused>=0), \
              lateness_count INTEGER CHECK(lateness_count>0), \
              lateness_mean REAL, \
              lateness_sd REAL, \
              lateness_min REAL, \
              lateness_p50 REAL, \
              lateness_p95 REAL, \
              lateness_p99 REAL, \
              lateness_max REAL, \
              lateness_sketch BLOB, \
              PRIMARY KEY(iteration, probe)) STRICT, WITHOUT ROWID",
        columns: &[
            Int, Int, Int, Int, Int, Int, Int, Int, Text, Int, Int, Int, Int, Int, Int, Int, Real, Real, Real, Real,
            Real, Real, Real, Blob,
        ],
    },
    Table {
        name: "probe_end",
        sql: "CREATE TABLE probe_end(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              probe INTEGER NOT NULL, \
              role TEXT NOT NULL CHECK(role IN('client','server')), \
              dropped INTEGER NOT NULL CHECK(dropped>=0), \
              foreign_packets INTEGER NOT NULL CHECK(foreign_packets>=0), \
              errors INTEGER NOT NULL CHECK(errors>=0), \
              sent_stamped_late INTEGER NOT NULL CHECK(sent_stamped_late>=0), \
              received_stamped_late INTEGER NOT NULL CHECK(received_stamped_late>=0), \
              cpu_ns INTEGER CHECK(cpu_ns>=0), \
              boot_id TEXT NOT NULL, \
              clock_source TEXT, \
              synchronised INTEGER CHECK(synchronised IN(0,1)), \
              max_error_ns INTEGER CHECK(max_error_ns>=0), \
              estimated_error_ns INTEGER CHECK(estimated_error_ns>=0), \
              step_ns INTEGER NOT NULL CHECK(step_ns>=0), \
              PRIMARY KEY(iteration, probe, role)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int, Int, Int, Int, Int, Text, Text, Int, Int, Int, Int],
    },
    Table {
        name: "probe_path",
        sql: "CREATE TABLE probe_path(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              probe INTEGER NOT NULL, \
              way TEXT NOT NULL CHECK(way IN('to_server','to_client','round_trip')), \
              sent INTEGER CHECK(sent>=0), \
              received INTEGER CHECK(received>=0), \
              lost INTEGER CHECK(lost>=0), \
              late INTEGER CHECK(late>=0), \
              duplicated INTEGER CHECK(duplicated>=0), \
              reordered INTEGER CHECK(reordered>=0), \
              delay_count INTEGER CHECK(delay_count>0), \
              delay_mean REAL, \
              delay_sd REAL, \
              delay_min REAL, \
              delay_p50 REAL, \
              delay_p95 REAL, \
              delay_p99 REAL, \
              delay_max REAL, \
              delay_sketch BLOB, \
              ipdv_count INTEGER CHECK(ipdv_count>0), \
              ipdv_mean REAL, \
              ipdv_sd REAL, \
              ipdv_min REAL, \
              ipdv_p50 REAL, \
              ipdv_p95 REAL, \
              ipdv_p99 REAL, \
              ipdv_max REAL, \
              ipdv_sketch BLOB, \
              jitter REAL, \
              PRIMARY KEY(iteration, probe, way)) STRICT, WITHOUT ROWID",
        columns: &[
            Int, Int, Text, Int, Int, Int, Int, Int, Int, Int, Real, Real, Real, Real, Real, Real, Real, Blob, Int,
            Real, Real, Real, Real, Real, Real, Real, Blob, Real,
        ],
    },
    Table {
        name: "probe_series",
        sql: "CREATE TABLE probe_series(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              probe INTEGER NOT NULL, \
              way TEXT NOT NULL CHECK(way IN('to_server','to_client','round_trip')), \
              bin INTEGER NOT NULL CHECK(bin>=0), \
              start_ns INTEGER NOT NULL CHECK(start_ns>=0), \
              sent INTEGER NOT NULL CHECK(sent>=0), \
              received INTEGER NOT NULL CHECK(received>=0), \
              delay_mean REAL, \
              delay_max REAL, \
              PRIMARY KEY(iteration, probe, way, bin)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int, Int, Int, Real, Real],
    },
    Table {
        name: "counter_place",
        sql: "CREATE TABLE counter_place(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              node TEXT, \
              interval_ms INTEGER CHECK(interval_ms>0), \
              first_ns INTEGER NOT NULL, \
              times_us TEXT NOT NULL CHECK(json_type(times_us)='array'), \
              missed INTEGER NOT NULL CHECK(missed>=0), \
              latest_us INTEGER NOT NULL CHECK(latest_us>=0), \
              cpu_ns INTEGER CHECK(cpu_ns>=0)) STRICT",
        columns: &[Int, Int, Text, Int, Int, Text, Int, Int, Int],
    },
    // Without a key, as connection_statistic.
    Table {
        name: "counter_source",
        sql: "CREATE TABLE counter_source(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              place INTEGER NOT NULL, \
              name TEXT NOT NULL, \
              counters INTEGER NOT NULL CHECK(counters>=0), \
              why TEXT, \
              others TEXT CHECK(json_type(others)='object')) STRICT",
        columns: &[Int, Int, Text, Int, Text, Text],
    },
    Table {
        name: "counter_series",
        sql: "CREATE TABLE counter_series(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              place INTEGER NOT NULL, \
              name TEXT NOT NULL, \
              unit TEXT NOT NULL, \
              scale REAL NOT NULL, \
              gauge INTEGER NOT NULL CHECK(gauge IN(0,1)), \
              samples TEXT NOT NULL CHECK(json_type(samples)='array')) STRICT",
        columns: &[Int, Int, Text, Text, Real, Int, Text],
    },
    Table {
        name: "event",
        sql: "CREATE TABLE event(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              at_ns INTEGER NOT NULL, \
              stage TEXT NOT NULL, \
              level TEXT NOT NULL CHECK(level IN('info','warn','error')), \
              text TEXT NOT NULL, \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Int, Text, Text, Text],
    },
    Table {
        name: "stage",
        sql: "CREATE TABLE stage(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              name TEXT NOT NULL, \
              started_ns INTEGER NOT NULL, \
              duration_ns INTEGER CHECK(duration_ns>=0), \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Int, Int],
    },
    Table {
        name: "environment",
        sql: "CREATE TABLE environment(\
              iteration INTEGER NOT NULL REFERENCES iteration, \
              position INTEGER NOT NULL, \
              host TEXT NOT NULL, \
              name TEXT NOT NULL, \
              value TEXT NOT NULL, \
              PRIMARY KEY(iteration, position)) STRICT, WITHOUT ROWID",
        columns: &[Int, Int, Text, Text, Text],
    },
];

/// Index of a table in [`TABLES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub(super) enum TableId {
    Iteration,
    Factor,
    Setting,
    Metric,
    Quantile,
    Capture,
    CaptureSize,
    Tcp,
    TcpDirection,
    ConnectionStatistic,
    TcpSeries,
    TcpStall,
    Connection,
    ConnectionDirection,
    Path,
    PathDirection,
    SyscallTrace,
    SyscallLoss,
    SyscallProcess,
    Syscall,
    SyscallError,
    SyscallTransition,
    SyscallSize,
    Probe,
    ProbeEnd,
    ProbePath,
    ProbeSeries,
    CounterPlace,
    CounterSource,
    CounterSeries,
    Event,
    Stage,
    Environment,
}

impl TableId {
    /// All tables, in the order of [`TABLES`].
    pub(super) const ALL: [Self; TABLES.len()] = [
        Self::Iteration,
        Self::Factor,
        Self::Setting,
        Self::Metric,
        Self::Quantile,
        Self::Capture,
        Self::CaptureSize,
        Self::Tcp,
        Self::TcpDirection,
        Self::ConnectionStatistic,
        Self::TcpSeries,
        Self::TcpStall,
        Self::Connection,
        Self::ConnectionDirection,
        Self::Path,
        Self::PathDirection,
        Self::SyscallTrace,
        Self::SyscallLoss,
        Self::SyscallProcess,
        Self::Syscall,
        Self::SyscallError,
        Self::SyscallTransition,
        Self::SyscallSize,
        Self::Probe,
        Self::ProbeEnd,
        Self::ProbePath,
        Self::ProbeSeries,
        Self::CounterPlace,
        Self::CounterSource,
        Self::CounterSeries,
        Self::Event,
        Self::Stage,
        Self::Environment,
    ];

    /// Most rows of one iteration.
    pub(super) const fn most_rows(self) -> usize {
        match self {
            // In memory its columns take far more room than in a file.
            Self::ConnectionDirection => 2 * MAX_CONNECTIONS,
            _ => MAX_ROWS,
        }
    }

    pub(super) const fn table(self) -> &'static Table {
        &TABLES[self as usize]
    }
}

/// Makes the tables of our schema in `connection`, which has no tables yet; the page size is the caller's to set.
///
/// The caller decides about journal and synchronisation; foreign keys are declared for readers, and not enforced row
/// by row: the writer inserts whole records only.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    for table in &TABLES {
        connection.execute_batch(table.sql)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_agree_with_the_sql() {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        for id in TableId::ALL {
            let table = id.table();
            let mut statement = connection.prepare("SELECT type FROM pragma_table_info(?1) ORDER BY cid").unwrap();
            let types: Vec<String> =
                statement.query_map([table.name], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            let ours: Vec<&str> = table
                .columns
                .iter()
                .map(|kind| match kind {
                    Int => "INTEGER",
                    Real => "REAL",
                    Text => "TEXT",
                    Blob => "BLOB",
                })
                .collect();
            assert_eq!(types, ours, "{}", table.name);
            let sql: String = connection
                .query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [table.name], |row| row.get(0))
                .unwrap();
            assert_eq!(sql, table.sql);
        }
    }

    #[test]
    fn a_connection_has_a_column_for_each_statistic() {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        let sql = "SELECT name FROM pragma_table_info('connection_direction') WHERE cid >= 4 ORDER BY cid";
        let mut statement = connection.prepare(sql).unwrap();
        let columns: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(columns, STATISTICS.iter().map(|statistic| statistic.name).collect::<Vec<_>>());
    }

    #[test]
    fn wrong_rows_are_refused_by_the_database_itself() {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        let iteration = |status: &str, reasons: &str| {
            format!(
                "INSERT INTO iteration VALUES(NULL,'0123456789ab',1,'0123456789ab',1,NULL,1,'netns','h',\
                 '{status}','{reasons}',0,NULL,'0123456789ab','0',zeroblob(528),zeroblob(32))"
            )
        };
        connection.execute_batch(&iteration("complete", "[]")).unwrap();
        for (bad, why) in [
            (iteration("complete", "[]"), "the same attempt twice"),
            (iteration("done", "[]"), "unknown status"),
            (iteration("complete", "[\"why\"]"), "complete with a reason"),
            (iteration("failed", "[]"), "failed without a reason"),
            (iteration("failed", "why"), "reasons that are no array"),
            ("INSERT INTO metric VALUES(1,0,1,'client1','network','rps','1/s',9e999,NULL)".into(), "infinite"),
            ("INSERT INTO metric VALUES(1,0,1,'client1','network','rps','1/s','fast',NULL)".into(), "text"),
            ("INSERT INTO metric VALUES(1,0,0,'client1','network','rps','1/s',1,NULL)".into(), "pair 0"),
            ("INSERT INTO metric VALUES(1,0,1,'client1','hardware','rps','1/s',1,NULL)".into(), "level"),
            ("INSERT INTO quantile VALUES(1,0,1,NULL,'latency','s',1.5,1)".into(), "q above 1"),
            ("INSERT INTO capture_size VALUES(1,0,64,64,1)".into(), "empty bin"),
        ] {
            assert!(connection.execute_batch(&bad).is_err(), "accepted: {why}");
        }
    }
}
