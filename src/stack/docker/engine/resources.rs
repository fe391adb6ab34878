//! Networks and volumes, reduced to their names and labels.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    models::{NetworkCreateRequest, VolumeCreateRequest},
    query_parameters::{
        ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
    },
};

use super::{
    Engine,
    error::{DockerError, none_if_missing, ok_if},
};

/// A network or a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

impl Resource {
    fn new(name: String, labels: Option<HashMap<String, String>>) -> Self {
        Self {
            name,
            labels: labels.unwrap_or_default().into_iter().collect(),
        }
    }

    fn label_map(&self) -> HashMap<String, String> {
        self.labels.clone().into_iter().collect()
    }
}

impl Engine {
    /// Returns the network with exactly this name.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn network(&self, name: &str) -> Result<Option<Resource>, DockerError> {
        // Inspecting by name would also match the prefix of an id.
        let all = self
            .list_networks(HashMap::from([("name", vec![name])]))
            .await?;
        Ok(all.into_iter().find(|network| network.name == name))
    }

    /// Returns the networks with this label (`name=value`).
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn networks(&self, label: &str) -> Result<Vec<Resource>, DockerError> {
        self.list_networks(HashMap::from([("label", vec![label])]))
            .await
    }

    async fn list_networks(
        &self,
        filters: HashMap<&str, Vec<&str>>,
    ) -> Result<Vec<Resource>, DockerError> {
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found = self.docker.list_networks(Some(options)).await?;
        let resource = |network: bollard::models::Network| {
            Resource::new(network.name.unwrap_or_default(), network.labels)
        };
        Ok(found.into_iter().map(resource).collect())
    }

    /// Creates a bridge network.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn create_network(&self, network: &Resource) -> Result<(), DockerError> {
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(network.label_map()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(request).await?;
        Ok(())
    }

    /// Removes a network without containers.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn remove_network(&self, name: &str) -> Result<(), DockerError> {
        ok_if(&[404], self.docker.remove_network(name).await)
    }

    /// Returns the volume with this name.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn volume(&self, name: &str) -> Result<Option<Resource>, DockerError> {
        let found = none_if_missing(self.docker.inspect_volume(name).await)?;
        Ok(found.map(|volume| Resource::new(volume.name, Some(volume.labels))))
    }

    /// Returns the volumes with this label (`name=value`).
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn volumes(&self, label: &str) -> Result<Vec<Resource>, DockerError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let found = self.docker.list_volumes(Some(options)).await?;
        let volumes = found.volumes.unwrap_or_default().into_iter();
        Ok(volumes
            .map(|volume| Resource::new(volume.name, Some(volume.labels)))
            .collect())
    }

    /// Creates a volume.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn create_volume(&self, volume: &Resource) -> Result<(), DockerError> {
        let request = VolumeCreateRequest {
            name: Some(volume.name.clone()),
            labels: Some(volume.label_map()),
            ..VolumeCreateRequest::default()
        };
        self.docker.create_volume(request).await?;
        Ok(())
    }

    /// Removes a volume and its data.
    ///
    /// # Errors
    /// If the engine refuses, for instance because a container uses the volume.
    pub async fn remove_volume(&self, name: &str) -> Result<(), DockerError> {
        let removed = self.docker.remove_volume(name, None::<RemoveVolumeOptions>);
        ok_if(&[404], removed.await)
    }
}
