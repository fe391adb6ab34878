//! What fanout owns on external servers: its components list it, and remove it
//! after the operator has confirmed the list.

use std::slice;

use crate::{
    config::project::Project,
    connections::Connections,
    crash,
    operations::owned::{OWNERS, owner},
    progress::Event,
    stack::owned::{Object, Owned, OwnedError, Removal, Removing},
};

/// Lists the objects of this project on the external services, in the order of
/// the services.
///
/// # Errors
/// If one of the servers does not respond.
pub(super) async fn objects(
    project: &Project,
    connections: &Connections,
    external: &[String],
) -> Result<Vec<Object>, OwnedError> {
    let mut objects = Vec::new();
    for service in external {
        if let Some(component) = owner(service) {
            objects.extend(component.objects(connections, project).await?);
        }
    }
    Ok(objects)
}

/// Removes the objects that need servers which `reset` stops afterwards.
pub(super) async fn remove_before_stop(
    objects: &[Object],
    reset: Removing<'_>,
) -> Result<(), OwnedError> {
    remove_together(Removal::BeforeStop, objects, reset).await
}

/// Removes the other objects, after all processes of fanout that use them have
/// stopped.
pub(super) async fn remove(objects: &[Object], reset: Removing<'_>) -> Result<(), OwnedError> {
    for object in objects {
        let component = owner(&object.service);
        let removal = component.map(Owned::removal);
        if removal == Some(Removal::BeforeStop) {
            continue;
        }
        let what = format!("removing {} {}", object.kind.to_lowercase(), object.name);
        reset.progress.report(Event::Doing {
            task: &object.service,
            what: &what,
        });
        if let Some(component) = component
            && removal == Some(Removal::OneByOne)
        {
            component.remove(slice::from_ref(object), reset).await?;
        }
        crash::point("reset", "object_removed");
    }
    remove_together(Removal::Last, objects, reset).await
}

/// Removes the objects of each component with this kind of removal, all at once.
async fn remove_together(
    removal: Removal,
    objects: &[Object],
    reset: Removing<'_>,
) -> Result<(), OwnedError> {
    for component in OWNERS {
        if component.removal() != removal {
            continue;
        }
        let service = component.service();
        let owned = objects.iter().filter(|object| object.service == service);
        let owned: Vec<Object> = owned.cloned().collect();
        if !owned.is_empty() {
            component.remove(&owned, reset).await?;
        }
    }
    Ok(())
}
