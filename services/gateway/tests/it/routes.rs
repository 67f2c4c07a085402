//! The route file: what it changes, and that it can be changed under load.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use shoal_balance::parse_timeout;
use tempfile::TempDir;
use tonic_types::StatusExt as _;

use crate::harness::caller::request;
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session};
use crate::harness::{eventually, within};

/// A gateway with a route file, and the file.
async fn mesh(routes: &str, configuration: &str) -> (Mesh, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("routes.toml");
    write(&path, routes);
    let mesh = Mesh::start(&format!("gateway.routes = '{}'\n{configuration}", path.display())).await;
    (mesh, dir)
}

/// Replaces a file as editors and Kubernetes do: never half written.
fn write(path: &Path, text: &str) {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().expect("a folder")).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file.persist(path).expect("moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn route_sets_deadline_and_attempts() {
    let upstream = Upstream::start(|call| call.refuse(14)).await;
    let routes = "[[route]]\nmethod = 'shoal.session.v1.SessionService/GetSession'\nretry = { attempts = 2 }\n\
        [[route]]\nservice = 'shoal.session.v1.SessionService'\ndeadline = { default = '7s' }\n";
    let (mesh, _dir) = mesh(routes, &as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    caller.call(SAFE, &[], b"").await;
    assert_eq!(upstream.calls(), 2);
    assert!(
        !upstream.head(0).headers.contains_key("grpc-timeout"),
        "the first route that fits is the only one"
    );
    caller.call(UNSAFE, &[], b"").await;
    let left = parse_timeout(&upstream.head(2).headers["grpc-timeout"]).expect("a timeout");
    assert!(left <= Duration::from_secs(7) && left > Duration::from_secs(5), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_gets_weight_and_header_matches() {
    let stable = Upstream::start(|call| call.answer(b"stable")).await;
    let canary = Upstream::start(|call| call.answer(b"canary")).await;
    let routes = "[[route]]\nservice = 'acme.Shop'\nheaders = { x-canary = '1' }\nsplit = { canary = 1 }\n\
        [[route]]\nservice = 'acme.Shop'\nsplit = { stable = 80, canary = 20 }\n";
    let (mesh, _dir) = mesh(
        routes,
        &format!(
            "[gateway.upstream.stable]\nendpoints = ['{}']\nservices = ['acme.Shop']\n\
             [gateway.upstream.canary]\nendpoints = ['{}']\nby_route = true",
            stable.address, canary.address
        ),
    )
    .await;
    mesh.ready("canary", 1).await;
    let caller = mesh.caller().await;
    let calls = 1_000;
    for _ in 0..calls {
        assert_eq!(caller.call("/acme.Shop/Buy", &[], b"").await.code(), 0);
    }
    // 20 % ± 5 standard deviations.
    let share = canary.calls() as f64 / f64::from(calls);
    assert!((0.137..0.263).contains(&share), "{share}");
    let (before, stable_before) = (canary.calls(), stable.calls());
    for _ in 0..50 {
        caller.call("/acme.Shop/Buy", &[("x-canary", "1")], b"").await;
    }
    assert_eq!((canary.calls() - before, stable.calls()), (50, stable_before));
}

#[tokio::test(flavor = "multi_thread")]
async fn route_limit_refuses_at_once() {
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = Upstream::start(move |call| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            call.answer(b"ok").await;
        }
    })
    .await;
    let routes = "[[route]]\nservice = 'shoal.session.v1.SessionService'\nin_flight = 3\n";
    let (mesh, _dir) = mesh(routes, &as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(caller.begin(request(SAFE, &[]), true).await);
    }
    eventually("three calls", || (upstream.calls() == 3).then_some(())).await;
    let refused = within("the refusal", caller.call(UNSAFE, &[], b"")).await.grpc();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().expect("ErrorInfo").reason, "TOO_MANY_CALLS");
    assert!(refused.get_details_retry_info().is_some());
    // A caller that leaves makes room.
    let (_, mut stream) = open.pop().expect("open");
    stream.send_reset(h2::Reason::CANCEL);
    release.send(true).expect("watched");
    within("room", async { while caller.call(SAFE, &[], b"").await.code() != 0 {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn route_reload_loses_no_call() {
    let old = Upstream::start(|call| call.answer(b"old")).await;
    let new = Upstream::start(|call| call.answer(b"new")).await;
    let to = |name: &str| format!("[[route]]\nservice = 'acme.Shop'\nsplit = {{ {name} = 1 }}\n");
    let (mesh, dir) = mesh(
        &to("old"),
        &format!(
            "[gateway.upstream.old]\nendpoints = ['{}']\nby_route = true\n\
             [gateway.upstream.new]\nendpoints = ['{}']\nby_route = true",
            old.address, new.address
        ),
    )
    .await;
    mesh.ready("old", 1).await;
    mesh.ready("new", 1).await;
    let file = dir.path().join("routes.toml");
    let caller = mesh.caller().await;
    let load = async |until: &dyn Fn(&[u8]) -> bool| {
        within("the change", async {
            loop {
                let answer = caller.call("/acme.Shop/Buy", &[], b"").await;
                assert_eq!(answer.code(), 0, "{:?}", answer.grpc());
                if until(&answer.data[5..]) {
                    return;
                }
            }
        })
        .await;
    };
    load(&|data| data == b"old").await;
    write(&file, &to("new"));
    load(&|data| data == b"new").await;
    // Refused: the routes before it stay. The good one after it shows that it was read.
    write(&file, "[[route]]\nservice = 7\n");
    let begun = std::time::Instant::now();
    load(&|data| {
        assert_eq!(data, b"new");
        begun.elapsed() > Duration::from_millis(1_500)
    })
    .await;
    write(&file, &to("old"));
    load(&|data| data == b"old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_route_file_prevents_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("routes.toml");
    write(&path, "[[route]]\nservice = 'a.B'\nsplit = { nobody = 1 }\n");
    let error = Mesh::refused(&format!("gateway.routes = '{}'", path.display()));
    assert!(error.contains("routes.toml: line 3:") && error.contains("`nobody`"), "{error}");
    let error = Mesh::refused("gateway.routes = '/nowhere/routes.toml'");
    assert!(error.contains("/nowhere/routes.toml"), "{error}");
}
