//! The difference of two sequences, in few hunks and bounded time. Used to turn "make it so" into small edits.

use std::ops::Range;

/// Where two sequences differ: these of the old give way to those of the new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    pub(super) old: Range<usize>,
    pub(super) new: Range<usize>,
}

/// Edits after which the middle is replaced as a whole: the search keeps a row per edit, so 256 are 0.5 MiB and, over two texts of
/// 100,000 characters, some milliseconds.
const EDITS_MAX: usize = 256;

/// The hunks by which `new` differs from `old`, in order. Myers' greedy search for the shortest script, after what both ends
/// share is set aside.
pub(super) fn diff<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Hunk> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    if a.is_empty() && b.is_empty() {
        return Vec::new();
    }
    let whole = || vec![Hunk { old: head..head + a.len(), new: head..head + b.len() }];
    if a.is_empty() || b.is_empty() {
        return whole();
    }
    let Some(steps) = search(a, b) else { return whole() };
    let mut hunks: Vec<Hunk> = Vec::new();
    // Steps come last first; each is one element deleted or inserted.
    for (x, y, is_delete) in steps.into_iter().rev() {
        let (x, y) = (x + head, y + head);
        let (old, new) = if is_delete { (x..x + 1, y..y) } else { (x..x, y..y + 1) };
        match hunks.last_mut() {
            Some(last) if last.old.end == old.start && last.new.end == new.start => {
                (last.old.end, last.new.end) = (old.end, new.end);
            }
            _ => hunks.push(Hunk { old, new }),
        }
    }
    hunks
}

/// The deletions and insertions of a shortest script, last first; none where there are too many.
fn search<T: PartialEq>(a: &[T], b: &[T]) -> Option<Vec<(usize, usize, bool)>> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    // furthest[d][k + d]: how far down `a` a path with d edits gets on diagonal k = x - y.
    let mut furthest: Vec<Vec<isize>> = Vec::new();
    let get = |row: &Vec<isize>, k: isize| {
        let at = k + (row.len() as isize - 1) / 2;
        usize::try_from(at).ok().and_then(|at| row.get(at).copied()).unwrap_or(-1)
    };
    for d in 0..=EDITS_MAX.min(a.len() + b.len()) as isize {
        let mut row = vec![-1; 2 * d as usize + 1];
        let last = furthest.last();
        for k in (-d..=d).step_by(2) {
            let mut x = match last {
                None => 0,
                Some(last) => {
                    let (down, right) = (get(last, k + 1), get(last, k - 1));
                    if k == -d || (k != d && right < down) { down } else { right + 1 }
                }
            };
            let mut y = x - k;
            if x < 0 || y < 0 || x > n || y > m {
                continue;
            }
            while x < n && y < m && a[x as usize] == b[y as usize] {
                (x, y) = (x + 1, y + 1);
            }
            row[(k + d) as usize] = x;
            if x == n && y == m {
                return Some(trace(&furthest, k, get));
            }
        }
        furthest.push(row);
    }
    None
}

fn trace(
    furthest: &[Vec<isize>],
    mut k: isize,
    get: impl Fn(&Vec<isize>, isize) -> isize,
) -> Vec<(usize, usize, bool)> {
    let mut steps = Vec::with_capacity(furthest.len());
    for (d, row) in furthest.iter().enumerate().rev().map(|(d, row)| (d as isize + 1, row)) {
        let (down, right) = (get(row, k + 1), get(row, k - 1));
        if k == -d || (k != d && right < down) {
            k += 1;
            steps.push((down as usize, (down - k) as usize, false));
        } else {
            k -= 1;
            steps.push((right as usize, (right - k) as usize, true));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rebuilt(old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut out = old.to_vec();
        for hunk in diff(old, new).into_iter().rev() {
            out.splice(hunk.old, new[hunk.new].iter().copied());
        }
        out
    }

    #[test]
    fn one_word_in_the_middle_is_one_hunk_and_two_are_two() {
        assert_eq!(diff(b"the cat sat", b"the dog sat").iter().map(|h| h.old.len()).sum::<usize>(), 3);
        assert_eq!(diff(b"a-b-c", b"a+b+c").len(), 2);
        assert_eq!(diff(b"same", b"same"), vec![]);
    }

    #[test]
    fn too_many_edits_replace_the_middle() {
        let (old, new): (Vec<u8>, Vec<u8>) = (vec![1; 600], vec![2; 600]);
        assert_eq!(diff(&old, &new), vec![Hunk { old: 0..600, new: 0..600 }]);
    }

    proptest! {
        #[test]
        fn hunks_turn_the_old_into_the_new(
            old in prop::collection::vec(0u8..4, 0..60), new in prop::collection::vec(0u8..4, 0..60)
        ) {
            prop_assert_eq!(rebuilt(&old, &new), new);
        }
    }
}
