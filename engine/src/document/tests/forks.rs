//! Documents in which chains have forked: every peer that holds the same entries shows the same, whatever came first.

mod world;

use super::*;
use world::{World, cases, told};

/// The document that the library has of a view saves and loads again.
pub(super) fn reloads(view: &View) {
    let view::Doc::Idle(doc) = &view.doc else { panic!("something is open") };
    let options = am::LoadOptions::new().text_encoding(am::TextEncoding::UnicodeCodePoint);
    let again = am::Automerge::load_with_options(&doc.save(), options).expect("what was saved loads");
    assert_eq!(again.get_heads(), doc.get_heads());
    assert_eq!(again.hydrate(None), doc.hydrate(None));
}

/// Runs a case for each seed, and tells the seed of one that fails.
fn each_seed(salt: u64, default: u64, case: impl Fn(u64)) {
    let only = std::env::var("COMMONHOLD_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(0..cases(default), |seed| seed..seed + 1);
    for seed in seeds {
        struct Tell(u64);
        impl Drop for Tell {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("COMMONHOLD_SEED={}", self.0);
                }
            }
        }
        let _tell = Tell(seed);
        case(salt << 32 | seed);
    }
}

/// All views of the same entries tell the same, whoever wrote and in whatever order things came.
fn agree(mut world: World) {
    world.flush_all();
    let all = (0..world.pool.len()).collect();
    let first = world.delivered();
    let expected = told(&first);
    assert!(world.pool.iter().all(|entry| first.contains(&entry.id)));
    for _ in 0..2 {
        assert_eq!(told(&world.delivered()), expected);
    }
    for at in 0..world.peers.len() {
        world.receive(at, &all);
        assert_eq!(told(&world.peers[at].view), expected);
    }
    let mut first = first;
    lives(&mut first);
}

#[test]
fn whatever_forks_and_in_whatever_order_all_views_agree() {
    let forked = std::cell::Cell::new(0);
    each_seed(1, 150, |seed| {
        let mut world = World::new(seed);
        let steps = 8 + world.dice.below(50);
        (0..steps).for_each(|_| world.step());
        world.flush_all();
        forked.set(forked.get() + u64::from(world.forked_chains() > 0));
        agree(world);
    });
    println!("{} cases with forks", forked.get());
}

#[test]
fn edits_made_in_forked_documents_mean_the_same_to_all() {
    let edits = std::cell::Cell::new(0);
    each_seed(2, 20, |seed| {
        let mut world = World::new(seed);
        (0..15).for_each(|_| world.step());
        (0..100).for_each(|_| world.calm_step());
        edits.set(edits.get() + world.forked_edits);
        agree(world);
    });
    println!("{} edits in forked documents", edits.get());
}
