//! The statistics of audits against scipy, statsmodels, numpy and networkx (python/fixtures/make_audit_stats.py).

use coconut::{
    data::{Graph, NodeClass},
    stats::{
        Estimate, Paired, Rate, Spread, benjamini_hochberg, bootstrap_interval, effective_rank,
        majority, pass_at_k, unit,
    },
};
use serde_json::Value;

fn fixture(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../fixtures/audit_stats.json")).unwrap();
    all[name].as_array().unwrap().clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, case: &Value) {
    assert_eq!(found.len(), expected.len(), "{case}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{found:?}, not {expected:?}: {case}");
    }
}

#[test]
fn rates_and_their_intervals() {
    for case in fixture("rates") {
        let rate = Rate { hits: count(&case["hits"]), n: count(&case["n"]) };
        assert_near(&rate.interval().unwrap(), &numbers(&case["interval"]), 1e-12, &case);
    }
    assert_eq!((Rate::default().rate(), Rate::default().interval()), (None, None));
    assert_eq!([true, false, true].into_iter().collect::<Rate>(), Rate { hits: 2, n: 3 });
}

#[test]
fn two_rates_of_other_questions() {
    for case in fixture("two_rates") {
        let [a, b] =
            ["a", "b"].map(|key| Rate { hits: count(&case[key][0]), n: count(&case[key][1]) });
        let found = a.interval_of_difference(b).unwrap();
        assert_near(&found, &numbers(&case["interval"]), 1e-12, &case);
    }
    assert_eq!(Rate { hits: 1, n: 2 }.interval_of_difference(Rate::default()), None);
}

/// The miscount of ProsQA's "5th latent": 81 rows have one, 500 do not.
#[test]
fn seeds_have_a_mean_only_on_the_same_questions() {
    let same = [Rate { hits: 8, n: 10 }, Rate { hits: 6, n: 10 }];
    let found = Estimate::of_rates(&same).unwrap();
    assert_eq!((found.mean, found.values), (0.7, vec![0.8, 0.6]));
    let other = [Rate { hits: 81, n: 81 }, Rate { hits: 81, n: 500 }];
    let error = Estimate::of_rates(&other).unwrap_err().to_string();
    assert!(error.starts_with("Rates of 81 and of 500 questions have no common mean"), "{error}");
    assert!(Estimate::of_rates(&[]).is_err());
    assert!(Estimate::of_rates(&[Rate::default(); 2]).is_err());
}

/// Six values at most: every resample, and so numpy's percentiles of all of them.
#[test]
fn a_small_bootstrap_is_enumerated() {
    for case in fixture("enumerated") {
        let values = numbers(&case["values"]);
        let found = bootstrap_interval(&values, 1).unwrap();
        assert_near(&found, &numbers(&case["interval"]), 1e-12, &case);
        assert_eq!(found, bootstrap_interval(&values, 2).unwrap(), "nothing is drawn");
    }
    assert_eq!(bootstrap_interval(&[], 1), None);
}

/// scipy drew a million resamples, we draw 10,000. The standard error of our 2.5 % point is
/// √(p (1 − p) / B) / f, with p = 0.025, B = 10,000 and f the density there, of a normal distribution
/// φ(1.96) / s = 0.0584 / s: 0.027 s, with s the standard error of the mean. Five of them are allowed, and twice
/// 1/n where sums are whole, so that an end can lie on the next attainable value.
#[test]
fn a_drawn_bootstrap_is_scipys_within_its_own_error() {
    for case in fixture("resampled") {
        let values = numbers(&case["values"]);
        let whole = values.iter().all(|x| x.fract() == 0.0);
        let step = if whole { 1.0 / values.len() as f64 } else { 0.0 };
        let tolerance = 5.0 * 0.027 * number(&case["standard_error"]) + step;
        let found = bootstrap_interval(&values, 1).unwrap();
        assert_near(&found, &numbers(&case["interval"]), tolerance, &case);
        assert_eq!(found, bootstrap_interval(&values, 1).unwrap(), "the same seed");
        assert!(whole || found != bootstrap_interval(&values, 2).unwrap(), "another seed");
    }
}

fn pairs(case: &Value) -> Paired {
    let [both, only_a, only_b, neither] = [0, 1, 2, 3].map(|k| count(&case["counts"][k]));
    Paired { both, only_a, only_b, neither }
}

