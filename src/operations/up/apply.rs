//! Applies the plan: downloads what is missing, starts each service, waits until it is ready,
//! and provisions its objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use futures_util::future::try_join_all;

use super::{Pull, Report, Up, altered::Altered, error::UpError};
use crate::{
    config::Runtime,
    progress::{Event, NotesOnly, Progress},
    source::checks::RECONCILE,
    stack::{
        Service,
        docker::{discovery::EngineDiscovery, labels::ResourceLabels, pull, run},
        native::install,
        plan::{Action, Step},
        runner,
    },
};

impl Up {
    /// Applies the plan.
    ///
    /// # Errors
    /// For the first service that fails to start. Started services keep running, and another
    /// `up` continues from there.
    pub async fn apply(&self, progress: &dyn Progress) -> Result<Report, UpError> {
        self.record.keep();
        self.install(progress).await?;
        self.pull(progress).await?;
        if let Some(engine_state) = &self.blueprint.engine_state {
            run::create_network(&engine_state.engine, &ResourceLabels::new(&self.site)).await?;
        }
        let mut changed = !self.plan().is_empty();
        let mut altered = Vec::new();
        for level in self.levels() {
            let services = level.into_iter().map(|step| self.bring_up(step, progress));
            for (started, changes) in try_join_all(services).await? {
                changed |= started || !changes.is_empty();
                altered.extend(changes);
            }
        }
        let recovers = altered.iter().any(|change| change.recovers);
        Ok(Report {
            remedy: recovers.then_some(RECONCILE),
            altered,
            ..self.report(changed)
        })
    }

    async fn install(&self, progress: &dyn Progress) -> Result<(), UpError> {
        for (name, described) in self.blueprint.missing_installs(&self.site) {
            if self.request.pull == Pull::Never {
                return Err(install::forbidden(name).into());
            }
            let replace = self.request.pull == Pull::Always;
            install::ensure(&self.site, name, described, replace, progress).await?;
        }
        Ok(())
    }

    /// Pulls the required images.
    async fn pull(&self, progress: &dyn Progress) -> Result<(), UpError> {
        let Some(engine_state) = &self.blueprint.engine_state else {
            return Ok(());
        };
        let specs = self.blueprint.containers.values();
        let images: BTreeSet<&str> = match self.request.pull {
            Pull::Always => specs.map(|spec| spec.container.image.as_str()).collect(),
            Pull::Missing | Pull::Never => self.blueprint.missing_images(),
        };
        if self.request.pull == Pull::Never
            && let Some(image) = images.first()
        {
            return Err(pull::forbidden(image).into());
        }
        let config = EngineDiscovery::from_env().config;
        let pulls = images
            .iter()
            .map(|image| pull::pull(&engine_state.engine, image, &config, progress));
        try_join_all(pulls).await?;
        Ok(())
    }

    /// Returns true if the image's name now refers to another image than the container's.
    async fn is_outdated(&self, service: &str) -> bool {
        let (Some(engine_state), Some(spec)) = (
            &self.blueprint.engine_state,
            self.blueprint.containers.get(service),
        ) else {
            return false;
        };
        if self.request.pull != Pull::Always {
            return false;
        }
        let image = engine_state.engine.image(&spec.container.image).await;
        let image = image.ok().flatten();
        engine_state.running(service).map(|found| &found.image) != image.as_ref()
    }

    /// Starts one service if the plan requires it, and waits until it is ready. Returns true if
    /// it was started.
    async fn start(
        &self,
        step: &Step,
        service: &Service,
        progress: &dyn Progress,
    ) -> Result<bool, UpError> {
        let timeout = self.request.timeout;
        let (site, name) = (&self.site, &step.service);
        let starts = step.action != Action::Keep || self.is_outdated(name).await;
        match (
            self.blueprint.processes.get(name),
            self.blueprint.containers.get(name),
            &self.blueprint.engine_state,
        ) {
            (Some(spec), ..) if starts => {
                runner::start(site, service, spec, timeout, progress).await?;
            }
            (_, Some(spec), Some(engine_state)) if starts => {
                let engine = &engine_state.engine;
                runner::start_container(site, engine, service, spec, timeout, progress).await?;
            }
            (_, Some(spec), Some(engine_state)) => {
                let engine = &engine_state.engine;
                runner::confirm_container(site, engine, service, spec, timeout, progress).await?;
            }
            _ => runner::confirm(site, service, timeout, progress).await?,
        }
        let runs_here = service.runtime != Runtime::External;
        Ok(starts && runs_here)
    }

    /// Splits the plan into levels. The services of a level need only services of lower levels.
    fn levels(&self) -> Vec<Vec<&Step>> {
        let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
        let mut levels: Vec<Vec<&Step>> = Vec::new();
        for step in &self.plan().steps {
            let needs = self
                .blueprint
                .service(&step.service)
                .map(|service| service.definition.needs.as_slice())
                .unwrap_or_default();
            let below = needs.iter().filter_map(|need| depth.get(need.as_str()));
            let level = below.max().map_or(0, |deepest| deepest + 1);
            depth.insert(&step.service, level);
            levels.resize_with(levels.len().max(level + 1), Vec::new);
            levels[level].push(step);
        }
        levels
    }

    /// Starts one service and provisions its objects. Returns whether the service was started,
    /// and the changes of its objects.
    async fn bring_up(
        &self,
        step: &Step,
        progress: &dyn Progress,
    ) -> Result<(bool, Vec<Altered>), UpError> {
        let Some(service) = self.blueprint.service(&step.service) else {
            return Ok((false, Vec::new()));
        };
        let begun = Instant::now();
        if !self.start(step, service, progress).await? {
            // The objects of a running service are provisioned too, but only notes are shown.
            return Ok((false, self.furnish(service, &NotesOnly(progress)).await?));
        }
        let altered = self.furnish(service, progress).await?;
        // The first provisioning of a new server is not reported as a change.
        let altered = altered
            .into_iter()
            .filter(|_| step.action != Action::Create);
        let what = format!("ready after {:.1} s", begun.elapsed().as_secs_f64());
        progress.report(Event::Done {
            task: &step.service,
            what: &what,
        });
        Ok((true, altered.collect()))
    }
}
