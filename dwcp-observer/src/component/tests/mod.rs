//! The collector over real processes, sockets and endpoints.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{
    collector::{Collector, Migrations, Shared, Work},
    health::Status,
    rollout::Control,
    scrape::tests::Fake,
    view::{ComponentView, View},
};
use crate::{
    config::{Component, Config},
    cycle::published::Published,
    metrics::{Exporter, Input, ProcessUsage, SeriesLimits, is_own, sample},
    model::board::Board,
};

struct Bench {
    work: Work,
    migrations: Board<Migrations>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(config: &str) -> Self {
        let config = Config::parse(config, std::path::Path::new("t")).unwrap();
        let migrations = Board::default();
        let control = Control::new(&config.rollout);
        Self {
            work: Work::new(&config, migrations.clone(), control, is_own),
            migrations,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    fn collect(&mut self) -> View {
        self.runtime.block_on(self.work.collect())
    }

    fn one(&mut self, component: Component) -> ComponentView {
        self.collect().get(component).unwrap().clone()
    }
}

/// A copy of `sleep` under a name of its own; killed and removed on drop.
struct Sleeper {
    child: Child,
    file: PathBuf,
    name: String,
}

impl Sleeper {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hd{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(format!("dwcp-{name}"));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(&name);
        std::fs::copy("/bin/sleep", &file).unwrap();
        let child = Command::new(&file).arg("600").spawn().unwrap();
        // Its name comes a moment after spawn() has returned.
        let comm = format!("/proc/{}/comm", child.id());
        while std::fs::read_to_string(&comm).unwrap().trim_end() != name {
            std::thread::yield_now();
        }
        Self { child, file, name }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill takes two integers; the child is not reaped before the drop.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    fn wait_for_state(&self, states: &str) {
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        while !states.contains(state()) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(self.file.parent().unwrap());
    }
}

fn metrics(view: View) -> String {
    let mut published = sample::published();
    published.components = std::sync::Arc::new(view);
    let (http, process) = (sample::http_counts(), ProcessUsage::default());
    let input = Input { published: Some(&published), http: &http, process: &process };
    Exporter::new("n".to_owned(), SeriesLimits::default()).render(&input).unwrap()
}

#[test]
fn rules_that_match_nothing_say_nothing() {
    let mut bench = Bench::new(
        "[components.amst]\nprocess = ['no-such-*']\n[components.hde]\nthread = ['no-such-*']\n\
         [components.pba]\ncgroup = ['/no/such/*']\n[components.acp]\nports = [1]\n\
         [components.ass]\nlistens = [1]\n[components.itp]\nmode = 'off'\n",
    );
    for _ in 0..4 {
        let view = bench.collect();
        assert!(view.get(Component::Itp).is_none());
        for one in &view.components {
            assert_eq!(one.status, Status::Unknown, "{one:?}");
            assert!(one.processes.is_none() && one.connections.is_none() && one.scrape.is_none());
        }
        assert_eq!(view.unhealthy(), None);
        let text = metrics(view);
        assert!(
            !text.contains("dwcp_v3_component_") && !text.contains("dwcp_v3_rollout_"),
            "{text}"
        );
    }
}

#[test]
fn without_rules_nothing_is_looked_for() {
    let mut bench = Bench::new("");
    let view = bench.collect();
    assert_eq!(view.components.len(), 6);
    assert!(view.components.iter().all(|one| one.status == Status::Unknown));
}

#[test]
fn a_process_is_followed_to_its_end() {
    let sleeper = Sleeper::start();
    let mut bench = Bench::new(&format!("[components.hde]\nprocess = ['{}']", sleeper.name));
    let healthy = bench.one(Component::Hde);
    assert_eq!(healthy.status, Status::Healthy, "{healthy:?}");
    let processes = healthy.processes.unwrap();
    assert_eq!((processes.pids, processes.threads), (vec![sleeper.child.id()], 1));
    assert!(processes.resident_bytes > 0);

    sleeper.signal(libc::SIGSTOP);
    sleeper.wait_for_state("T");
    let stopped = bench.one(Component::Hde);
    assert_eq!(stopped.status, Status::Unhealthy);
    assert!(stopped.reasons[0].contains("stopped by a signal"), "{:?}", stopped.reasons);
    sleeper.signal(libc::SIGCONT);
    sleeper.wait_for_state("SR");
    assert_eq!(bench.one(Component::Hde).status, Status::Healthy);

    sleeper.signal(libc::SIGKILL);
    sleeper.wait_for_state("Z");
    let view = bench.collect();
    let unhealthy = view.unhealthy().unwrap();
    assert_eq!((unhealthy.len(), unhealthy[0].component.as_str()), (1, "hde"));
    assert!(unhealthy[0].why.contains("process"), "{}", unhealthy[0].why);
    assert!(
        metrics(view).contains("dwcp_v3_component_health{component=\"hde\",version=\"v3\"} 0\n")
    );

    // A new one of the same name is taken up.
    let again = Sleeper::start();
    let mut bench_again = Bench::new(&format!("[components.hde]\nprocess = ['{}']", again.name));
    assert_eq!(bench_again.one(Component::Hde).status, Status::Healthy);
}

#[test]
fn a_required_component_that_never_came_is_unhealthy() {
    let mut bench = Bench::new("[components.pba]\nprocess = ['no-such']\nrequired = true");
    let one = bench.one(Component::Pba);
    assert_eq!((one.status, one.processes.is_none()), (Status::Unhealthy, true));
}

#[test]
fn threads_are_matched_by_name_and_their_cpu_time_counts() {
    let name = format!("pb{}", std::process::id());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let burn = std::thread::Builder::new().name(name.clone()).spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
    });
    let burn = burn.unwrap();
    let mut bench = Bench::new(&format!("[components.pba]\nthread = ['{name}']"));
    // The new thread sets its name itself.
    let first = loop {
        if let Some(found) = bench.one(Component::Pba).processes {
            break found;
        }
        bench = Bench::new(&format!("[components.pba]\nthread = ['{name}']"));
    };
    assert_eq!((first.pids, first.threads), (vec![std::process::id()], 1));
    let mut last = first.cpu_seconds;
    while last < 0.01 {
        let now = bench.one(Component::Pba).processes.unwrap().cpu_seconds;
        assert!(now >= last);
        last = now;
    }
    drop(stop);
    burn.join().unwrap();
    while bench.one(Component::Pba).status == Status::Healthy {}
    assert_eq!(bench.one(Component::Pba).status, Status::Unhealthy);
}

#[test]
fn a_cgroup_names_a_component() {
    let this = crate::process::open_now(std::process::id()).unwrap();
    let cgroup = crate::process::cgroup_of(&this).unwrap();
    let mut bench = Bench::new(&format!("[components.ass]\ncgroup = ['{cgroup}']"));
    let found = bench.one(Component::Ass).processes.unwrap();
    assert!(found.pids.contains(&std::process::id()));
}

#[test]
fn a_port_is_watched_and_its_owner_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut bench = Bench::new(&format!("[components.acp]\nlistens = [{}]", address.port()));
    let client = TcpStream::connect(address).unwrap();
    bench.collect();
    let one = bench.one(Component::Acp);
    assert_eq!(one.status, Status::Healthy, "{one:?}");
    let found = one.connections.unwrap();
    assert_eq!((found.listening, found.established), (vec![address.port()], 2));
    assert_eq!(one.processes.unwrap().pids, [std::process::id()]);

