//! Where the way from Postgres to the sinks is broken first, and what mends
//! it: a pure function of what was seen.

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

/// Looks along the way: servers, source, connector, slot, pipeline, sinks.
pub(super) fn find(report: &Report) -> Option<Stuck> {
    if report
        .services
        .iter()
        .all(|one| one.state == ServiceState::Absent)
    {
        return Some(stuck(
            "stack",
            "the project was never brought up",
            "fanout up",
        ));
    }
    let halted = report.sinks.iter().filter(|sink| sink.halt.is_some());
    servers(report)
        .or_else(|| source(report, Standing::is_broken))
        .or_else(|| connector(report))
        .or_else(|| slot(report))
        .or_else(|| pipeline(report))
        // What waits for an operator before what may pass.
        .or_else(|| halted.into_iter().find_map(sink))
        .or_else(|| source(report, |_| true))
        .or_else(|| report.sinks.iter().find_map(sink))
}

/// The servers that every sink is fed by, in the order in which an event meets
/// them.
const SOURCE: [&str; 3] = ["postgres", "kafka", "connect"];

/// The pipeline's own service is looked at by what it serves: it may as well
/// be run by hand.
fn servers(report: &Report) -> Option<Stuck> {
    let broken = |one: &&ServiceStatus| match one.state {
        ServiceState::Ready => false,
        // A store that nobody writes to need not be there.
        _ if one.is_idle => false,
        ServiceState::Absent => SOURCE.contains(&one.name.as_str()),
        _ => true,
    };
    let stores = SinkKind::ALL.map(SinkKind::service);
    let the_way = SOURCE.into_iter().chain(stores);
    let of_name = |name: &str| report.services.iter().find(|one| one.name == name);
    let service = the_way.filter_map(of_name).find(broken)?;
    let name = &service.name;
    let problem = service.problem.clone().unwrap_or_default();
    let (why, remedy) = match service.state {
        ServiceState::Died => (problem, "fanout up".to_owned()),
        ServiceState::Stopped => ("it is stopped".to_owned(), "fanout up".to_owned()),
        ServiceState::Absent => ("it was never brought up".to_owned(), "fanout up".to_owned()),
        ServiceState::Unreachable => (
            format!(
                "it is external, at {}, and does not answer: {problem}",
                service.url
            ),
            "fanout config show".to_owned(),
        ),
        ServiceState::Denied => (
            format!(
                "it refuses the credentials of {}: {problem}",
                service.endpoint
            ),
            credentials_remedy(&service.endpoint),
        ),
        // Not the container, but its engine.
        _ if service.runtime == Runtime::Docker && service.container.is_none() => {
            (problem, "fanout doctor".to_owned())
        }
        _ => (
            format!("it does not answer: {problem}"),
            format!("fanout logs {name}"),
        ),
    };
    Some(stuck(name, why, remedy))
}

/// The worst that is known of the source, where it is as bad as that.
fn source(report: &Report, is_bad: impl Fn(&Standing) -> bool) -> Option<Stuck> {
    let standing = report.source.as_ref().filter(|standing| is_bad(standing))?;
    let worst: &Finding = standing.findings.first()?;
    Some(stuck("source", worst.what.clone(), worst.remedy.clone()))
}

/// What mends an endpoint whose user or password is refused. Others connect by
/// what `up` wrote for them.
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
            "it is not registered",
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
        return Some(stuck("slot", "there is none", SLOT_LOST_REMEDY));
    };
    if slot.wal_status.as_deref() == Some("lost") {
        let why = "postgres no longer has the log that it needs";
        return Some(stuck("slot", why, SLOT_LOST_REMEDY));
    }
    // While it takes a snapshot, it is connected and nobody reads the slot.
    if slot.active || slot.connected == Some(true) {
        return None;
    }
    // Debezium tries again for as long as it takes, and calls that running.
    Some(stuck(
        "slot",
        "it is inactive: the connector is running and cannot log in to postgres, \
         or has only just started",
        "fanout logs connect --tail 50; where the password has changed: fanout up",
    ))
}

