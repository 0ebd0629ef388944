//! Which interventions an audit makes.

use super::{Intervention, With};
use crate::latent::Places;

/// Numbers of first or last thoughts that are tried, at most.
const MOST_ENDS: usize = 8;

/// Everything that is done to a model with at most `thoughts` thoughts a question: the positive control, other numbers
/// of thoughts up to twice that if there is `room`, and each edit at all places, at each, and at the first and last few.
/// `noise` is its length in lengths of what it is added to.
pub fn standard(thoughts: usize, room: usize, noise: f64) -> Vec<Intervention> {
    let mut all = vec![Intervention::control(noise)];
    all.extend((0..=room.min(2 * thoughts)).filter(|&n| n != thoughts).map(Intervention::Latents));
    all.extend((0..thoughts).map(Intervention::Early));
    let ends = ends(thoughts);
    for with in [With::Zero, With::Mean, With::Noise(noise), With::Random, With::Transplant] {
        let first = ends.iter().map(|&n| Places::First(n));
        let last = ends.iter().map(|&n| Places::Last(n));
        let each = (0..thoughts).map(Places::One).filter(|_| thoughts > 1);
        let places = std::iter::once(Places::All).chain(each).chain(first).chain(last);
        all.extend(places.map(|places| Intervention::edit(with, places)));
    }
    if thoughts > 1 {
        all.push(Intervention::edit(With::Permute, Places::All));
    }
    for with in [With::PatchSame, With::PatchOther] {
        all.extend((0..thoughts).map(|place| Intervention::edit(with, Places::One(place))));
    }
    all
}

/// Numbers between one and all, evenly spread where there are many.
fn ends(thoughts: usize) -> Vec<usize> {
    let every = thoughts.saturating_sub(2).div_ceil(MOST_ENDS).max(1);
    (2..thoughts).step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_twice() {
        for thoughts in [1, 2, 3, 8, 40] {
            let plan: Vec<String> =
                standard(thoughts, 100, 1.0).iter().map(ToString::to_string).collect();
            let mut once = plan.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), plan.len(), "{plan:?}");
            assert!(ends(thoughts).len() <= MOST_ENDS);
        }
        assert!(ends(2).is_empty());
        assert_eq!(ends(4), [2, 3]);
    }
}
