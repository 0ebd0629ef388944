//! `audit.json`: what an audit found.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Cell, Direct, Effect, Intervention, Outcome, Plain, Readings, Store, Subject, Sufficiency,
    With, cells, sufficiency,
};
use crate::{
    Result,
    latent::Places,
    rng,
    stats::{Estimate, Rate, holm, majority, one_sample, pass_at_k, welch},
};

/// The content of `audit.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked: checkpoint, data, seed, noise and limits.
    pub settings: Value,
    /// The models: the one that is audited first, then other seeds of it, then controls.
    pub models: Vec<ModelRecord>,
    /// Over seeds; empty without any others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over_seeds: Vec<OverSeeds>,
    /// What was shown, what was not, and what could not be told: a sentence each.
    pub words: Vec<String>,
}

/// Why a model is in an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It is the one that is audited.
    Audited,
    /// It is the same with another seed.
    Seed,
    /// It is what the others are held against.
    Control,
}

/// What was found of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// What it is called: its folder, or `untrained`.
    pub name: String,
    /// Why it is there.
    pub role: Role,
    /// How it was trained.
    pub method: String,
    /// The stage that its prompts are laid out for.
    pub stage: i32,
    /// Most thoughts of a question.
    pub thoughts: usize,
    /// Right answers as it is.
    pub plain: Rate,
    /// The figures of each intervention.
    pub cells: Vec<Cell>,
    /// How many thoughts are enough.
    pub sufficiency: Option<Sufficiency>,
    /// What can be read off its thoughts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readings: Option<Readings>,
    /// A model trained without thoughts beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// What several answers with other draws are worth, by what is drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Samples>,
}

/// Several answers to each question, each under another draw of one intervention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// The intervention.
    pub under: Intervention,
    /// Questions.
    pub n: usize,
    /// For k = 1, 2, …: the chance that one of k answers is right ([`pass_at_k`]), mean over questions.
    pub pass_at: Vec<f64>,
    /// Questions whose most frequent answer is right.
    pub vote: Rate,
}

/// What an intervention does over seeds of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverSeeds {
    /// The method.
    pub method: String,
    /// The intervention.
    pub intervention: Intervention,
    /// Change of accuracy, a value a seed, each over the questions that were touched.
    pub difference: Estimate,
    /// Two-sided p of Student's t test that it is 0; none for one seed.
    pub p: Option<f64>,
    /// The same after Holm's correction for the interventions on the method.
    pub p_holm: Option<f64>,
    /// Two-sided p of Welch's t test that it is the audited method's; none for that one itself.
    pub p_against_audited: Option<f64>,
}

/// Does everything planned to a model; what a store has of it already is not done again. `advance` is told of every
/// intervention; its error ends it, and the next audit goes on from there.
///
/// # Errors
/// As [`Subject::effect`], and [`Error::Io`](crate::Error::Io) if the store cannot be written.
pub fn effects(
    subject: &Subject<'_>,
    plain: &Plain,
    plan: &[Intervention],
    (store, model): (&mut Store, &str),
    mut advance: impl FnMut() -> Result<()>,
) -> Result<Vec<Effect>> {
    let mut effects = Vec::with_capacity(plan.len());
    for &intervention in plan {
        let effect = match store.get(model, &intervention.to_string()) {
            Some(effect) => effect.clone(),
            None => {
                let effect = subject.effect(plain, intervention)?;
                store.put(model, effect.clone())?;
                effect
            }
        };
        effects.push(effect);
        advance()?;
    }
    Ok(effects)
}

