//! Probes against scikit-learn (python/fixtures/make_audit_stats.py). Features are multiples of 1/64, so that both
//! sides have the very same numbers.

use coconut::{
    audit::tuned::mapped,
    stats::{
        Paired, Rate,
        probe::{
            CrossValidation, Features, Folds, Labels, LinearProbe, Probe, Selectivity,
            permutation_p, r2,
        },
    },
};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../fixtures/probes.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn counts(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn features(case: &Value) -> Features {
    let x: Vec<f32> = numbers(&case["x"]).into_iter().map(|x| x as f32).collect();
    Features::new(&x, case["width"].as_u64().unwrap() as usize).unwrap()
}

fn labels(case: &Value) -> Labels {
    Labels::new(&counts(&case["labels"])).unwrap()
}

/// To 1e-5 of the largest.
fn assert_near(found: &[f64], expected: &[f64], of: &str) {
    assert_eq!(found.len(), expected.len(), "{of}");
    let largest = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5 * largest, "{of}: {a}, not {b}, of {largest}");
    }
}

/// More questions than features, fewer, and features of very unlike size of which one does not vary.
#[test]
fn ridge_is_scikit_learns() {
    for case in fixture()["ridge"].as_array().unwrap() {
        let x = features(case);
        let alpha = case["alpha"].as_f64().unwrap();
        let probe = LinearProbe::numbers(&x, &rows(&case["targets"]), alpha).unwrap();
        let outputs = probe.outputs(&x).unwrap();
        for (t, expected) in rows(&case["coefficients"]).iter().enumerate() {
            assert_near(&probe.weights()[t], expected, "coefficients");
            assert_near(&outputs[t], &numbers(&case["predictions"][t]), "predictions");
        }
        assert_near(probe.intercepts(), &numbers(&case["intercepts"]), "intercepts");
    }
}

/// Several classes, two, more features than questions, weak and strong penalties.
#[test]
fn logistic_regression_is_scikit_learns() {
    for case in fixture()["logistic"].as_array().unwrap() {
        let (x, labels) = (features(case), labels(case));
        let c = case["c"].as_f64().unwrap();
        let probe = LinearProbe::classes(&x, &labels, Probe::Logistic { c }).unwrap();
        let (mut weights, mut intercepts) = (probe.weights(), probe.intercepts().to_vec());
        if labels.n_classes() == 2 {
            // There one logit stands for both.
            let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
            weights = vec![less(&weights[1], &weights[0])];
            intercepts = vec![intercepts[1] - intercepts[0]];
        }
        let expected = rows(&case["coefficients"]).concat();
        assert_near(&weights.concat(), &expected, "coefficients");
        assert_near(&intercepts, &numbers(&case["intercepts"]), "intercepts");

        let outputs = probe.outputs(&x).unwrap();
        for (question, expected) in rows(&case["probabilities"]).iter().enumerate() {
            let odds: Vec<f64> = outputs.iter().map(|of| of[question].exp()).collect();
            let sum: f64 = odds.iter().sum();
            let found: Vec<f64> = odds.iter().map(|odds| odds / sum).collect();
            assert_near(&found, expected, "probabilities");
        }
    }
}

#[test]
fn cross_validation_is_scikit_learns_on_the_same_folds() {
    let case = &fixture()["validated"];
    let (labels, folds) = (labels(case), Folds::given(counts(&case["folds"])).unwrap());
    let questions = CrossValidation::new(&features(case), &folds).unwrap();
    for (name, probe) in probes(case) {
        let found = questions.classes(&labels, probe).unwrap();
        assert_eq!(found, counts(&case[name]["predictions"]), "{name}");
        let scores: Vec<f64> =
            folds.questions().iter().map(|of| score(of, &found, &labels)).collect();
        assert_near(&scores, &numbers(&case[name]["scores"]), name);
    }
    let (alpha, targets) = (case["alpha"].as_f64().unwrap(), rows(&case["targets"]));
    let found = questions.numbers(&targets, alpha).unwrap();
    for (t, found) in found.iter().enumerate() {
        assert_near(found, &numbers(&case["held_out"][t]), "numbers");
        let expected = case["r2"][t].as_f64().unwrap();
        assert_near(&[r2(&targets[t], found).unwrap()], &[expected], "r2");
    }
}

