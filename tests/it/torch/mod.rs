//! What the tests against PyTorch share: its fixtures (`python/fixtures/make_fixtures.py`), and how ours are held
//! against them.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use coconut::{
    latent::{
        self, LatentModel, PassPlan, ReadSet,
        batch::{Batch, Row},
    },
    model::{Transformer, weights},
};
use serde::{Deserialize, de::DeserializeOwned};

/// The device's generator, which all tests share, for one that draws dropout.
pub fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn fixtures() -> PathBuf {
    crate::fixture("torch")
}

/// `<name>.json`.
pub fn json<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `<name>.safetensors`.
pub fn tensors(name: &str) -> weights::HostTensors {
    weights::read_tensors(&fixtures().join(format!("{name}.safetensors"))).unwrap()
}

/// A batch and its loss.
#[derive(Deserialize)]
pub struct Case {
    pub loss: f64,
    pub labelled_tokens: usize,
    pub rows: Vec<CaseRow>,
}

#[derive(Deserialize)]
pub struct CaseRow {
    pub ids: Vec<u32>,
    /// −100 where there is none.
    pub labels: Vec<i64>,
}

impl Case {
    /// All rows with their labels, `latent` fed back.
    pub fn batch(&self, latent: u32) -> Batch {
        let label = |&label: &i64| u32::try_from(label).ok();
        let labels: Vec<Vec<_>> =
            self.rows.iter().map(|row| row.labels.iter().map(label).collect()).collect();
        let rows: Vec<Row> = (self.rows.iter().zip(&labels))
            .map(|(row, labels)| Row::new(&row.ids, labels))
            .collect();
        Batch::new(&rows, &PassPlan::sequential(latent)).unwrap()
    }

    /// All rows without labels.
    pub fn unlabelled(&self) -> Vec<Row<'_>> {
        self.rows.iter().map(|row| Row::unlabelled(&row.ids)).collect()
    }
}

/// A model whose thoughts are the paper's, `hs[-1]`.
pub fn thinking(model: Transformer) -> LatentModel {
    LatentModel::new(model, Default::default(), Default::default()).unwrap()
}

/// Logits at every position of each row of a batch.
pub fn logits(model: &LatentModel, batch: &Batch) -> Vec<Vec<f32>> {
    let trace = latent::forward(model, batch, ReadSet::ALL);
    let of_row = |row| {
        let tokens: Vec<_> = batch.columns_of(row).iter().map(|&column| (row, column)).collect();
        let hidden = trace.last_hidden(batch, &tokens).unwrap();
        model.transformer.logits(hidden).into_data().try_into_vec().unwrap()
    };
    (0..batch.rows).map(of_row).collect()
}

pub fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).fold(0f32, |most, (a, b)| most.max((a - b).abs()))
}

/// Largest difference relative to the largest value of the reference.
pub fn distance(ours: &[f32], reference: &[f32]) -> f32 {
    let scale = reference.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
    largest_difference(ours, reference) / scale
}
