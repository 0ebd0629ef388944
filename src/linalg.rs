//! Linear algebra on the host, in double precision.

/// Extends an orthonormal basis by the part of `x` that is orthogonal to it, scaled to length 1 (Gram–Schmidt,
/// twice so that rounding leaves it orthogonal). Nothing happens if that part is at most `tolerance` times as
/// long as `x`.
pub fn extend_basis(basis: &mut Vec<Vec<f64>>, mut x: Vec<f64>, tolerance: f64) {
    let length = dot(&x, &x).sqrt();
    for _ in 0..2 {
        for unit in basis.iter() {
            let along = dot(unit, &x);
            x.iter_mut().zip(unit).for_each(|(x, u)| *x -= along * u);
        }
    }
    let left = dot(&x, &x).sqrt();
    if left > tolerance * length {
        basis.push(x.into_iter().map(|x| x / left).collect());
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basis_grows_by_what_is_orthogonal_to_it() {
        let mut basis = Vec::new();
        extend_basis(&mut basis, vec![3.0, 0.0, 4.0], 1e-6);
        extend_basis(&mut basis, vec![-6.0, 0.0, -8.0], 1e-6); // along the first
        extend_basis(&mut basis, vec![0.0, 0.0, 0.0], 1e-6);
        extend_basis(&mut basis, vec![3.0, 5.0, 4.0], 1e-6);
        assert_eq!(basis, [[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]);
    }
}
