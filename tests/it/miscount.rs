//! A published miscount, made again from ProsQA's step counts alone: no model, no edit.

use std::{collections::BTreeMap, fs};

use coconut::{
    audit::miscount::{Place, Row, by_place},
    stats::Rate,
};

/// Rows of ProsQA's test set, so many of each number of steps right.
fn rows(right: impl Fn(usize, usize) -> usize) -> Vec<Row> {
    let text = fs::read_to_string(crate::fixture("audit/prosqa_steps.json")).unwrap();
    let counts: BTreeMap<usize, usize> = serde_json::from_str(&text).unwrap();
    let mut rows = Vec::new();
    for (latents, n) in counts {
        let right = right(latents, n);
        rows.extend((0..n).map(|row| Row { latents, right: row < right }));
    }
    rows
}

fn percent(places: &[Place], of: fn(&Place) -> f64) -> Vec<f64> {
    places.iter().map(|place| (1000.0 * of(place)).round() / 10.0).collect()
}

/// 97.0, 57.6, 15.6 and 2.4 % of 500 are 485, 288, 78 and 12 answers, the right ones among rows of 3, 4, 5 and 6
/// steps and more; so 197, 210, 66 and 12 of each.
#[test]
fn untouched_answers_fall_off_the_published_cliff() {
    let places = by_place(&rows(|latents, _| [197, 210, 66, 12][latents - 3]));
    assert_eq!(percent(&places, |p| p.miscounted), [97.0, 97.0, 97.0, 57.6, 15.6, 2.4]);
    let counts: Vec<_> =
        places.iter().map(|p| (p.latent, p.of_touched.hits, p.of_touched.n)).collect();
    assert_eq!(
        counts,
        [(1, 485, 500), (2, 485, 500), (3, 485, 500), (4, 288, 298), (5, 78, 81), (6, 12, 12)]
    );
    assert_eq!(
        percent(&places, |p| p.of_touched.rate().unwrap()),
        [97.0, 97.0, 97.0, 96.6, 96.3, 100.0]
    );
    // statsmodels 0.15: proportion_confint(288, 298, method="wilson"), and so on.
    assert_eq!(
        percent(&places, |p| p.of_touched.interval().unwrap()[0]),
        [95.1, 95.1, 95.1, 93.9, 89.7, 75.8]
    );
    assert_eq!(
        percent(&places, |p| p.of_touched.interval().unwrap()[1]),
        [98.2, 98.2, 98.2, 98.2, 98.7, 100.0]
    );
}

#[test]
fn step_counts_alone_make_a_cliff() {
    let places = by_place(&rows(|_, n| n));
    assert_eq!(percent(&places, |p| p.miscounted), [100.0, 100.0, 100.0, 59.6, 16.2, 2.4]);
    assert!(places.iter().all(|place| place.of_touched.rate() == Some(1.0)));
}

#[test]
fn rows_without_latents_have_no_places() {
    assert_eq!(by_place(&[]), []);
    assert_eq!(by_place(&[Row { latents: 0, right: true }]), []);
    let gaps = by_place(&[Row { latents: 0, right: true }, Row { latents: 2, right: false }]);
    let none = Rate { hits: 0, n: 1 };
    assert_eq!(gaps.iter().map(|p| p.of_touched).collect::<Vec<_>>(), [none; 2]);
}
