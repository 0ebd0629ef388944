//! What values are allowed, and which keys need one another.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::{RunConfig, ScheduleKind};
use crate::{
    data::RowKind,
    device::DeviceName,
    latent::{Compat, Iterations, LatentPositions, Shift, Thinking},
    model::{config::Family, lora::FrozenDtype},
    objective::{DecoderStyle, StepsAt},
};

/// The key at fault, and what is wrong with it.
type Fault = (&'static str, String);

impl RunConfig {
    /// The first key at fault, and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.check_counts()?;
        self.check_numbers()?;
        self.check_model()?;
        self.check_adapters()?;
        self.check_losses()?;
        self.check_grid()?;
        self.check_decoder()?;
        self.check_files()?;
        self.check_methods()
    }

    fn check_counts(&self) -> Result<(), Fault> {
        const ANY: usize = usize::MAX;
        const MANY: usize = 1 << 20;
        let counts: [(&str, usize, RangeInclusive<usize>); 17] = [
            ("batch_size_training", self.batch_size_training, 1..=MANY),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps, 1..=MANY),
            ("num_epochs", self.num_epochs, 1..=MANY),
            ("n_layer", self.n_layer, 1..=ANY),
            ("n_head", self.n_head, 1..=ANY),
            ("n_embd", self.n_embd, 1..=ANY),
            ("eval_batch_size", self.eval_batch_size, 1..=ANY),
            ("max_new_tokens", self.max_new_tokens, 1..=ANY),
            ("c_thought", self.c_thought, 0..=1000),
            ("max_latent_stage", self.max_latent_stage, 0..=1000),
            ("decoder_layers", self.decoder_layers.unwrap_or(1), 1..=ANY),
            ("seq_vcr_dim", self.seq_vcr_dim.unwrap_or(1), 1..=ANY),
            ("train_examples", self.train_examples, 1..=ANY),
            ("val_examples", self.val_examples, 1..=ANY),
            ("max_size", self.max_size.unwrap_or(1), 1..=ANY),
            ("removed_per_epoch", self.removed_per_epoch, 1..=MANY),
            ("remove_all_from", self.remove_all_from, 1..=MANY),
        ];
        for (key, value, range) in counts {
            if value < *range.start() {
                return Err((key, format!("is {value}; it must be at least {}", range.start())));
            }
            if value > *range.end() {
                return Err((key, format!("is {value}; it must be at most {}", range.end())));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), Fault> {
        const ANY: f64 = f64::MAX;
        let numbers: [(&str, f64, RangeInclusive<f64>); 23] = [
            ("uniform_prob", self.uniform_prob, 0.0..=1.0),
            ("dropout", self.dropout, 0.0..=0.99),
            ("lora_dropout", self.lora_dropout, 0.0..=0.99),
            ("lora_alpha", self.lora_alpha.unwrap_or(1.0), f64::MIN_POSITIVE..=ANY),
            ("lr", self.lr, 0.0..=ANY),
            ("weight_decay", self.weight_decay, 0.0..=ANY),
            ("grad_clip", self.grad_clip, 0.0..=ANY),
            ("initializer_range", self.initializer_range, 0.0..=ANY),
            ("suppressed_epsilon", self.suppressed_epsilon, 0.0..=ANY),
            ("seq_vcr_lambda1", self.seq_vcr_lambda1, 0.0..=ANY),
            ("seq_vcr_lambda2", self.seq_vcr_lambda2, 0.0..=ANY),
            ("seq_vcr_eta", self.seq_vcr_eta, 0.0..=ANY),
            ("loss_answer", self.loss_answer, 0.0..=ANY),
            ("loss_steps", self.loss_steps, 0.0..=ANY),
            ("loss_teacher", self.loss_teacher, 0.0..=ANY),
            ("loss_distil", self.loss_distil, 0.0..=ANY),
            ("loss_kv", self.loss_kv, 0.0..=ANY),
            ("kv_importance", self.kv_importance, 0.0..=1.0),
            ("loss_decoder", self.loss_decoder, 0.0..=ANY),
            ("gate_accuracy", self.gate_accuracy, 0.0..=1.0),
            ("removal_smoothing", self.removal_smoothing, 0.0..=ANY),
            ("betas", self.betas[0], 0.0..=0.999_999),
            ("betas", self.betas[1], 0.0..=0.999_999),
        ];
        for (key, value, range) in numbers {
            if !range.contains(&value) {
                let end = match *range.end() {
                    ANY => "infinity".into(),
                    end => end.to_string(),
                };
                let problem = format!("is {value}; it must lie in {} to {end}", range.start());
                return Err((key, problem));
            }
        }
        Ok(())
    }

    fn check_model(&self) -> Result<(), Fault> {
        if self.model_key().is_none() {
            self.thinking().check(self.n_layer, Family::Gpt2)?;
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let problem =
                format!("is {}; it must be a multiple of `n_head` ({})", self.n_embd, self.n_head);
            return Err(("n_embd", problem));
        }
        let narrow =
            [("bf16", self.bf16), ("frozen_dtype", self.frozen_dtype == FrozenDtype::Bf16)];
        match narrow.into_iter().find(|&(_, asked)| asked && self.device != DeviceName::Cpu) {
            Some((key, _)) => {
                let device = self.device;
                Err((
                    key,
                    format!(
                        "asks for bf16, which is for `device: cpu`, not `{device}`; leave it out"
                    ),
                ))
            }
            None => Ok(()),
        }
    }

    fn check_adapters(&self) -> Result<(), Fault> {
        if self.lora_rank > 0 {
            let problem = "asks for adapters on a model from random weights; name a pretrained one with `model_id` or `load_model_path`";
            return self.model_key().map(drop).ok_or(("lora_rank", problem.into()));
        }
        let unused = [
            ("lora_alpha", self.lora_alpha.is_some()),
            ("lora_dropout", self.lora_dropout != 0.0),
            ("lora_target_modules", self.lora_target_modules.is_some()),
            ("frozen_dtype", self.frozen_dtype != FrozenDtype::F32),
        ];
        match unused.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => {
                Err((key, "is given without `lora_rank`; add one, such as 16".into()))
            }
            None => Ok(()),
        }
    }

    fn check_losses(&self) -> Result<(), Fault> {
        if self.loss_seq_vcr && self.batch_size_training < 2 {
            let problem = format!(
                "is {}; Seq-VCR compares the rows of a batch (`loss_seq_vcr: True`), so it needs at least 2",
                self.batch_size_training
            );
            return Err(("batch_size_training", problem));
        }
        Ok(())
    }

    /// Which choices of rows, thinking, losses and schedules go together.
    fn check_grid(&self) -> Result<(), Fault> {
        self.check_rows()?;
        self.check_step_loss()?;
        self.check_kv_loss()?;
        self.check_thinking()
    }

    /// Whether rows hold latents.
    fn has_latents(&self) -> bool {
        self.method.has_latents() && self.row != RowKind::Tokenwise
    }

    /// Whether rows hold latents at some stage.
    fn has_some_latents(&self) -> bool {
        let stages = self.row == RowKind::Fixed || self.max_latent_stage > 0;
        self.has_latents() && self.c_thought > 0 && stages
    }

    /// Whether examples are encoded as graphs rather than as text.
    pub(super) fn encodes_graphs(&self) -> bool {
        self.tokenizer.as_deref().or(self.task.as_deref()) == Some("graph")
    }

    fn check_rows(&self) -> Result<(), Fault> {
        let clash = |key: &'static str, problem: String| Err((key, problem));
        if self.thinking != Thinking::None && !self.has_latents() {
            let problem = format!(
                "is set, but rows of `method: {}` and `row: {}` hold no latents; set `thinking: none`",
                self.method,
                word(self.row)
            );
            return clash("thinking", problem);
        }
        if (self.schedule == ScheduleKind::Tokenwise) != (self.row == RowKind::Tokenwise) {
            let problem = format!(
                "is `{}` beside `row: {}`; rows that lose token by token need `schedule: tokenwise`, and no others do",
                word(self.schedule),
                word(self.row)
            );
            return clash("schedule", problem);
        }
        if self.loss_steps > 0.0 && self.encodes_graphs() {
            return clash("loss_steps", graphs_as_text("needs"));
        }
        if self.row == RowKind::Tokenwise && self.encodes_graphs() {
            return clash("row", graphs_as_text("is `tokenwise`, which needs"));
        }
        Ok(())
    }

    fn check_step_loss(&self) -> Result<(), Fault> {
        let clash = |key: &'static str, problem: String| Err((key, problem));
        if self.loss_steps > 0.0 && (!self.has_latents() || self.row == RowKind::Fixed) {
            let problem = format!(
                "is set, but latents of `method: {}` and `row: {}` stand for no step of their own; use `row: stages` or `blocks`",
                self.method,
                word(self.row)
            );
            return clash("loss_steps", problem);
        }
        if self.loss_steps > 0.0 && !self.has_some_latents() {
            let problem =
                "is set, but there are no latents (`c_thought` or `max_latent_stage` is 0)";
            return clash("loss_steps", problem.into());
        }
        if self.steps_at == StepsAt::Own && self.thinking != Thinking::Parallel {
            let problem =
                "is `own`, but iterations are those of `thinking: parallel`; leave it out";
            return clash("steps_at", problem.into());
        }
        if self.steps_at == StepsAt::Own && self.iterations != Iterations::Stage {
            let problem = "is `own`, which needs an iteration for each block: `iterations: stage`";
            return clash("steps_at", problem.into());
        }
        Ok(())
    }

    /// Whether rows have teachers.
    pub(super) fn teaches(&self) -> bool {
        [self.loss_teacher, self.loss_distil, self.loss_kv].iter().any(|&weight| weight > 0.0)
    }

    fn check_kv_loss(&self) -> Result<(), Fault> {
        if self.loss_kv == 0.0 {
            return Ok(());
        }
        let clash = |problem: String| Err(("loss_kv", problem));
        if self.row != RowKind::Fixed {
            let problem = format!(
                "is set, but only the latents of `row: fixed` stand for all steps, whose keys and values they could follow; not those of `row: {}`",
                word(self.row)
            );
            return clash(problem);
        }
        if !self.has_some_latents() {
            return clash("is set, but there are no latents (`c_thought` is 0)".into());
        }
        if self.task.as_deref() == Some("graph") {
            return clash("needs steps written as text; graphs have none".into());
        }
        Ok(())
    }

    fn check_thinking(&self) -> Result<(), Fault> {
        let parallel = self.thinking == Thinking::Parallel;
        let teaches = self.teaches();
        let clash = |key: &'static str, problem: String| Err((key, problem));
        if parallel && self.compat == Compat::Replication {
            return clash("compat", "is `replication`, which thinks one after the other".into());
        }
        let offset =
            matches!(self.latent_positions, LatentPositions::Offset(_) | LatentPositions::None);
        if parallel && !offset {
            let problem = format!(
                "is `{}`, which is not available with `thinking: parallel`; choose none or an offset",
                self.latent_positions
            );
            return clash("latent_positions", problem);
        }
        if self.n_detached_recursions > 0 && (parallel || teaches) {
            let problem =
                "is not available with `thinking: parallel` or with teachers' rows; leave it out";
            return clash("n_detached_recursions", problem.into());
        }
        if teaches && self.compat == Compat::Replication {
            return clash("compat", "is `replication`, which has no teachers' rows".into());
        }
        Ok(())
    }

    /// Which choices go together with a step decoder.
    fn check_decoder(&self) -> Result<(), Fault> {
        let Some(style) = self.step_decoder else {
            let given = [
                ("loss_decoder", self.loss_decoder != 1.0),
                ("decoder_layers", self.decoder_layers.is_some()),
            ];
            if self.compat == Compat::Simcot {
                return Err(("compat", "is `simcot`, which needs `step_decoder: codi`".into()));
            }
            let problem = "is given without `step_decoder`; add one, `coconut` or `codi`";
            let given = given.into_iter().find(|(_, given)| *given);
            return given.map_or(Ok(()), |(key, _)| Err((key, problem.into())));
        };
        let clash = |problem: String| Err(("step_decoder", problem));
        let parallel = self.thinking == Thinking::Parallel;
        let fed = self.thinking != Thinking::None && self.has_some_latents();
        if !fed || (parallel && self.iterations == Iterations::Times(0)) {
            return clash("is set, but nothing is fed to latents that it could read".into());
        }
        let of_codi = style == DecoderStyle::Codi;
        if self.compat == Compat::Simcot && !of_codi {
            let problem = "is `simcot`, which is about `step_decoder: codi`; leave it out";
            return Err(("compat", problem.into()));
        }
        if of_codi != (self.row == RowKind::Fixed) {
            let problem = format!(
                "is `{}` beside `row: {}`; `codi` reads the thoughts of `row: fixed` one by one, and `coconut` those of other rows in blocks",
                word(style),
                word(self.row)
            );
            return clash(problem);
        }
        if of_codi && parallel && self.latent_shift == Shift::Own {
            let problem = "is `codi`, which reads what the last latent would pass on; thinking in parallel, that needs `latent_shift: 1`";
            return clash(problem.into());
        }
        if self.compat == Compat::Replication {
            return Err(("compat", "is `replication`, which has no step decoder".into()));
        }
        if self.n_detached_recursions > 0 {
            let problem = "is not available with a `step_decoder`; leave it out";
            return Err(("n_detached_recursions", problem.into()));
        }
        match self.decoder_layers {
            Some(blocks) if self.model_key().is_none() && blocks > self.n_layer => {
                Err(("decoder_layers", too_many_blocks(blocks, self.n_layer)))
            }
            _ => Ok(()),
        }
    }

    fn check_files(&self) -> Result<(), Fault> {
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            return Err(("name", format!("is `{}`; it must be a plain folder name", self.name)));
        }
        let missing = "is missing; name a file of examples, or a `task` to generate";
        if self.task.is_none() && self.val_path.is_none() {
            return Err(("val_path", missing.into()));
        }
        if self.task.is_none() && self.train_path.is_none() && !self.only_eval {
            return Err(("train_path", missing.into()));
        }
        if self.only_eval && self.val_path.is_none() {
            return Err(("val_path", "is missing; `only_eval` needs a file of examples".into()));
        }
        if self.only_eval && self.load_model_path.is_none() {
            let problem = "is missing; `only_eval` needs the checkpoint to evaluate";
            return Err(("load_model_path", problem.into()));
        }
        Ok(())
    }

    fn check_methods(&self) -> Result<(), Fault> {
        if self.resume >= self.num_epochs {
            let problem = format!(
                "is {}; it must be less than `num_epochs` ({})",
                self.resume, self.num_epochs
            );
            return Err(("resume", problem));
        }
        let repeated =
            (1..self.baselines.len()).any(|i| self.baselines[..i].contains(&self.baselines[i]));
        if repeated {
            return Err(("baselines", "names a method twice".into()));
        }
        if (1..self.tracker.len()).any(|i| self.tracker[..i].contains(&self.tracker[i])) {
            return Err(("tracker", "names a tracker twice".into()));
        }
        if self.baselines.contains(&self.method) {
            return Err(("baselines", "names the method itself; list other methods".into()));
        }
        Ok(())
    }
}

fn graphs_as_text(needs: &str) -> String {
    format!("{needs} steps written as text; graphs have them with `tokenizer: symbols`")
}

/// What is wrong with a decoder of more blocks than the model has.
pub(crate) fn too_many_blocks(blocks: usize, n_layer: usize) -> String {
    format!("is {blocks}, but the model has {n_layer} blocks to copy; leave it out for all of them")
}

/// A choice as the recipe writes it.
fn word(choice: impl Serialize) -> String {
    let value = serde_json::to_value(choice).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