    std::io::Write::write_all(&mut &client, &[1; 5000]).unwrap();
    // Acknowledged at once on the loopback, yet by the peer's own time.
    let moved = loop {
        let found = bench.one(Component::Acp).connections.unwrap();
        if found.received_bytes >= 5000 && found.sent_bytes >= 5000 {
            break found;
        }
    };
    assert_eq!(moved.received_bytes, 5000);

    drop(listener);
    let one = bench.one(Component::Acp);
    assert_eq!(one.status, Status::Unhealthy);
    assert!(one.reasons.contains(&format!("nothing listens on port {}", address.port())));
}

fn scraping(hde: u16, pba: u16) -> Bench {
    Bench::new(&format!(
        "[components.hde]\nmode = 'scrape'\nport = {hde}\n\
         [components.pba]\nmode = 'scrape'\nendpoint = 'http://127.0.0.1:{pba}/metrics'\n"
    ))
}

#[test]
fn metrics_of_components_are_carried_on_once() {
    let hde = Fake::body(
        "# HELP dwcp_v3_hde_compression_ratio Share saved.\n# TYPE dwcp_v3_hde_compression_ratio gauge\n\
         dwcp_v3_hde_compression_ratio 0.75\ndwcp_v3_shared{a=\"1\"} 1\n\
         dwcp_v3_errors_total 9\ndwcp_v3_rtt_seconds_sum 9\nhttp_requests_total 9\n",
    );
    let pba = Fake::body("dwcp_v3_shared{a=\"1\"} 2\ndwcp_v3_shared{a=\"2\"} 2\n");
    let view = scraping(hde.port, pba.port).collect();
    for component in [Component::Hde, Component::Pba] {
        assert_eq!(view.get(component).unwrap().status, Status::Healthy, "{view:?}");
    }
    let of = |component| view.get(component).unwrap().scrape.clone().unwrap();
    assert_eq!((of(Component::Hde).series, of(Component::Pba).series), (2, 1));
    assert_eq!(of(Component::Hde).dropped["own_name"], 2);
    assert_eq!(of(Component::Pba).dropped["duplicate"], 1);
    let text = metrics(view.clone());
    let count = |line: &str| text.lines().filter(|it| *it == line).count();
    assert_eq!(count("dwcp_v3_hde_compression_ratio 0.75"), 1);
    assert_eq!(count("# TYPE dwcp_v3_hde_compression_ratio gauge"), 1);
    assert_eq!(count("# HELP dwcp_v3_hde_compression_ratio Share saved."), 1);
    assert_eq!(count("dwcp_v3_shared{a=\"1\"} 1") + count("dwcp_v3_shared{a=\"2\"} 2"), 2);
    assert!(!text.contains("dwcp_v3_shared{a=\"1\"} 2") && !text.contains("\nhttp_requests_total"));
    assert!(!text.contains("dwcp_v3_errors_total 9") && !text.contains("rtt_seconds_sum 9\n"));
}

