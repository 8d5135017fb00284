//! An app's own logic in the simulator: a shopping list that says how long it is.
//!
//! Three ways to say that, of which two are wrong, and seem right as long as one machine is looked at:
//!
//! ```text
//! cargo run --release -p commonhold-engine --features simulator --example simulated_app
//! ```

use std::collections::BTreeMap;

use commonhold_engine::document::Value;
use commonhold_engine::sim::{App, Options, Plan, Rng, run_with};
use commonhold_engine::{DocId, Edit, EditError, ObjId, Scalar, SpaceId, View};

/// Begins the key of an item; a random number follows.
const ITEM: &str = "item ";

/// Where the length is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// In a number, written anew each time. Of two who add at once, one wins.
    Number,
    /// In a counter. Of two who begin it at once, one wins; of two who take away the same item, both count that.
    Counter,
    /// Nowhere: it is the number of the items.
    OfTheItems,
}

struct List(Length);

impl List {
    fn add(&self, edit: &mut Edit<'_>, by: i64) -> Result<(), EditError> {
        let kept = edit.get(&ObjId::ROOT, "length");
        match (self.0, kept) {
            (Length::Number, Some(Value::Scalar(Scalar::Int(kept)))) => edit.put(&ObjId::ROOT, "length", kept + by),
            (Length::Number, _) => edit.put(&ObjId::ROOT, "length", by),
            (Length::Counter, Some(_)) => edit.increment(&ObjId::ROOT, "length", by),
            (Length::Counter, None) => edit.put(&ObjId::ROOT, "length", Scalar::Counter(by)),
            (Length::OfTheItems, _) => Ok(()),
        }
    }
}

impl App for List {
    fn edit(&mut self, edit: &mut Edit<'_>, rng: &mut Rng) -> Result<(), EditError> {
        let items = edit.keys(&ObjId::ROOT).into_iter().filter(|key| key.starts_with(ITEM)).collect::<Vec<_>>();
        if !items.is_empty() && rng.below(3) == 0 {
            edit.delete(&ObjId::ROOT, items[rng.below(items.len() as u64) as usize].as_str())?;
            return self.add(edit, -1);
        }
        // A key of its own: of two who put something under one key at once, one wins.
        edit.put(&ObjId::ROOT, format!("{ITEM}{:016x}", rng.next_u64()), "milk")?;
        self.add(edit, 1)
    }

    fn agrees(&mut self, documents: &BTreeMap<(SpaceId, DocId), &View>) -> Result<(), String> {
        for (id, document) in documents.iter().map(|((_, id), document)| (id, document.to_json())) {
            let items = document.as_object().map_or(0, |all| all.keys().filter(|key| key.starts_with(ITEM)).count());
            let said = document.get("length").map_or(0, |said| said.as_i64().unwrap_or(i64::MIN));
            if self.0 != Length::OfTheItems && items as i64 != said {
                return Err(format!("{items} items in {id}, which says that it has {said}"));
            }
        }
        Ok(())
    }
}

/// The first of some seeds that shows something wrong.
fn wrong(length: Length, seeds: u64) -> Option<String> {
    let mut found = (0..seeds).filter_map(|seed| {
        let run = run_with(Plan::of(seed), Options::default(), move |_| Box::new(List(length)));
        run.err().map(|failure| format!("seed {seed}: {}", failure.what))
    });
    found.next()
}

fn main() {
    for length in [Length::Number, Length::Counter, Length::OfTheItems] {
        match wrong(length, 20) {
            Some(what) => println!("{length:?}: {what}"),
            None => println!("{length:?}: nothing wrong in 20 seeds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_app_is_found_and_what_is_right_passes() {
        assert!(wrong(Length::Number, 20).is_some());
        assert!(wrong(Length::Counter, 60).is_some());
        assert_eq!(wrong(Length::OfTheItems, 6), None);
    }
}
