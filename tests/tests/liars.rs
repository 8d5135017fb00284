//! The simulator among members that lie: 1,000 seeds, found faults by name, and honest peers that break a rule and must be
//! caught.
//!
//! `LIAR_SEEDS=n` runs n seeds, `LIAR_SEED=x` that one alone.

use std::collections::BTreeMap;

use commonhold_engine::sim::{Canary, Options, Plan, Seeds};

const AMONG_LIARS: Seeds =
    Seeds { name: "LIAR", count: 1_000, parts: 4, options: Options { trace: false, canary: None, liars: true } };

#[test]
fn honest_peers_agree_among_liars_first_quarter() {
    AMONG_LIARS.part(0);
}

#[test]
fn honest_peers_agree_among_liars_second_quarter() {
    AMONG_LIARS.part(1);
}

#[test]
fn honest_peers_agree_among_liars_third_quarter() {
    AMONG_LIARS.part(2);
}

#[test]
fn honest_peers_agree_among_liars_last_quarter() {
    AMONG_LIARS.part(3);
}

#[test]
fn a_seed_among_liars_is_replayed_to_the_byte() {
    for seed in 0..6 {
        assert_eq!(AMONG_LIARS.passes(seed), AMONG_LIARS.passes(seed), "seed {seed}");
    }
}

#[test]
fn the_seeds_meet_every_kind_of_lie() {
    let (mut lies, mut forks, mut judged): (BTreeMap<&str, u64>, u64, u64) = Default::default();
    for seed in 0..60 {
        let report = AMONG_LIARS.passes(seed);
        report.lies.iter().for_each(|(name, count)| *lies.entry(name).or_default() += count);
        forks += report.forks;
        judged += report.judged;
    }
    assert!(forks >= 100 && judged >= 100, "{forks} forks, {judged} documents judged");
    for kind in KINDS {
        assert!(lies.get(kind).is_some_and(|count| *count >= 10), "{kind:?} is rare: {lies:?}");
    }
}

/// As reports name them. Not in each of these runs, but in one of ten, nine of ten members lie and two honest ones know nobody
/// else until the end.
const KINDS: [&str; 17] = [
    "went on with a history",
    "signed another history",
    "colluded",
    "a storm of histories",
    "left a gap",
    "rewound its operations",
    "ran ahead with its operations",
    "built on what nobody has",
    "sent a compressed chunk",
    "sent damaged bytes with a right checksum",
    "showed one of its histories",
    "accused somebody falsely",
    "replayed or reflected a frame",
    "acknowledged what never came",
    "claimed entries that nobody has",
    "showed less than before",
    "claimed to be level",
];

#[test]
fn two_honest_peers_among_eighteen_liars_agree_once_they_meet() {
    let eclipsed =
        |seed: &u64| matches!(Plan::with_liars(*seed), Plan { peers: 2, liars: 18, apart_from: Some(0), .. });
    let seeds: Vec<u64> = (0..300).filter(eclipsed).take(12).collect();
    assert_eq!(seeds.len(), 12);
    let lies: Vec<u64> = seeds.iter().map(|seed| AMONG_LIARS.passes(*seed).lies.values().sum()).collect();
    assert!(lies.iter().sum::<u64>() > 20 * 12 && lies.iter().all(|lies| *lies > 0), "{lies:?}");
}

#[test]
fn a_peer_that_goes_on_to_show_what_does_not_count_is_caught() {
    AMONG_LIARS.catch(Canary::KeepsShowing, 0..40, 8);
}

#[test]
fn a_peer_that_shows_one_branch_of_a_fork_is_caught() {
    AMONG_LIARS.catch(Canary::OneBranch, 0..400, 5);
}

/// What the simulator has found among liars, by cause.
mod found {
    use super::AMONG_LIARS;

    /// An entry waited to be shown when its chain turned out to be forked: the view was made again without it, and then it
    /// was shown.
    #[test]
    fn what_stops_to_count_before_it_is_shown_is_not_shown() {
        AMONG_LIARS.passes(1);
        AMONG_LIARS.passes(87);
    }

    /// A device without the right to write had two histories, of which one peer held a part: that peer's clock said that
    /// the chain is closed, and no other took the proof.
    #[test]
    fn a_closed_chain_of_which_nothing_counts_is_in_nobodys_clock() {
        AMONG_LIARS.passes(25);
        AMONG_LIARS.passes(57);
    }

    /// A segment of which nothing counts was stored, and not what is known of its chain: after a crash, the next segment made
    /// the peer panic.
    #[test]
    fn what_is_known_of_a_chain_is_stored_with_each_segment() {
        AMONG_LIARS.passes(182);
        AMONG_LIARS.passes(476);
    }

    /// Two peers had built on different first entries of a liar's chain, which neither asked the other for while more was missing:
    /// all of that waited for it.
    #[test]
    fn a_second_history_is_asked_for_even_while_more_is_missing() {
        AMONG_LIARS.passes(48);
        AMONG_LIARS.passes(303);
        AMONG_LIARS.passes(988);
    }

    /// A peer that held a part of what a closed chain has before it parts was taken to hold all of that.
    #[test]
    fn what_is_missing_before_a_chain_parts_is_sent() {
        AMONG_LIARS.passes(778);
    }

    /// A chain that became known by the proof that closes it was taken for one of a device with rights.
    #[test]
    fn a_chain_known_by_its_proof_alone_is_cut_as_others_are() {
        AMONG_LIARS.passes(184);
        AMONG_LIARS.passes(382);
        AMONG_LIARS.passes(951);
    }

    /// The first entry of a chain could not be counted without the inside of a snapshot, and was refused to its own author.
    #[test]
    fn an_own_entry_waits_for_the_inside_of_a_snapshot_whatever_it_is_needed_for() {
        AMONG_LIARS.passes(759);
    }

    /// A chain was closed after it had been packed: the simulator's app went on to show what the snapshot holds of it.
    #[test]
    fn a_snapshot_shows_nothing_that_stopped_to_count() {
        AMONG_LIARS.passes(677);
    }

    /// Another first entry of a chain than the one that was packed was taken for that one, and what others had built upon it
    /// waited for ever.
    #[test]
    fn another_history_than_the_packed_one_is_told_from_it() {
        AMONG_LIARS.passes(876);
    }

    /// Of two entries under one tip the first counted, and the second built upon what counts nowhere: nobody asked for that, and
    /// the first could not be taken.
    #[test]
    fn what_does_not_count_comes_along_where_what_counts_needs_it() {
        AMONG_LIARS.passes(284);
    }

    /// A deletion that waited for the end of what a peer told was in memory only, and a restart lost it.
    #[test]
    fn a_deletion_outlasts_a_restart() {
        AMONG_LIARS.passes(72);
    }

    /// A header that a revocation cut before others had it, and in its document a liar's chain that is closed at its first entry: who
    /// held the two could not hand them on, and stayed apart from all others.
    #[test]
    fn what_closes_a_chain_in_a_document_that_nobody_need_hold_sets_nobody_apart() {
        AMONG_LIARS.passes(528);
    }
}
