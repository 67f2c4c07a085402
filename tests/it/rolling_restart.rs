//! `scripts/rolling-restart` against a fake Docker: which containers it leaves, and what it prints.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

/// A fake Docker that keeps containers as files `running/SERVICE/ID`. New ones are `new1`, `new2`; variables say in what state
/// they are.
const DOCKER: &str = r#"#!/usr/bin/env bash
set -eu
cd "$FAKE_STATE"
all() { ls "running/$1" 2>/dev/null || true; }
case "$*" in
"compose ps "*) all "${@: -1}" ;;
"compose --progress quiet up "*)
    service=${@: -1}
    for n in $(seq "$(all "$service" | wc -l)"); do touch "running/$service/new$n"; done
    ;;
"inspect --format {{if .State.Health}}"*) echo "${FAKE_HEALTH:-healthy}" ;;
"inspect --format {{range .NetworkSettings"*) case "${@: -1}" in *1) echo "10.0.0.11 " ;; *) echo "10.0.0.12 " ;; esac ;;
"inspect --format {{range .HostConfig"*) echo "${FAKE_PORT:-} " ;;
"exec "*" shoal health "*) echo "${FAKE_SERVING:-SERVING}"; [[ ${FAKE_SERVING:-SERVING} == SERVING ]] ;;
"exec "*" shoal top "*)
    echo "SERVICE  CLONE            READY  SUCCESS  STATE        WHY"
    echo "session  10.0.0.11:7000   2/2          -  ready"
    echo "session  10.0.0.12:7000   ${FAKE_SEEN:-2/2          -  ready}"
    ;;
"stop "*) ;;
"rm "*) for id in "$@"; do rm -f running/*/"$id"; done ;;
*) echo "fake docker: $*" >&2; exit 1 ;;
esac
"#;

struct Docker(tempfile::TempDir);

impl Docker {
    /// Creates a fake Docker with two containers of session and one of gateway.
    fn new() -> Docker {
        let dir = tempfile::tempdir().expect("a folder");
        let docker = Docker(dir);
        std::fs::write(docker.path().join("docker"), DOCKER).expect("written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(docker.path().join("docker"), executable).expect("executable");
        for container in ["session/old1", "session/old2", "gateway/front1"] {
            let file = docker.path().join("running").join(container);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(file, "").expect("written");
        }
        docker
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the containers of a service.
    fn containers(&self, service: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.path().join("running").join(service)).expect("a folder");
        let mut names: Vec<String> =
            names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    async fn restart(&self, service: &str, variables: &[(&str, &str)]) -> (Output, String) {
        let path = format!("{}:{}", self.path().display(), std::env::var("PATH").expect("a PATH"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/rolling-restart");
        let mut command = Command::new("bash");
        command.arg(script).arg(service).env("PATH", path).env("FAKE_STATE", self.path());
        command.env("SHOAL_ROLLING_HEALTHY_SECONDS", "1").env("SHOAL_ROLLING_KNOWN_SECONDS", "0");
        command.env("SHOAL_ROLLING_USED_SECONDS", "1").envs(variables.iter().copied());
        let output = tokio::time::timeout(Duration::from_secs(60), command.kill_on_drop(true).output());
        let output = output.await.expect("in time").expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_replaces_every_container() {
    let docker = Docker::new();
    let (output, said) = docker.restart("session", &[]).await;
    assert!(output.status.success(), "{said}");
    assert_eq!(docker.containers("session"), ["new1", "new2"], "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unhealthy_new_containers_keep_old_ones() {
    for (variable, value, reason) in [
        ("FAKE_HEALTH", "unhealthy", "is unhealthy after"),
        ("FAKE_SERVING", "NOT_SERVING", "does not serve shoal.session.v1.SessionService: NOT_SERVING"),
        ("FAKE_SEEN", "0/2          -  other store  another store than 10.0.0.1:7000", "other store"),
        ("FAKE_SEEN", "0/2          -  connecting", "gets no calls from the gateway"),
    ] {
        let docker = Docker::new();
        let (output, said) = docker.restart("session", &[(variable, value)]).await;
        assert_eq!(output.status.code(), Some(1), "{value}: {said}");
        assert_eq!(docker.containers("session"), ["old1", "old2"], "{value}: {said}");
        assert!(said.contains(reason) && said.contains("the old ones stay"), "{value}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_port_service_is_left_alone() {
    let docker = Docker::new();
    let (output, said) = docker.restart("gateway", &[("FAKE_PORT", "7000")]).await;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(docker.containers("gateway"), ["front1"], "{said}");
    assert!(said.contains("fixed host port 7000") && said.contains("127.0.0.1::7000"), "{said}");
    // A free port for each container is no obstacle.
    let (output, said) = docker.restart("gateway", &[("FAKE_PORT", "")]).await;
    assert!(output.status.success(), "{said}");
    assert_eq!(docker.containers("gateway"), ["new1"], "{said}");
}
