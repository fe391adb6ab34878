//! What the storm did and found, for whoever reads the log of a CI run.

use std::collections::BTreeMap;

use crate::{
    load::Written,
    oracle::Judged,
    poison::Sent,
    recovery::{AIMS, Recoveries, Summary},
};

/// All there is to tell.
pub struct Report<'a> {
    pub seed: u64,
    pub minutes: u64,
    pub faults: BTreeMap<String, u64>,
    pub written: &'a Written,
    pub poison: &'a Sent,
    pub looks: u64,
    pub judged: &'a Judged,
    pub recoveries: &'a Recoveries,
    pub findings: usize,
}

impl Report<'_> {
    pub fn print(&self) {
        println!("\nThe storm of seed {}, {} min", self.seed, self.minutes);
        section("faults", &self.faults);
        section("transactions", &self.written.kinds);
        println!("  {:>7}  with an end nobody knows", self.written.ambiguous);
        println!("poison put into the log");
        println!("  {:>7}  written", self.poison.written);
        println!("  {:>7}  with an end nobody knows", self.poison.ambiguous);
        section("compared", &self.judged.counts);
        println!("  {:>7}  looks at the board", self.looks);
        self.recoveries();
        println!("differences: {}", self.findings);
    }

    fn recoveries(&self) {
        println!("recovery, in seconds: all, and those with nothing else amiss");
        println!(
            "  {:<12} times  median  worst   times  median  worst   aim",
            ""
        );
        let summary = self.recoveries.summary();
        for (component, aim) in AIMS {
            let Some((all, alone)) = summary.get(component) else {
                continue;
            };
            let alone = alone.map_or_else(|| format!("{:>5}  {:>6}  {:>5}", 0, "-", "-"), numbers);
            println!("  {component:<12} {}   {alone}   {aim:>3}", numbers(*all));
        }
    }
}

fn numbers(summary: Summary) -> String {
    let Summary {
        times,
        median,
        worst,
    } = summary;
    let (median, worst) = (median.as_secs_f64(), worst.as_secs_f64());
    format!("{times:>5}  {median:>6.1}  {worst:>5.1}")
}

fn section<K: std::fmt::Display, N: std::fmt::Display>(title: &str, counts: &BTreeMap<K, N>) {
    println!("{title}");
    for (what, count) in counts {
        println!("  {count:>7}  {what}");
    }
}
