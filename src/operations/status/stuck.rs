//! Finds the first component on the way from Postgres to the sinks that does not work,
//! and its remedy. A pure function of the report.

use super::{
    report::{Report, Stuck},
    services::{ServiceState, ServiceStatus},
};
use crate::{
    config::{Runtime, variable},
    runtime::status::{SinkState, SinkStatus},
    sink_kind::SinkKind,
    source::{
        checks::{Finding, Standing},
        connector::{SLOT_LOST_REMEDY, State, remedy_of},
    },
};

fn stuck(at: &str, why: impl Into<String>, remedy: impl Into<String>) -> Stuck {
    Stuck {
        at: at.to_owned(),
        why: why.into(),
        remedy: remedy.into(),
    }
}

/// Checks the components in order: servers, source, connector, slot, pipeline, sinks.
pub(super) fn find(report: &Report) -> Option<Stuck> {
    if report
        .services
        .iter()
        .all(|service| service.state == ServiceState::Absent)
    {
        return Some(stuck("stack", "the project was never started", "fanout up"));
    }
    let halted = report.sinks.iter().filter(|sink| sink.halt.is_some());
    servers(report)
        .or_else(|| source(report, Standing::is_broken))
        .or_else(|| connector(report))
        .or_else(|| slot(report))
        .or_else(|| pipeline(report))
        // Problems that need an operator come before transient ones.
        .or_else(|| halted.into_iter().find_map(sink))
        .or_else(|| source(report, |_| true))
        .or_else(|| report.sinks.iter().find_map(sink))
}

/// Servers between Postgres and the sinks, in the order in which an event passes them.
const SOURCE_SERVERS: [&str; 3] = ["postgres", "kafka", "connect"];

/// Checks the servers. The pipeline is checked by its HTTP server instead, because it
/// may be started by hand.
fn servers(report: &Report) -> Option<Stuck> {
    let is_broken = |service: &&ServiceStatus| match service.state {
        ServiceState::Ready => false,
        // A store that no sink writes to is not needed.
        _ if service.is_idle => false,
        ServiceState::Absent => SOURCE_SERVERS.contains(&service.name.as_str()),
        _ => true,
    };
    let stores = SinkKind::ALL.map(SinkKind::service);
    let names = SOURCE_SERVERS.into_iter().chain(stores);
    let by_name = |name: &str| report.services.iter().find(|service| service.name == name);
    let service = names.filter_map(by_name).find(is_broken)?;
    let name = &service.name;
    let problem = service.problem.clone().unwrap_or_default();
    let (why, remedy) = match service.state {
        ServiceState::Died => (problem, "fanout up".to_owned()),
        ServiceState::Stopped => ("stopped".to_owned(), "fanout up".to_owned()),
        ServiceState::Absent => ("never started".to_owned(), "fanout up".to_owned()),
        ServiceState::Unreachable => (
            format!(
                "external server at {} is unreachable: {problem}",
                service.url
            ),
            "fanout config show".to_owned(),
        ),
        ServiceState::Denied => (
            format!("refuses the credentials of {}: {problem}", service.endpoint),
            credentials_remedy(&service.endpoint),
        ),
        // The problem is the container engine, not the container.
        _ if service.runtime == Runtime::Docker && service.container.is_none() => {
            (problem, "fanout doctor".to_owned())
        }
        _ => (
            format!("not responding: {problem}"),
            format!("fanout logs {name}"),
        ),
    };
    Some(stuck(name, why, remedy))
}

/// Returns the worst finding about the source, if `is_bad` holds.
fn source(report: &Report, is_bad: impl Fn(&Standing) -> bool) -> Option<Stuck> {
    let standing = report.source.as_ref().filter(|standing| is_bad(standing))?;
    let worst: &Finding = standing.findings.first()?;
    Some(stuck("source", worst.what.clone(), worst.remedy.clone()))
}

/// Returns the remedy for refused credentials. `up` has to be run again, because other
/// components use the credentials that it wrote.
fn credentials_remedy(key: &str) -> String {
    let variable = variable(key);
    format!("set {key} or {variable} to the right user and password, then: fanout up")
}

