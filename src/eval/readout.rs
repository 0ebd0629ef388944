//! Thoughts read out as words by a step decoder.

use burn::tensor::{Tensor, TensorData};
use coconut_kernels::{TokenMask, host};

use super::generate::{GenerateOptions, argmax, forward_prompts};
use crate::{
    Result,
    data::Tokenizer,
    latent::{LatentModel, PassPlan, slots},
    model::{Cache, PassLayout, TokenInts, Transformer},
    objective::StepDecoder,
};

/// The most tokens that a slot is read as.
const MOST_TOKENS: usize = 32;

/// For each slot of `width` thoughts of a prompt, the text that a step decoder says after them, greedily; nothing where
/// nothing is fed.
///
/// Of `options` only what concerns the prompt, and the stops, are used.
///
/// # Errors
/// As [`forward_prompts`], and [`Error::Internal`](crate::Error::Internal) if the device failed.
pub fn readout(
    model: &LatentModel,
    decoder: StepDecoder<'_>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions<'_>,
    width: usize,
) -> Result<Vec<String>> {
    if !options.plan.latent.is_some_and(|latent| prompt.contains(&latent)) {
        return Ok(Vec::new());
    }
    let plan = PassPlan { reads_last_latent: decoder.style.reads_last_latent(), ..options.plan };
    let options = GenerateOptions { plan, ..*options };
    let (batch, trace) = forward_prompts(model, &[prompt], &options, decoder.style.reads())?;
    let Some(vectors) = slots::vectors(model, &batch, &trace) else { return Ok(Vec::new()) };
    let [_, thoughts, d] = vectors.dims();
    let slots = thoughts / width.max(1);
    if slots == 0 {
        return Ok(Vec::new());
    }
    let vectors = vectors.narrow(1, 0, slots * width).reshape([slots, width, d]);
    let texts = say(&model.transformer, decoder, vectors, options.stops)?;
    texts.iter().map(|ids| Ok(tokenizer.decode(ids)?.trim_end().to_owned())).collect()
}

/// The tokens that a decoder says after each slot, `[slots, width, d_model]`, up to a stop; `base` embeds them.
fn say(
    base: &Transformer,
    StepDecoder { network, style }: StepDecoder<'_>,
    vectors: Tensor<3>,
    stops: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let ([slots, _, _], device) = (vectors.dims(), vectors.device());
    let mut said = vec![Vec::new(); slots];
    let mut open = vec![true; slots];
    let (mut cache, mut inputs, mut past) = (Cache::new(network.config.n_layer), vectors, 0);
    for _ in 0..MOST_TOKENS {
        let [_, new, _] = inputs.dims();
        let first = style.first_position() + past;
        past += new;
        if first + new > network.config.n_positions {
            break;
        }
        let positions = (0..slots).flat_map(|_| (first..first + new).map(|id| id as i32));
        let positions = TokenInts::new(positions.collect(), [slots, new]);
        let layout = PassLayout::whole(positions, TokenMask::all(slots, past));
        let (states, columns) = network.forward(inputs, &cache, &layout, None);
        cache = cache.push(columns);
        let last = states.last().narrow(1, new - 1, 1).squeeze_dim(1);
        let chosen = argmax(network.logits(last))?;
        for ((said, open), &id) in said.iter_mut().zip(&mut open).zip(&chosen) {
            *open &= !stops.contains(&id);
            if *open {
                said.push(id);
            }
        }
        if !open.contains(&true) {
            break;
        }
        let ids: Vec<i32> = chosen.into_iter().map(|id| id as i32).collect();
        inputs = base.embed(host::upload(TensorData::new(ids, [slots, 1]), &device));
    }
    Ok(said)
}
