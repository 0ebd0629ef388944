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

/// Whether rows of width `d`, one after the other, surely span all dimensions: Gaussian elimination with the largest
/// pivot of each column, which must be at least a thousandth of the column's largest entry. `false` may also mean that
/// single precision cannot tell.
pub fn surely_span(rows: &[f32], d: usize) -> bool {
    let mut rows: Vec<Vec<f32>> = rows.chunks(d).map(<[f32]>::to_vec).collect();
    for column in 0..d {
        let largest = |rows: &[Vec<f32>]| {
            let sizes = rows.iter().map(|row| row[column].abs()).enumerate();
            sizes.max_by(|a, b| a.1.total_cmp(&b.1))
        };
        if rows.len() <= column {
            return false;
        }
        let Some((pivot, size)) = largest(&rows[column..]) else { return false };
        // Rows of the upper triangle keep their entries, which stand for the column's scale.
        let scale = largest(&rows).map_or(0.0, |(_, scale)| scale);
        if size.is_nan() || size <= 1e-3 * scale {
            return false;
        }
        rows.swap(column, column + pivot);
        let (above, below) = rows.split_at_mut(column + 1);
        let pivot = &above[column][column..];
        for row in below {
            let factor = row[column] / pivot[0];
            row[column..].iter_mut().zip(pivot).for_each(|(x, p)| *x -= factor * p);
        }
    }
    true
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

    #[test]
    fn rows_span_everything_only_if_as_many_are_independent() {
        assert!(surely_span(&[0.0, 2.0, 1.0, 0.0], 2)); // the first pivot is in the second row
        assert!(surely_span(&[1.0, 1.0, 1.0, 1.0, 1.0, 2.0], 2)); // a copied row beside two
        assert!(!surely_span(&[1.0, 2.0, 2.0, 4.0, -3.0, -6.0], 2)); // one direction
        assert!(!surely_span(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0], 3)); // the third is the sum of two
        assert!(!surely_span(&[1.0, 2.0], 2)); // too few
        assert!(!surely_span(&[0.0; 6], 2));
    }
}
