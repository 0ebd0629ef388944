//! Many comparisons at once: p values of a family, corrected.

/// Holm's correction of a family of p values (Holm 1979): with it, the chance of even one false finding stays
/// below the level. In the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        least = least.max((p.len() - rank) as f64 * p[index]).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

/// Benjamini and Hochberg's correction (1995): of what is then found below the level, the expected share of false
/// findings stays below it. In the order given. For exploring a table; a claim takes [`holm`].
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least: f64 = 1.0;
    for (above, &index) in order.iter().enumerate() {
        let rank = (p.len() - above) as f64;
        least = least.min(p.len() as f64 / rank * p[index]);
        adjusted[index] = least;
    }
    adjusted
}
