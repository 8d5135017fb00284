//! The overlay against what it must show (issue 4, G1–G4 and G6), in small; `--bin overlay` runs the large sizes.

use commonhold_sync::overlay::OverlayLimits;
use commonhold_tests::overlay_sim::{Report, Row, run};

const PEERS: usize = 50;

fn report(name: &str, peers: usize, seeds: u64) -> Report {
    run(name, peers, seeds, None, true).expect("the scenario exists")
}

/// Rows of a run and, per seed, the one without a fault.
fn pairs<'a>(report: &'a Report, run: &'a str) -> impl Iterator<Item = (&'a Row, &'a Row)> {
    let rows = report.rows.iter().filter(move |row| row.run == run);
    rows.filter_map(|row| Some((row, report.rows.iter().find(|calm| calm.run == "no-fault" && calm.seed == row.seed)?)))
}

fn assert_within_three_times(report: &Report, run: &str) {
    let mut checked = 0;
    for (row, calm) in pairs(report, run) {
        assert_eq!(row.incomplete, 0, "{row:?}");
        assert!(row.last_mean_ms <= 3.0 * calm.last_mean_ms, "{row:?} against {calm:?}");
        assert!(row.last_max_ms <= 3 * calm.last_max_ms, "{row:?} against {calm:?}");
        checked += 1;
    }
    assert!(checked > 0, "{run} was run");
}

#[test]
fn without_faults_everything_arrives_with_few_copies_and_no_later_than_the_baseline() {
    let report = report("no-fault", PEERS, 2);
    for pair in report.rows.chunks(2) {
        let [ours, baseline] = pair else { panic!("rows come in pairs") };
        assert_eq!(
            (ours.incomplete, ours.repairs, ours.components, ours.lopsided),
            (0, 0, Some(1), Some(0)),
            "{ours:?}"
        );
        assert!(ours.copies <= 1.5 && ours.copies < baseline.copies, "{ours:?} against {baseline:?}");
        assert!(
            ours.last_mean_ms <= baseline.last_mean_ms && ours.last_max_ms <= baseline.last_max_ms,
            "{ours:?} {baseline:?}"
        );
    }
}

#[test]
fn nothing_is_lost_when_a_third_or_half_of_the_peers_die_and_the_overlay_recovers_within_two_seconds() {
    for row in report("killed", PEERS, 2).rows.iter().filter(|row| row.system == "ours") {
        assert_eq!((row.incomplete, row.components), (0, Some(1)), "{row:?}");
        // Three seconds until a dead link is noticed, and two.
        assert!(row.recovery_ms.is_some_and(|ms| ms <= 5_000), "{row:?}");
    }
}

#[test]
fn peers_that_forward_nothing_neither_stop_nor_slow_the_rest() {
    let report = report("black-holes", PEERS, 2);
    assert_within_three_times(&report, "holes 40%");
    assert_within_three_times(&report, "holes 60%");
}

/// Seed 0 of 200 peers: one whose only speaking neighbour left it heard nothing for 6.7 s.
#[test]
fn who_is_left_among_black_holes_finds_others_at_once() {
    assert_within_three_times(&report("black-holes", 200, 1), "holes 60%");
}

#[test]
fn with_four_leaves_to_each_full_peer_everything_arrives_in_time() {
    assert_within_three_times(&report("leaves", PEERS, 2), "leaves 80%");
}

#[test]
fn with_half_of_the_peers_undialable_everything_arrives_in_time() {
    assert_within_three_times(&report("undialable", PEERS, 2), "undialable 50%");
}

#[test]
fn a_flood_by_a_fifth_of_the_peers_fills_no_table_beyond_its_bound_and_harms_nobody() {
    // Seed 1: a newcomer whom strangers told of peers that do not exist forgot all others, and was alone with the strangers.
    let report = report("floods", PEERS, 2);
    assert_within_three_times(&report, "floods 20%");
    let limits = OverlayLimits::default();
    for (row, _) in pairs(&report, "floods 20%") {
        assert_eq!(row.components, Some(1), "{row:?}");
        assert!(row.most.links <= limits.links && row.most.passive <= limits.passive, "{row:?}");
        assert!(row.most.shunned <= limits.shunned && row.most.seen <= limits.seen, "{row:?}");
        assert!(row.most.missing <= limits.missing && row.most.missing > 0, "{row:?}");
    }
}

#[test]
fn the_overlay_stays_in_one_piece_when_the_only_bootstrap_peer_dies() {
    for row in &report("bootstrap-dies", PEERS, 12).rows {
        assert_eq!((row.components, row.incomplete), (Some(1), 0), "{row:?}");
    }
}

#[test]
fn an_idle_peer_with_a_hundred_spaces_and_five_neighbours_costs_less_than_a_kibibyte_a_minute_each() {
    for row in &report("idle", 6, 1).rows {
        let (_, later) = row.idle_bytes.expect("idle is measured in bytes");
        assert!(later <= 1_024.0, "{row:?}");
    }
}