fn pipeline(report: &Report) -> Option<Stuck> {
    let problem = report.pipeline_problem.as_ref()?;
    let died = report
        .services
        .iter()
        .any(|one| one.name == "pipeline" && one.state == ServiceState::Died);
    if died {
        return Some(stuck("pipeline", "its process has ended", "fanout up"));
    }
    Some(stuck(
        "pipeline",
        format!("it does not answer: {problem}"),
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
    if let Some(caution) = &sink.caution {
        return Some(stuck(&at, caution.reason.clone(), caution.remedy.clone()));
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
            caution: None,
            partitions: Vec::new(),
        }
    }

    /// Everything works.
    fn well() -> Report {
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

    fn at(report: &Report) -> String {
        find(report).map(|stuck| stuck.at).unwrap_or_default()
    }

    #[test]
    fn what_works_is_not_stuck() {
        assert_eq!(find(&well()), None);
    }

    #[test]
    fn the_first_break_on_the_way_is_named() {
        let mut report = well();
        report.services[0].state = ServiceState::Died;
        report.services[1].state = ServiceState::Unready;
        report.connector = None;
        assert_eq!(at(&report), "kafka");
        report.services[1].state = ServiceState::Ready;
        report.services[0].problem = Some("its container has ended (exit code 1)".to_owned());
        let stuck = find(&report).expect("stuck");
        assert_eq!(stuck.at, "clickhouse");
        assert_eq!(stuck.why, "its container has ended (exit code 1)");
        report.services[0].state = ServiceState::Ready;
        assert_eq!(at(&report), "connector");
    }

    #[test]
    fn a_store_that_no_sink_writes_to_is_not_missed() {
        let mut report = well();
        report.services[0].state = ServiceState::Stopped;
        assert_eq!(at(&report), "clickhouse");
        report.services[0].is_idle = true;
        assert_eq!(find(&report), None);
    }

    #[test]
    fn a_slot_that_lost_its_log_names_the_one_way_back() {
        let mut report = well();
        if let Some(slot) = &mut report.slot {
            slot.wal_status = Some("lost".to_owned());
        }
        let stuck = find(&report).expect("stuck");
        assert_eq!(stuck.remedy, SLOT_LOST_REMEDY);
    }

    #[test]
    fn a_refused_password_is_told_with_the_setting_that_has_it() {
        let mut report = well();
        report.services[2].state = ServiceState::Denied;
        report.services[2].problem = Some("password authentication failed".to_owned());
        let stuck = find(&report).expect("stuck");
        assert_eq!(
            (stuck.at.as_str(), stuck.why.as_str()),
            (
                "postgres",
                "it refuses the credentials of postgres.url: password authentication failed"
            )
        );
        assert_eq!(
            stuck.remedy,
            "set postgres.url or FANOUT_POSTGRES_URL to the right user and password, \
             then: fanout up"
        );
    }

    #[test]
    fn a_connector_that_runs_and_reads_nothing_is_blocked() {
        let mut report = well();
        if let Some(slot) = &mut report.slot {
            slot.active = false;
            slot.connected = Some(false);
        }
        assert_eq!(at(&report), "slot");
    }

    #[test]
    fn a_connector_that_takes_its_snapshot_is_not_blocked() {
        let mut report = well();
        if let Some(slot) = &mut report.slot {
            slot.active = false;
            slot.connected = Some(true);
        }
        assert_eq!(find(&report), None);
    }

    #[test]
    fn a_halted_sink_gives_its_own_remedy() {
        let mut report = well();
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
    fn a_pipeline_run_by_hand_is_as_good_as_a_service() {
        let mut report = well();
        report.services[3].state = ServiceState::Absent;
        assert_eq!(find(&report), None);
        report.pipeline_problem = Some("refused".to_owned());
        assert_eq!(at(&report), "pipeline");
    }
}
