//! AdamW, clipping and schedules against PyTorch and transformers (`python/fixtures/make_fixtures.py`).

use std::collections::BTreeMap;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData},
};
use coconut::{
    model::{
        parameters::{self, FlatTensor, NamedTensors},
        weights,
    },
    optim::{AdamW, LrSchedule, Scheduler, clip_scale, squared_norm},
};
use serde_json::Value;

use crate::device;

#[derive(Module, Debug)]
struct Problem {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn fixtures() -> (Value, Tensors) {
    let folder = crate::fixture("torch");
    let text = std::fs::read_to_string(folder.join("optim_adamw.json")).unwrap();
    let tensors = weights::read_tensors(&folder.join("optim_adamw.safetensors")).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

fn schedule(name: &str, peak: f64, warmup: usize, horizon: usize) -> LrSchedule {
    let scheduler = serde_json::from_value::<Scheduler>(Value::String(name.into())).unwrap();
    LrSchedule { scheduler, peak, warmup, horizon }
}

/// The norm of all gradients together.
pub fn norm_of(gradients: &NamedTensors) -> f64 {
    let squared: f64 = squared_norm(gradients).unwrap().into_scalar();
    squared.sqrt()
}

#[test]
fn parameters_after_each_step_equal_pytorch() {
    let (about, tensors) = fixtures();
    let device = device();
    let tensor = |name: &str| Tensor::<1>::from_data(tensors[name].1.as_slice(), &device);
    for scheduler in ["constant", "linear", "cosine"] {
        let mut model = Problem {
            weight: Param::from_tensor(
                tensor(&format!("{scheduler}.start.param.weight")).reshape([3, 4]),
            ),
            bias: Param::from_tensor(tensor(&format!("{scheduler}.start.param.bias"))),
        };
        let mut optimizer = AdamW::new([0.9, 0.999], 0.01);
        for step in 0..5 {
            let gradients: NamedTensors = ["weight", "bias"]
                .into_iter()
                .map(|name| {
                    let (shape, values) = &tensors[&format!("{scheduler}.{step}.grad.{name}")];
                    let data = TensorData::new(values.clone(), [values.len()]);
                    let values = Tensor::from_data(data, &device);
                    (name.to_owned(), FlatTensor { shape: shape.clone(), values })
                })
                .collect();
            let norm = norm_of(&gradients);
            let expected = about[scheduler]["grad_norm"][step].as_f64().unwrap();
            assert!(
                (norm / expected - 1.0).abs() < 1e-6,
                "{scheduler} {step}: norm {norm}, {expected}"
            );

            let lr = schedule(scheduler, 1e-3, 2, 5).lr(step);
            let expected = about[scheduler]["lr"][step].as_f64().unwrap();
            assert!((lr - expected).abs() < 1e-12, "{scheduler} {step}: lr {lr}, {expected}");

            model = optimizer.step(model, gradients, lr, clip_scale(norm, 1.0));
            for (name, flat) in parameters::named(&model) {
                let ours: Vec<f32> = flat.values.into_data().try_into_vec().unwrap();
                let theirs = &tensors[&format!("{scheduler}.{step}.param.{name}")].1;
                for (a, b) in ours.iter().zip(theirs) {
                    assert!(
                        (a - b).abs() <= 1e-6 * b.abs().max(1e-2),
                        "{scheduler} {step} {name}: {a} {b}"
                    );
                }
            }
        }
    }
}

#[test]
fn schedules_equal_transformers() {
    let (about, _) = fixtures();
    for name in ["linear", "cosine"] {
        let factors = about[format!("factors_{name}_10_50")].as_array().unwrap();
        // Past the end transformers' cosine rises again; ours stays at 0.
        for (step, factor) in factors.iter().enumerate().take(51) {
            let ours = schedule(name, 1.0, 10, 50).lr(step);
            assert!(
                (ours - factor.as_f64().unwrap()).abs() < 1e-9,
                "{name} at {step}: {ours}, {factor}"
            );
        }
    }
}