#[test]
fn an_endpoint_that_fails_is_counted_and_takes_its_figures_along() {
    let hde = Fake::body("dwcp_v3_hde_compression_ratio 0.75\n");
    let garbage = Fake::body("<html>");
    let mut bench = scraping(hde.port, garbage.port);
    let view = bench.collect();
    assert_eq!(view.get(Component::Pba).unwrap().status, Status::Unknown, "never answered well");
    assert!(view.carried.contains("dwcp_v3_hde_compression_ratio 0.75"));
    drop(hde);
    for (failures, status) in [(1, Status::Degraded), (2, Status::Degraded), (3, Status::Unhealthy)]
    {
        let view = bench.collect();
        let hde = view.get(Component::Hde).unwrap();
        assert_eq!(hde.status, status, "{failures}");
        assert_eq!(hde.scrape.as_ref().unwrap().errors["connect"], failures);
        assert_eq!(view.carried, "", "a figure of a component that does not answer is none");
    }
    let text = metrics(bench.collect());
    for line in [
        "dwcp_observer_component_scrape_errors_total{component=\"pba\",reason=\"malformed\"} 5\n",
        "dwcp_observer_component_scrapes_total{component=\"pba\"} 5\n",
        "dwcp_observer_component_carried_series{component=\"hde\"} 0\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

fn migrations(published: Published) -> Migrations {
    let errors = published.totals.errors.values().sum();
    Migrations { entries: published.entries, errors }
}

#[test]
fn amst_is_judged_by_running_migrations() {
    let mut bench = Bench::new("");
    assert_eq!(bench.one(Component::Amst).status, Status::Unknown);
    bench.migrations.publish(migrations(sample::published()));
    assert_eq!(bench.one(Component::Amst).status, Status::Healthy);
    let mut stalled = sample::published();
    let mut record = sample::active("1");
    record.verdict.as_mut().unwrap().state = crate::model::verdict::Health::Stalled;
    stalled.entries = vec![sample::entry(record.clone())];
    bench.migrations.publish(migrations(stalled.clone()));
    let one = bench.one(Component::Amst);
    assert_eq!(one.status, Status::Unhealthy, "{one:?}");
    assert_eq!(bench.collect().unhealthy(), None, "stalled migrations are judged by themselves");
    // A stalled migration of v1 is none of v3's business.
    record.version = Some(crate::model::record::Version::V1);
    stalled.entries = vec![sample::entry(record)];
    bench.migrations.publish(migrations(stalled));
    assert_eq!(bench.one(Component::Amst).status, Status::Unknown);
}

#[test]
fn the_thread_publishes_and_stops() {
    let (config, shared) = (Config::default(), Shared::default());
    let control = Control::new(&config.rollout);
    let collector = Collector::start(&config, control, shared.clone(), is_own).unwrap();
    while shared.view.latest().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(collector);
    assert_eq!(shared.view.latest().unwrap().components.len(), 6);
}
