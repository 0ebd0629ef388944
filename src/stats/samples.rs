//! Several sampled answers to one question.

/// The chance that at least one of k samples is right, from n of which c were: the unbiased estimate
/// 1 − C(n − c, k) / C(n, k) (Chen et al. 2021). `None` if there are fewer than k samples, or more right ones than
/// samples.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Option<f64> {
    if k > n || c > n {
        return None;
    }
    // C(n − c, k) / C(n, k) = ∏ (1 − k/i) over i = n − c + 1 … n, without large numbers; 0 from n − c < k on.
    let none: f64 = (n - c + 1..=n).map(|i| (1.0 - k as f64 / i as f64).max(0.0)).product();
    Some(1.0 - none)
}

/// The answer that most samples gave; of several, the one that was given first. `None` without answers.
pub fn majority<T: PartialEq>(answers: &[T]) -> Option<&T> {
    let votes = |answer: &T| answers.iter().filter(|other| *other == answer).count();
    // `max_by_key` takes the last of equals.
    answers.iter().rev().max_by_key(|answer| votes(answer))
}
