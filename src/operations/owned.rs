//! The components that own objects on servers. `up` reviews their changes, and
//! `reset` lists and removes their objects.

use crate::{
    runtime::owned::KafkaObjects,
    sinks::{clickhouse::owned::ClickHouseObjects, redis::owned::RedisObjects},
    source::{connector::owned::ConnectObjects, owned::PostgresObjects},
    stack::owned::Owned,
};

/// All components. `reset` follows this order among components with the same
/// kind of removal.
pub(super) const OWNERS: [&dyn Owned; 5] = [
    &ConnectObjects,
    &PostgresObjects,
    &ClickHouseObjects,
    &KafkaObjects,
    &RedisObjects,
];

/// Returns the component that owns objects on this service, if there is one.
pub(super) fn owner(service: &str) -> Option<&'static dyn Owned> {
    OWNERS.into_iter().find(|owner| owner.service() == service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::definition;

    #[test]
    fn each_component_owns_objects_on_a_service_of_its_own() {
        let services = definition::services().expect("valid definitions");
        for component in OWNERS {
            let name = component.service();
            assert!(
                services.iter().any(|service| service.name == name),
                "{name}"
            );
            let found = OWNERS.into_iter().filter(|other| other.service() == name);
            assert_eq!(found.count(), 1, "{name}");
        }
    }
}
