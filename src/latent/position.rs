//! Where a thought stands: what tells it from a word, beside its place in the row (docs/method.md 6).

use std::{fmt, str::FromStr};

use burn::tensor::{Device, Tensor, TensorData};
use coconut_kernels::host;
use serde::{Deserialize, Serialize};

/// A thought's position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LatentPositions {
    /// That of a word in its place.
    #[default]
    None,
    /// Position id `offset + j` for thought j; for rotary positions only.
    Offset(usize),
    /// A learned encoding of j is added to the thought.
    Learned,
    /// A sinusoidal encoding of j (Vaswani et al. 2017), as long as a token embedding, is added.
    Sinusoidal,
}

/// The published `use_position_ids`.
pub const PUBLISHED_OFFSET: usize = 100_000;

impl FromStr for LatentPositions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.strip_prefix("offset[")?.strip_suffix(']')?.parse().ok();
        match text {
            "none" => Ok(Self::None),
            "offset" => Ok(Self::Offset(PUBLISHED_OFFSET)),
            "learned" => Ok(Self::Learned),
            "sinusoidal" => Ok(Self::Sinusoidal),
            _ => number(text)
                .map(Self::Offset)
                .ok_or_else(|| "expected none, offset[100000], learned or sinusoidal".into()),
        }
    }
}

impl fmt::Display for LatentPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Offset(offset) => write!(f, "offset[{offset}]"),
            Self::Learned => f.write_str("learned"),
            Self::Sinusoidal => f.write_str("sinusoidal"),
        }
    }
}

impl TryFrom<String> for LatentPositions {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LatentPositions> for String {
    fn from(positions: LatentPositions) -> Self {
        positions.to_string()
    }
}

/// The sinusoidal encoding of thought `index`, scaled to length 1: `[d_model]`.
pub fn sinusoid(index: usize, d_model: usize, device: &Device) -> Tensor<1> {
    let angle = |i: usize| index as f64 / 10_000f64.powf((i / 2 * 2) as f64 / d_model as f64);
    let wave = |i: usize| if i.is_multiple_of(2) { angle(i).sin() } else { angle(i).cos() };
    let values: Vec<f64> = (0..d_model).map(wave).collect();
    let length = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let values: Vec<f32> = values.into_iter().map(|x| (x / length) as f32).collect();
    host::upload(TensorData::new(values, [d_model]), device)
}
