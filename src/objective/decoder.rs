//! The step decoder: a second network that reads a slot's thoughts and must say the slot's step (SIM-CoT, Wei et al.
//! 2025, arXiv 2509.20317; docs/method.md 8.6).

use burn::tensor::{Int, Tensor, TensorData};
use coconut_kernels::{TokenMask, host};
use serde::{Deserialize, Serialize};

use crate::{
    data::{Curriculum, Sequence},
    latent::{
        LatentModel, ReadLayers, ReadPositions, ReadSet, Trace,
        batch::{Batch, SlotText},
        slots,
    },
    model::{Cache, PassLayout, TokenInts, Transformer},
};

/// What a slot is, and how its loss is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecoderStyle {
    /// A slot is a block of `c` thoughts; losses are summed over a text's tokens.
    Coconut,
    /// A slot is one thought, or the one after the last; losses are means over tokens.
    Codi,
}

/// How a step decoder is made, and what it is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSettings {
    /// What it reads.
    pub style: DecoderStyle,
    /// Its blocks, copied from the model's first; as many as the model has if `None`.
    pub blocks: Option<usize>,
    /// Whether slots of single thoughts have the last step too, which says what the answer is.
    pub last_step: bool,
    /// Whether a slot's texts are cut to one token more than the text of a batch's first row, or to one token if that has
    /// none, as published.
    pub cut: bool,
}

/// A step decoder that has been trained.
#[derive(Clone, Copy, Debug)]
pub struct StepDecoder<'a> {
    /// The network.
    pub network: &'a Transformer,
    /// What it reads.
    pub style: DecoderStyle,
}

impl DecoderStyle {
    /// Whether a slot is made of the last latent's states, which are fed to nobody.
    pub fn reads_last_latent(self) -> bool {
        self == Self::Codi
    }

    /// The number of thoughts in a slot, with `c_thought` latents a block.
    pub fn width(self, c_thought: usize) -> usize {
        match self {
            Self::Coconut => c_thought.max(1),
            Self::Codi => 1,
        }
    }

    /// The position id of a slot's first thought, from which those of the text count on.
    pub fn first_position(self) -> usize {
        match self {
            Self::Coconut => 1,
            Self::Codi => 0,
        }
    }

    /// The hidden states that slots are made of.
    pub fn reads(self) -> ReadSet {
        match self {
            Self::Coconut => ReadSet::PREDICTIONS,
            Self::Codi => {
                ReadSet { positions: ReadPositions::Predictions, layers: ReadLayers::All }
            }
        }
    }

    /// The slots of a row that have a text, with `c_thought` latents a block.
    pub fn slots(self, texts: Vec<Option<Vec<u32>>>, c_thought: usize) -> Vec<SlotText> {
        let width = self.width(c_thought);
        let of_slot = |(slot, ids): (usize, Option<Vec<u32>>)| {
            Some(SlotText { slot, thoughts: slot * width..(slot + 1) * width, ids: ids? })
        };
        texts.into_iter().enumerate().filter_map(of_slot).collect()
    }

    /// The positions that a decoder's context must have to learn a slot's text.
    pub fn positions(self, slot: &SlotText) -> usize {
        self.first_position() + slot.thoughts.len() + slot.ids.len() - 1
    }
}

impl DecoderSettings {
    /// What each slot of a row to train on is to be read as, `None` if as nothing.
    pub fn texts(self, row: &Sequence, curriculum: &Curriculum) -> Vec<Option<Vec<u32>>> {
        let Self { style, last_step, .. } = self;
        if row.n_latents == 0 {
            return Vec::new();
        }
        let blocks = row.n_latents / style.width(curriculum.c_thought);
        let eos = row.ids.last().copied();
        let (steps, slots, joins) = match style {
            DecoderStyle::Coconut => (row.replaced.as_slice(), blocks, curriculum.max_latent_stage),
            DecoderStyle::Codi => {
                let shown = row.replaced.len() - usize::from(!last_step).min(row.replaced.len());
                (&row.replaced[..shown], blocks + 1, blocks + 1)
            }
        };
        let text = |slot: usize| {
            // Slot number `joins` would be one too many: the one before has all steps that are left.
            let end = if slot + 1 == joins { steps.len() } else { slot + 1 };
            match steps.get(slot..end.min(steps.len())) {
                Some(own) if !own.is_empty() => {
                    Some(own.iter().flatten().copied().chain(eos).collect())
                }
                _ if style == DecoderStyle::Coconut => Some(row.ids[row.prompt_len..].to_vec()),
                _ => None,
            }
        };
        (0..slots).map(text).collect()
    }

    /// Cuts the texts of a batch's rows, if they are to be cut.
    pub fn cut_texts(self, rows: &mut [Vec<SlotText>]) {
        let Some(first) = rows.first().filter(|_| self.cut).cloned() else { return };
        for text in rows.iter_mut().flatten() {
            let same = first.iter().find(|other| other.slot == text.slot);
            text.ids.truncate(same.map_or(0, |same| same.ids.len()) + 1);
        }
    }

    /// The slots of a row to train on that have a text.
    pub fn slots(self, row: &Sequence, curriculum: &Curriculum) -> Vec<SlotText> {
        self.style.slots(self.texts(row, curriculum), curriculum.c_thought)
    }
}

