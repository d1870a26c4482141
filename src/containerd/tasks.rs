//! The processes of containers.

use std::collections::HashSet;

use containerd_client::{
    services::v1::{ListTasksRequest, tasks_client::TasksClient},
    types::v1::Status as State,
};
use tonic::Status;

use super::{Containerd, LIST_BYTES, request};

impl Containerd {
    /// The containers of `namespace` whose first process was made and has not ended: running, paused, or about to start.
    pub async fn running(&self, namespace: &str) -> Result<HashSet<String>, Status> {
        let mut client = TasksClient::new(self.channel()).max_decoding_message_size(LIST_BYTES);
        let list = ListTasksRequest { filter: String::new() };
        let tasks = client.list(request(list, Some(namespace))).await?.into_inner().tasks;
        let lives = |state| {
            matches!(State::try_from(state), Ok(State::Created | State::Running | State::Paused | State::Pausing))
        };
        // An older containerd names the container in one of the two only.
        let id = |id: String, container: String| if container.is_empty() { id } else { container };
        Ok(tasks.into_iter().filter(|task| lives(task.status)).map(|task| id(task.id, task.container_id)).collect())
    }
}

#[cfg(test)]
mod tests {
    use containerd_client::{services::v1::ListTasksResponse, types::v1::Process};

    use super::*;
    use crate::containerd::fake::{Answer, FakeContainerd};

    #[tokio::test]
    async fn what_has_ended_does_not_run() {
        let fake = FakeContainerd::start(|_, _| {
            let states =
                [State::Unknown, State::Created, State::Running, State::Stopped, State::Paused, State::Pausing];
            let process = |state: &State| Process {
                id: format!("{state:?}"),
                container_id: if *state == State::Running { "named".to_owned() } else { String::new() },
                status: *state as i32,
                ..Process::default()
            };
            Answer::message(&ListTasksResponse { tasks: states.iter().map(process).collect() })
        });
        let mut running: Vec<String> = fake.client().running("k8s.io").await.unwrap().into_iter().collect();
        running.sort();
        assert_eq!(running, ["Created", "Paused", "Pausing", "named"]);
    }
}
