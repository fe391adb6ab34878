//! The report of the storm's faults and findings, for readers of a CI log.

use std::collections::BTreeMap;

use crate::{
    load::Written,
    oracle::Comparisons,
    poison::Sent,
    recovery::{Recoveries, Summary, TARGETS},
};

/// The contents of the report.
pub struct Report<'a> {
    pub seed: u64,
    pub minutes: u64,
    pub faults: BTreeMap<String, u64>,
    pub written: &'a Written,
    pub poison: &'a Sent,
    pub board_reads: u64,
    pub comparisons: &'a Comparisons,
    pub recoveries: &'a Recoveries,
    pub findings: usize,
}

impl Report<'_> {
    pub fn print(&self) {
        println!("\nStorm with seed {}, {} min", self.seed, self.minutes);
        section("faults", &self.faults);
        section("transactions", &self.written.kinds);
        println!("  {:>7}  with an unknown outcome", self.written.ambiguous);
        println!("undecodable records in the log");
        println!("  {:>7}  written", self.poison.written);
        println!("  {:>7}  with an unknown outcome", self.poison.ambiguous);
        section("compared", &self.comparisons.counts);
        println!("  {:>7}  reads of the board", self.board_reads);
        self.recoveries();
        println!("differences: {}", self.findings);
    }

    fn recoveries(&self) {
        println!("recovery, in seconds: all, and those without another disturbance");
        println!(
            "  {:<12} count  median  worst   count  median  worst   aim",
            ""
        );
        let summary = self.recoveries.summary();
        for (component, aim) in TARGETS {
            let Some((all, undisturbed)) = summary.get(component) else {
                continue;
            };
            let undisturbed =
                undisturbed.map_or_else(|| format!("{:>5}  {:>6}  {:>5}", 0, "-", "-"), columns);
            println!(
                "  {component:<12} {}   {undisturbed}   {aim:>3}",
                columns(*all)
            );
        }
    }
}

fn columns(summary: Summary) -> String {
    let Summary {
        count,
        median,
        worst,
    } = summary;
    let (median, worst) = (median.as_secs_f64(), worst.as_secs_f64());
    format!("{count:>5}  {median:>6.1}  {worst:>5.1}")
}

fn section<K: std::fmt::Display, N: std::fmt::Display>(title: &str, counts: &BTreeMap<K, N>) {
    println!("{title}");
    for (name, count) in counts {
        println!("  {count:>7}  {name}");
    }
}
