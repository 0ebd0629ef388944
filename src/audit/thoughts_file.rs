//! `thoughts.safetensors` and `thoughts.jsonl`: everything for a notebook of one's own.

use std::{collections::BTreeMap, path::Path};

use burn::tensor::TensorData;
use coconut_kernels::host;
use serde_json::json;

use super::{Plain, States, Subject};
use crate::{
    Result,
    model::{
        parameters::{FlatTensor, NamedTensors},
        tensors::write_tensors,
    },
    run::file,
};

/// Writes what was fed, `thoughts: [questions, latents, d_model]`, and `hidden_states: [questions, 1 + latents, layers,
/// d_model]` from the question's end on, zero where a question has no such latent; and a line for each question.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn write_thoughts(
    folder: &Path,
    subject: &Subject<'_>,
    plain: &Plain,
    states: &States,
) -> Result<()> {
    let (n, d) = (plain.thoughts.len(), states.d_model);
    let most = plain.most_thoughts();
    let mut thoughts = vec![0f32; n * most * d];
    for (question, of) in plain.thoughts.iter().enumerate() {
        for (place, thought) in of.iter().enumerate() {
            let start = (question * most + place) * d;
            thoughts[start..start + d].copy_from_slice(thought);
        }
    }
    let mut hidden = vec![0f32; n * states.positions * states.layers * d];
    for layer in 0..states.layers {
        for position in 0..states.positions {
            let (questions, values) = states.at(layer, position);
            for (question, state) in questions.iter().zip(values.chunks(d)) {
                let start = ((question * states.positions + position) * states.layers + layer) * d;
                hidden[start..start + d].copy_from_slice(state);
            }
        }
    }
    let device = subject.model.device();
    let flat = |values: Vec<f32>, shape: Vec<usize>| {
        let n = values.len();
        FlatTensor { values: host::upload(TensorData::new(values, [n]), &device), shape }
    };
    let named: NamedTensors = BTreeMap::from([
        ("thoughts".to_owned(), flat(thoughts, vec![n, most, d])),
        ("hidden_states".to_owned(), flat(hidden, vec![n, states.positions, states.layers, d])),
    ]);
    file::create_folder(folder)?;
    write_tensors(&folder.join("thoughts.safetensors"), &named)?;
    let line = |question: usize| {
        let example = &subject.evaluator.data.examples[question];
        let outcome = &plain.outcomes[question];
        let object = json!({
            "index": question,
            "question": example.question,
            "steps": example.steps,
            "values": plain.values.of_steps[question],
            "answer": example.answer,
            "prediction": outcome.prediction,
            "correct": outcome.correct,
            "latents": plain.thoughts[question].len(),
        });
        object.to_string() + "\n"
    };
    let text: String = (0..n).map(line).collect();
    file::replace(&folder.join("thoughts.jsonl"), text.as_bytes())
}