fn probes(case: &Value) -> [(&'static str, Probe); 2] {
    let [alpha, c] = ["alpha", "c"].map(|key| case[key].as_f64().unwrap());
    [("ridge", Probe::Ridge { alpha }), ("logistic", Probe::Logistic { c })]
}

fn score(of: &[usize], found: &[usize], labels: &Labels) -> f64 {
    let right: Rate = of.iter().map(|&i| found[i] == labels.classes()[i]).collect();
    right.rate().unwrap()
}

/// Labels change places within folds, and across them.
#[test]
fn permutation_tests_are_scikit_learns_on_the_same_permutations() {
    let case = &fixture()["validated"];
    let (labels, folds) = (labels(case), Folds::given(counts(&case["folds"])).unwrap());
    let questions = CrossValidation::new(&features(case), &folds).unwrap();
    for (name, probe) in probes(case) {
        for kind in ["within", "whole"] {
            let expected = &case[name]["permutation_tests"][kind];
            let orders: Vec<Vec<usize>> =
                expected["permutations"].as_array().unwrap().iter().map(counts).collect();
            let test = questions.permutation_test(&labels, probe, &orders).unwrap();
            let shuffled: Vec<usize> = test.shuffled.iter().map(|rate| rate.hits).collect();
            assert_eq!(test.found.hits as u64, expected["hits"].as_u64().unwrap(), "{name} {kind}");
            assert_eq!(shuffled, counts(&expected["null"]), "{name} {kind}");
            assert_near(&[test.p], &[expected["p"].as_f64().unwrap()], "p");
        }
    }
}

#[test]
fn what_was_found_counts_among_the_permutations() {
    assert_eq!(permutation_p(&5, &[5, 4, 6]), 0.75);
    assert_eq!(permutation_p(&9, &[5, 4, 6]), 0.25);
    assert_eq!(permutation_p(&0.5, &[]), 1.0);
}

/// Vectors that know nothing of the labels, many times over: p at most 0.1 in about a tenth of them. 300 draws from
/// a binomial of 0.1 lie within 14 and 46 but once in a thousand times.
#[test]
fn p_is_small_as_rarely_as_it_says() {
    let small = (0..300).filter(|&seed| {
        let noise = coconut::rng::normals(&mut coconut::rng::stream(seed, &[77]), 40 * 3, 1.0);
        let classes: Vec<usize> = (0..40).map(|i| usize::from(i % 10 < 7)).collect();
        let labels = Labels::new(&classes).unwrap();
        let folds = Folds::stratified(&labels, 4, seed).unwrap();
        let x = Features::new(&noise, 3).unwrap();
        let orders = folds.permutations(99, seed);
        let questions = CrossValidation::new(&x, &folds).unwrap();
        let test = questions.permutation_test(&labels, Probe::Ridge { alpha: 1.0 }, &orders);
        test.unwrap().p <= 0.1
    });
    let count = small.count();
    // Ties make p larger, so that fewer may be small.
    assert!((3..=46).contains(&count), "{count} of 300");
}

#[test]
fn folds_are_even_in_size_and_in_classes() {
    let classes: Vec<usize> = (0..103).map(|i| [0, 0, 0, 1, 1, 2][i % 6]).collect();
    let labels = Labels::new(&classes).unwrap();
    let folds = Folds::stratified(&labels, 5, 9).unwrap();
    assert_eq!(folds, Folds::stratified(&labels, 5, 9).unwrap());
    assert_ne!(folds, Folds::stratified(&labels, 5, 10).unwrap());
    let spread = |of: Vec<usize>| of.iter().max().unwrap() - of.iter().min().unwrap();
    let members = folds.questions();
    assert!(spread(members.iter().map(Vec::len).collect()) <= 1);
    for class in 0..3 {
        let in_class = |of: &Vec<usize>| of.iter().filter(|&&i| classes[i] == class).count();
        assert!(spread(members.iter().map(in_class).collect()) <= 1, "class {class}");
    }
    for order in folds.permutations(3, 1) {
        assert!(order.iter().enumerate().all(|(to, &from)| folds.of()[to] == folds.of()[from]));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..103));
    }
    let permutations = folds.permutations(2, 1);
    assert_ne!(permutations[0], permutations[1]);
    assert_eq!(permutations, folds.permutations(2, 1));
}

/// Class 2 occurs once: the probe that never saw it reads another class, and the others are as ever.
#[test]
fn a_class_may_be_missing_where_a_probe_is_fitted() {
    let x: Vec<f32> = (0..21).map(|i| (i % 2) as f32 + 0.01 * i as f32).collect();
    let classes: Vec<usize> = (0..21).map(|i| if i == 20 { 2 } else { i % 2 }).collect();
    let (x, labels) = (Features::new(&x, 1).unwrap(), Labels::new(&classes).unwrap());
    let folds = Folds::given((0..21).map(|i| i % 3).collect()).unwrap();
    let questions = CrossValidation::new(&x, &folds).unwrap();
    for probe in [Probe::Ridge { alpha: 0.1 }, Probe::Logistic { c: 1.0 }] {
        let found = questions.classes(&labels, probe).unwrap();
        assert_eq!(found[..20], classes[..20], "{probe:?}");
        assert_ne!(found[20], 2, "{probe:?}");
    }
}

