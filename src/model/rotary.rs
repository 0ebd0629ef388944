//! Rotary positions: how fast each pair of a head turns, and which layers turn.

/// Rotary positions (Su et al. 2021, arXiv 2104.09864): pair `i` of a head of width `dim` turns by
/// `position · theta^(−2i/dim)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// The base, `rope_theta`.
    pub theta: f64,
    /// Changed frequencies for a longer context.
    pub scaling: Option<Llama3>,
}

/// Llama 3.1's scaling: slow pairs turn `factor` times slower, fast ones as before, and those between
/// by a mixture (arXiv 2407.21783; the constants are in each `config.json`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    /// By how much slow pairs are slowed.
    pub factor: f64,
    /// Pairs whose wavelength is longer than `original_context / low_freq_factor` are slow.
    pub low_freq_factor: f64,
    /// Pairs whose wavelength is shorter than `original_context / high_freq_factor` are fast.
    pub high_freq_factor: f64,
    /// The context before scaling, in tokens.
    pub original_context: f64,
}

impl Rotary {
    /// Radians a position, for each of the `dim / 2` pairs of a head.
    pub fn frequencies(&self, dim: usize) -> Vec<f64> {
        let plain = |pair: usize| self.theta.powf(-2.0 * pair as f64 / dim as f64);
        (0..dim / 2)
            .map(|pair| self.scaling.map_or(plain(pair), |s| s.scale(plain(pair))))
            .collect()
    }
}

impl Llama3 {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = std::f64::consts::TAU / frequency;
        let waves = self.original_context / wavelength; // in the original context
        if waves > self.high_freq_factor {
            frequency
        } else if waves < self.low_freq_factor {
            frequency / self.factor
        } else {
            let (low, high) = (self.low_freq_factor, self.high_freq_factor);
            let fast = (waves - low) / (high - low);
            (1.0 - fast) * frequency / self.factor + fast * frequency
        }
    }
}

/// Which rotary positions a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerRotary {
    /// `rotary` of the shape.
    Global,
    /// `local_rotary` of the shape.
    Local,
    /// None: what such a layer knows of order comes from the layers before it.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_leaves_fast_pairs_and_slows_slow_ones() {
        // Wavelengths by hand: fast below 8192/4 = 2048 tokens, slow above 8192/1.
        let scaling = Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let at = |wavelength: f64| {
            let frequency = std::f64::consts::TAU / wavelength;
            scaling.scale(frequency) / frequency
        };
        assert_eq!(at(2000.0), 1.0);
        assert!((at(10_000.0) - 1.0 / 8.0).abs() < 1e-12);
        // Halfway between 1 and 4 waves, 2.5 of them: the mean of 1 and 1/8.
        assert!((at(8192.0 / 2.5) - 0.5625).abs() < 1e-12);
    }
}
