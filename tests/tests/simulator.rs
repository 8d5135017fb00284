//! The simulator in CI: 500 seeds, found faults by name, and peers that break a rule and must be caught.
//!
//! `SIM_SEEDS=n` runs n seeds, `SIM_SEED=x` that one alone.

use commonhold_engine::sim::{Canary, Options, Plan, Report, Scribbler, Seeds, run_with};

const FAULTY: Seeds =
    Seeds { name: "SIM", count: 500, parts: 4, options: Options { trace: false, canary: None, liars: false } };

#[test]
fn peers_agree_and_lose_nothing_first_quarter() {
    FAULTY.part(0);
}

#[test]
fn peers_agree_and_lose_nothing_second_quarter() {
    FAULTY.part(1);
}

#[test]
fn peers_agree_and_lose_nothing_third_quarter() {
    FAULTY.part(2);
}

#[test]
fn peers_agree_and_lose_nothing_last_quarter() {
    FAULTY.part(3);
}

#[test]
fn a_seed_is_replayed_to_the_byte() {
    for seed in 0..6 {
        assert_eq!(FAULTY.passes(seed), FAULTY.passes(seed), "seed {seed}");
    }
}

#[test]
fn the_seeds_meet_every_kind_of_fault() {
    let reports: Vec<Report> = (40..80).map(|seed| FAULTY.passes(seed)).collect();
    let of: [(&str, fn(&Report) -> u64); 11] = [
        ("allowances", |r| r.allowances),
        ("crashes", |r| r.crashes),
        ("restarts", |r| r.restarts),
        ("connections asked about", |r| r.asked),
        ("breaks", |r| r.breaks),
        ("tampered frames", |r| r.tampered),
        ("snapshots", |r| r.snapshots),
        ("deletions", |r| r.deletions),
        ("acknowledgements", |r| r.acks),
        ("receipts", |r| r.receipts),
        ("revocations", |r| r.revocations),
    ];
    for (what, of) in of {
        let count: u64 = reports.iter().map(of).sum();
        assert!(count >= 10, "40 seeds met {count} {what}");
    }
    assert!(reports.iter().filter(|report| report.withdrawals > 0).count() >= 5, "documents are rarely withdrawn");
    assert!(reports.iter().filter(|report| report.refused > 0).count() >= 3, "edits are rarely refused");
}

#[test]
fn a_disk_that_never_syncs_is_caught() {
    FAULTY.catch(Canary::NeverSyncs, 0..24, 14);
}

#[test]
fn a_peer_that_says_stored_too_early_is_caught() {
    FAULTY.catch(Canary::EarlyStored, 0..12, 6);
}

#[test]
fn a_store_that_drops_every_third_segment_is_caught() {
    FAULTY.catch(Canary::DropsThirdSegment, 0..12, 6);
}

#[test]
fn a_view_that_hides_an_entry_is_caught() {
    FAULTY.catch(Canary::HidesEntry, 0..12, 6);
}

#[test]
fn a_plan_of_ones_own_need_not_fit_in_every_number() {
    for (peers, liars) in [(1, 0), (3, 0), (9, 2)] {
        let plan = Plan { peers, liars, ..Plan::of(4) };
        run_with(plan, Options::default(), |_| Box::new(Scribbler)).unwrap();
    }
}

/// What the simulator has found, by cause.
mod found {
    use super::FAULTY;

    /// An entry built on the inside of a snapshot that was not read yet, and was offered again at once, for ever.
    #[test]
    fn an_own_entry_waits_for_the_inside_of_a_snapshot() {
        FAULTY.passes(9);
    }

    /// The inside of a snapshot was read before the snapshot was on disk: the device's own next entry was refused.
    #[test]
    fn a_snapshot_is_read_only_once_it_is_stored() {
        FAULTY.passes(8);
    }

    /// A log of records that was wanted stayed wanted for ever, and nothing was compared any more.
    #[test]
    fn the_authority_log_is_asked_for_and_comes() {
        FAULTY.passes(12);
    }

