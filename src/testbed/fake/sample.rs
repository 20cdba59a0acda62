//! The program `sample` of the fake testbed: prints one number, without a process.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use statrs::distribution::{ContinuousCDF as _, Normal};

use crate::node::{Exit, ExitStatus, NodeIoError, Output, Process, Stream};

/// A command that has already ended.
#[derive(Debug)]
pub(super) struct Sample {
    output: Vec<u8>,
}

impl Sample {
    /// The value that `["sample", NAME, MEAN, SD]` prints in this iteration and pair.
    pub(super) fn draw(argv: &[String], number: u32, pair: u32) -> io::Result<Self> {
        let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: sample NAME MEAN SD");
        let [_, name, mean, sd] = argv else { return Err(usage()) };
        let (mean, sd): (f64, f64) = (mean.parse().map_err(|_| usage())?, sd.parse().map_err(|_| usage())?);
        let mut random = ChaCha8Rng::seed_from_u64(u64::from(number) << 32 | u64::from(pair));
        // 53 random bits, moved off 0 so that the quantile is finite.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
        let uniform = ((random.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let z = Normal::standard().inverse_cdf(uniform);
        Ok(Self { output: format!("{name} {}\n", mean + sd * z).into_bytes() })
    }
}

#[async_trait]
impl Process for Sample {
    fn pid(&self) -> Option<u32> {
        None
    }

    async fn wait(&mut self) -> Result<Exit, NodeIoError> {
        Ok(Exit { status: ExitStatus::Code(0), wall: Duration::ZERO, cpu_user: None, cpu_system: None })
    }

    fn output(&self, stream: Stream) -> Output {
        match stream {
            Stream::Out => Output { bytes: self.output.clone(), truncated: false },
            Stream::Err => Output::default(),
        }
    }

    fn signal(&mut self, _signal: i32) -> Result<(), NodeIoError> {
        Ok(())
    }

    fn affinity(&self) -> Option<Vec<usize>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(argv: &[&str], number: u32, pair: u32) -> io::Result<String> {
        let argv: Vec<String> = argv.iter().map(|s| (*s).to_owned()).collect();
        Ok(String::from_utf8(Sample::draw(&argv, number, pair)?.output).unwrap())
    }

    #[test]
    fn the_same_iteration_prints_the_same_value_and_another_one_another() {
        let argv = ["sample", "rps", "1000", "10"];
        assert_eq!(text(&argv, 1, 1).unwrap(), text(&argv, 1, 1).unwrap());
        assert_ne!(text(&argv, 1, 1).unwrap(), text(&argv, 2, 1).unwrap());
        assert_ne!(text(&argv, 1, 1).unwrap(), text(&argv, 1, 2).unwrap());
    }

    #[test]
    fn values_follow_mean_and_standard_deviation() {
        let values: Vec<f64> =
            (1..=4000).map(|n| text(&["sample", "x", "50", "2"], n, 1).unwrap()[2..].trim().parse().unwrap()).collect();
        let mean = values.iter().sum::<f64>() / 4000.0;
        let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 3999.0).sqrt();
        // Five standard errors: 2/√4000 and 2/√8000.
        assert!((mean - 50.0).abs() < 0.16, "mean {mean}");
        assert!((sd - 2.0).abs() < 0.12, "sd {sd}");
    }

    #[test]
    fn wrong_use_is_an_error() {
        assert!(text(&["sample", "x"], 1, 1).is_err());
        assert!(text(&["sample", "x", "much", "1"], 1, 1).is_err());
    }
}
