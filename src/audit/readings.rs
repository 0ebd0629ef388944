//! What can be read off thoughts: values of the steps by the head and by probes, how far thoughts differ, and where they
//! point among a graph's nodes.

use std::collections::BTreeMap;

use burn::tensor::{Int, TensorData};
use coconut_kernels::host;
use serde::{Deserialize, Serialize};

use super::{
    Plain, Subject, Values,
    attention::{AttentionReading, attention},
    lens::{LensReading, as_read, lens},
    probes::{ProbeReading, SelectivityReading, probes},
    states::States,
    tuned::{TunedReading, tuned},
};
use crate::{
    Result,
    data::{Encoded, superposition::NodeClass},
    device,
    stats::{Spread, benjamini_hochberg, effective_rank, unit},
};

/// Everything that was read. Positions count from 0, the end of the question; 1 is the first latent. Layers are those of
/// `hidden_states`: 0 is what is fed, the last one what the head reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// By probes; the values of steps by number, from 1.
    pub probes: Vec<ProbeReading>,
    /// The value of a latent's own step against the other steps' that is read best there, by layer and position.
    pub selectivity: Vec<SelectivityReading>,
    /// By the output head.
    pub lens: Vec<LensReading>,
    /// The same through a map of each layer's states to the last layer's, if it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<TunedReading>,
    /// How far thoughts of different questions differ, by position.
    pub spread: Vec<SpreadReading>,
    /// Where attention looks, by layer and position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<AttentionReading>,
    /// Of graphs: where thoughts point, by position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeReading>,
}

/// How far the vectors fed at a position differ over questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpreadReading {
    /// The latent, from 1.
    pub position: usize,
    /// Questions.
    pub n: usize,
    /// Mean length, in lengths of a token embedding.
    pub length: f64,
    /// Mean cosine of two questions' thoughts.
    pub cosine: f64,
    /// Matrix entropy, in nats.
    pub entropy: f64,
    /// Effective rank about the mean.
    pub rank: Option<f64>,
}

/// Inner product of a thought with the embeddings of nodes of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReading {
    /// The latent, from 1.
    pub position: usize,
    /// The class, after as many steps.
    pub class: String,
    /// Nodes, over all questions.
    pub n: usize,
    /// Mean inner product.
    pub mean: f64,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
pub struct ReadingOptions {
    /// Permutations in each probe's test.
    pub shuffles: usize,
    /// Whether the head also reads states through maps to the last layer's.
    pub tuned_lens: bool,
}

impl ReadingOptions {
    /// How often [`readings`] tells of what it has read.
    pub fn places(self, states: &States) -> usize {
        let mapped = if self.tuned_lens { states.layers - 1 } else { 0 };
        states.layers * states.positions + mapped
    }
}

/// Reads all states of a subject. `advance` is told of each layer and position, and of each layer that is mapped; its
/// error ends it.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if the device failed.
pub fn readings(
    subject: &Subject<'_>,
    plain: &Plain,
    states: &States,
    options: ReadingOptions,
    mut advance: impl FnMut() -> Result<()>,
) -> Result<Readings> {
    let Plain { values, thoughts, .. } = plain;
    let mut readings = Readings {
        spread: spread(subject, thoughts)?,
        attention: attention(subject, plain)?,
        nodes: nodes(subject, values, thoughts)?,
        ..Readings::default()
    };
    for layer in 0..states.layers {
        for position in 0..states.positions {
            let at = (layer, position);
            let (probes, selectivity) = probes(subject, states, values, at, options.shuffles)?;
            readings.probes.extend(probes);
            readings.selectivity.extend(selectivity);
            let (here, _) = states.at(layer, position);
            let hidden = as_read(subject, states, layer, position);
            readings.lens.extend(lens(subject, values, at, here, &hidden)?);
            advance()?;
        }
    }
    if options.tuned_lens {
        readings.tuned = tuned(subject, states, values, advance)?;
    }
    let p: Vec<f64> = readings.probes.iter().map(|reading| reading.p).collect();
    readings
        .probes
        .iter_mut()
        .zip(benjamini_hochberg(&p))
        .for_each(|(reading, p)| reading.p_corrected = p);
    Ok(readings)
}

