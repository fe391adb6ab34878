//! All that the texts of a native way may name, besides what
//! [`crate::stack::values`] has for every one.
//!
//! | name | is |
//! |---|---|
//! | `data`, `conf` | its folders |
//! | `program.NAME`, `install.NAME` | what its way asks for |
//! | `project`, `home`, `config`, `fanout` | whose it is, and this program |
//! | `unique` | random, another each time |

use std::{collections::BTreeMap, path::PathBuf};

use super::kitchen::Kitchen;
use crate::{
    stack::{definition::Way, resolve::Service, values},
    template::Values,
};

/// Values that differ from place to place without making another service.
pub(super) const PLACES: [&str; 5] = ["data", "conf", "home", "config", "unique"];

/// The values for one service, run in one way.
pub(super) fn of(
    service: &Service,
    way: &Way,
    programs: &BTreeMap<String, PathBuf>,
    kitchen: &Kitchen<'_>,
) -> Result<Values, serde_json::Error> {
    let mut values = values::of(service, kitchen.settings)?;
    values.extend(places(service, way, kitchen));
    for program in way.programs.keys() {
        let place = programs.get(program);
        let place = place.map_or_else(|| program.clone(), |path| path.display().to_string());
        values.insert(format!("program.{program}"), place);
    }
    for install in &way.installs {
        if let Some(described) = kitchen.installs.get(install) {
            let folder = kitchen.site.install_folder(described);
            values.insert(format!("install.{install}"), folder.display().to_string());
        }
    }
    Ok(values)
}

fn places(service: &Service, way: &Way, kitchen: &Kitchen<'_>) -> Values {
    let name = &service.definition.name;
    let site = kitchen.site;
    let dir = site.dir();
    let config = site.config_file.as_ref();
    [
        ("data", dir.data(name, &way.variant).display().to_string()),
        ("conf", dir.conf(name).display().to_string()),
        ("home", site.home.path().display().to_string()),
        ("project", site.project.to_string()),
        ("fanout", site.fanout.display().to_string()),
        (
            "config",
            config
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        ),
        ("unique", unique()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// 16 random bytes in the form that Kafka's ids have: 22 letters of base64.
fn unique() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{}A", &random[..21])
}