/// The mean over slots of the cross entropy of their texts, each predicted from the slot's thoughts and the tokens
/// before, which the model embeds: `[1]`, in nats. A slot's is divided by its texts, or by its tokens, in all rows.
/// `None` if no slot has a text.
pub fn decoder_loss(
    decoder: StepDecoder,
    model: &LatentModel,
    batch: &Batch,
    trace: &Trace,
) -> Option<Tensor<1>> {
    if batch.slots.is_empty() {
        return None;
    }
    let StepDecoder { network, style } = decoder;
    let inputs = inputs(model, &batch.slots, slots::vectors(model, batch, trace)?);
    let layout = layout(style, &batch.slots);
    let cache = Cache::new(network.config.n_layer);
    let (states, _) = network.forward(inputs, &cache, &layout, None);
    let mut first = 0;
    let of_slot = |texts: &[(usize, SlotText)]| {
        let tokens = predictors(first, texts);
        first += texts.len();
        let hidden = states.pick(states.count() - 1, &tokens);
        let ids: Vec<i32> =
            texts.iter().flat_map(|(_, text)| &text.ids).map(|&id| id as i32).collect();
        let ids = host::upload::<1, Int>(ids.as_slice(), &hidden.device());
        let divisor = match style {
            DecoderStyle::Coconut => texts.len(),
            DecoderStyle::Codi => tokens.len(),
        };
        coconut_kernels::cross_entropy(hidden, network.head(), ids) / divisor as f64
    };
    let losses: Vec<Tensor<1>> =
        batch.slots.chunk_by(|(_, a), (_, b)| a.slot == b.slot).map(of_slot).collect();
    let count = losses.len() as f64;
    Some(losses.into_iter().reduce(|a, b| a + b)? / count)
}

/// The most tokens of a text that are read, the last one not among them.
fn columns_of_text(slots: &[(usize, SlotText)]) -> usize {
    slots.iter().map(|(_, text)| text.ids.len() - 1).max().unwrap_or(0)
}

/// Each slot's thoughts and its text but for the last token: `[slots, columns, d_model]`. `vectors` are the rows'
/// thoughts, `[rows, thoughts, d_model]`.
fn inputs(model: &LatentModel, slots: &[(usize, SlotText)], vectors: Tensor<3>) -> Tensor<3> {
    let [rows, thoughts, d] = vectors.dims();
    let device = vectors.device();
    let own = |(row, text): &(usize, SlotText)| {
        let first = row * thoughts;
        text.thoughts.clone().map(move |thought| (first + thought) as i32).collect::<Vec<_>>()
    };
    let picked: Vec<i32> = slots.iter().flat_map(own).collect();
    let width = picked.len() / slots.len().max(1);
    let picked = host::upload::<1, Int>(picked.as_slice(), &device);
    let vectors =
        vectors.reshape([rows * thoughts, d]).select(0, picked).reshape([slots.len(), width, d]);
    let columns = columns_of_text(slots);
    if columns == 0 {
        return vectors;
    }
    let padded = |(_, text): &(usize, SlotText)| {
        let before = text.ids[..text.ids.len() - 1].iter().map(|&id| id as i32);
        before.chain(std::iter::repeat(0)).take(columns).collect::<Vec<_>>()
    };
    let ids: Vec<i32> = slots.iter().flat_map(padded).collect();
    let ids = host::upload(TensorData::new(ids, [slots.len(), columns]), &device);
    Tensor::cat(vec![vectors, model.transformer.embed(ids)], 1)
}

/// The positions of [`inputs`], which of them are padding, and which predict a token.
fn layout(style: DecoderStyle, slots: &[(usize, SlotText)]) -> PassLayout {
    let width = slots.first().map_or(0, |(_, text)| text.thoughts.len());
    let columns = width + columns_of_text(slots);
    let first = style.first_position();
    let (mut ids, mut tokens) = (Vec::new(), Vec::new());
    for (_, text) in slots {
        let own = width + text.ids.len() - 1;
        ids.extend(
            (0..columns).map(|column| if column < own { (first + column) as i32 } else { 0 }),
        );
        tokens.extend((0..columns).map(|column| column < own));
    }
    let mask = TokenMask::new(slots.len(), columns, tokens);
    PassLayout::whole(TokenInts::new(ids, [slots.len(), columns]), mask)
        .reading(&predictors(0, slots))
}

/// The tokens `(sequence, column)` that predict the texts of some slots, the sequence of the first of which is `first`.
fn predictors(first: usize, slots: &[(usize, SlotText)]) -> Vec<(usize, usize)> {
    let of_slot = |(at, (_, text)): (usize, &(usize, SlotText))| {
        let before = text.thoughts.len() - 1;
        (0..text.ids.len()).map(move |token| (first + at, before + token)).collect::<Vec<_>>()
    };
    slots.iter().enumerate().flat_map(of_slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, as the published program cuts: slot 0 to 2 + 1 tokens, slot 1, which the first row lacks, to one.
    #[test]
    fn texts_are_cut_to_the_first_rows() {
        let text =
            |slot: usize, ids: &[u32]| SlotText { slot, thoughts: slot..slot + 1, ids: ids.into() };
        let rows = vec![
            vec![text(0, &[1, 9])],
            vec![text(0, &[1, 2, 3, 9]), text(1, &[4, 5, 9])],
            vec![text(0, &[6])],
        ];
        let mut settings = DecoderSettings {
            style: DecoderStyle::Codi,
            blocks: None,
            last_step: false,
            cut: false,
        };
        let mut same = rows.clone();
        settings.cut_texts(&mut same);
        assert_eq!(same, rows);
        settings.cut = true;
        let mut cut = rows;
        settings.cut_texts(&mut cut);
        let expected =
            [vec![text(0, &[1, 9])], vec![text(0, &[1, 2, 3]), text(1, &[4])], vec![text(0, &[6])]];
        assert_eq!(cut, expected);
    }
}
