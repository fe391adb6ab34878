//! The connector's placeholder for unavailable values. It is chosen once for a project, and
//! stored in the state topic before the connector writes it, so that every worker knows it.
//!
//! A connector with another placeholder is stopped while its placeholder is changed. The end of
//! the log at that time is the end of the records with the earlier placeholder.

use std::collections::BTreeMap;

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    desired::{PLACEHOLDER, Properties},
    error::ConnectorError,
    rest::Rest,
    status::State,
    wait::{stop, until_not_paused},
};
use crate::{
    connections::Connections,
    crash,
    debezium::unavailable::{DEBEZIUM_DEFAULT, Placeholders, STATE_KEY, TopicEnd},
    progress::steps::Steps,
    source::{
        placeholders::KnownPlaceholders,
        tables::{Source, reader_group},
        topics,
    },
};

/// The placeholder that the connector must have.
pub(super) struct Placeholder<'a> {
    connections: &'a Connections,
    known: Option<Placeholders>,
    text: String,
}

impl<'a> Placeholder<'a> {
    /// Finds the project's placeholder: the recorded one, otherwise the connector's if fanout
    /// chose it, otherwise a new one. Writes nothing.
    ///
    /// # Errors
    /// If Kafka does not respond, or its document has another format.
    pub(super) async fn find(
        connections: &'a Connections,
        current: Option<&Properties>,
    ) -> Result<Self, ConnectorError> {
        let (settings, kafka) = (connections.settings(), &connections.kafka);
        let source = Source::new(&settings.kafka.topic_prefix);
        let reader = reader_group(settings, "connector");
        let state = kafka.state(&reader, &settings.kafka.state_topic)?;
        let log = kafka.log(&reader)?;
        let known = KnownPlaceholders::new(state, log, &source.facts, &source.content);
        let known = known.read().await?;
        let configured = current.and_then(|current| current.get(PLACEHOLDER));
        let text = match (&known, configured) {
            (Some(known), _) => known.placeholder.clone(),
            (None, Some(chosen)) if Placeholders::is_chosen(chosen) => chosen.clone(),
            (None, _) => Placeholders::choose(Uuid::new_v4()),
        };
        Ok(Self {
            connections,
            known,
            text,
        })
    }

    /// Sets the placeholder in the connector's configuration.
    pub(super) fn fill(&self, desired: &mut Properties) {
        desired.insert(PLACEHOLDER.to_owned(), self.text.clone());
    }

    /// Records the placeholder before the connector is configured with it. A connector with
    /// another placeholder is stopped first, so that the records with that placeholder end at
    /// the current end of the log.
    ///
    /// # Errors
    /// If Kafka or Connect does not respond, or the connector does not stop in time.
    pub(super) async fn announce(
        &self,
        rest: &Rest,
        current: Option<&Properties>,
        deadline: Instant,
        steps: &Steps<'_>,
    ) -> Result<Switch<'a>, ConnectorError> {
        let known = self.known.clone();
        let mut switch = Switch {
            connections: self.connections,
            known: known.unwrap_or_else(|| Placeholders::new(self.text.clone())),
            ends: None,
        };
        let configured = current.map(|current| {
            let configured = current.get(PLACEHOLDER).map(String::as_str);
            configured.unwrap_or(DEBEZIUM_DEFAULT)
        });
        match configured {
            None => switch.without_connector(self.known.is_none()).await?,
            Some(current) if current == self.text => {
                if switch.known.switching {
                    switch.stop(rest, deadline, steps).await?;
                }
                switch.end_earlier().await?;
            }
            Some(other) => {
                switch.known.add_earlier(other, None);
                if is_at_rest(rest).await? && !switch.known.switching {
                    // The operator has stopped the connector and will resume it.
                    switch.ends = Some(switch.read_ends().await?);
                } else {
                    switch.known.switching = true;
                    switch.store().await?;
                    crash::point("connector", "announced");
                    switch.stop(rest, deadline, steps).await?;
                    switch.ends = Some(switch.read_ends().await?);
                }
            }
        }
        if self.known.as_ref() != Some(&switch.known) {
            switch.store().await?;
        }
        Ok(switch)
    }
}

