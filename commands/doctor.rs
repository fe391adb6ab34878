//! `fanout doctor`: checks the machine and the servers, and shows a fix for
//! each problem.

use std::{
    fs::{File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use clap::Args;
use fanout::{
    failure::{Failure, Kind},
    operations::doctor::{self, ConfigProblem, Finding, Level},
    text::escape::escape,
};
use serde_json::json;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
    printer::Printer,
    table::{render, table},
};

/// Arguments of `fanout doctor`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Treat warnings as failures
    #[arg(long)]
    strict: bool,
    /// Write a diagnostic bundle for support, without secrets, as JSON
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// Error of writing the bundle.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct BundleError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Failure for BundleError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        "bundle_file"
    }

    fn hint(&self) -> Option<String> {
        Some("give a file in a writable folder: --bundle FILE".to_owned())
    }
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let site = context.site()?;
        let config = context.config().map_err(|error| ConfigProblem {
            message: error.message(),
            hint: error.hint(),
        });
        let printer = context.printer();
        let progress = printer.progress();
        // The future holds many concurrent requests, so it is boxed.
        let findings = Box::pin(doctor::examine(&site, config.as_ref(), &*progress)).await;
        drop(progress);
        if let Some(path) = &self.bundle {
            let bundle = doctor::bundle(&site, config.as_ref(), findings.clone()).await;
            let write = || write_private(path, &serde_json::to_vec_pretty(&bundle?)?);
            write().map_err(|source| BundleError {
                path: path.clone(),
                source,
            })?;
            printer.note(&format!("wrote {}", path.display()));
        }
        let limit = if self.strict {
            Level::Pass
        } else {
            Level::Warn
        };
        let verdict = if doctor::gravest(&findings) > limit {
            Verdict::CheckFalse
        } else {
            Verdict::Done
        };
        let report = json!({ "findings": findings, "bundle": self.bundle });
        printer.conclude("doctor", verdict, &report, || show(&findings, printer))
    }
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    file.write_all(content)
}

fn show(findings: &[Finding], printer: &Printer) -> String {
    let mut checks = table(["", "CHECK", "FOUND"]);
    for finding in findings {
        let level = match finding.level {
            Level::Pass => "pass",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        checks.add_row([
            level.to_owned(),
            escape(&finding.name).into_owned(),
            escape(&finding.evidence).into_owned(),
        ]);
    }
    let mut text = render(&checks);
    for finding in findings {
        if let Some(fix) = &finding.fix {
            text.push_str(&format!(
                "\n{}: {}",
                escape(&finding.name),
                escape(&printer.hint(fix))
            ));
        }
    }
    text
}