/// Answers every question `draws` times, each under another draw of an intervention; `None` without a draw.
///
/// # Errors
/// As [`Subject::effect`].
pub fn samples(
    subject: &Subject<'_>,
    plain: &Plain,
    under: Intervention,
    draws: usize,
    mut advance: impl FnMut() -> Result<()>,
) -> Result<Option<Samples>> {
    let mut answers: Vec<Vec<Outcome>> = vec![Vec::new(); plain.outcomes.len()];
    for draw in 0..draws {
        let seed = rng::hash(subject.seed, &[rng::SAMPLING, draw as u64]);
        let effect = Subject { seed, ..*subject }.effect(plain, under)?;
        for touched in effect.touched {
            answers[touched.question].push(touched.outcome);
        }
        advance()?;
    }
    answers.retain(|answers| !answers.is_empty());
    let n = answers.len();
    let pass_at = |k: usize| {
        let of = |answers: &Vec<Outcome>| {
            let right = answers.iter().filter(|outcome| outcome.correct).count();
            pass_at_k(answers.len(), right, k)
        };
        Some(answers.iter().map(of).sum::<Option<f64>>()? / n as f64)
    };
    let vote = |answers: &Vec<Outcome>| {
        let said: Vec<&Option<String>> =
            answers.iter().map(|outcome| &outcome.prediction).collect();
        let most = majority(&said);
        answers.iter().find(|outcome| Some(&&outcome.prediction) == most).is_some_and(|o| o.correct)
    };
    Ok((n > 0).then(|| Samples {
        under,
        n,
        pass_at: (1..=draws).filter_map(pass_at).collect(),
        vote: answers.iter().map(vote).collect(),
    }))
}

impl ModelRecord {
    /// The figures of some effects on a model.
    pub fn new(
        (name, role, method): (&str, Role, &str),
        subject: &Subject<'_>,
        plain: &Plain,
        effects: &[Effect],
        samples: Vec<Samples>,
    ) -> Self {
        let thoughts: Vec<usize> = plain.thoughts.iter().map(Vec::len).collect();
        Self {
            name: name.to_owned(),
            role,
            method: method.to_owned(),
            stage: subject.stage.0,
            thoughts: plain.most_thoughts(),
            plain: plain.outcomes.iter().map(|outcome| outcome.correct).collect(),
            cells: cells(effects, &plain.outcomes, subject.seed),
            sufficiency: sufficiency(effects, &plain.outcomes, &thoughts),
            readings: None,
            direct: None,
            samples,
        }
    }

    /// The figures of one intervention.
    pub fn cell(&self, intervention: Intervention) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.intervention == intervention)
    }
}

/// Whether an intervention is looked at over seeds, where each more costs power: what is done to all thoughts, to the
/// question, without thoughts, and with the mean in one place.
fn is_main(cell: &&Cell) -> bool {
    match cell.intervention {
        Intervention::Edit { with, places: Places::One(_) } => with == With::Mean,
        Intervention::Edit { places, .. } => matches!(places, Places::All | Places::Question),
        Intervention::Latents(n) | Intervention::Early(n) => n == 0,
    }
}

/// What the main interventions do over the seeds of each method; the first model's method comes first. Nothing unless
/// some method has two seeds.
pub fn over_seeds(models: &[ModelRecord]) -> Vec<OverSeeds> {
    let Some(audited) = models.first() else { return Vec::new() };
    let mut methods: Vec<&str> = Vec::new();
    for model in models {
        if !methods.contains(&model.method.as_str()) {
            methods.push(&model.method);
        }
    }
    let of = |method: &str| -> Vec<&ModelRecord> {
        models.iter().filter(|model| model.method == method).collect()
    };
    if methods.iter().all(|method| of(method).len() < 2) {
        return Vec::new();
    }
    // A mean of differences over other questions each would be the figure of none.
    let differences = |method: &str, cell: &Cell| -> Vec<f64> {
        let cells = of(method).into_iter().map(|model| model.cell(cell.intervention));
        let same = cells.map(|own| own.filter(|own| own.right.n == cell.right.n));
        same.map(|own| Some(own?.difference)).collect::<Option<_>>().unwrap_or_default()
    };
    let mut all = Vec::new();
    for method in &methods {
        let of_method = audited.cells.iter().filter(is_main).filter_map(|cell| {
            let values = differences(method, cell);
            let own = differences(&audited.method, cell);
            let other = *method != audited.method;
            Some(OverSeeds {
                method: (*method).to_owned(),
                intervention: cell.intervention,
                p: one_sample(&values),
                p_holm: None,
                p_against_audited: other.then(|| welch(&own, &values)).flatten(),
                difference: Estimate::of(values)?,
            })
        });
        let mut of_method: Vec<OverSeeds> = of_method.collect();
        let p: Option<Vec<f64>> = of_method.iter().map(|row| row.p).collect();
        for (row, p) in of_method.iter_mut().zip(holm(&p.unwrap_or_default())) {
            row.p_holm = Some(p);
        }
        all.extend(of_method);
    }
    all
}