/// By hand: the own value is right on 3 of 4 questions; value 0 on 1 of them, value 2 on 1 of the 2 that have it,
/// where the own one is right twice.
#[test]
fn selectivity_by_hand() {
    let [yes, no] = [Some(true), Some(false)];
    let right = [vec![no, yes, no, no], vec![yes, yes, yes, no], vec![yes, no, None, None]];
    let found = Selectivity::of(&right, 1).unwrap();
    assert_eq!(found.pairs, Paired { both: 1, only_a: 2, only_b: 0, neither: 1 });
    assert_eq!((found.against, found.value()), (0, 0.5));
    let on_two = Selectivity::of(&right[1..], 0).unwrap();
    assert_eq!(on_two.pairs, Paired { both: 1, only_a: 1, only_b: 0, neither: 0 });
    assert!(Selectivity::of(&right[..1], 0).is_err());
    assert!(Selectivity::of(&right, 3).is_err());
    assert!(Selectivity::of(&[vec![yes, None], vec![None, yes]], 0).is_err());
}

#[test]
fn what_cannot_be_probed_is_said() {
    let said = |problem: coconut::Error, start: &str| {
        assert!(problem.to_string().starts_with(start), "{problem}");
    };
    said(
        Features::new(&[1.0; 5], 2).unwrap_err(),
        "A probe takes one vector a question: 5 numbers",
    );
    said(
        Features::new(&[1.0, 2.0, f32::NAN, 4.0], 2).unwrap_err(),
        "The vector of question 2 is not finite (NaN at dimension 1)",
    );
    said(
        Labels::new(&["7"; 3]).unwrap_err(),
        "A probe tells values apart, and here 3 questions have 1 value.",
    );
    let labels = Labels::new(&["7", "8", "7"]).unwrap();
    said(Folds::stratified(&labels, 4, 0).unwrap_err(), "3 questions cannot be dealt into 4 folds");
    said(Folds::given(vec![0, 2, 0]).unwrap_err(), "Cross-validation needs two folds or more");
    let same = Features::new(&[1.0, 2.0, 1.0, 2.0, 1.0, 2.0], 2).unwrap();
    let ridge = Probe::Ridge { alpha: 1.0 };
    said(
        LinearProbe::classes(&same, &labels, ridge).err().unwrap(),
        "All 3 questions have the same",
    );
    let x = Features::new(&[1.0, 2.0, 4.0], 1).unwrap();
    let bad = Probe::Logistic { c: 0.0 };
    said(LinearProbe::classes(&x, &labels, bad).err().unwrap(), "A probe's c is a number above 0");
    let two = Labels::new(&[1, 2]).unwrap();
    said(
        LinearProbe::classes(&x, &two, ridge).err().unwrap(),
        "A probe needs one value a question",
    );
    let probe = LinearProbe::classes(&x, &labels, ridge).unwrap();
    said(probe.predictions(&same).unwrap_err(), "A probe of vectors of 1 numbers cannot read");
    assert_eq!(r2(&[1.0, 1.0], &[1.0, 1.0]), None);
}

/// The tuned lens' maps, against scikit-learn's (python/fixtures/make_tuned_lens.py): a question's states are mapped by
/// what was fitted on other questions only.
#[test]
fn states_are_mapped_as_scikit_learn_maps_them() {
    let case: Value = serde_json::from_str(include_str!("../fixtures/tuned_lens.json")).unwrap();
    let single = |key: &str| numbers(&case[key]).into_iter().map(|x| x as f32).collect::<Vec<_>>();
    let (states, last) = (single("states"), single("last"));
    let folds = Folds::given(counts(&case["folds"])).unwrap();
    let d = case["width"].as_u64().unwrap() as usize;
    let found = mapped(&counts(&case["questions"]), &states, &last, d, &folds).unwrap();
    let ours: Vec<f64> = found.states.iter().map(|&x| f64::from(x)).collect();
    assert_near(&ours, &numbers(&case["mapped"]), "mapped");
    let explained = case["explained"].as_f64().unwrap();
    assert_near(&[found.explained.unwrap()], &[explained], "explained");
}
