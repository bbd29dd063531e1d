//! The whole daemon in this process, in a world of the test's own: its clock, its chance, its host and
//! its children are given, and it cannot tell.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use marquee_domain::BootId;
use marquee_domain::env::{Clock, Random};
use marquee_domain::resources::Inventory;
use marquee_domain::spec::{CommandSettings, Work};
use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;
use marquee_worker::config::{Config, OnStop, Settings, Sources};
use marquee_worker::env::{Env, Machine, Net};
use marquee_worker::process::launcher::{
    Child, Exit, Launch, Launcher, News, Status, stderr_path, stdout_path,
};
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::daemon::{Assigned, stop};
use crate::fake::{Fake, Key, has};

const KEY: Key = (9, 1, 0);
/// The time at which this world stands still.
const NOW: i64 = 1_900_000_000;

/// What the world is like; it outlives the daemons in it.
#[derive(Debug)]
struct World {
    boot: Uuid,
    drawn: AtomicU64,
    connections: AtomicU64,
    children: Mutex<BTreeMap<PathBuf, Arc<Actor>>>,
    pids: AtomicU32,
}

/// A child that does what the test says.
#[derive(Debug)]
struct Actor {
    dir: PathBuf,
    pid: u32,
    argv: Vec<String>,
    env: BTreeMap<OsString, OsString>,
    status: watch::Sender<Status>,
    output: watch::Sender<u64>,
    /// How it was told to go.
    told: Mutex<Vec<&'static str>>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            boot: Uuid::from_u128(7),
            drawn: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            children: Mutex::default(),
            pids: AtomicU32::new(100),
        })
    }

    fn env(self: &Arc<Self>) -> Env {
        let part = || Part(Arc::clone(self));
        Env {
            clock: Arc::new(part()),
            random: Arc::new(part()),
            net: Arc::new(part()),
            machine: Arc::new(part()),
            launcher: Arc::new(part()),
        }
    }

    /// Waits until the child of `key` was started.
    async fn child(&self, key: Key) -> Arc<Actor> {
        let name = format!("{}-{}-{}", key.0, key.1, key.2);
        loop {
            let children = self.children.lock().unwrap().clone();
            let found = children.into_iter().find(|(dir, _)| dir.ends_with(&name));
            if let Some((_, child)) = found {
                return child;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Actor {
    fn say(&self, line: &str) {
        let path = stdout_path(&self.dir);
        let mut file = fs::File::options().append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
        self.output.send_modify(|n| *n += 1);
    }

    fn exit(&self, exit: Option<Exit>) {
        self.status.send_replace(Status::Gone(exit));
    }
}

/// The world as one of the daemon's parts sees it.
#[derive(Debug)]
struct Part(Arc<World>);

impl Clock for Part {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl Random for Part {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.drawn.fetch_add(1, Ordering::Relaxed)) + 1_000)
    }
}

impl Net for Part {
    fn connect(
        &self,
        to: Endpoint,
    ) -> BoxFuture<'static, Result<Channel, tonic::transport::Error>> {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        async move { to.connect().await }.boxed()
    }

    fn connect_lazily(&self, to: Endpoint) -> Channel {
        to.connect_lazy()
    }
}

impl Machine for Part {
    fn boot_id(&self) -> io::Result<BootId> {
        Ok(BootId(self.0.boot))
    }

    fn inventory<'a>(&'a self, _: &'a Config) -> BoxFuture<'a, Inventory> {
        let inventory = Inventory {
            hostname: "played".into(),
            cpu_threads: 64,
            memory_bytes: 1 << 40,
            cpu_slots: 8,
            threads_per_slot: 8,
            gpus: Vec::new(),
            address: "played.example".into(),
            flavour: "libtorch-9".into(),
            labels: Default::default(),
        };
        async move { inventory }.boxed()
    }

