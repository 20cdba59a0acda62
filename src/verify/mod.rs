//! Checks around the workload: settings in force, path as asked, host quiet, client not the bottleneck.
