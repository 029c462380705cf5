use super::*;
use crate::cli::text::tests::on_terminal;
use crate::{
    metrics::sample,
    model::record::{DumpedProcess, FreezeEnd, FreezeMethod, Frozen, Outcome, Reason, ReasonClass},
};

fn now() -> Timestamp {
    sample::at()
}

fn list(records: &[Migration]) -> String {
    render_list(records, now())
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap()
}

fn failed(id: &str, age_seconds: i64) -> Migration {
    let mut record = sample::finished(id, Outcome::Failed, age_seconds);
    record.reason = Some(Reason {
        class: ReasonClass::ConnectionLost,
        text: "Unable to write to socket: Broken pipe".to_owned(),
    });
    record
}

#[test]
fn list_of_active_and_finished() {
    let records = [
        sample::active("1795350596500-4711"),
        sample::finished("1795350585500-4600", Outcome::Completed, 5),
        failed("1795350530500-4500", 86_400),
    ];
    let expected = "\
1 active, 2 finished

ACTIVE
ID                  VM      FROM -> TO            START UTC   TIME    BYTES      RATE     RTT  STR  VERDICT
1795350596500-4711  web-01  10.0.0.1 -> 10.0.0.2  12:29:56   4.0 s  3.80 MB  950 kB/s  250 us    2  slow: network
1795350596500-4711: network: 5.0 % of the segments are sent again

FINISHED
ID                  VM      FROM -> TO            START UTC      TIME    BYTES      RATE     RTT  BLACKOUT  OUTCOME
1795350585500-4600  web-01  10.0.0.1 -> 10.0.0.2  12:29:45     10.0 s  3.80 MB  380 kB/s  250 us  7.812 ms  completed
1795350530500-4500  web-01  10.0.0.1 -> 10.0.0.2  11-21 12:29  10.0 s  3.80 MB  380 kB/s  250 us  7.812 ms  failed
1795350530500-4500: Unable to write to socket: Broken pipe
";
    let text = list(&records);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn bytes_that_are_not_seen_are_no_zeros() {
    let mut record = sample::finished("1795350585500-4600", Outcome::Completed, 5);
    (record.bytes, record.mean_throughput_bytes_per_second) = (None, None);
    record.storage = None;
    for stream in &mut record.streams {
        stream.bytes = None;
    }
    let row = list(std::slice::from_ref(&record));
    assert!(row.contains("10.0 s      -     -  250 us"), "{row}");
    let text = render_detail(&record);
    assert!(text.contains("bytes        not seen"), "{text}");
    assert!(!text.contains(" 0 B"), "{text}");
}

#[test]
fn disks_are_told_apart_and_a_dumped_process_is_named() {
    let mut record = sample::active("1");
    let text = render_detail(&record);
    assert!(text.contains("DISKS COPIED ALONG"), "{text}");
    record.storage = None;
    record.dumped_process = Some(DumpedProcess {
        pid: 77,
        name: "postgres".to_owned(),
        frozen: Frozen {
            seconds: Some(0.0421),
            incomplete: None,
            method: Some(FreezeMethod::PtraceStop),
            started_at: Some(sample::at()),
            ended_at: Some(sample::at()),
            ended_by: Some(FreezeEnd::Exit),
            tasks: Some(3),
        },
    });
    let text = render_detail(&record);
    assert!(text.contains("postgres (pid 77)") && !text.contains("DISKS"), "{text}");
    assert!(text.contains("frozen       42.100 ms, until its exit, 3 tasks"), "{text}");
    let process = record.dumped_process.as_mut().unwrap();
    process.frozen.seconds = None;
    process.frozen.incomplete = Some("its stop was not seen".to_owned());
    let text = render_detail(&record);
    assert!(text.contains("frozen       not known: its stop was not seen"), "{text}");
}

#[test]
fn nothing_to_show() {
    assert_eq!(list(&[]), "0 active, 0 finished\n");
}

#[test]
fn rows_are_whole_in_a_file_and_one_line_on_a_terminal() {
    let mut record = sample::finished("1795350585500-4194304", Outcome::Completed, 90_000);
    let name = "a-very-long-virtual-machine-name-é".repeat(4);
    record.vm.name = Some(name.clone());
    record.duration_seconds = 123_456.0;
    record.bytes.as_mut().unwrap().delivered = 999_499_999_999_999;
    for stream in &mut record.streams {
        stream.local = "[2001:db8:1234:5678:9abc:def0:1234:5678]:49152".to_owned();
        stream.peer = "[2001:db8:1234:5678:9abc:def0:1234:9999]:49153".to_owned();
        let tcp = stream.tcp.as_mut().unwrap();
        tcp.retransmitted_segments = 1_000_000;
        tcp.srtt_seconds = Some(0.0999);
    }
    record.evidence[0].detail = "because ".repeat(40);
    let whole = list(&[record.clone()]);
    assert!(whole.contains(&name) && !whole.contains('…'), "{whole}");
    for columns in [80, 120] {
        let text = on_terminal(columns, || list(&[record.clone()]));
        assert!(widest(&text) <= usize::from(columns), "{} columns\n{text}", widest(&text));
        assert_eq!(text.lines().count(), whole.lines().count(), "{text}");
        assert!(text.contains('…'));
        assert!(text.contains("1795350585500-4194304"), "an id must stay whole");
        let detail = on_terminal(columns, || render_detail(&record));
        let rows: String =
            detail.lines().skip_while(|line| *line != "STREAMS").collect::<Vec<_>>().join("\n");
        assert!(widest(&rows) <= usize::from(columns), "{} columns\n{rows}", widest(&rows));
    }
}

#[test]
fn an_ordinary_list_shows_its_outcomes_in_80_columns() {
    let record = sample::finished("1795350585500-4600", Outcome::Completed, 5);
    let text = on_terminal(80, || list(&[record]));
    assert!(widest(&text) <= 80 && text.contains("7.812 ms"), "{text}");
    assert!(text.contains("comple"), "{text}");
}

#[test]
fn names_cannot_steer_the_terminal() {
    let mut record = sample::active("1");
    record.vm.name = Some("\u{1b}]0;x\u{7}\u{1b}[2J\n\u{9b}\u{202e}é日".to_owned());
    let detail = render_detail(&record);
    for text in [list(&[record]), detail.clone()] {
        assert!(
            !text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
        assert!(text.contains("é日"), "{text}");
    }
    assert_eq!(detail.matches("[2J").count(), 1);
}

#[test]
fn detail_has_everything() {
    let mut record = sample::finished("1795350585500-4600", Outcome::Completed, 5);
    record.history = Some(sample::entry(sample::active("1")).history.lock().unwrap().samples());
    let text = render_detail(&record);
    for line in [
        "migration    1795350585500-4600",
        "state        finished completed",
        "vm           web-01, 5e9b0a4c-0000-4000-8000-000000000001, 256 MiB memory",
        "migrator     qemu, tcp, mode datacenter",
        "source       pid 4711 qemu-system-x86",
        "destination  pid 5000 qemu-system-x86",
        "ended        2026-11-22T12:29:55.5Z",
        "duration     10.0 s",
        "bytes        4.00 MB queued, 3.80 MB delivered, 3.80 MB received, 5.79 kB retransmitted",
        "rate         380 kB/s",
        "0  main     10.0.0.1:40000  10.0.0.2:49152    1.90 MB       0 B     2  250 us   100 us  CLOSE",
        "source  stream        2  750 ms          250 ms",
        "port        0.30  peer port 49152 is a libvirt migration port",
        "12:30:00  950 kB/s    14.5 kB     1  250 us  29.0 kB        2  900 ms",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
}

#[test]
fn detail_says_what_is_missing() {
    let mut record = sample::active("1");
    record.vm = crate::model::record::Vm::default();
    record.mode = None;
    record.found_under_way = true;
    record.streams_without_detail = 3;
    let text = render_detail(&record);
    assert!(text.contains("vm           -\n"), "{text}");
    assert!(text.contains("mode unknown"), "{text}");
    assert!(text.contains("under way"), "{text}");
    assert!(text.contains(" 3 streams without"), "{text}");
    assert!(text.contains("1.50 MB"), "what is left: {text}");
    assert!(text.contains("3.00 MB  2.50 MB  750 kB/s"), "{text}");
    assert!(!text.contains("LAST SECONDS"), "{text}");
}

#[test]
fn units() {
    for (count, want) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (2_400_000_000, "2.40 GB"),
        (u64::MAX, "18446744 TB"),
    ] {
        assert_eq!(bytes(count), want, "{count}");
    }
    for (seconds, want) in [
        (0.0, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (99.94, "99.9 s"),
        (99.96, "1m40s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (90_061.0, "25h01m"),
    ] {
        assert_eq!(duration(Some(seconds)), want, "{seconds}");
    }
    for (seconds, want) in
        [(0.000_012, "12 us"), (0.000_999_6, "1.0 ms"), (0.0999, "99.9 ms"), (0.1, "100 ms")]
    {
        assert_eq!(rtt(Some(seconds)), want, "{seconds}");
    }
    assert_eq!(
        (duration(None), per_second(None), rtt(None)),
        (NONE.into(), NONE.into(), NONE.into())
    );
}
