//! `vptest linktest`: both ends of the link test, as they are started on nodes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::exit::{Exit, Failure};
use crate::instrument::linktest::{Probe, Test, TrainPlan, probe, serve};

/// Test the link between two nodes (started by `[verify] linktest`)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number that both ends share
    #[arg(long)]
    token: u64,
    #[command(subcommand)]
    end: End,
}

#[derive(Debug, clap::Subcommand)]
enum End {
    /// Answer on this address until nothing comes any more
    Serve {
        /// Address and port to listen on
        listen: SocketAddr,
        /// Seconds of silence after which it ends
        #[arg(long, default_value_t = 3600)]
        idle: u64,
    },
    /// Make one test and print what was found as JSON
    Probe {
        /// Where the other end listens
        server: SocketAddr,
        /// Number of the test
        #[arg(long)]
        run: u32,
        /// What to test
        #[arg(long, value_enum)]
        test: Kind,
        /// Bits per second the link should carry; none for a link without a limit
        #[arg(long)]
        rate: Option<u64>,
        /// MTU of the link
        #[arg(long, default_value_t = 1500)]
        mtu: u32,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Reach,
    Loss,
    There,
    Back,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.end {
        End::Serve { listen, idle } => {
            // Whoever started it may not read what it says.
            let announce = |address| drop(writeln!(std::io::stdout(), "listening on {address}"));
            serve(*listen, args.token, Duration::from_secs(*idle), announce)?;
        }
        End::Probe { server, run, test, rate, mtu } => {
            let plan = TrainPlan::for_link(*rate, *mtu);
            let test = match test {
                Kind::Reach => Test::Reach,
                Kind::Loss => Test::Loss(*rate),
                Kind::There => Test::RateThere(plan),
                Kind::Back => Test::RateBack(plan),
            };
            let found = probe(&Probe { server: *server, token: args.token, run: *run, test })?;
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&found).map_err(anyhow::Error::from)?)?;
        }
    }
    Ok(Exit::Done)
}
