//! Which peers are configured to connect to which, and who may die so that the rest still hangs together by those links. Once peers find
//! each other by themselves, this list is only where they begin.

use std::collections::BTreeSet;

/// Places in the network are numbered: 0 is the origin's, then come the peers.
pub(super) const ORIGIN: usize = 0;

/// The links among the origin and `peers` peers at places 1 to `peers`: each to the origin, a ring, and two chords from each peer. The short
/// chord leaves every second peer connected when the others are gone; the long one keeps the way across short.
pub(super) fn configured(peers: usize) -> BTreeSet<(usize, usize)> {
    let mut links = BTreeSet::new();
    for place in 1..=peers {
        links.insert((ORIGIN, place));
        for steps in [1, 2, peers / 3 + 1] {
            let other = (place - 1 + steps) % peers + 1;
            if other != place {
                links.insert((place.min(other), place.max(other)));
            }
        }
    }
    links
}

/// Whom a place dials: of the two ends of a link the later one, since the other runs already.
pub(super) fn dialled(place: usize, links: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    links.iter().filter(|(_, later)| *later == place).map(|(earlier, _)| *earlier).collect()
}

/// Whether these places hang together by these links, whoever dialled.
pub(super) fn connected(living: &BTreeSet<usize>, links: &BTreeSet<(usize, usize)>) -> bool {
    let Some(first) = living.first() else { return true };
    let mut reached = BTreeSet::from([*first]);
    let mut next = vec![*first];
    while let Some(here) = next.pop() {
        for (a, b) in links {
            let there = match here {
                _ if here == *a => *b,
                _ if here == *b => *a,
                _ => continue,
            };
            if living.contains(&there) && reached.insert(there) {
                next.push(there);
            }
        }
    }
    reached == *living
}

/// Half of these places, drawn such that the others hang together. Every second one if luck does not find any.
pub(super) fn doomed(
    living: &BTreeSet<usize>,
    links: &BTreeSet<(usize, usize)>,
    random: &mut fastrand::Rng,
) -> BTreeSet<usize> {
    let half = living.len() / 2;
    for _ in 0..1_000 {
        let drawn: BTreeSet<usize> = random.choose_multiple(living.iter().copied(), half).into_iter().collect();
        if connected(&(living - &drawn), links) {
            return drawn;
        }
    }
    living.iter().copied().filter(|place| place % 2 == 0).take(half).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_without_their_origin_hang_together_and_so_does_each_half_of_the_ring() {
        for peers in 4..=80 {
            let links = configured(peers);
            assert!(connected(&(1..=peers).collect(), &links), "{peers}");
            assert!(connected(&(1..=peers / 2).collect(), &links), "{peers}");
            assert!(connected(&(peers / 2 + 1..=peers).collect(), &links), "{peers}");
        }
    }

    #[test]
    fn half_can_die_and_the_rest_hangs_together() {
        for peers in 4..=80 {
            let living = (1..=peers).collect::<BTreeSet<_>>();
            let doomed = doomed(&living, &configured(peers), &mut fastrand::Rng::with_seed(peers as u64));
            assert_eq!(doomed.len(), peers / 2);
            assert!(connected(&(&living - &doomed), &configured(peers)), "{peers}");
        }
    }

    #[test]
    fn two_ends_without_a_link_do_not_hang_together() {
        assert!(!connected(&BTreeSet::from([1, 2, 3]), &BTreeSet::from([(1, 2)])));
        assert!(connected(&BTreeSet::from([1, 2, 3]), &BTreeSet::from([(1, 2), (2, 3)])));
        assert!(!connected(&BTreeSet::from([1, 3]), &BTreeSet::from([(1, 2), (2, 3)])), "the dead do not relay");
    }
}
