//! The logit lens: thoughts read through the output head, as if they were about to be spoken.

use burn::tensor::{Tensor, activation::softmax};

use super::evaluate::Evaluator;
use crate::{
    Error, Result,
    data::Sequence,
    latent::{
        self, LatentModel, Wanted,
        batch::{Batch, Row},
    },
};

/// So many questions of an evaluation are looked at, the first ones.
pub(super) const QUESTIONS: usize = 8;
/// So many tokens are kept of each thought.
const TOKENS: usize = 5;

/// The likeliest tokens, likeliest first, with their probabilities.
pub type Reading = Vec<(String, f64)>;

impl Evaluator<'_> {
    /// For each prompt and each of its latents, the output head's likeliest tokens at the position before it:
    /// at the last hidden state that `hs[-1]` feeds back as that thought (Hao et al. 2024, figure 4).
    pub(super) fn lens(
        &self,
        model: &LatentModel,
        prompts: &[Sequence],
    ) -> Result<Vec<Vec<Reading>>> {
        let mut readings = vec![Vec::new(); prompts.len()];
        if prompts.iter().all(|prompt| prompt.n_latents == 0) {
            return Ok(readings);
        }
        let rows: Vec<Row> = prompts.iter().map(|p| Row { ids: &p.ids, labels: &[] }).collect();
        let batch = Batch::new(&rows, self.latent()).map_err(Error::Training)?;
        // Where latents are ordinary tokens nothing is fed back, yet what stands before them is looked at.
        let trace = latent::forward(model, &batch, Wanted::Everything);
        let mut cells: Vec<(usize, usize)> = Vec::new(); // (row, column)
        for (row, prompt) in prompts.iter().enumerate() {
            let columns = batch.columns_of(row);
            let before = prompt.latents().map(|position| position.saturating_sub(1));
            cells.extend(before.filter_map(|p| Some((row, *columns.get(p)?))));
        }
        // As `last_hidden` wants them; of one row, thoughts stay in order.
        cells.sort_by_key(|&(_, column)| column);
        let Some(hidden) = trace.last_hidden(&batch, &cells) else { return Ok(readings) };
        let probabilities = to_rows(softmax(model.transformer.logits(hidden), 1))?;
        for (&(row, _), probabilities) in cells.iter().zip(probabilities) {
            readings[row].push(self.reading(&probabilities));
        }
        Ok(readings)
    }

    fn reading(&self, probabilities: &[f32]) -> Reading {
        let mut ids: Vec<u32> = (0..probabilities.len() as u32).collect();
        let of = |id: &u32| probabilities[*id as usize];
        ids.sort_by(|a, b| of(b).total_cmp(&of(a)));
        ids.truncate(TOKENS);
        let strings = self.tokenizer.token_strings(&ids);
        strings.into_iter().zip(ids.iter().map(|id| f64::from(of(id)))).collect()
    }
}

/// `[rows, columns]` on the host.
fn to_rows(tensor: Tensor<2>) -> Result<Vec<Vec<f32>>> {
    let [_, columns] = tensor.dims();
    let values = tensor.into_data().try_into_vec::<f32>();
    let values = values.map_err(|e| Error::Training(format!("the lens cannot be read: {e:?}")))?;
    Ok(values.chunks(columns.max(1)).map(<[f32]>::to_vec).collect())
}