/// How far thoughts differ, by position.
fn spread(subject: &Subject<'_>, thoughts: &[Vec<Vec<f32>>]) -> Result<Vec<SpreadReading>> {
    let transformer = &subject.model.transformer;
    let embedding = crate::latent::feedback::terms::mean_length(transformer);
    let embedding: Vec<f32> = device::to_host(embedding)?;
    let embedding = f64::from(embedding[0]).max(f64::MIN_POSITIVE);
    let most = thoughts.iter().map(Vec::len).max().unwrap_or(0);
    let at = |place: usize| {
        let here: Vec<&Vec<f32>> = thoughts.iter().filter_map(|of| of.get(place)).collect();
        let units: Vec<Vec<f32>> = here.iter().filter_map(|thought| unit(thought)).collect();
        let Spread { entropy, cosine } = Spread::of(&units)?;
        let length = |x: &Vec<f32>| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let d = here[0].len();
        let mean = |j: usize| here.iter().map(|x| f64::from(x[j])).sum::<f64>() / here.len() as f64;
        let mean: Vec<f64> = (0..d).map(mean).collect();
        let about = |x: &&Vec<f32>| -> Vec<f32> {
            x.iter().zip(&mean).map(|(x, mean)| (f64::from(*x) - mean) as f32).collect()
        };
        let centred: Vec<f32> = here.iter().flat_map(about).collect();
        Some(SpreadReading {
            position: place + 1,
            n: here.len(),
            length: here.iter().map(|x| length(x)).sum::<f64>() / here.len() as f64 / embedding,
            cosine,
            entropy,
            rank: effective_rank(&centred, d),
        })
    };
    Ok((0..most).filter_map(at).collect())
}

/// Inner products of thoughts with nodes' embeddings, by class; nothing without graphs.
fn nodes(
    subject: &Subject<'_>,
    values: &Values,
    thoughts: &[Vec<Vec<f32>>],
) -> Result<Vec<NodeReading>> {
    let data = subject.evaluator.data;
    let transformer = &subject.model.transformer;
    let mut sums: BTreeMap<(usize, NodeClass), (f64, usize)> = BTreeMap::new();
    for (question, thoughts) in thoughts.iter().enumerate() {
        let (Encoded::Graph(pieces), Some(graph)) =
            (&data.encoded[question], &data.examples[question].graph)
        else {
            continue;
        };
        let ends = graph.edges.iter().flatten().zip(pieces.edges.iter().flatten());
        let tokens: BTreeMap<usize, u32> = ends.map(|(&node, &token)| (node, token)).collect();
        let ids: Vec<i32> = tokens.values().map(|&id| id as i32).collect();
        let ids =
            host::upload::<2, Int>(TensorData::new(ids, [1, tokens.len()]), &transformer.device());
        let embeddings: Vec<f32> = device::to_host(transformer.embed(ids))?;
        for (place, thought) in thoughts.iter().enumerate() {
            // A thought that stands for step s knows nodes at distance s + 1.
            let step = values.step(question, place).map_or(place, |step| step) + 1;
            let classes = graph.node_classes(step);
            for (node, embedding) in tokens.keys().zip(embeddings.chunks(thought.len())) {
                let product: f64 =
                    thought.iter().zip(embedding).map(|(a, b)| f64::from(a * b)).sum();
                let (sum, n) = sums.entry((place, classes[*node])).or_default();
                *sum += product;
                *n += 1;
            }
        }
    }
    let name = |class| match class {
        NodeClass::Optimal => "optimal",
        NodeClass::Frontier => "frontier",
        NodeClass::Reachable => "reachable",
        NodeClass::Unreachable => "unreachable",
    };
    let read = |((place, class), (sum, n)): ((usize, NodeClass), (f64, usize))| NodeReading {
        position: place + 1,
        class: name(class).to_owned(),
        n,
        mean: sum / n as f64,
    };
    Ok(sums.into_iter().map(read).collect())
}

impl Readings {
    /// The probe of each position and step whose layer reads best.
    pub fn best_probes(&self) -> Vec<&ProbeReading> {
        best_each(&self.probes, |of| ((of.position, of.step), of.right.rate()))
    }

    /// What the head reads of each position and step through the map of the layer that is read best, beside what it reads
    /// of the same states without.
    pub fn best_tuned(&self) -> Vec<(&LensReading, &LensReading)> {
        let steps = self.tuned.iter().flat_map(|of| &of.steps);
        let best = best_each(steps, |of| ((of.position, of.step), of.top.rate()));
        let of = |lens: &LensReading| (lens.layer, lens.position, lens.step);
        let plain = |tuned| self.lens.iter().find(|lens| of(lens) == of(tuned));
        best.into_iter().filter_map(|tuned| Some((tuned, plain(tuned)?))).collect()
    }

    /// What the head reads of the last layer.
    pub fn last_lens(&self) -> Vec<&LensReading> {
        let last = self.lens.iter().map(|reading| reading.layer).max().unwrap_or(0);
        self.lens.iter().filter(|reading| reading.layer == last).collect()
    }
}

/// For each position and step the reading whose share is the highest, the first among equals; in order of both.
fn best_each<'a, T>(
    readings: impl IntoIterator<Item = &'a T>,
    of: impl Fn(&T) -> ((usize, usize), Option<f64>),
) -> Vec<&'a T> {
    let mut best: BTreeMap<(usize, usize), &T> = BTreeMap::new();
    for reading in readings {
        let (place, share) = of(reading);
        let entry = best.entry(place).or_insert(reading);
        if share > of(entry).1 {
            *entry = reading;
        }
    }
    best.into_values().collect()
}
