//! Networks and volumes: a name and labels are all there is to them here.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    models::{NetworkCreateRequest, VolumeCreateRequest},
    query_parameters::{
        ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
    },
};

use super::{
    Engine,
    error::{DockerError, fine_if, none_if_missing},
};

/// A network or a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

impl Thing {
    fn new(name: String, labels: Option<HashMap<String, String>>) -> Self {
        Self {
            name,
            labels: labels.unwrap_or_default().into_iter().collect(),
        }
    }

    fn labels_of(&self) -> HashMap<String, String> {
        self.labels.clone().into_iter().collect()
    }
}

impl Engine {
    /// The network of this very name.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn network(&self, name: &str) -> Result<Option<Thing>, DockerError> {
        // Asked for by name it would answer for the beginning of an id too.
        let all = self
            .list_networks(HashMap::from([("name", vec![name])]))
            .await?;
        Ok(all.into_iter().find(|network| network.name == name))
    }

    /// The networks that bear this label (`name=value`).
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn networks(&self, label: &str) -> Result<Vec<Thing>, DockerError> {
        self.list_networks(HashMap::from([("label", vec![label])]))
            .await
    }

    async fn list_networks(
        &self,
        filters: HashMap<&str, Vec<&str>>,
    ) -> Result<Vec<Thing>, DockerError> {
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found = self.docker.list_networks(Some(options)).await?;
        let thing =
            |one: bollard::models::Network| Thing::new(one.name.unwrap_or_default(), one.labels);
        Ok(found.into_iter().map(thing).collect())
    }

    /// Makes a network of containers of this machine.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn create_network(&self, network: &Thing) -> Result<(), DockerError> {
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(network.labels_of()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(request).await?;
        Ok(())
    }

    /// Removes a network that no container uses any more.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn remove_network(&self, name: &str) -> Result<(), DockerError> {
        fine_if(&[404], self.docker.remove_network(name).await)
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn volume(&self, name: &str) -> Result<Option<Thing>, DockerError> {
        let found = none_if_missing(self.docker.inspect_volume(name).await)?;
        Ok(found.map(|volume| Thing::new(volume.name, Some(volume.labels))))
    }

    /// The volumes that bear this label (`name=value`).
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn volumes(&self, label: &str) -> Result<Vec<Thing>, DockerError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let found = self.docker.list_volumes(Some(options)).await?;
        let volumes = found.volumes.unwrap_or_default().into_iter();
        Ok(volumes
            .map(|volume| Thing::new(volume.name, Some(volume.labels)))
            .collect())
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn create_volume(&self, volume: &Thing) -> Result<(), DockerError> {
        let request = VolumeCreateRequest {
            name: Some(volume.name.clone()),
            labels: Some(volume.labels_of()),
            ..VolumeCreateRequest::default()
        };
        self.docker.create_volume(request).await?;
        Ok(())
    }

    /// Removes a volume and what is in it.
    ///
    /// # Errors
    /// When the engine does not, for instance because a container uses it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), DockerError> {
        let done = self.docker.remove_volume(name, None::<RemoveVolumeOptions>);
        fine_if(&[404], done.await)
    }
}