fn connector(report: &Report) -> Option<Stuck> {
    if let Some(problem) = &report.connector_problem {
        return Some(stuck("connector", problem, "fanout logs connect"));
    }
    let Some(connector) = &report.connector else {
        return Some(stuck(
            "connector",
            "not registered",
            "fanout connector apply",
        ));
    };
    if let Some(cause) = connector.failure() {
        let remedy = remedy_of(&cause);
        return Some(stuck("connector", cause, remedy));
    }
    if connector.is_running() {
        return None;
    }
    let remedy = match connector.state {
        State::Paused | State::Stopped => "fanout connector resume",
        _ => "fanout connector status",
    };
    Some(stuck("connector", connector.summary(), remedy))
}

fn slot(report: &Report) -> Option<Stuck> {
    if let Some(problem) = &report.slot_problem {
        return Some(stuck("slot", problem, "fanout logs postgres"));
    }
    let Some(slot) = &report.slot else {
        return Some(stuck("slot", "missing", SLOT_LOST_REMEDY));
    };
    if slot.wal_status.as_deref() == Some("lost") {
        let why = "postgres has deleted the log that the slot needs";
        return Some(stuck("slot", why, SLOT_LOST_REMEDY));
    }
    // During a snapshot, the connector is connected and the slot is inactive.
    if slot.active || slot.connected == Some(true) {
        return None;
    }
    // Debezium retries forever and reports that it is running.
    Some(stuck(
        "slot",
        "inactive: the connector is running but cannot log in to postgres, \
         or has only just started",
        "fanout logs connect --tail 50; if the password has changed: fanout up",
    ))
}

fn pipeline(report: &Report) -> Option<Stuck> {
    let problem = report.pipeline_problem.as_ref()?;
    let has_died = report
        .services
        .iter()
        .any(|service| service.name == "pipeline" && service.state == ServiceState::Died);
    if has_died {
        return Some(stuck("pipeline", "its process has exited", "fanout up"));
    }
    Some(stuck(
        "pipeline",
        format!("not responding: {problem}"),
        "fanout up",
    ))
}

