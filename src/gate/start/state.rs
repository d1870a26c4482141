//! What a hook passes on: the state of the container that is about to start (OCI runtime specification, runtime.md,
//! "State").

use serde::Deserialize;

use crate::{gate::questions::parts, limits};

/// What selects the hook in the program.
const ARGUMENT: &str = "create-runtime";
/// The directory of containerd's runtime that has a folder for each namespace, and in it one for each container.
const TASKS: &str = "io.containerd.runtime.v2.task";
/// Characters of a namespace or an identifier (containerd, `pkg/identifiers`).
const NAME_CHARS: usize = 76;

/// The container that is about to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// containerd's namespace.
    pub(super) namespace: String,
    /// The container's identifier.
    pub(super) id: String,
}

impl State {
    /// Reads what a hook sent. The annotations in it are the words of whoever made the pod: they are not looked at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            id: String,
            bundle: String,
        }
        let (arguments, state) = parts(bytes, limits::START_QUESTION_BYTES)?;
        if arguments != [ARGUMENT] {
            return Err("the hook was started with other arguments".to_owned());
        }
        let Document { id, bundle } =
            serde_json::from_slice(state).map_err(|why| format!("the runtime's state: {why}"))?;
        let elsewhere = || format!("the bundle is not in a folder of {TASKS} that is called as the container");
        let mut folders = bundle.split('/').rev();
        let (of_id, of_namespace, of_tasks) = (folders.next(), folders.next(), folders.next());
        let namespace = of_namespace.filter(|_| of_id == Some(&id) && of_tasks == Some(TASKS)).ok_or_else(elsewhere)?;
        if !bundle.starts_with('/') || !is_name(&id) || !is_name(namespace) {
            return Err(elsewhere());
        }
        Ok(Self { namespace: namespace.to_owned(), id })
    }
}

/// Whether containerd could have a namespace or a container of this name.
fn is_name(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= NAME_CHARS
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::questions::framed;

    fn read(state: &str) -> Result<State, String> {
        State::read(&framed(&[ARGUMENT], state.as_bytes()))
    }

    fn state(id: &str, bundle: &str) -> String {
        serde_json::json!({
            "ociVersion": "1.2.0",
            "id": id,
            "status": "creating",
            "pid": 7,
            "bundle": bundle,
            "annotations": { "io.kubernetes.cri.sandbox-namespace": "kube-system", "id": "other" },
        })
        .to_string()
    }

    #[test]
    fn the_bundle_tells_the_namespace() {
        for root in ["/run/containerd", "/run/k3s/containerd", ""] {
            let bundle = format!("{root}/io.containerd.runtime.v2.task/k8s.io/c1");
            let expected = State { namespace: "k8s.io".to_owned(), id: "c1".to_owned() };
            assert_eq!(read(&state("c1", &bundle)), Ok(expected), "{bundle}");
        }
    }

    #[test]
    fn what_does_not_agree_or_is_no_name_is_refused() {
        let tasks = "/run/containerd/io.containerd.runtime.v2.task";
        let long = "x".repeat(NAME_CHARS + 1);
        for (id, bundle) in [
            ("c1", format!("{tasks}/k8s.io/c2")),
            ("c1", format!("{tasks}/k8s.io/c1/")),
            ("c1", format!("{tasks}/k8s.io/../k8s.io/c1/.")),
            ("c1", format!("{tasks}/c1")),
            ("c1", format!("{tasks}/../c1")),
            ("c1", format!("{tasks}//c1")),
            ("c1", "/run/other/k8s.io/c1".to_owned()),
            ("c1", "io.containerd.runtime.v2.task/k8s.io/c1".to_owned()),
            ("c1", String::new()),
            ("", format!("{tasks}/k8s.io/")),
            ("..", format!("{tasks}/k8s.io/..")),
            ("c1\n", format!("{tasks}/k8s.io/c1\n")),
            ("-c", format!("{tasks}/k8s.io/-c")),
            ("é", format!("{tasks}/k8s.io/é")),
            (&long, format!("{tasks}/k8s.io/{long}")),
            ("c1", format!("{tasks}/{long}/c1")),
        ] {
            assert!(read(&state(id, &bundle)).is_err(), "{id:?} {bundle:?}");
        }
    }

    #[test]
    fn what_reads_two_ways_or_is_no_state_is_refused() {
        let good = state("c1", "/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1");
        assert!(read(&good).is_ok());
        for bad in [
            String::new(),
            "null".to_owned(),
            "{}".to_owned(),
            good.replacen('{', "{\"id\":\"c2\",", 1),
            good.replacen('{', "{\"bundle\":\"/\",", 1),
            good.replace("\"c1\"", "1"),
            format!("{good}{good}"),
            good[..good.len() / 2].to_owned(),
            "[".repeat(1 << 18),
        ] {
            assert!(read(&bad).is_err(), "{}", &bad[..bad.len().min(80)]);
        }
        for arguments in [&[][..], &["create"], &[ARGUMENT, ARGUMENT]] {
            assert!(State::read(&framed(arguments, good.as_bytes())).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_state_is_bounded() {
        let most = usize::try_from(limits::START_QUESTION_BYTES).unwrap();
        let state = state("c1", "/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1");
        let framing = framed(&[ARGUMENT], b"").len();
        for (size, fits) in [(most, true), (most + 1, false)] {
            let padded = format!("{state}{}", " ".repeat(size - framing - state.len()));
            assert_eq!(read(&padded).is_ok(), fits, "{size}");
        }
    }
}