    fn prep_code<'a>(&'a self, _: &'a Path) -> BoxFuture<'a, String> {
        async { "code 5".to_owned() }.boxed()
    }

    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let given = [("PATH", "/played/bin"), ("PLAYED_SECRET", "s")];
        given
            .map(|(name, value)| (name.into(), value.into()))
            .into()
    }

    fn free_port(&self, _: &str) -> io::Result<u16> {
        Ok(4_242)
    }
}

impl Launcher for Part {
    fn start(&self, launch: &Launch<'_>) -> io::Result<Box<dyn Child>> {
        fs::File::create(stdout_path(launch.dir))?;
        fs::File::create(stderr_path(launch.dir))?;
        let argv = launch.argv.iter();
        let actor = Arc::new(Actor {
            dir: launch.dir.to_owned(),
            pid: self.0.pids.fetch_add(1, Ordering::Relaxed),
            argv: argv.map(|a| a.to_string_lossy().into_owned()).collect(),
            env: launch.env.clone(),
            status: watch::Sender::new(Status::Running),
            output: watch::Sender::new(0),
            told: Mutex::default(),
        });
        let mut children = self.0.children.lock().unwrap();
        let before = children.insert(launch.dir.to_owned(), Arc::clone(&actor));
        assert!(before.is_none(), "a second child in {:?}", launch.dir);
        Ok(Box::new(Handle::new(actor)))
    }

    fn adopt(&self, dir: &Path) -> io::Result<Option<Box<dyn Child>>> {
        let children = self.0.children.lock().unwrap();
        let found = children.get(dir).cloned();
        Ok(found.map(|actor| Box::new(Handle::new(actor)) as Box<dyn Child>))
    }
}

/// A daemon's hold on an actor.
#[derive(Debug)]
struct Handle {
    actor: Arc<Actor>,
    status: watch::Receiver<Status>,
    output: watch::Receiver<u64>,
}

impl Handle {
    fn new(actor: Arc<Actor>) -> Self {
        Self {
            status: actor.status.subscribe(),
            output: actor.output.subscribe(),
            actor,
        }
    }

    fn tell(&self, what: &'static str) {
        self.actor.told.lock().unwrap().push(what);
    }
}

impl Child for Handle {
    fn status(&mut self) -> io::Result<Status> {
        Ok(self.status.borrow_and_update().clone())
    }

    fn pid(&self) -> Option<u32> {
        Some(self.actor.pid)
    }

    fn news(&mut self) -> BoxFuture<'_, News> {
        async {
            tokio::select! {
                biased;
                _ = self.status.changed() => News::State,
                _ = self.output.changed() => News::Output,
            }
        }
        .boxed()
    }

    fn look_every(&self) -> Duration {
        // Never within a test: what is not told here is not seen.
        Duration::from_secs(3_600)
    }

    fn terminate(&self) {
        self.tell("TERM");
    }

    fn kill(&self) {
        self.tell("KILL");
        let killed = Exit::Signal {
            number: 9,
            oom: false,
        };
        self.actor.exit(Some(killed));
    }

    fn is_buried(&mut self) -> bool {
        true
    }

    fn kill_session(&self) {
        self.tell("KILL ALL");
    }

    fn survivors(&self) -> Vec<i32> {
        Vec::new()
    }
}

/// A daemon in a world, with threads of its own so that it can be killed.
struct Played {
    runtime: tokio::runtime::Runtime,
    stop: mpsc::Sender<()>,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Played {
    fn start(world: &Arc<World>, fake: &Fake, data: &Path) -> Self {
        Self::start_as(world, fake, data, None)
    }

    fn start_as(world: &Arc<World>, fake: &Fake, data: &Path, on_stop: Option<OnStop>) -> Self {
        let settings = Settings {
            coordinator: Some(format!("http://{}", fake.address)),
            name: Some("played".into()),
            data_dir: Some(data.to_owned()),
            on_stop,
            ..Settings::default()
        };
        let sources = Sources {
            file: None,
            env: Some(Default::default()),
        };
        let config = Config::load(sources, settings).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, told) = mpsc::channel(1);
        let ended = runtime.spawn(marquee_worker::serve(config, world.env(), told));
        Self {
            runtime,
            stop,
            ended,
        }
    }

