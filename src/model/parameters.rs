//! A model's parameters by name, each as a flat tensor, as optimizer, checkpoint and tests need them: its state dict.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};

/// A parameter or its gradient.
#[derive(Clone, Debug)]
pub struct FlatTensor {
    /// The shape in the model.
    pub shape: Vec<usize>,
    /// The elements, row-major, without autodiff.
    pub values: Tensor<1>,
}

/// Tensors under the checkpoint's keys (`transformer.h.0.attn.c_attn.weight`), in a fixed order.
pub type NamedTensors = BTreeMap<String, FlatTensor>;

/// All parameters of a module.
pub fn named<M: Module>(module: &M) -> NamedTensors {
    visit(module, None)
}

/// The gradients that `backward` left for a module's parameters, taken out of `gradients`.
/// Parameters that took no part have none.
pub fn take_gradients<M: Module>(module: &M, gradients: &mut Gradients) -> NamedTensors {
    visit(module, Some(gradients))
}

/// Structs whose fields give parameters no part of their names: their parts are files of their own.
const TRANSPARENT: [&str; 2] = ["Struct:LatentModel", "Struct:Learner"];

/// The way from a module to a parameter in it.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        if TRANSPARENT.contains(&container) {
            self.0.push(String::new());
        // An enum's variant is no part of the name, nor is the field that holds the enum.
        } else if container.starts_with("Enum:") {
            self.0.last_mut().into_iter().for_each(String::clear);
            self.0.push(String::new());
        // Nor is the field that holds an adapter; PEFT's files have `lora_A` and `lora_B`.
        } else if container == "Struct:Adapter" {
            self.0.last_mut().into_iter().for_each(String::clear);
            self.0.push(format!("lora_{}", name.to_uppercase()));
        } else {
            self.0.push(name.into());
        }
    }

    fn name(&self) -> String {
        let parts = self.0.iter().filter(|part| !part.is_empty());
        parts.map(String::as_str).collect::<Vec<_>>().join(".")
    }
}

fn visit<M: Module>(module: &M, gradients: Option<&mut Gradients>) -> NamedTensors {
    struct Visitor<'a> {
        path: Path,
        gradients: Option<&'a mut Gradients>,
        named: NamedTensors,
    }
    impl ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = match &mut self.gradients {
                None => Some(param.val().inner()),
                Some(gradients) => param.val().grad_remove(gradients),
            };
            if let Some(value) = value {
                let elements = value.shape().num_elements();
                let flat =
                    FlatTensor { shape: value.dims().to_vec(), values: value.reshape([elements]) };
                self.named.insert(self.path.name(), flat);
            }
        }
    }
    let mut visitor = Visitor { path: Path::default(), gradients, named: NamedTensors::new() };
    module.visit(&mut visitor);
    visitor.named
}

/// Replaces each parameter by what `update` makes of it: name and elements in, elements out.
/// `update` holds the only handle, so it can work in place.
pub fn map<M: Module>(module: M, update: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Map<F> {
        path: Path,
        update: F,
    }
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Map<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
            param.map(|tensor| {
                let (shape, training) = (tensor.dims(), tensor.is_autodiff());
                let trained = tensor.is_require_grad();
                let elements = tensor.shape().num_elements();
                let plain = if training { tensor.inner() } else { tensor };
                let tensor = (self.update)(&name, plain.reshape([elements])).reshape(shape);
                match training {
                    true => Tensor::from_inner(tensor).set_require_grad(trained),
                    false => tensor,
                }
            })
        }
    }
    module.map(&mut Map { path: Path::default(), update })
}

/// Says of each parameter, by its name, whether it is trained. One that is not records nothing for
/// backward and has no gradient.
pub fn set_trained<M: Module>(module: M, trained: impl Fn(&str) -> bool) -> M {
    struct Set<F> {
        path: Path,
        trained: F,
    }
    impl<F: Fn(&str) -> bool> ModuleMapper for Set<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.set_require_grad((self.trained)(&self.path.name()))
        }
    }
    module.map(&mut Set { path: Path::default(), trained })
}

/// The sum of the gradients so far and those of one more micro-batch.
pub fn accumulate(total: Option<NamedTensors>, gradients: NamedTensors) -> NamedTensors {
    let Some(mut total) = total else { return gradients };
    for (name, flat) in gradients {
        let sum = match total.remove(&name) {
            Some(before) => FlatTensor { values: before.values + flat.values, shape: flat.shape },
            None => flat,
        };
        total.insert(name, sum);
    }
    total
}

/// A constant on the side of autodiff that another tensor is on, so that the two can be combined.
pub fn constant_like<const D: usize, const E: usize>(x: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    if like.is_autodiff() && !x.is_autodiff() { Tensor::from_inner(x) } else { x }
}

/// A value without autodiff.
pub fn constant<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}