fn sink(sink: &SinkStatus) -> Option<Stuck> {
    let at = format!("sink {}", sink.name);
    if let Some(halt) = &sink.halt {
        return Some(stuck(
            &at,
            format!("halted: {}", halt.reason),
            halt.remedy.clone(),
        ));
    }
    if let Some(degradation) = &sink.degradation {
        return Some(stuck(
            &at,
            degradation.reason.clone(),
            degradation.remedy.clone(),
        ));
    }
    let detail = sink.detail.clone().unwrap_or_default();
    match sink.state {
        SinkState::Retrying => Some(stuck(
            &at,
            format!("retrying: {detail}"),
            "fanout logs pipeline",
        )),
        SinkState::Stopped => Some(stuck(&at, "stopped", "fanout up")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::slot::SlotStatus, *};
    use crate::{
        config::Runtime,
        runtime::status::Halt,
        source::connector::{ConnectorStatus, TaskStatus},
    };

    fn service(name: &str, state: ServiceState) -> ServiceStatus {
        ServiceStatus {
            name: name.to_owned(),
            runtime: Runtime::Native,
            state,
            since_ms: None,
            url: crate::secret::SecretUrl::default(),
            pid: None,
            container: None,
            problem: None,
            endpoint: format!("{name}.url"),
            is_idle: false,
        }
    }

    fn sink(name: &str, state: SinkState) -> SinkStatus {
        SinkStatus {
            name: name.to_owned(),
            state,
            detail: Some("busy".to_owned()),
            lag: Some(0),
            lag_is_estimate: false,
            rate_per_second: 0.0,
            last_write_ms: None,
            applied: 0,
            ignored: <_>::default(),
            dead_letters: <_>::default(),
            extra_fields: 0,
            retries: 0,
            halt: None,
            degradation: None,
            partitions: Vec::new(),
        }
    }

    /// Returns a report without any problem.
    fn healthy_report() -> Report {
        let task = TaskStatus {
            id: 0,
            state: State::Running,
            worker: None,
            cause: None,
        };
        Report {
            project: "fanout".to_owned(),
            runtime: Some(Runtime::Native),
            services: ["clickhouse", "kafka", "postgres", "pipeline"]
                .map(|name| service(name, ServiceState::Ready))
                .into(),
            connector: Some(ConnectorStatus {
                name: "cdc".to_owned(),
                state: State::Running,
                worker: None,
                cause: None,
                tasks: vec![task],
            }),
            connector_problem: None,
            slot: Some(SlotStatus {
                name: "dbz_slot".to_owned(),
                active: true,
                connected: None,
                lag_bytes: Some(0),
                wal_status: Some("reserved".to_owned()),
            }),
            slot_problem: None,
            source: None,
            pipeline_url: crate::secret::SecretUrl::default(),
            pipeline_problem: None,
            sinks: vec![sink("redis", SinkState::Running)],
            dead_letters: None,
            stuck: None,
        }
    }

    /// Returns the name of the stuck component.
    fn stuck_at(report: &Report) -> String {
        find(report).map(|stuck| stuck.at).unwrap_or_default()
    }

    #[test]
    fn a_healthy_project_is_not_stuck() {
        assert_eq!(find(&healthy_report()), None);
    }

    #[test]
    fn the_first_broken_component_is_reported() {
        let mut report = healthy_report();
        report.services[0].state = ServiceState::Died;
        report.services[1].state = ServiceState::Unready;
        report.connector = None;
        assert_eq!(stuck_at(&report), "kafka");
        report.services[1].state = ServiceState::Ready;
        report.services[0].problem = Some("its container has exited (exit code 1)".to_owned());
        let stuck = find(&report).expect("stuck");
        assert_eq!(stuck.at, "clickhouse");
        assert_eq!(stuck.why, "its container has exited (exit code 1)");
        report.services[0].state = ServiceState::Ready;
        assert_eq!(stuck_at(&report), "connector");
    }

    #[test]
    fn an_idle_store_is_not_reported() {
        let mut report = healthy_report();
        report.services[0].state = ServiceState::Stopped;
        assert_eq!(stuck_at(&report), "clickhouse");
        report.services[0].is_idle = true;
        assert_eq!(find(&report), None);
    }

    #[test]
    fn a_slot_that_lost_its_log_has_its_own_remedy() {
        let mut report = healthy_report();
        if let Some(slot) = &mut report.slot {
            slot.wal_status = Some("lost".to_owned());
        }
        let stuck = find(&report).expect("stuck");
        assert_eq!(stuck.remedy, SLOT_LOST_REMEDY);
    }

    #[test]
    fn a_refused_password_is_reported_with_its_setting() {
        let mut report = healthy_report();
        report.services[2].state = ServiceState::Denied;
        report.services[2].problem = Some("password authentication failed".to_owned());
        let stuck = find(&report).expect("stuck");
        assert_eq!(
            (stuck.at.as_str(), stuck.why.as_str()),
            (
                "postgres",
                "refuses the credentials of postgres.url: password authentication failed"
            )
        );
        assert_eq!(
            stuck.remedy,
            "set postgres.url or FANOUT_POSTGRES_URL to the right user and password, \
             then: fanout up"
        );
    }

    #[test]
    fn an_inactive_slot_without_a_connection_is_stuck() {
        let mut report = healthy_report();
        if let Some(slot) = &mut report.slot {
            slot.active = false;
            slot.connected = Some(false);
        }
        assert_eq!(stuck_at(&report), "slot");
    }

    #[test]
    fn a_connector_that_takes_a_snapshot_is_not_stuck() {
        let mut report = healthy_report();
        if let Some(slot) = &mut report.slot {
            slot.active = false;
            slot.connected = Some(true);
        }
        assert_eq!(find(&report), None);
    }

    #[test]
    fn a_halted_sink_has_its_own_remedy() {
        let mut report = healthy_report();
        let mut halted = sink("clickhouse", SinkState::Halted);
        halted.halt = Some(Halt {
            code: "wrong_schema".to_owned(),
            reason: "no such column".to_owned(),
            remedy: "fanout reset".to_owned(),
        });
        report.sinks.push(halted);
        let stuck = find(&report).expect("stuck");
        assert_eq!(stuck.at, "sink clickhouse");
        assert_eq!(stuck.remedy, "fanout reset");
    }

    #[test]
    fn a_pipeline_started_by_hand_is_accepted() {
        let mut report = healthy_report();
        report.services[3].state = ServiceState::Absent;
        assert_eq!(find(&report), None);
        report.pipeline_problem = Some("refused".to_owned());
        assert_eq!(stuck_at(&report), "pipeline");
    }
}
