//! Whether containerd asks the start gate at all, and since when: where it does not, a container without the hook is no
//! way around it.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    containerd::Containerd,
    cri::Cri,
    node::{base_spec, process},
};

/// Since when containers of pods are made with the hook; none where no runtime handler has it. containerd reads its
/// configuration when it starts.
///
/// # Errors
/// When containerd does not say.
pub(super) async fn connected_since(containerd: &Containerd) -> Result<Option<Timestamp>, String> {
    let info = match Cri::of(containerd).info().await {
        // It serves no pods.
        Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(None),
        Err(status) => return Err(status.message().to_owned()),
        Ok(info) => info,
    };
    if !info.get("config").is_some_and(|config| names_base_spec(config)) {
        return Ok(None);
    }
    let process = containerd.process().await.map_err(|error| error.to_string())?.ok_or("containerd has no process")?;
    let started = process::started_at(process).ok_or("when containerd was started is not known")?;
    Timestamp::try_from(started).map(Some).map_err(|error| error.to_string())
}

/// Whether any runtime handler of what CRI runs with has the start gate's base specification.
fn names_base_spec(config: &str) -> bool {
    #[derive(Deserialize)]
    struct Config {
        containerd: Runtimes,
    }
    #[derive(Deserialize)]
    struct Runtimes {
        #[serde(default)]
        runtimes: BTreeMap<String, Runtime>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Runtime {
        #[serde(default)]
        base_runtime_spec: String,
    }
    serde_json::from_str::<Config>(config).is_ok_and(|config| {
        config.containerd.runtimes.values().any(|runtime| base_spec::is_ours(Path::new(&runtime.base_runtime_spec)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_handler_with_the_hook_is_enough() {
        let config = |specs: [&str; 2]| {
            let [runc, kata] = specs.map(|spec| format!(r#"{{"runtimeType":"x","baseRuntimeSpec":"{spec}"}}"#));
            format!(r#"{{"containerd":{{"runtimes":{{"runc":{runc},"kata":{kata}}}}},"cni":{{}}}}"#)
        };
        assert!(names_base_spec(&config(["", "/etc/pullgate/base-spec-kata.json"])));
        assert!(names_base_spec(&config(["/etc/pullgate/base-spec.json", ""])));
        assert!(!names_base_spec(&config(["", "/etc/containerd/base.json"])));
        for other in ["", "null", "{}", r#"{"containerd":{}}"#, r#"{"containerd":{"runtimes":{"runc":{}}}}"#] {
            assert!(!names_base_spec(other), "{other}");
        }
    }
}
