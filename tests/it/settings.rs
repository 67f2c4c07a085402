//! The errors for invalid settings: they name the flag, the variable or the key, the value, and what is accepted.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::process::{Process, free_port, shoal_binary};

const SOON: Duration = Duration::from_secs(20);

/// Returns what `shoal` prints for these arguments, variables and file, which it must refuse.
async fn refusal(arguments: &[&str], variables: &[(&str, &str)], toml: &str) -> String {
    let file = tempfile::Builder::new().prefix("shoal-").suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), toml).expect("written");
    let mut command = Command::new(shoal_binary());
    // What is refused only after the sockets are there must not find the usual ports in use.
    if arguments[0] == "serve" {
        command.args(arguments).args(PORTS);
    } else {
        command.args(arguments);
    }
    command.arg("--config").arg(file.path()).envs(variables.iter().copied());
    let output = tokio::time::timeout(SOON, command.kill_on_drop(true).output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} was not refused")).expect("run");
    let text = String::from_utf8_lossy(&output.stderr).replace(&file.path().display().to_string(), "FILE");
    assert!(!output.status.success(), "{arguments:?}: {text}");
    text
}

const PORTS: [&str; 5] = ["--ephemeral", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

#[tokio::test(flavor = "multi_thread")]
async fn bad_setting_error_names_its_source() {
    let up = |text: &str| refused_up(text.to_owned());
    async fn refused_up(text: String) -> String {
        refusal(&[&["up"], &PORTS[..]].concat(), &[], &text).await
    }
    for (said, parts) in [
        (refusal(&["up", "--listen", "foo"], &[], "").await, &["--listen foo: ", "127.0.0.1:7000"][..]),
        (refusal(&["up"], &[("SHOAL_LISTEN", "7000")], "").await, &["SHOAL_LISTEN=7000: ", "127.0.0.1:7000"]),
        (
            refusal(&["up"], &[("SHOAL_LISEN", "127.0.0.1:0")], "").await,
            &["SHOAL_LISEN: ", "did you mean SHOAL_LISTEN?"],
        ),
        (
            refusal(&["up", "--listen", "127.0.0.1:1", "--admin", "127.0.0.1:1"], &[], "").await,
            &["--listen 127.0.0.1:1 and --admin 127.0.0.1:1: ", "cannot share an address"],
        ),
        (
            refusal(&["up", "--listen", "example.com:7000"], &[], "").await,
            &["--listen example.com:7000: ", "only `localhost` is resolved"],
        ),
        (
            refusal(&["serve", "data", "--cassandra", "ada:pw@h"], &[], "").await,
            &["--cassandra …@h: ", "SHOAL_DATA__PASSWORD"],
        ),
        (refusal(&["up"], &[], "listen = 'foo'").await, &["FILE: listen = \"foo\": "]),
        (
            refusal(&["serve", "jobs", "--otlp", "foo"], &[], "").await,
            &["--otlp foo: ", "http://127.0.0.1:4317"],
        ),
        (refusal(&["serve", "data", "--drain", "soon"], &[], "").await, &["--drain soon: ", "10s"]),
        (
            refusal(&["serve", "jobs"], &[("SHOAL_TRACE_RATIO", "2")], "").await,
            &["SHOAL_TRACE_RATIO=2: ", "from 0 to 1"],
        ),
        (
            refusal(&["serve", "session"], &[("SHOAL_SESSION__IDLE_TTL", "5")], "").await,
            &["SHOAL_SESSION__IDLE_TTL=5: ", "a duration, such as 10s"],
        ),
        (
            refusal(&["serve", "session"], &[("SHOAL_SESSION__IDLE_TTL", "100d")], "").await,
            &["SHOAL_SESSION__IDLE_TTL=100d: ", "idle_ttl_max"],
        ),
        (up("[jobs]\ntend_intervl = '1h'").await, &["FILE: jobs.tend_intervl", "did you mean `"]),
        (refusal(&["serve", "session"], &[], "data = 'x'").await, &["FILE: data = \"x\"", "`data_dir`"]),
        (refusal(&["up"], &[], "lisen = 'x'").await, &["FILE: lisen", "did you mean `listen`?"]),
        (refusal(&["up"], &[], "listen = 'x'\n= 3").await, &["FILE: line 2, column 1: "]),
        (up("[gateway.upstream.a]\nendpoints = ['127.0.0.1:1']\ndns = 'a:1'").await, &["endpoints and dns"]),
        (
            refusal(&["serve", "gateway", "--peer", "session=foo:1"], &[], "").await,
            &["--peer session=foo:1: ", "dns:host:port"],
        ),
    ] {
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in: {said}");
        assert!(!said.contains("default."), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_secret_is_not_shown() {
    let secret = "c2VjcmV0";
    for said in [
        refusal(&["serve", "session"], &[("SHOAL_SESSION__KEYS", secret)], "").await,
        refusal(&["serve", "session"], &[], &format!("[session.keys]\ncheck = '{secret}'")).await,
        refusal(&["serve", "cache", "--redis", &format!("reddis://:{secret}@a:1")], &[], "").await,
        refusal(&["serve", "jobs"], &[], &format!("redis = ['redis://:{secret}@a:1']")).await,
        refusal(&["up", "--otlp", &format!("foo://a:{secret}@b:1")], &[], "").await,
        refusal(&["serve", "data", "--cassandra", &format!("a:{secret}@b")], &[], "").await,
        // What does not parse is quoted nowhere.
        refusal(&["up"], &[], &format!("[session.keys]\ncheck = \"1:{secret}\n")).await,
        refusal(&["up"], &[], &format!("redis = redis://:{secret}@a:1")).await,
        // A misspelled name is in no list of secrets.
        refusal(&["up"], &[], &format!("passwrd = '{secret}'")).await,
        refusal(&["serve", "session"], &[], &format!("passwrd = '{secret}'")).await,
        refusal(&["serve", "session"], &[], &format!("[session]\npepperr = '1:{secret}'")).await,
        refusal(&["serve", "session"], &[("SHOAL_SESSION__PEPPERR", &format!("1:{secret}"))], "").await,
        refusal(&["serve", "gateway"], &[], &format!("[peer]\npasswrd = '{secret}'")).await,
        refusal(&["serve", "gateway"], &[("SHOAL_PEER__PASSWRD", secret)], "").await,
        refusal(&["up"], &[("SHOAL_CLONES__PASSWRD", secret)], "").await,
    ] {
        assert!(!said.contains(secret) && said.contains("shoal: "), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_flag_is_refused_with_reason() {
    let help = |command: &'static [&'static str]| async move {
        let mut shoal = Command::new(shoal_binary());
        shoal.args(command).arg("--help");
        let mut process = Process::spawn(shoal);
        assert!(process.ended(SOON).await.success());
        crate::harness::eventually("its help", SOON, async || {
            let output = process.output();
            output.contains("Examples:").then_some(output)
        })
        .await
    };
    let (serve, up) = (help(&["serve"]).await, help(&["up"]).await);
    assert!(serve.contains("--peer") && !serve.contains("--clones"), "{serve}");
    assert!(up.contains("--clones") && !up.contains("--peer"), "{up}");
    let said = refusal(&["serve", "cache", "--clones", "2"], &[], "").await;
    assert!(said.contains("--clones 2: this process runs one clone"), "{said}");
    let said = refusal(&["up", "--peer", "data=127.0.0.1:1"], &[], "").await;
    assert!(said.contains("--peer data=127.0.0.1:1: `up` runs the clones of every role itself"), "{said}");
    let said = refusal(&["up"], &[], "[peer]\ndata = '127.0.0.1:1'").await;
    assert!(said.contains("FILE: peer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listens_on_localhost() {
    let clone = Clone::start_at("session", &format!("localhost:{}", free_port()), &["--ephemeral"]).await;
    let health = Command::new(shoal_binary()).args(["health", "--addr", &clone.address]).output();
    assert!(health.await.expect("it runs").status.success(), "{}", clone.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_variables_are_warned_of() {
    let mut command = Command::new(shoal_binary());
    command.args(["serve", "session"]).args(PORTS).env("SHOAL_REDIS_URL", "redis://127.0.0.1:1");
    let mut process = Process::spawn(command);
    process.printed("SHOAL_REDIS_URL is not read: the nearest setting is SHOAL_REDIS", SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clone_without_engine_is_refused() {
    for (role, shared) in
        [("session", "--redis"), ("cache", "--redis"), ("jobs", "--redis"), ("data", "--cassandra")]
    {
        let mut command = Command::new(shoal_binary());
        command.args(["serve", role, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let output = tokio::time::timeout(SOON, command.kill_on_drop(true).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{role} was not refused")).expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{role}: {said}");
        assert!(said.contains(shared) && said.contains("--ephemeral"), "{role}: {said}");
    }
}
