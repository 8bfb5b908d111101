//! Segments on disk.

use std::os::unix::fs::PermissionsExt;

use agentd_protocol::shim::log::{IndexRecord, Mark, Source, index_name, segment_name, segment_number};
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Exit;

use crate::harness::{Instance, wait_for};

#[test]
fn segments_end_with_lines_and_only_the_newest_are_kept() {
    let mut instance = Instance::shell("i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.001; done");
    instance.spec.restart = RestartPolicy::Never;
    instance.spec.log_segment_bytes = 500;
    instance.spec.log_segments_max = 3;
    assert_eq!(instance.start().wait_exit().0, Exit::Code(0));
    let mut numbers: Vec<u32> = std::fs::read_dir(instance.log_dir())
        .unwrap()
        .filter_map(|entry| segment_number(entry.unwrap().file_name().to_str()?))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), 3, "{numbers:?}");
    assert_eq!(std::fs::read_dir(instance.log_dir()).unwrap().count(), 6, "each with its index");
    for number in &numbers {
        let path = instance.log_dir().join(segment_name(*number));
        assert!(std::fs::read(&path).unwrap().ends_with(b"\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
    let log = instance.log(Source::Stdout);
    let kept: Vec<u32> = log.lines().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect();
    assert_eq!(kept.last(), Some(&399));
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn every_incarnation_has_its_mark_before_its_bytes() {
    let mut instance = Instance::shell("echo hello; exec sleep 600");
    let mut session = instance.start();
    instance.wait_log("hello");
    session.order(agentd_protocol::shim::wire::Message::Restart);
    let marks = wait_for("two greetings", || {
        let log = instance.log(Source::Stdout);
        if log != "hello\nhello\n" {
            return Err(log);
        }
        let index = std::fs::read(instance.log_dir().join(index_name(0))).unwrap();
        Ok(index.as_chunks::<16>().0.iter().map(|record| IndexRecord::decode(*record).unwrap()).collect::<Vec<_>>())
    });
    let starts: Vec<u64> = marks
        .iter()
        .filter(|record| record.source == Source::Mark(Mark::IncarnationStart))
        .map(|record| record.offset)
        .collect();
    assert_eq!(starts, [0, 6]);
}

#[test]
fn a_flood_is_kept_whole() {
    let mut instance = Instance::python("import sys\nfor n in range(300000): sys.stdout.write('%07d\\n' % n)");
    instance.spec.env.pop();
    instance.spec.restart = RestartPolicy::Never;
    assert_eq!(instance.start().wait_exit().0, Exit::Code(0));
    let log = instance.log(Source::Stdout);
    assert_eq!(log.len(), 300_000 * 8);
    assert!(log.lines().enumerate().all(|(n, line)| line == format!("{n:07}")));
}

#[test]
fn a_missing_log_folder_does_not_stop_the_program() {
    let mut instance = Instance::shell("echo x; exit 5");
    instance.spec.restart = RestartPolicy::Never;
    instance.spec.log_dir = b"/no/such/folder".to_vec();
    assert_eq!(instance.start().wait_exit().0, Exit::Code(5));
}
