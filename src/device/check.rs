//! The trial of a device: a second's worth of what models are made of, with gradients, against the CPU.
//!
//! Drivers exist that multiply matrices wrongly without a word (docs/devices.md); training on one stands still at the
//! loss of guessing.

use burn::tensor::{Device, Float, Int, Tensor, TensorData};
use coconut_kernels::{self as kernels, Heads, TokenMask, host};

use super::{cpu, to_host};
use crate::{Result, quiet::caught, rng};

/// The largest difference that is let pass, as a share of a part's largest value. Products in TF32 or with other
/// orders of summing stay below a tenth of it; what is wrong is as far off as the values are large.
const TOLERANCE: f32 = 1e-2;

/// What one part of the trial gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What was computed, in the plural.
    pub name: &'static str,
    /// The result, then the gradient of each input, one after the other.
    pub values: Vec<Vec<f32>>,
}

/// Has a device compute the trial and holds it against the CPU's results.
///
/// # Errors
/// How the device failed, to be read after `which`.
pub fn check(device: &Device) -> Result<(), String> {
    check_by(|| trial(device))
}

/// [`check`] of whatever computes the trial.
fn check_by(compute: impl FnOnce() -> Result<Vec<Part>>) -> Result<(), String> {
    let expected =
        trial(&cpu()).map_err(|error| format!("has nothing to be held against: {error}"))?;
    let found = caught(compute).ok_or("fails as soon as it computes something")?;
    let found =
        found.map_err(|error| format!("fails as soon as it computes something: {error}"))?;
    let wrong: Vec<&str> = expected
        .iter()
        .zip(&found)
        .filter(|(expected, found)| !agree(expected, found))
        .map(|(part, _)| part.name)
        .collect();
    match wrong.as_slice() {
        [] => Ok(()),
        [all @ .., last] => {
            let names = match all {
                [] => (*last).to_owned(),
                _ => format!("{} and {last}", all.join(", ")),
            };
            Err(format!(
                "computes {names} wrongly: its results are not those of the CPU. Nothing that it computes can be believed; try another backend or driver (docs/devices.md)"
            ))
        }
    }
}

/// Whether two results are the same up to the tolerance.
fn agree(expected: &Part, found: &Part) -> bool {
    let close = |(expected, found): (&Vec<f32>, &Vec<f32>)| {
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let same = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * largest; // false of what is no number
        expected.len() == found.len() && expected.iter().zip(found).all(same)
    };
    expected.values.len() == found.values.len()
        && expected.values.iter().zip(&found.values).all(close)
}

/// The trial, computed on a device.
fn trial(device: &Device) -> Result<Vec<Part>> {
    let heads = Heads { query: 4, key_value: 2, dim: 32 };
    let width = heads.qkv_width();
    // The second row begins with padding; a chunk of the cache, then new columns.
    let mask: Vec<bool> = (0..2 * 72).map(|cell| !(72..80).contains(&cell)).collect();
    let mask = TokenMask::new(2, 72, mask);
    let ids = |n: usize, bound: u64| -> Vec<i32> {
        (0..n as u64).map(|i| (rng::hash(7, &[i]) % bound) as i32).collect()
    };
    let places = host::upload::<1, Int>(ids(96, 600).as_slice(), device);
    let rows = places.clone().reshape([2, 48]);
    Ok(vec![
        part("matrix products", device, [[4, 96, 160], [1, 320, 160]], |[x, weight]| {
            kernels::linear(x, &[weight.squeeze_dim::<2>(0)], &[])
        })?,
        part("products with one vector", device, [[1, 1, 160], [1, 160, 320]], |[x, weight]| {
            kernels::conv1d(x, weight.squeeze_dim::<2>(0), None)
        })?,
        part("attention", device, [[2, 8, width], [2, 64, width]], |[new, past]| {
            kernels::attention(new, &[past], heads, &mask, 0.0)
        })?,
        part("layer norms", device, [[4, 33, 160], [1, 1, 160]], |[x, weight]| {
            let weight = weight.reshape([160]);
            kernels::layer_norm(x, weight.clone(), weight, 1e-5)
        })?,
        part("RMS norms", device, [[4, 33, 160], [1, 1, 160]], |[x, weight]| {
            kernels::rms_norm(x, weight.reshape([160]), 1e-5)
        })?,
        part("activations", device, [[4, 33, 160], [4, 33, 160]], |[gate, up]| {
            kernels::swiglu(gate.clone(), up) + kernels::gelu(gate)
        })?,
        part("embeddings", device, [[1, 600, 64], [2, 48, 64]], |[table, other]| {
            kernels::embedding(table.squeeze_dim::<2>(0), rows) * other
        })?,
        part("cross entropies", device, [[1, 96, 64], [1, 600, 64]], |[hidden, head]| {
            let (hidden, head) = (hidden.squeeze_dim::<2>(0), head.squeeze_dim::<2>(0));
            kernels::cross_entropy(hidden, head, places).reshape([1, 1, 1])
        })?,
    ])
}