#[test]
fn pairs_against_every_resample_and_the_multinomial() {
    for case in fixture("paired") {
        let pairs = pairs(&case);
        assert_near(&[pairs.difference().unwrap()], &[number(&case["difference"])], 1e-15, &case);
        assert_near(&[pairs.p()], &[number(&case["p"])], 1e-12, &case);
        assert_near(&pairs.interval().unwrap(), &numbers(&case["interval"]), 1e-15, &case);
        let swapped = Paired { only_a: pairs.only_b, only_b: pairs.only_a, ..pairs };
        let [low, high] = pairs.interval().unwrap();
        assert_eq!(swapped.interval(), Some([-high, -low]));
    }
    assert_eq!((Paired::default().difference(), Paired::default().interval()), (None, None));
}

#[test]
fn pairs_are_counted_question_by_question() {
    let answers = [(true, true), (true, false), (true, false), (false, true), (false, false)];
    let found: Paired = answers.into_iter().collect();
    assert_eq!(found, Paired { both: 1, only_a: 2, only_b: 1, neither: 1 });
    assert_eq!((found.a(), found.b()), (Rate { hits: 3, n: 5 }, Rate { hits: 2, n: 5 }));
}

/// The exact interval of a whole difference and the drawn one of its values are one interval.
#[test]
fn the_two_bootstraps_agree() {
    let pairs = Paired { both: 150, only_a: 30, only_b: 12, neither: 8 };
    let values = [vec![1.0; 30], vec![-1.0; 12], vec![0.0; 158]].concat();
    let (exact, drawn) = (pairs.interval().unwrap(), bootstrap_interval(&values, 3).unwrap());
    assert_near(&drawn, &exact, 1.01 / 200.0, &Value::Null); // one question
}

#[test]
fn benjamini_and_hochberg_in_the_order_given() {
    for case in fixture("benjamini_hochberg") {
        let found = benjamini_hochberg(&numbers(&case["p"]));
        assert_near(&found, &numbers(&case["adjusted"]), 1e-15, &case);
    }
    assert!(benjamini_hochberg(&[]).is_empty());
}

#[test]
fn pass_at_k_is_the_share_of_subsets() {
    for case in fixture("pass_at_k") {
        let [n, c, k] = ["n", "c", "k"].map(|key| count(&case[key]));
        assert_near(&[pass_at_k(n, c, k).unwrap()], &[number(&case["pass"])], 1e-12, &case);
    }
    assert_eq!((pass_at_k(3, 1, 4), pass_at_k(3, 4, 1)), (None, None));
}

#[test]
fn votes_go_to_the_first_of_equals() {
    for case in fixture("votes") {
        let answers = case["answers"].as_array().unwrap();
        assert_eq!(majority(answers).unwrap(), &case["most"], "{case}");
    }
    assert_eq!(majority::<u8>(&[]), None);
}

#[test]
fn spread_and_effective_rank_are_numpys() {
    for case in fixture("spread") {
        let width = count(&case["width"]);
        let values: Vec<f32> = numbers(&case["values"]).into_iter().map(|x| x as f32).collect();
        let units: Vec<Vec<f32>> = values.chunks(width).map(|row| unit(row).unwrap()).collect();
        let Spread { entropy, cosine } = Spread::of(&units).unwrap();
        let expected = [number(&case["entropy"]), number(&case["cosine"])];
        assert_near(&[entropy, cosine], &expected, 1e-6, &case); // cosines in single precision
        let rank = effective_rank(&values, width).unwrap();
        assert_near(&[rank], &[number(&case["effective_rank"])], 1e-9, &case);
    }
    assert_eq!((unit(&[0.0; 3]), Spread::of(&[vec![1.0]])), (None, None));
    assert_eq!((effective_rank(&[0.0; 4], 2), effective_rank(&[], 2)), (None, None));
    assert_eq!((effective_rank(&[f32::NAN; 4], 2), effective_rank(&[1.0], 0)), (None, None));
}

#[test]
fn classes_of_nodes_are_networkxs() {
    for case in fixture("graphs") {
        let edges = case["edges"].as_array().unwrap();
        let graph = Graph {
            edges: edges.iter().map(|edge| [count(&edge[0]), count(&edge[1])]).collect(),
            root: count(&case["root"]),
            target: count(&case["target"]),
            ..Graph::default()
        };
        for (step, expected) in case["classes"].as_array().unwrap().iter().enumerate() {
            let letter = |class: NodeClass| match class {
                NodeClass::Optimal => 'o',
                NodeClass::Frontier => 'f',
                NodeClass::Reachable => 'r',
                NodeClass::Unreachable => 'u',
            };
            let found: String = graph.node_classes(step).into_iter().map(letter).collect();
            assert_eq!(found, expected.as_str().unwrap(), "step {step}: {case}");
        }
    }
}
