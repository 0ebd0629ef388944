//! Pointer chase: `c a | a d | d b | b c [Q] a 2` → `d`, `b` → `b`: from `a`, two hops through the table.
//!
//! A table sends every name to another one. It is one cycle through all its names, drawn anew for each example with
//! its order and its names: every number of hops below the cycle's length leads elsewhere, each name stands twice in
//! the table, and only following the pointers tells one from another. There is one step a hop, the name reached.

use std::ops::RangeInclusive;

use rand::{
    Rng,
    seq::{SliceRandom, index},
};
use rand_chacha::ChaCha8Rng;

use crate::data::Example;

/// The settings of the pointer task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Entries of the table.
    pub entries: usize,
    /// Names that a table's are drawn from, as many as entries or more.
    pub names: usize,
    /// How many hops, hence steps.
    pub hops: RangeInclusive<usize>,
}

impl Default for Pointer {
    fn default() -> Self {
        Self { entries: 12, names: 12, hops: 2..=4 }
    }
}

impl Pointer {
    pub(super) fn check(&self) -> Result<(), String> {
        const MOST: usize = 1000;
        let Self { entries, names, ref hops } = *self;
        let (fewest, most) = (*hops.start(), *hops.end());
        if fewest > most || fewest == 0 {
            return Err(format!("hops must be a range from 1, not {fewest} to {most}"));
        }
        // Beyond half of the cycle, going backwards would be the shorter way.
        if 2 * most > entries {
            let least = 2 * most;
            return Err(format!("{most} hops need at least {least} entries, not {entries}"));
        }
        if names < entries || names > MOST {
            return Err(format!("names must be from {entries} (`entries`) to {MOST}, not {names}"));
        }
        Ok(())
    }

    pub(super) fn example(&self, rng: &mut ChaCha8Rng) -> Example {
        // In the order of the cycle: each points to the next, the last to the first.
        let mut cycle: Vec<String> =
            index::sample(rng, self.names, self.entries).into_iter().map(name).collect();
        cycle.shuffle(rng);
        let hops = rng.random_range(self.hops.clone());
        let after = |place: usize| cycle[place % cycle.len()].as_str();
        let mut table: Vec<String> = (0..cycle.len())
            .map(|place| format!("{} {}", after(place), after(place + 1)))
            .collect();
        table.shuffle(rng);
        // The cycle begins anywhere, so that its first name is any name.
        let question = format!("{} [Q] {} {hops}", table.join(" | "), after(0));
        Example::new(question, (1..=hops).map(after), after(hops))
    }
}

/// `a` … `z`, `aa`, `ab`, …: the names in order.
fn name(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + (index % 26) as u8));
        match index / 26 {
            0 => break,
            rest => index = rest - 1,
        }
    }
    letters.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::{Task, generate};
    use super::*;

    #[test]
    fn names_are_counted_as_columns_of_a_sheet_are() {
        let of = [0, 25, 26, 51, 52, 701, 702].map(name);
        assert_eq!(of, ["a", "z", "aa", "az", "ba", "zz", "aaa"]);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let good = Pointer::default();
        for (bad, words) in [
            (Pointer { hops: 0..=2, ..good.clone() }, "hops must be a range from 1"),
            (Pointer { hops: 2..=7, ..good.clone() }, "7 hops need at least 14 entries"),
            (Pointer { names: 11, ..good }, "names must be from 12"),
        ] {
            let message =
                generate(&Task::Pointer(bad), 1, 0, &HashSet::new()).unwrap_err().to_string();
            assert!(message.contains(words), "{message:?} lacks {words:?}");
        }
    }
}
