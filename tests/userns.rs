//! The testbed `netns` without root. A program of its own, since a user namespace must be entered by a process with a
//! single thread: as root it starts itself again as nobody.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use vptest::host::userns::{Privilege, enter_if_unprivileged};
use vptest::ids::Vantage;
use vptest::node::{Command, Stream};
use vptest::spec::{Tuple, Value};
use vptest::testbed::netns::Netns;
use vptest::testbed::{CaptureSource, Instance, Request, Testbed};
use vptest::units::Rate;

const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    if nix::unistd::geteuid().is_root() {
        return as_nobody();
    }
    match enter_if_unprivileged() {
        Ok(Privilege::UserNamespace) => {}
        Ok(Privilege::Already) => panic!("an ordinary user with all capabilities"),
        Err(error) => {
            let required = std::env::var("VPTEST_REQUIRE").unwrap_or_default();
            eprintln!("skipped: needs userns: {error}; {}", error.hint());
            return ExitCode::from(u8::from(required.split(',').any(|need| need.trim() == "userns")));
        }
    }
    assert!(nix::unistd::geteuid().is_root());
    assert_eq!(enter_if_unprivileged().unwrap(), Privilege::Already);
    tokio::runtime::Runtime::new().unwrap().block_on(check());
    println!("ok: everything but keeping works in a user namespace");
    ExitCode::SUCCESS
}

/// Runs a copy of this program, in a place that nobody may read.
fn as_nobody() -> ExitCode {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("userns");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    for path in [directory.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Setting the user as root gives up root's further groups as well.
    let status = std::process::Command::new(&copy).current_dir("/").gid(NOBODY).uid(NOBODY).status().unwrap();
    ExitCode::from(u8::from(!status.success()))
}

async fn check() {
    let scratch = tempfile::tempdir().unwrap();
    let values = [
        ("pairs", Value::Integer(2)),
        ("rate", Value::Rate(Rate::from_bits_per_second(100_000_000).unwrap())),
        ("offload", Value::Bool(false)),
        ("mtu", Value::Integer(1400)),
        ("hops", Value::List(vec!["A".to_owned()])),
    ];
    let values: BTreeMap<_, _> = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let request = Request {
        tuple: Tuple::new(values),
        number: 1,
        attempt: 1,
        scratch: scratch.path().to_owned(),
        vptest: "/bin/true".into(),
    };
    let testbed = Netns::default();
    testbed.preflight(&request).await.unwrap();
    let mut instance = testbed.launch(&request).await.unwrap();
    let settings = instance.settings().await.unwrap();
    assert!(settings.iter().all(|setting| setting.observed.is_some() && setting.ok != Some(false)), "{settings:#?}");
    for path in instance.paths().await.unwrap() {
        assert!(path.reached && path.observed == [Some("A".to_owned())], "{path:?}");
    }
    connect(&*instance);
    commands(&*instance).await;
    let error = instance.keep().await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("it takes root"), "{error}: {cause}");
    assert_eq!(instance.teardown().await.left, Vec::<String>::new());
}

fn connect(instance: &dyn Instance) {
    let pair = &instance.pairs()[1];
    let points = instance.capture_points();
    let run = |node| {
        let point = points.iter().find(|point| point.node == node && point.vantage == Vantage::Guest).unwrap();
        let CaptureSource::Live { namespace: Some(namespace) } = &point.source else { panic!("{point:?}") };
        namespace
    };
    let address = (pair.server.address(), 80);
    let _listener = run(pair.server.id()).run(|| TcpListener::bind(address)).unwrap();
    run(pair.client.id()).run(|| TcpStream::connect(address)).unwrap();
}

async fn commands(instance: &dyn Instance) {
    let command = Command { argv: ["id", "-u"].map(str::to_owned).to_vec(), ..Command::default() };
    let mut process = instance.pairs()[0].client.spawn(&command).await.unwrap();
    assert!(process.wait().await.unwrap().status.success());
    assert_eq!(process.output(Stream::Out).bytes, b"0\n");
}
