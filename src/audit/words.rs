//! What an audit showed, what it did not, and what it could not tell, in sentences.

use super::{
    Cell, Direct, DirectCell, Intervention, ModelRecord, Role, Samples, With, place_name,
    probes::ProbeReading,
};
use crate::{
    latent::Places,
    stats::{LEVEL, Rate},
};

/// The sentences of an audit, most important first.
pub fn words(models: &[ModelRecord]) -> Vec<String> {
    let Some(audited) = models.first() else { return Vec::new() };
    let mut words = vec![audited_itself(audited)];
    words.extend(control(audited));
    let works = control_works(audited);
    words.extend(vectors(audited, works));
    words.extend(places(audited));
    words.extend(order(audited));
    words.extend(donors(audited));
    words.extend(necessity(audited));
    words.extend(audited.direct.as_ref().map(directly));
    words.extend(audited.direct.as_ref().and_then(robust));
    words.extend(audited.samples.iter().filter_map(samples));
    words.extend(readable(audited));
    words.extend(
        models
            .iter()
            .filter(|model| model.role == Role::Control)
            .filter_map(|control| beside(audited, control)),
    );
    words.extend(seeds(models));
    words
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// A change in points, with a real minus.
fn points(change: f64) -> String {
    percent(change).replace('-', "−")
}

fn rate(cell: &Cell) -> String {
    let [low, high] = cell.difference_interval;
    format!(
        "{} instead of {} % right of {} questions, a difference of {} to {} points",
        percent(cell.right.rate().unwrap_or(0.0)),
        percent(cell.plain.rate().unwrap_or(0.0)),
        cell.right.n,
        points(low),
        points(high),
    )
}

fn hurts(cell: &Cell) -> bool {
    cell.p_holm < LEVEL && cell.difference < 0.0
}

fn audited_itself(model: &ModelRecord) -> String {
    let plain = model.plain;
    let [low, high] = plain.interval().unwrap_or([0.0, 1.0]);
    format!(
        "As it is, the model answers {} % of {} questions rightly ({} to {}), with up to {} thoughts.",
        percent(plain.rate().unwrap_or(0.0)),
        plain.n,
        percent(low),
        percent(high),
        model.thoughts
    )
}

fn control_cell(model: &ModelRecord) -> Option<&Cell> {
    model.cells.iter().find(|cell| cell.intervention.is_control())
}

fn control_works(model: &ModelRecord) -> bool {
    control_cell(model).is_some_and(hurts)
}

fn control(model: &ModelRecord) -> Option<String> {
    let cell = control_cell(model)?;
    Some(match hurts(cell) {
        true => format!(
            "The positive control hurts, as it must: noise on the question's embeddings leaves {}.",
            rate(cell)
        ),
        false => format!(
            "The positive control shows nothing: noise on the question's embeddings leaves {}. Nothing below can be told from chance by accuracy; it would take a model that answers better, more questions or more noise.",
            rate(cell)
        ),
    })
}

/// Whether it matters what the thoughts hold: as told by other questions' thoughts, which are like those that the model
/// knows; a vector that is unlike any thought can do harm by that alone.
fn vectors(model: &ModelRecord, control_works: bool) -> Option<String> {
    let all = |with| model.cell(Intervention::edit(with, Places::All));
    let worst = |withs: &[With]| {
        let cells = withs.iter().filter_map(|&with| all(with));
        cells.min_by(|a, b| a.difference.total_cmp(&b.difference))
    };
    let Some(of_others) = worst(&[With::Mean, With::Transplant]) else {
        let unlike = worst(&[With::Zero, With::Random])?;
        return Some(format!("`{}` leaves {}.", unlike.intervention, rate(unlike)));
    };
    let (written, left) = (of_others.intervention, rate(of_others));
    if hurts(of_others) {
        return Some(format!("It matters what the thoughts hold: `{written}` leaves {left}."));
    }
    if !control_works {
        return Some(format!(
            "Whether it matters what the thoughts hold could not be told: `{written}` leaves {left}."
        ));
    }
    let unlike = worst(&[With::Zero, With::Random]).filter(|cell| hurts(cell));
    let unlike = unlike.map(|cell| {
        format!(
            " That `{}` leaves {} says that such vectors are unlike any thought, not that thoughts hold anything.",
            cell.intervention,
            rate(cell)
        )
    });
    Some(format!(
        "No effect of what the thoughts hold was shown: of other questions' thoughts in their place the worst, `{written}`, leaves {left}.{}",
        unlike.unwrap_or_default()
    ))
}

/// At which places the mean of other questions' thoughts does harm.
fn places(model: &ModelRecord) -> Option<String> {
    let at_one = |cell: &&Cell| {
        matches!(cell.intervention, Intervention::Edit { with: With::Mean, places: Places::One(_) })
    };
    let cells: Vec<&Cell> = model.cells.iter().filter(at_one).collect();
    if cells.is_empty() {
        return None;
    }
    let name = |cell: &Cell| match cell.intervention {
        Intervention::Edit { places, .. } => place_name(places),
        Intervention::Latents(_) | Intervention::Early(_) => String::new(),
    };
    let harmful: Vec<String> = cells
        .iter()
        .filter(|cell| hurts(cell))
        .map(|cell| format!("{} ({} points)", name(cell), points(cell.difference)))
        .collect();
    Some(match harmful.is_empty() {
        true => {
            "At no single place did the mean of other questions' thoughts do harm that was shown."
                .into()
        }
        false => format!(
            "Of single thoughts, the mean of other questions' in its place does harm at: {}.",
            harmful.join(", ")
        ),
    })
}

fn order(model: &ModelRecord) -> Option<String> {
    let cell = model.cell(Intervention::edit(With::Permute, Places::All))?;
    Some(match hurts(cell) {
        true => format!(
            "Their order matters: the row's own thoughts in another order leave {}.",
            rate(cell)
        ),
        false => format!(
            "That their order matters was not shown: in another order they leave {}.",
            rate(cell)
        ),
    })
}

fn donors(model: &ModelRecord) -> Option<String> {
    let cell = model.cell(Intervention::edit(With::Transplant, Places::All))?;
    let follows = cell.follows?;
    let [low, high] = follows.interval()?;
    Some(format!(
        "Given all thoughts of another question, {} % of {} questions get the other's answer ({} to {}).",
        percent(follows.rate()?),
        follows.n,
        percent(low),
        percent(high)
    ))
}

fn necessity(model: &ModelRecord) -> Option<String> {
    let cell = model.cell(Intervention::Early(0))?;
    let spoken =
        model.cell(Intervention::Latents(0)).filter(|cell| cell.tokens > cell.plain_tokens + 0.5);
    let words = spoken.map(|cell| {
        format!(
            " Left to speak, it writes {:.1} tokens there instead of {:.1} and gets {} %.",
            cell.tokens,
            cell.plain_tokens,
            percent(cell.right.rate().unwrap_or(0.0))
        )
    });
    Some(format!(
        "Without latents and asked for the answer at once it gets {}. That is no proof that thoughts are needed: on such rows it was hardly trained, or not at all; a model trained without{} says what they are worth.{}",
        rate(cell),
        match model.direct {
            Some(_) => ", below,",
            None => " (`method: no_thoughts`), given as `--direct`,",
        },
        words.unwrap_or_default()
    ))
}

/// What a model without thoughts gets of the same questions.
fn directly(direct: &Direct) -> String {
    let (thinking, without) = (direct.as_it_is.a(), direct.as_it_is.b());
    let share = |rate: Rate| percent(rate.rate().unwrap_or(0.0));
    let [low, high] = direct.as_it_is.interval().unwrap_or([-1.0, 1.0]);
    format!(
        "Trained without thoughts (`{}`, {}), a model answers {} % of the same {} questions rightly, where this one answers {} %, a difference of {} to {} points: {}.",
        direct.method,
        direct.name,
        share(without),
        without.n,
        share(thinking),
        points(low),
        points(high),
        match (direct.p < LEVEL, direct.as_it_is.only_a > direct.as_it_is.only_b) {
            (true, true) => "so much the thoughts and their training are worth in these two runs",
            (true, false) => "the one without thoughts is the better one",
            (false, _) => "that thoughts are worth anything was not shown",
        }
    )
}

/// How much of what stays right under the harshest of what other questions' thoughts do, and without any, the direct
/// model answers as well.
fn robust(direct: &Direct) -> Option<String> {
    let all = |with| direct.cell(Intervention::edit(with, Places::All));
    let of_others = [With::Mean, With::Transplant].into_iter().filter_map(all);
    let worst = of_others.min_by_key(|cell| cell.paired.a().hits);
    let named = [worst, direct.cell(Intervention::Early(0))];
    let cell = |cell: &DirectCell| {
        format!(
            "under `{}` {} stay right, of which {} are right without thoughts too, and {} fall, of which {} are",
            cell.intervention, cell.stay.n, cell.stay.hits, cell.fall.n, cell.fall.hits
        )
    };
    let named: Vec<String> = named.into_iter().flatten().map(cell).collect();
    let right = direct.as_it_is.a().hits;
    (right > 0 && !named.is_empty()).then(|| {
        format!(
            "Of the {right} questions that it has right as it is, {}. What the model without thoughts answers as well needs none: that it stays right is no sign of reasoning elsewhere.",
            named.join("; ")
        )
    })
}

fn samples(samples: &Samples) -> Option<String> {
    let (one, all) = (samples.pass_at.first()?, samples.pass_at.last()?);
    Some(format!(
        "Under `{}` one answer is right in {} %, the most frequent of {} in {} %, and one of them in {} %.",
        samples.under,
        percent(*one),
        samples.pass_at.len(),
        percent(samples.vote.rate()?),
        percent(*all)
    ))
}

/// Where each step's value can be read best, and whether it could before thinking.
fn readable(model: &ModelRecord) -> Option<String> {
    let best = model.readings.as_ref()?.best_probes();
    let steps: std::collections::BTreeSet<usize> = best.iter().map(|probe| probe.step).collect();
    let of_step = |step: usize| {
        let probes = best.iter().copied().filter(|probe| probe.step == step);
        let (thinking, before): (Vec<_>, Vec<_>) = probes.partition(|probe| probe.position > 0);
        let rate = |probe: &ProbeReading| probe.right.rate().unwrap_or(0.0);
        let top = thinking.into_iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
        let before = before
            .first()
            .map_or(String::new(), |probe| format!(", {} % before thinking", percent(rate(probe))));
        let chance = percent(top.most_frequent.rate()?);
        let at = top.position;
        Some(match top.p_corrected < LEVEL {
            true => format!(
                "of step {step} {} % at latent {at} (always the most frequent: {chance} %{before})",
                percent(rate(top))
            ),
            false => format!("of step {step} none beyond chance"),
        })
    };
    let parts: Vec<String> = steps.into_iter().filter_map(of_step).collect();
    (!parts.is_empty()).then(|| {
        format!(
            "Of the steps' values, linear probes that never saw the question read: {}.",
            parts.join("; ")
        )
    })
}

/// That one run of each method says nothing of methods.
fn seeds(models: &[ModelRecord]) -> Option<String> {
    let methods = |role| models.iter().filter(move |model| model.role == role);
    let compared = methods(Role::Control).next().is_some();
    (compared && methods(Role::Seed).next().is_none()).then(|| {
        "There is one run of each method: what differs between them may be the seed's doing, not the method's; `--seeds-of` takes more.".into()
    })
}

/// A control beside the model, at the replacement of all thoughts by means.
fn beside(audited: &ModelRecord, control: &ModelRecord) -> Option<String> {
    let mean = Intervention::edit(With::Mean, Places::All);
    let (own, its) = (audited.cell(mean)?, control.cell(mean)?);
    Some(format!(
        "The control {} answers {} % rightly; `{mean}` moves it by {} points, and the model by {}.",
        control.name,
        percent(control.plain.rate()?),
        points(its.difference),
        points(own.difference),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A model of 100 right answers of 100, and the right answers that each intervention leaves.
    fn model(left: &[(&str, usize)]) -> ModelRecord {
        let rate = |hits| json!({"hits": hits, "n": 100});
        let cell = |&(intervention, hits): &(&str, usize)| {
            json!({
                "intervention": intervention, "right": rate(hits), "plain": rate(100),
                "difference": (hits as f64 - 100.0) / 100.0, "difference_interval": [-0.9, 0.0],
                "p": if hits < 90 { 0.0 } else { 1.0 }, "p_holm": if hits < 90 { 0.0 } else { 1.0 },
                "tokens": 3.0, "plain_tokens": 3.0, "changed": rate(100 - hits),
                "log_prob": null, "log_prob_interval": null,
            })
        };
        let cells: Vec<_> = left.iter().map(cell).collect();
        let record = json!({
            "name": "m", "role": "audited", "method": "coconut", "stage": 1, "thoughts": 2,
            "plain": rate(100), "cells": cells, "sufficiency": null,
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn harm_of_vectors_unlike_any_thought_is_no_effect_of_what_thoughts_hold() {
        let others = [
            ("noise[1.0]@question", 20),
            ("mean@all", 100),
            ("transplant@all", 99),
            ("zero@all", 0),
        ];
        let said = words(&[model(&others)]).join(" ");
        assert!(said.contains("No effect of what the thoughts hold was shown: of other questions' thoughts in their place the worst, `transplant@all`"), "{said}");
        assert!(
            said.contains("`zero@all` leaves") && said.contains("unlike any thought"),
            "{said}"
        );
        let said = words(&[model(&[("noise[1.0]@question", 20), ("mean@all", 10)])]).join(" ");
        assert!(
            said.contains(
                "It matters what the thoughts hold: `mean@all` leaves 10.0 instead of 100.0 %"
            ),
            "{said}"
        );
        // Where even noise on the question does nothing, nothing can be told.
        let said = words(&[model(&[("noise[1.0]@question", 100), ("mean@all", 100)])]).join(" ");
        assert!(said.contains("shows nothing") && said.contains("could not be told"), "{said}");
        assert!(!said.contains("one run of each"), "{said}");
        let control = ModelRecord { role: Role::Control, ..model(&[]) };
        let said = words(&[model(&[]), control]).join(" ");
        assert!(said.contains("There is one run of each method"), "{said}");
    }

    #[test]
    fn what_a_model_without_thoughts_answers_too_is_counted_apart() {
        let cell = |intervention, paired, stay, fall| json!({"intervention": intervention, "paired": paired, "p": 0.0, "p_holm": 0.0, "stay": stay, "fall": fall});
        let paired = |both, only_a, only_b, neither| json!({"both": both, "only_a": only_a, "only_b": only_b, "neither": neither});
        let direct = json!({
            "name": "d", "method": "no_cot", "stage": 0, "as_it_is": paired(30, 70, 0, 0), "p": 0.0,
            "cells": [
                cell("mean@all", paired(25, 15, 5, 55), json!({"hits": 25, "n": 40}), json!({"hits": 5, "n": 60})),
                cell("transplant@all", paired(30, 60, 0, 10), json!({"hits": 30, "n": 90}), json!({"hits": 0, "n": 10})),
            ],
        });
        let mut model = model(&[("noise[1.0]@question", 20), ("mean@all", 40), ("early[0]", 30)]);
        let said = words(std::slice::from_ref(&model)).join(" ");
        assert!(
            said.contains("given as `--direct`") && !said.contains("Trained without"),
            "{said}"
        );
        model.direct = serde_json::from_value(direct).unwrap();
        let said = words(&[model]).join(" ");
        for part in [
            "Trained without thoughts (`no_cot`, d), a model answers 30.0 % of the same 100 questions rightly, where this one answers 100.0 %",
            "Of the 100 questions that it has right as it is, under `mean@all` 40 stay right, of which 25 are right without thoughts too, and 60 fall, of which 5 are. ",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
    }
}
