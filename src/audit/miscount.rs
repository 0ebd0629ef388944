//! How often answers are right once the k-th latent is edited, counted wrongly and rightly.
//!
//! Where rows get as many latents as they have steps, only rows with k of them can have the k-th edited. A published
//! study left the others out and still divided by all rows: its rates then fall with k although nothing was edited.

use serde::Serialize;

use crate::stats::wilson_interval;

/// The rows of an evaluation: latents, and whether the answer was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its latents, as many as its steps.
    pub latents: usize,
    /// Whether its answer was right.
    pub right: bool,
}

/// One place, counted both ways.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Place {
    /// Which latent is edited, from 1.
    pub latent: usize,
    /// The rate as miscounted: right answers of the rows that have this latent, divided by all rows.
    pub miscounted: f64,
    /// The rows that have it: the only ones that an edit touches, and the denominator of the rate.
    pub touched: usize,
    /// Right answers among them.
    pub right: usize,
    /// Their rate.
    pub rate: f64,
    /// Its 95 % Wilson interval.
    pub interval: [f64; 2],
}

/// Counts each latent up to the most that a row has; empty if no row has any.
pub fn by_place(rows: &[Row]) -> Vec<Place> {
    let most = rows.iter().map(|row| row.latents).max().unwrap_or(0);
    (1..=most).map(|latent| place(rows, latent)).collect()
}

fn place(rows: &[Row], latent: usize) -> Place {
    let touched: Vec<&Row> = rows.iter().filter(|row| row.latents >= latent).collect();
    let right = touched.iter().filter(|row| row.right).count();
    Place {
        latent,
        miscounted: right as f64 / rows.len() as f64,
        touched: touched.len(),
        right,
        rate: right as f64 / touched.len() as f64,
        interval: wilson_interval(right, touched.len()),
    }
}
