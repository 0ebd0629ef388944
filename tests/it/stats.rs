//! The statistics of sweeps against scipy and statsmodels (python/fixtures/make_stats.py).

use coconut::stats::{Estimate, holm, mcnemar, welch};
use serde_json::Value;

fn fixture(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../fixtures/stats.json")).unwrap();
    all[name].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn assert_near(found: f64, expected: &Value, of: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-9 * expected.max(1e-3), "{found}, not {expected}: {of}");
}

/// `b` questions that only A got right and `c` that only B did.
fn discordant(case: &Value) -> Vec<i32> {
    let count = |key: &str| case[key].as_u64().unwrap() as usize;
    [vec![1; count("b")], vec![-1; count("c")], vec![0; 17]].concat()
}

#[test]
fn one_seed_is_the_exact_test_of_mcnemar() {
    for case in fixture("one_seed") {
        assert_near(mcnemar(&discordant(&case)), &case["p"], &case);
    }
}

#[test]
fn several_seeds_are_all_sign_changes_of_questions() {
    for case in fixture("clustered") {
        let differences: Vec<i32> =
            numbers(&case["differences"]).into_iter().map(|d| d as i32).collect();
        assert_near(mcnemar(&differences), &case["p"], &case);
    }
}

#[test]
fn very_many_questions_are_corrected_for_continuity() {
    for case in fixture("corrected") {
        assert_near(mcnemar(&discordant(&case)), &case["p"], &case);
    }
}

/// What a question asked of three seeds says is not three times what it says.
#[test]
fn seeds_that_agree_are_no_further_evidence() {
    let one = mcnemar(&[1, 1, 1, 1, 1, 1, -1, 0, 0]);
    let three = mcnemar(&[3, 3, 3, 3, 3, 3, -3, 0, 0]);
    assert!((one - three).abs() < 1e-12, "{one} {three}");
}

#[test]
fn standard_errors() {
    for case in fixture("standard_errors") {
        let found = Estimate::of(numbers(&case["values"])).unwrap();
        assert_near(found.mean, &case["mean"], &case);
        assert_near(found.standard_error.unwrap(), &case["standard_error"], &case);
    }
    assert_eq!(Estimate::of(vec![0.5]).unwrap().standard_error, None);
    assert_eq!(Estimate::of(Vec::new()), None);
}

#[test]
fn welch_and_its_edges() {
    for case in fixture("welch") {
        let found = welch(&numbers(&case["a"]), &numbers(&case["b"])).unwrap();
        assert_near(found, &case["p"], &case);
    }
    assert_eq!(welch(&[0.5], &[0.1, 0.2]), None);
    assert_eq!(welch(&[1.0, 1.0], &[0.5, 0.5]), Some(0.0));
    assert_eq!(welch(&[1.0, 1.0], &[1.0, 1.0]), Some(1.0));
}

#[test]
fn holm_in_the_order_given() {
    for case in fixture("holm") {
        for (found, expected) in
            holm(&numbers(&case["p"])).into_iter().zip(case["adjusted"].as_array().unwrap())
        {
            assert_near(found, expected, &case);
        }
    }
    assert!(holm(&[]).is_empty());
}