    /// A deletion came while its document was not in memory; after a crash it was forgotten, and the document lived on.
    #[test]
    fn a_deletion_survives_a_crash_while_its_document_is_read() {
        FAULTY.passes(5);
        FAULTY.passes(59);
    }

    /// A segment brought a header that was held and its document's deletion; the document was not read, as if it were
    /// new, and the deletion was forgotten.
    #[test]
    fn a_deletion_survives_that_its_header_comes_again_with_it() {
        FAULTY.passes(74);
        FAULTY.passes(282);
    }

    /// The set to compare by was read while commits lagged, and counted as current: it showed no difference for ever, and
    /// the comparison was begun again more often than the other side allows.
    #[test]
    fn a_set_that_lacks_what_is_not_on_disk_yet_is_read_again() {
        FAULTY.passes(12);
        FAULTY.passes(62);
    }

    /// A check said "level" while symbols were on their way; their session was dropped, and they seemed unasked for.
    #[test]
    fn symbols_may_come_after_both_sides_turned_out_level() {
        FAULTY.passes(57);
        FAULTY.passes(173);
    }

    /// The index of the inside of a snapshot was not counted when it came, and nothing was let go once it was not needed.
    #[test]
    fn the_inside_of_a_snapshot_counts_as_memory() {
        FAULTY.passes(122);
        FAULTY.passes(304);
    }

    /// An entry needed the inside of a snapshot seconds after it had last been read, and nobody planned to read it again.
    #[test]
    fn the_inside_of_a_snapshot_is_read_again_after_a_while() {
        FAULTY.passes(246);
        FAULTY.passes(334);
    }

    /// Segments that needed the inside of a snapshot waited in too small a space: the newest pushed out the oldest, in
    /// which they had their past, each time that they came.
    #[test]
    fn a_difference_larger_than_what_may_wait_comes_through() {
        FAULTY.passes(145);
        FAULTY.passes(475);
    }

    /// Held back for the inside of a snapshot, a message forgot that it had brought the log of records.
    #[test]
    fn a_message_that_is_held_back_answers_for_all_its_logs() {
        FAULTY.passes(46);
    }

    /// Repeated segments were written as if they were new, and a slow disk fell minutes behind.
    #[test]
    fn what_is_held_already_is_not_written_again() {
        FAULTY.passes(331);
    }

    /// One side found that the two are level, asked no more, and the other was never told.
    #[test]
    fn both_sides_learn_that_they_are_level() {
        FAULTY.passes(27);
        FAULTY.passes(167);
        FAULTY.passes(470);
    }

    /// Rights came back, which showed nothing else at once, so the log was not stored: read again, it refused what came next.
    #[test]
    fn limits_that_show_nothing_else_are_stored() {
        FAULTY.passes(55);
    }

    /// A tip named a grant behind a cut, which who had learnt of the cut first had never held, and what it signed waited for ever.
    #[test]
    fn a_right_behind_a_cut_that_a_tip_names_is_asked_for() {
        FAULTY.passes(334);
    }

    /// The two turned out level between two pages, the next was never asked for, and who serves them waited with what is new.
    #[test]
    fn pages_are_read_to_their_end() {
        FAULTY.passes(1_200);
    }

    /// All that was wanted came when the two were level: the comparison that had been put off for it was never made, and the
    /// other side was never told.
    #[test]
    fn a_comparison_that_was_put_off_is_made() {
        FAULTY.passes(897);
    }

    /// Memory had no room for the inside of a snapshot, which each message needed anew and got once in ten seconds: all that came after
    /// it on the connection waited minutes.
    #[test]
    fn the_inside_of_a_snapshot_is_read_as_often_as_it_costs_little() {
        FAULTY.passes(5);
        FAULTY.passes(334);
    }

    /// A space that was joined before the dialler knew whom it had dialled was named twice.
    #[test]
    fn a_space_that_is_joined_during_a_handshake_is_named_once() {
        FAULTY.passes(1_569);
    }

    /// The creator of a deleted document lost their rights and got them again: the document was told to be there.
    #[test]
    fn a_deleted_document_stays_so_whatever_becomes_of_its_creator() {
        FAULTY.passes(119);
    }
}