/// A function's result and the gradient of each of its inputs, which are drawn uniformly from −1 to 1; what is
/// pulled back is a product with drawn numbers.
fn part<const N: usize>(
    name: &'static str,
    device: &Device,
    shapes: [[usize; 3]; N],
    function: impl FnOnce([Tensor<3>; N]) -> Tensor<3>,
) -> Result<Part> {
    let device = device.clone().autodiff();
    let mut number = 0;
    let mut draw = |shape: [usize; 3]| {
        number += 1;
        let value = |i: u64| (rng::hash(number, &[i]) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let values = (0..shape.iter().product::<usize>() as u64).map(value).collect();
        host::upload::<3, Float>(TensorData::new(values, shape), &device)
    };
    let inputs = shapes.map(|shape| draw(shape).require_grad());
    let result = function(inputs.clone());
    let mut found = (result.clone() * draw(result.dims())).sum().backward();
    let mut values = vec![to_host(result.inner())?];
    for input in &inputs {
        values.extend(input.grad_remove(&mut found).map(to_host).transpose()?);
    }
    Ok(Part { name, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a device that lies about some values.
    fn of_a_liar(lie: impl Fn(&mut Part)) -> Result<(), String> {
        check_by(|| {
            let mut found = trial(&cpu())?;
            found.iter_mut().for_each(lie);
            Ok(found)
        })
    }

    #[test]
    fn an_honest_device_passes_with_every_gradient() {
        assert_eq!(of_a_liar(|_| ()), Ok(()));
        // Rounding as of TF32 passes.
        let rounded = |x: &mut f32| *x = f32::from_bits(x.to_bits() & !0x1fff);
        assert_eq!(of_a_liar(|part| part.values.iter_mut().flatten().for_each(rounded)), Ok(()));
        for part in trial(&cpu()).unwrap() {
            assert_eq!(part.values.len(), 3, "{}: a result and two gradients", part.name);
            let largest = |x: &Vec<f32>| x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            assert!(part.values.iter().all(|x| largest(x) > 1e-2), "{} says something", part.name);
        }
    }

    #[test]
    fn a_device_that_lies_is_refused_by_what_it_lies_about() {
        let mut names = Vec::new();
        for number in 0..trial(&cpu()).unwrap().len() {
            for of in 0..3 {
                // The first row of a result or a gradient is off by as much as the values are large.
                let refusal = check_by(|| {
                    let mut found = trial(&cpu())?;
                    let values = &mut found[number].values[of];
                    let largest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                    values.iter_mut().take(32).for_each(|x| *x += largest);
                    Ok(found)
                })
                .unwrap_err();
                let name = trial(&cpu()).unwrap()[number].name;
                assert!(refusal.starts_with(&format!("computes {name} wrongly")), "{refusal}");
                names.push(name);
            }
        }
        assert_eq!(names.len(), 24);
    }

    #[test]
    fn several_faults_are_told_together_and_what_is_no_number_is_one() {
        let refusal = of_a_liar(|part| {
            if part.name.contains("norms") {
                part.values[0][0] = f32::NAN;
            }
        })
        .unwrap_err();
        assert!(refusal.starts_with("computes layer norms and RMS norms wrongly"), "{refusal}");
        let refusal = check_by(|| panic!("driver")).unwrap_err();
        assert!(refusal.starts_with("fails as soon as"), "{refusal}");
    }
}
