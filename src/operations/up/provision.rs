//! Provides what each service must contain before others use it: tables, the
//! publication, the connector, and sinks that have finished starting.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Up, altered::Altered, error::UpError};
use crate::{
    config::Runtime,
    operations::{status, topics},
    progress::{Event, Progress},
    runtime::{
        owned::{creation, missing_topics},
        status::{SinkState, SinkStatus},
    },
    sinks::clickhouse::owned,
    source::{self, Permit, connector, owned::missing_slot, role, topics::specs},
    stack::Service,
};

/// Time within which a halted sink checks again whether it can resume.
const HALT_PATIENCE: Duration = Duration::from_secs(15);

impl Up {
    /// Creates what a service must contain before others use it. Returns what was
    /// missing.
    pub(super) async fn furnish(
        &self,
        service: &Service,
        progress: &dyn Progress,
    ) -> Result<Vec<Altered>, UpError> {
        let name = service.definition.name.as_str();
        let doing = |what| progress.report(Event::Doing { task: name, what });
        let timeout = self.request.timeout;
        match name {
            "postgres" => {
                doing("making its tables and publication");
                let provisioned = async {
                    let permit = self.permit();
                    let role = if permit.is_ours {
                        role::restrict(&self.connections.postgres).await?
                    } else {
                        None
                    };
                    let made = source::provision(&self.connections, permit).await?;
                    Ok::<_, UpError>((role, made))
                };
                let (role, made) = owned::in_time("postgres", timeout, provisioned).await?;
                let restricted = role.as_deref().map(Altered::of_role).into_iter();
                return Ok(restricted
                    .chain(made.into_iter().map(Altered::in_postgres))
                    .collect());
            }
            "clickhouse" => {
                doing("making its tables");
                let made = self.furnish_clickhouse(service);
                let made = owned::in_time("clickhouse", timeout, made).await?;
                let altered = |what| Altered::new("clickhouse", what);
                return Ok(made.into_iter().map(altered).collect());
            }
            "kafka" if service.runtime == Runtime::External => {
                let made = self.furnish_kafka(service).await?;
                let altered = |topic: String| Altered::new("kafka", creation(&topic));
                return Ok(made.into_iter().map(altered).collect());
            }
            "connect" => return self.furnish_connect(service, progress).await,
            "pipeline" => self.see_sinks(progress).await?,
            _ => {}
        }
        Ok(Vec::new())
    }

    /// Creates missing tables and views. Returns the statements.
    async fn furnish_clickhouse(&self, service: &Service) -> Result<Vec<String>, UpError> {
        let needed = owned::needed(&self.connections).await?;
        for (_, statement) in &needed {
            self.is_agreed(service, statement)?;
        }
        owned::apply(&self.connections, &needed).await?;
        Ok(needed.into_iter().map(|(_, statement)| statement).collect())
    }

    /// Creates the pipeline's topics in an external Kafka. Returns their names. In
    /// a Kafka that fanout runs, whoever needs a topic first creates it.
    async fn furnish_kafka(&self, service: &Service) -> Result<Vec<String>, UpError> {
        let settings = &self.blueprint.settings;
        if self.blueprint.service("connect").is_none() {
            return Ok(Vec::new());
        }
        let missing = missing_topics(self.upcoming()).await?;
        let mut specs = specs(settings);
        specs.retain(|spec| missing.contains(&spec.name));
        for spec in &specs {
            self.is_agreed(service, &creation(&spec.name))?;
        }
        self.connections.kafka.ensure_topics(&specs).await?;
        Ok(specs.into_iter().map(|spec| spec.name).collect())
    }

    /// Applies the connector, and the changes of the source that depend on its
    /// history.
    async fn furnish_connect(
        &self,
        service: &Service,
        progress: &dyn Progress,
    ) -> Result<Vec<Altered>, UpError> {
        let settings = &self.blueprint.settings;
        let overrides = connector::overrides(&self.site, settings)?;
        let dropped = source::drop_strays(&self.connections, self.permit()).await?;
        let mut altered: Vec<Altered> = dropped.into_iter().map(Altered::in_postgres).collect();
        if let Some(postgres) = self.blueprint.service("postgres")
            && let Some(slot) = missing_slot(&self.connections).await?
        {
            self.is_agreed(postgres, &slot)?;
        }
        if service.runtime == Runtime::External
            && let Some(change) = connector::owned::change(self.upcoming()).await?
        {
            self.is_agreed(service, &change)?;
        }
        let timeout = self.request.timeout;
        let applied = connector::apply(&self.connections, &overrides, timeout, progress).await?;
        altered.extend(Altered::in_connect(&settings.connector.name, applied));
        altered.extend(self.repair_topics(progress).await);
        Ok(altered)
    }

    /// Repairs the settings of existing topics if the broker belongs to this
    /// project, and notes them otherwise.
    async fn repair_topics(&self, progress: &dyn Progress) -> Vec<Altered> {
        let kafka = self.blueprint.service("kafka");
        let is_ours = kafka.is_some_and(|kafka| kafka.runtime != Runtime::External);
        let repair = topics::repair(&self.connections, is_ours).await;
        for text in repair.notes() {
            progress.report(Event::Note { text: &text });
        }
        repair.changes().map(Altered::in_kafka).collect()
    }

    /// Checks that this change of a service is allowed.
    ///
    /// # Errors
    /// If the service is external, and the operator has not consented.
    fn is_agreed(&self, service: &Service, what: &str) -> Result<(), UpError> {
        if service.runtime != Runtime::External || self.request.consent.covers(what) {
            return Ok(());
        }
        Err(UpError::NotConfirmed {
            needed: format!("{}: {what}", service.definition.name),
            typed: self.request.typed.clone(),
        })
    }

    /// Returns what may be done to the source.
    fn permit(&self) -> Permit<'_> {
        let service = self.blueprint.service("postgres");
        let is_ours = service.is_some_and(|it| it.runtime != Runtime::External);
        Permit {
            is_ours,
            consent: &self.request.consent,
        }
    }

    /// Waits until every sink has finished starting. A halted sink gets the time to
    /// check again, because the cause may just have been fixed.
    async fn see_sinks(&self, progress: &dyn Progress) -> Result<(), UpError> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let (what, halt) = match status::pipeline(&self.connections.pipeline).await {
                Ok(status) => {
                    let waits = |sink: &SinkStatus| {
                        matches!(sink.state, SinkState::Starting | SinkState::Halted)
                    };
                    let Some(sink) = status.sinks.into_iter().find(waits) else {
                        return Ok(());
                    };
                    let detail = sink.detail.as_deref().unwrap_or("starting");
                    let what = format!("sink {}: {detail}", sink.name);
                    (what, sink.halt.map(|halt| (sink.name, halt)))
                }
                // A pipeline that does not report its sinks has not started.
                Err(problem) => (problem, None),
            };
            if let Some((sink, halt)) = halt
                && begun.elapsed() >= HALT_PATIENCE
            {
                return Err(UpError::Halted { sink, halt });
            }
            if begun.elapsed() >= self.request.timeout {
                return Err(UpError::SinkNotReady {
                    what,
                    seconds: self.request.timeout.as_secs(),
                });
            }
            if told != what {
                let task = "pipeline";
                progress.report(Event::Doing { task, what: &what });
                told = what;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
}