    /// As kill -9 would: nothing of it goes on.
    async fn kill(self) {
        let end = move || self.runtime.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(end).await.unwrap();
    }

    async fn stop(self) {
        self.stop.send(()).await.unwrap();
        self.ended.await.unwrap().unwrap();
        self.runtime.shutdown_background();
    }
}

fn command(argv: &[&str]) -> Work {
    Work::Command(CommandSettings {
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        env: BTreeMap::new(),
        env_from_worker: Vec::new(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_takes_its_time_chance_host_and_children_from_its_world() {
    let (fake, world) = (Fake::start().await, World::new());
    let data = tempfile::tempdir().unwrap();
    let daemon = Played::start(&world, &fake, data.path());
    Assigned::new(KEY, command(&["play", "hamlet"]))
        .started()
        .tell(&fake)
        .await;
    let child = world.child(KEY).await;
    assert_eq!(child.argv, ["play", "hamlet"]);
    assert_eq!(child.env[OsStr::new("MASTER_PORT")], "4242");
    assert_eq!(child.env[OsStr::new("PATH")], "/played/bin");
    assert!(!child.env.contains_key(OsStr::new("PLAYED_SECRET")));
    child.say("to be");
    fake.until("its line", |s| {
        has(s, KEY, |body| matches!(body, Body::Log(_)))
    })
    .await;
    child.say("or not");
    child.exit(Some(Exit::Code(0)));
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_eq!(fake.log(KEY), ["to be", "or not"]);
    {
        let state = fake.state();
        let hello = &state.hellos[0];
        assert_eq!(hello.boot_id, Uuid::from_u128(7).to_string());
        assert_eq!(hello.worker_id, Uuid::from_u128(1_000).to_string());
        assert_eq!(hello.instance_id, Uuid::from_u128(1_001).to_string());
        assert_eq!(hello.prep_code, "code 5");
        assert_eq!(hello.inventory.as_ref().unwrap().cpu_threads, 64);
        assert!(matches!(
            &state.reports[&KEY][0].body,
            Some(Body::Started(started)) if started.pid == 100
        ));
        let times = state.reports[&KEY].iter().map(|r| r.at.unwrap().seconds);
        assert!(times.into_iter().all(|seconds| seconds == NOW));
    }
    assert_eq!(world.connections.load(Ordering::Relaxed), 1);
    daemon.stop().await;
    assert_eq!(fake.state().goodbyes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn played_children_survive_their_daemon_and_are_told_to_go_in_order() {
    let (fake, world) = (Fake::start().await, World::new());
    let data = tempfile::tempdir().unwrap();
    let daemon = Played::start(&world, &fake, data.path());
    let (stays, vanishes) = (KEY, (10, 1, 0));
    for key in [stays, vanishes] {
        Assigned::new(key, command(&["play"]))
            .started()
            .tell(&fake)
            .await;
        fake.until_running(key).await;
    }
    daemon.kill().await;
    let (first, second) = (world.child(stays).await, world.child(vanishes).await);
    // While nobody looks, one says something and the other is gone without a word.
    first.say("alone");
    second.exit(None);
    let daemon = Played::start(&world, &fake, data.path());
    fake.until("what it said", |s| {
        has(s, stays, |body| matches!(body, Body::Log(_)))
    })
    .await;
    let Body::Failed(failed) = fake.until_ended(vanishes).await else {
        panic!("not failed")
    };
    assert_eq!(failed.failure.unwrap().class(), FailureClass::Crash);
    // It has its grace, and does not use it.
    stop(&fake, stays, 200, false).await;
    assert!(matches!(fake.until_ended(stays).await, Body::Stopped(_)));
    assert_eq!(*first.told.lock().unwrap(), ["TERM", "KILL"]);
    daemon.stop().await;
}

/// A coordinator that gives a slot to one rank before the other is gone: at the same time, and after a restart of the
/// daemon.
#[tokio::test(flavor = "multi_thread")]
async fn two_ranks_on_one_device_run_one_after_the_other() {
    let (fake, world) = (Fake::start().await, World::new());
    let data = tempfile::tempdir().unwrap();
    let daemon = Played::start(&world, &fake, data.path());
    let [first, second, elsewhere, late] = [KEY, (10, 1, 0), (11, 1, 0), (12, 1, 0)];
    let assign = async |key, slot| {
        let assigned = Assigned::new(key, command(&["play"])).on_slot(slot);
        assigned.started().tell(&fake).await;
    };
    assign(first, 1).await;
    fake.until_running(first).await;
    assign(second, 1).await;
    assign(elsewhere, 2).await;
    fake.until_running(elsewhere).await;
    let is_started = |key: Key| {
        let name = format!("{}-{}-{}", key.0, key.1, key.2);
        let children = world.children.lock().unwrap();
        children.keys().any(|dir| dir.ends_with(&name))
    };
    assert!(!is_started(second));
    world.child(first).await.exit(Some(Exit::Code(0)));
    assert!(matches!(fake.until_ended(first).await, Body::Finished(_)));
    fake.until_running(second).await;
    daemon.kill().await;
    let daemon = Played::start(&world, &fake, data.path());
    fake.until("the next daemon's session", |state| state.hellos.len() == 2)
        .await;
    // One that waits can be told to go.
    assign(late, 1).await;
    stop(&fake, late, 0, false).await;
    assert!(matches!(fake.until_ended(late).await, Body::Stopped(_)));
    assert!(!is_started(late));
    for key in [second, elsewhere] {
        world.child(key).await.exit(Some(Exit::Code(0)));
        assert!(matches!(fake.until_ended(key).await, Body::Finished(_)));
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_boot_gives_up_what_it_held_and_asks_for_no_child() {
    let (fake, mut world) = (Fake::start().await, World::new());
    let data = tempfile::tempdir().unwrap();
    let daemon = Played::start(&world, &fake, data.path());
    Assigned::new(KEY, command(&["play"]))
        .started()
        .tell(&fake)
        .await;
    fake.until_running(KEY).await;
    daemon.kill().await;
    world = Arc::new(World {
        boot: Uuid::from_u128(8),
        drawn: AtomicU64::new(500),
        connections: AtomicU64::new(0),
        children: Mutex::default(),
        pids: AtomicU32::new(900),
    });
    let daemon = Played::start(&world, &fake, data.path());
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    assert_eq!(failed.failure.unwrap().class(), FailureClass::LostWorker);
    assert!(world.children.lock().unwrap().is_empty());
    {
        let hellos = &fake.state().hellos;
        assert_eq!(hellos[1].worker_id, hellos[0].worker_id);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_stopped_in_order_and_booted_again_costs_its_jobs_nothing() {
    let (fake, mut world) = (Fake::start().await, World::new());
    let data = tempfile::tempdir().unwrap();
    let daemon = Played::start_as(&world, &fake, data.path(), Some(OnStop::Keep));
    Assigned::new(KEY, command(&["play"]))
        .started()
        .tell(&fake)
        .await;
    fake.until_running(KEY).await;
    daemon.stop().await;
    // It said for how long it would be away, and nothing was ended.
    fake.until("that it is away", |state| state.away_ms > 0)
        .await;
    assert!(
        fake.bodies(KEY)
            .iter()
            .all(|body| !matches!(body, Body::Stopped(_)))
    );
    assert_eq!(fake.state().goodbyes, 0);
    world = Arc::new(World {
        boot: Uuid::from_u128(8),
        drawn: AtomicU64::new(500),
        connections: AtomicU64::new(0),
        children: Mutex::default(),
        pids: AtomicU32::new(900),
    });
    let daemon = Played::start(&world, &fake, data.path());
    let Body::Stopped(stopped) = fake.until_ended(KEY).await else {
        panic!("not stopped")
    };
    assert_eq!(stopped.cause, "host_upgraded");
    assert!(stopped.reason.contains("booted again"), "{stopped:?}");
    daemon.stop().await;
}