/// Change of a connector's placeholder.
pub(super) struct Switch<'a> {
    connections: &'a Connections,
    known: Placeholders,
    /// End of the log of both tables, read while the connector was stopped and still configured
    /// with its earlier placeholder.
    ends: Option<BTreeMap<String, TopicEnd>>,
}

impl Switch<'_> {
    /// Records the end of the records with the earlier placeholder, once the connector is
    /// configured with the new one. Before that, an operator who resumes the connector makes it
    /// write more of them.
    ///
    /// # Errors
    /// If Kafka does not respond.
    pub(super) async fn configured(&mut self) -> Result<(), ConnectorError> {
        let Some(ends) = self.ends.take() else {
            return Ok(());
        };
        self.end_at(&ends);
        self.store().await
    }

    /// Resumes the connector after it was configured.
    ///
    /// # Errors
    /// If Kafka or Connect does not respond.
    pub(super) async fn finish(
        mut self,
        rest: &Rest,
        deadline: Instant,
        steps: &Steps<'_>,
    ) -> Result<(), ConnectorError> {
        if !self.known.switching {
            return Ok(());
        }
        crash::point("connector", "configured");
        rest.put("resume", deadline).await?;
        until_not_paused(rest, deadline, steps).await?;
        crash::point("connector", "resumed");
        self.known.switching = false;
        self.store().await
    }

    /// Stops the connector, so that it writes no more records.
    async fn stop(
        &self,
        rest: &Rest,
        deadline: Instant,
        steps: &Steps<'_>,
    ) -> Result<(), ConnectorError> {
        steps.doing("stopping to change its placeholder");
        stop(rest, deadline, steps).await?;
        crash::point("connector", "stopped");
        Ok(())
    }

    /// Handles a missing connector: all records in the log come from an earlier connector.
    async fn without_connector(&mut self, is_first: bool) -> Result<(), ConnectorError> {
        self.known.switching = false;
        if is_first && self.read_ends().await?.values().any(has_records) {
            self.known.add_earlier(DEBEZIUM_DEFAULT, None);
        }
        self.end_earlier().await
    }

    /// Sets the end of every earlier placeholder that has none yet.
    async fn end_earlier(&mut self) -> Result<(), ConnectorError> {
        if self
            .known
            .earlier
            .iter()
            .all(|earlier| earlier.until.is_some())
        {
            return Ok(());
        }
        let ends = self.read_ends().await?;
        self.end_at(&ends);
        Ok(())
    }

    fn end_at(&mut self, ends: &BTreeMap<String, TopicEnd>) {
        for earlier in &mut self.known.earlier {
            earlier.until.get_or_insert_with(|| ends.clone());
        }
    }

    /// Reads the end of the log of both tables.
    async fn read_ends(&self) -> Result<BTreeMap<String, TopicEnd>, ConnectorError> {
        let settings = self.connections.settings();
        let reader = reader_group(settings, "connector");
        let log = self.connections.kafka.log(&reader)?;
        let source = Source::new(&settings.kafka.topic_prefix);
        let mut ends = BTreeMap::new();
        for topic in [source.facts.topic(), source.content.topic()] {
            if let Some(identity) = log.identity(&topic).await? {
                let end = TopicEnd {
                    topic_id: identity.id,
                    offsets: log.ends(&topic).await?,
                };
                ends.insert(topic, end);
            }
        }
        Ok(ends)
    }

    /// Stores the placeholders in the state topic, for all workers.
    async fn store(&self) -> Result<(), ConnectorError> {
        let (settings, kafka) = (self.connections.settings(), &self.connections.kafka);
        let name = &settings.kafka.state_topic;
        let mut state = topics::specs(settings);
        state.retain(|topic| topic.name == *name);
        kafka.ensure_topics(&state).await?;
        let topic = kafka.state(&reader_group(settings, "connector"), name)?;
        Ok(topic.set(STATE_KEY, &self.known.bytes()).await?)
    }
}

/// Returns true if the connector is stopped or paused.
async fn is_at_rest(rest: &Rest) -> Result<bool, ConnectorError> {
    let status = rest.status().await?;
    Ok(status.is_some_and(|status| matches!(status.state, State::Paused | State::Stopped)))
}

fn has_records(end: &TopicEnd) -> bool {
    end.offsets.iter().any(|offset| *offset > 0)
}
