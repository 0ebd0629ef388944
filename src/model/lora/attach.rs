//! Adapters put on a model: fresh ones, and those that come from a source of tensors.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use coconut_kernels::host;
use rand::Rng;

use super::config::{ALL_LINEAR, Lora, Targets, Tokens, names};
use crate::{
    model::{
        Transformer,
        init::{Make, TensorSource},
        layers::{Adapter, Factor, TokenAdapter},
        parameters,
    },
    rng,
};

/// The key of rows that override a table's, after the table's own.
pub(super) const TOKENS: &str = "token_adapter.trainable_tokens_delta";

impl Transformer {
    /// Fresh adapters on a model's linear layers, the rows of `tokens` as overrides of its tables, and
    /// everything else frozen. `A` is uniform in ±1/√d_in, as PEFT draws it, and `B` zero.
    ///
    /// # Errors
    /// A target that names none of the model's linear layers.
    pub fn with_lora(
        mut self,
        lora: Lora,
        tokens: &[u32],
        seed: u64,
    ) -> Result<Self, (&'static str, String)> {
        if lora.rank == 0 {
            return Err(("lora_rank", "is 0; an adapter has at least rank 1".into()));
        }
        let targets = targeted(&self.linear_names(), &lora.target_modules)
            .map_err(|problem| ("lora_target_modules", problem))?;
        let rows: BTreeMap<String, Vec<u32>> =
            self.tables().into_iter().map(|(name, _)| (name, tokens.to_vec())).collect();
        let starts: BTreeMap<String, TensorData> = (self.tables().into_iter())
            .map(|(name, table)| {
                let ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
                let ids = host::upload(ids.as_slice(), &table.weight.device());
                let rows = host::data(table.weight.val().select(0, ids));
                (format!("{name}.{TOKENS}"), rows)
            })
            .collect();
        let mut rng = rng::stream(seed, &[rng::ADAPTERS]);
        Ok(self.adapted(lora, &targets, &rows, &mut |name, shape| {
            if let Some(start) = starts.get(name) {
                return start.clone();
            }
            let bound = 1.0 / (shape[1] as f32).sqrt();
            let mut draw = || bound * (2.0 * rng.random::<f32>() - 1.0);
            let zero = name.ends_with("lora_B.weight");
            let values = (0..shape.iter().product()).map(|_| if zero { 0.0 } else { draw() });
            TensorData::new(values.collect::<Vec<f32>>(), shape)
        }))
    }

    /// The model with adapters on the linear layers `targets` and overrides of the `rows` of tables, all from
    /// `source`, and everything else frozen.
    pub(super) fn adapted(
        mut self,
        mut lora: Lora,
        targets: &[String],
        rows: &BTreeMap<String, Vec<u32>>,
        source: TensorSource,
    ) -> Self {
        let mut make = Make { source, device: &self.device() };
        for (name, mut linear) in self.linears() {
            if !targets.contains(&name) {
                continue;
            }
            let rank = lora.rank_of(&name);
            let [d_in, d_out] = linear.sizes();
            let mut factor = |which: &str, shape| Factor {
                weight: make.param(&format!("{name}.{which}.weight"), shape),
            };
            *linear.adapter() = Some(Adapter {
                a: factor("lora_A", [rank, d_in]),
                b: factor("lora_B", [d_out, rank]),
                scale: lora.scale_of(&name),
                dropout: lora.dropout,
            });
        }
        for (name, table) in self.tables() {
            let Some(ids) = rows.get(&name) else { continue };
            let shape = [ids.len(), table.weight.dims()[1]];
            table.token_adapter = Some(TokenAdapter {
                trainable_tokens_delta: make.param(&format!("{name}.{TOKENS}"), shape),
                ids: ids.clone(),
            });
        }
        // PEFT's names for tables are the last part of ours.
        let named = rows.iter().map(|(name, ids)| (last_part(name).to_owned(), ids.clone()));
        lora.tokens = (!rows.is_empty()).then(|| Tokens::ByTable(named.collect()));
        self.lora = Some(lora);
        parameters::set_trained(self, is_adapter)
    }

    pub(super) fn linear_names(&mut self) -> Vec<String> {
        self.linears().into_iter().map(|(name, _)| name).collect()
    }
}

/// The linear layers that are targeted, of all of a model.
fn targeted(all: &[String], targets: &Targets) -> Result<Vec<String>, String> {
    if *targets == Targets::One(ALL_LINEAR.into()) {
        return Ok(all.to_vec());
    }
    let wanted = targets.names();
    if let Some(none) = wanted.iter().find(|target| !all.iter().any(|name| names(name, target))) {
        let known: BTreeSet<&str> = all.iter().map(|name| last_part(name)).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(format!(
            "names `{none}`, which is no linear layer of this model; expected `{ALL_LINEAR}` or some of `{}`",
            known.join("`, `")
        ));
    }
    let is_wanted = |name: &&String| wanted.iter().any(|target| names(name, target));
    Ok(all.iter().filter(is_wanted).cloned().collect())
}

/// Whether a parameter of this name is an adapter's.
pub(super) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight") || name.ends_with(TOKENS)
}

/// `wte` of `transformer.wte`.
pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
