//! Holding a fused body against the reference one, and the reference one against differences.
#![allow(dead_code)] // each test binary uses a part

use std::cell::Cell;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Which body an operation should use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Fused,
    Reference,
}

/// A reproducible stream of numbers in −1..1 (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn numbers(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.next()).collect()
    }
}

thread_local! {
    /// Whether this thread computes on the tested device.
    static TESTED: Cell<bool> = const { Cell::new(false) };
}

/// The device that tests run on: the CPU, or the tested one within [`on_tested_device`].
pub fn device() -> Device {
    match TESTED.get() {
        true => tested_device().autodiff(),
        false => Device::flex().autodiff(),
    }
}

/// Computes on the device that `COCONUT_TEST_DEVICE` names: `wgpu`, or the CPU if it is not set.
pub fn on_tested_device<T>(compute: impl FnOnce() -> T) -> T {
    TESTED.set(true);
    let found = compute();
    TESTED.set(false);
    found
}

fn tested_device() -> Device {
    match std::env::var("COCONUT_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(Default::default()),
        Ok(other) => {
            panic!("COCONUT_TEST_DEVICE is `{other}`, which these tests were not built with")
        }
    }
}

pub fn leaf(data: &[f64], dtype: DType) -> Tensor<1> {
    constant(data, dtype).require_grad()
}

pub fn constant(data: &[f64], dtype: DType) -> Tensor<1> {
    let data = TensorData::new(data.to_vec(), [data.len()]);
    Tensor::from_data(data, (&device(), dtype))
}

pub fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// `f`'s result and the gradients of `Σ upstream · f` for each operand.
pub fn run(
    operands: &[Vec<f64>],
    dtype: DType,
    f: impl Fn(&[Tensor<1>]) -> Tensor<1>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let leaves: Vec<_> = operands.iter().map(|x| leaf(x, dtype)).collect();
    let result = f(&leaves);
    let values = numbers(result.clone());
    let upstream = Random(99).numbers(values.len());
    let grads = (result * constant(&upstream, dtype)).sum().backward();
    let grads = leaves.iter().map(|x| x.grad(&grads).map_or(vec![], numbers)).collect();
    (values, grads)
}

pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs();
        assert!(off <= tolerance * (size + 1e-2), "{what}[{i}]: {got}, wanted {want}");
    }
}

/// Holds the fused body in f32, or that of the tested device, against the reference body in f32 and f64, and the latter's gradients
/// against central differences. `f` takes flat operands and gives a flat result.
pub fn check(name: &str, operands: &[Vec<f64>], f: impl Fn(&[Tensor<1>], Body) -> Tensor<1>) {
    let (values, grads) = on_tested_device(|| run(operands, DType::F32, |x| f(x, Body::Fused)));
    for dtype in [DType::F32, DType::F64] {
        let (want_values, want_grads) = run(operands, dtype, |x| f(x, Body::Reference));
        assert_close(&format!("{name} against {dtype:?}"), &values, &want_values, 1e-5);
        for (i, (got, want)) in grads.iter().zip(&want_grads).enumerate() {
            assert_close(&format!("{name}, gradient {i} against {dtype:?}"), got, want, 1e-5);
        }
        if dtype == DType::F64 {
            // Through the public function, which must choose the reference body.
            let (fallen, _) = run(operands, dtype, |x| f(x, Body::Fused));
            assert_close(&format!("{name} in f64"), &fallen, &want_values, 1e-14);
            check_differences(name, operands, &want_grads, |x| f(x, Body::Reference));
        }
    }
}

fn check_differences(
    name: &str,
    operands: &[Vec<f64>],
    grads: &[Vec<f64>],
    f: impl Fn(&[Tensor<1>]) -> Tensor<1>,
) {
    const STEP: f64 = 1e-5;
    let objective = |operands: &[Vec<f64>]| -> f64 {
        let constants: Vec<_> = operands.iter().map(|x| constant(x, DType::F64)).collect();
        let values = numbers(f(&constants));
        let upstream = Random(99).numbers(values.len());
        values.iter().zip(upstream).map(|(value, upstream)| value * upstream).sum()
    };
    for (i, grad) in grads.iter().enumerate() {
        let stride = grad.len().div_ceil(7).max(1); // a few elements of each operand
        for j in (0..grad.len()).step_by(stride) {
            let mut shifted = operands.to_vec();
            shifted[i][j] += STEP;
            let above = objective(&shifted);
            shifted[i][j] -= 2.0 * STEP;
            let slope = (above - objective(&shifted)) / (2.0 * STEP);
            let off = (slope - grad[j]).abs();
            assert!(
                off <= 1e-7 * (1.0 + slope.abs()),
                "{name}, gradient {i}[{j}]: {} {slope}",
                grad[j]
            );
        }
    }
}
