//! How often answers are right once the k-th latent is edited, counted wrongly and rightly.
//!
//! Where rows get as many latents as they have steps, only rows with k of them can have the k-th edited. A published
//! study left the others out and still divided by all rows: its rates then fall with k although nothing was edited.

use serde::Serialize;

use crate::stats::Rate;

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
    /// Right answers of the rows that have it, divided by these: the only ones that an edit touches.
    pub of_touched: Rate,
}

/// Counts each latent up to the most that a row has; empty if no row has any.
pub fn by_place(rows: &[Row]) -> Vec<Place> {
    let most = rows.iter().map(|row| row.latents).max().unwrap_or(0);
    (1..=most).map(|latent| place(rows, latent)).collect()
}

fn place(rows: &[Row], latent: usize) -> Place {
    let touched = rows.iter().filter(|row| row.latents >= latent);
    let of_touched: Rate = touched.map(|row| row.right).collect();
    Place { latent, miscounted: of_touched.hits as f64 / rows.len() as f64, of_touched }
}
