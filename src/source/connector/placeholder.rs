//! The connector's placeholder for values that it does not have: chosen once for
//! a project, and in the state topic before the connector writes it, so that
//! every worker knows it.
//!
//! A connector that has another one is stopped while it is given ours: where the
//! log ends then is where the records under the other one end.

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

/// The placeholder that the connector has to have.
pub(super) struct Placeholder<'a> {
    connections: &'a Connections,
    known: Option<Placeholders>,
    text: String,
}

impl<'a> Placeholder<'a> {
    /// The project's: the one that is known, else the one that the connector has
    /// from us, else a new one. Nothing is written.
    ///
    /// # Errors
    /// When Kafka does not answer, or holds a document of another format.
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
            (None, Some(ours)) if Placeholders::is_chosen(ours) => ours.clone(),
            (None, _) => Placeholders::choose(Uuid::new_v4()),
        };
        Ok(Self {
            connections,
            known,
            text,
        })
    }

    /// Has the connector configured with it.
    pub(super) fn fill(&self, desired: &mut Properties) {
        desired.insert(PLACEHOLDER.to_owned(), self.text.clone());
    }

    /// Makes it known, before the connector is configured with it. One that has
    /// another placeholder is stopped first, so that what it wrote ends where the
    /// log ends now.
    ///
    /// # Errors
    /// When Kafka or Connect do not answer, or the connector does not stop in
    /// time.
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
            Some(ours) if ours == self.text => {
                if switch.known.switching {
                    switch.stop(rest, deadline, steps).await?;
                }
                switch.end_earlier().await?;
            }
            Some(other) => {
                switch.known.add_earlier(other, None);
                if is_at_rest(rest).await? && !switch.known.switching {
                    // Its operator resumes it.
                    switch.ends = Some(switch.read_ends().await?);
                } else {
                    switch.known.switching = true;
                    switch.keep().await?;
                    crash::point("connector", "announced");
                    switch.stop(rest, deadline, steps).await?;
                    switch.ends = Some(switch.read_ends().await?);
                }
            }
        }
        if self.known.as_ref() != Some(&switch.known) {
            switch.keep().await?;
        }
        Ok(switch)
    }
}

/// A connector that is being given its placeholder.
pub(super) struct Switch<'a> {
    connections: &'a Connections,
    known: Placeholders,
    /// Where the log ends while the connector, still configured with its earlier
    /// placeholder, is at rest.
    ends: Option<BTreeMap<String, TopicEnd>>,
}

impl Switch<'_> {
    /// Keeps where the records under the earlier placeholder end, now that the
    /// connector is configured with another. Not before: until then whoever
    /// resumes it has it write more of them.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub(super) async fn configured(&mut self) -> Result<(), ConnectorError> {
        let Some(ends) = self.ends.take() else {
            return Ok(());
        };
        self.end_at(&ends);
        self.keep().await
    }

    /// Lets the connector go on, now that it is configured.
    ///
    /// # Errors
    /// When Kafka or Connect do not answer.
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
        self.keep().await
    }

    /// Stops the connector, so that the log of both tables ends.
    async fn stop(
        &self,
        rest: &Rest,
        deadline: Instant,
        steps: &Steps<'_>,
    ) -> Result<(), ConnectorError> {
        steps.doing("stopping it to change its placeholder");
        stop(rest, deadline, steps).await?;
        crash::point("connector", "stopped");
        Ok(())
    }

    /// Nobody writes: what is in the log is of an earlier connector.
    async fn without_connector(&mut self, is_first: bool) -> Result<(), ConnectorError> {
        self.known.switching = false;
        if is_first && self.read_ends().await?.values().any(has_records) {
            self.known.add_earlier(DEBEZIUM_DEFAULT, None);
        }
        self.end_earlier().await
    }

    /// What is not known to have ended has.
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

    /// Where the log of both tables ends.
    async fn read_ends(&self) -> Result<BTreeMap<String, TopicEnd>, ConnectorError> {
        let settings = self.connections.settings();
        let reader = reader_group(settings, "connector");
        let log = self.connections.kafka.log(&reader)?;
        let source = Source::new(&settings.kafka.topic_prefix);
        let mut ends = BTreeMap::new();
        for topic in [source.facts.topic(), source.content.topic()] {
            if let Some(identity) = log.identity(&topic).await? {
                let until = TopicEnd {
                    topic_id: identity.id,
                    offsets: log.ends(&topic).await?,
                };
                ends.insert(topic, until);
            }
        }
        Ok(ends)
    }

    /// Keeps what is known where every worker finds it.
    async fn keep(&self) -> Result<(), ConnectorError> {
        let (settings, kafka) = (self.connections.settings(), &self.connections.kafka);
        let name = &settings.kafka.state_topic;
        let mut state = topics::specs(settings);
        state.retain(|topic| topic.name == *name);
        kafka.ensure_topics(&state).await?;
        let topic = kafka.state(&reader_group(settings, "connector"), name)?;
        Ok(topic.set(STATE_KEY, &self.known.bytes()).await?)
    }
}

/// Whether its operator has stopped or paused it.
async fn is_at_rest(rest: &Rest) -> Result<bool, ConnectorError> {
    let status = rest.status().await?;
    Ok(status.is_some_and(|status| matches!(status.state, State::Paused | State::Stopped)))
}

fn has_records(until: &TopicEnd) -> bool {
    until.offsets.iter().any(|end| *end > 0)
}
