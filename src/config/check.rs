//! What values are allowed, and which keys need one another.

use super::RunConfig;
use crate::model::lora::Frozen;

impl RunConfig {
    /// The first key at fault, and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let at_least = |key: &'static str, value: usize, least: usize| {
            if value < least {
                Err((key, format!("is {value}; it must be at least {least}")))
            } else {
                Ok(())
            }
        };
        at_least("batch_size_training", self.batch_size_training, 1)?;
        at_least("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)?;
        at_least("num_epochs", self.num_epochs, 1)?;
        at_least("n_layer", self.n_layer, 1)?;
        at_least("n_head", self.n_head, 1)?;
        at_least("n_embd", self.n_embd, 1)?;
        at_least("eval_batch_size", self.eval_batch_size, 1)?;
        at_least("max_new_tokens", self.max_new_tokens, 1)?;
        for (key, value) in
            [("c_thought", self.c_thought), ("max_latent_stage", self.max_latent_stage)]
        {
            if value > 1000 {
                return Err((key, format!("is {value}; it must be at most 1000")));
            }
        }
        if self.model_id.is_none() && self.load_model_path.is_none() {
            self.thinking().check(self.n_layer, "gpt2")?;
        }
        if self.lora_rank == 0 {
            let unused = [
                ("lora_alpha", self.lora_alpha.is_some()),
                ("lora_dropout", self.lora_dropout != 0.0),
                ("lora_target_modules", self.lora_target_modules.is_some()),
                ("frozen_dtype", self.frozen_dtype != Frozen::F32),
            ];
            if let Some((key, _)) = unused.into_iter().find(|(_, given)| *given) {
                return Err((key, "is given without `lora_rank`; add one, such as 16".into()));
            }
        } else if self.model_id.is_none() && self.load_model_path.is_none() {
            let problem = "asks for adapters on a model from random weights; name a pretrained one with `model_id` or `load_model_path`";
            return Err(("lora_rank", problem.into()));
        }
        if self.bf16 && self.device != "cpu" {
            let problem = format!("is for `device: cpu`, not `{}`; leave it out", self.device);
            return Err(("bf16", problem));
        }
        at_least("seq_vcr_dim", self.seq_vcr_dim.unwrap_or(1), 1)?;
        if self.loss_seq_vcr && self.batch_size_training < 2 {
            let problem = format!(
                "is {}; Seq-VCR compares the rows of a batch (`loss_seq_vcr: True`), so it needs at least 2",
                self.batch_size_training
            );
            return Err(("batch_size_training", problem));
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let problem =
                format!("is {}; it must be a multiple of `n_head` ({})", self.n_embd, self.n_head);
            return Err(("n_embd", problem));
        }
        for (key, value, range) in [
            ("uniform_prob", self.uniform_prob, 0.0..=1.0),
            ("dropout", self.dropout, 0.0..=0.99),
            ("lora_dropout", self.lora_dropout, 0.0..=0.99),
            ("lora_alpha", self.lora_alpha.unwrap_or(1.0), f64::MIN_POSITIVE..=f64::MAX),
            ("lr", self.lr, 0.0..=f64::MAX),
            ("weight_decay", self.weight_decay, 0.0..=f64::MAX),
            ("grad_clip", self.grad_clip, 0.0..=f64::MAX),
            ("initializer_range", self.initializer_range, 0.0..=f64::MAX),
            ("suppressed_epsilon", self.suppressed_epsilon, 0.0..=f64::MAX),
            ("seq_vcr_lambda1", self.seq_vcr_lambda1, 0.0..=f64::MAX),
            ("seq_vcr_lambda2", self.seq_vcr_lambda2, 0.0..=f64::MAX),
            ("seq_vcr_eta", self.seq_vcr_eta, 0.0..=f64::MAX),
            ("betas", self.betas[0], 0.0..=0.999_999),
            ("betas", self.betas[1], 0.0..=0.999_999),
        ] {
            if !range.contains(&value) {
                let problem = format!(
                    "is {value}; it must lie in {} to {}",
                    range.start(),
                    bound(*range.end())
                );
                return Err((key, problem));
            }
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            return Err(("name", format!("is `{}`; it must be a plain folder name", self.name)));
        }
        if self.task.is_none() && self.val_path.is_none() {
            return Err((
                "val_path",
                "is missing; name a file of examples, or a `task` to generate".into(),
            ));
        }
        if self.task.is_none() && self.train_path.is_none() && !self.only_eval {
            return Err((
                "train_path",
                "is missing; name a file of examples, or a `task` to generate".into(),
            ));
        }
        if self.only_eval && self.load_model_path.is_none() {
            return Err((
                "load_model_path",
                "is missing; `only_eval` needs the checkpoint to evaluate".into(),
            ));
        }
        at_least("train_examples", self.train_examples, 1)?;
        at_least("val_examples", self.val_examples, 1)?;
        at_least("max_size", self.max_size.unwrap_or(1), 1)?;
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
        if self.baselines.contains(&self.method) {
            return Err(("baselines", "names the method itself; list other methods".into()));
        }
        Ok(())
    }
}

fn bound(end: f64) -> String {
    if end == f64::MAX { "infinity".into() } else { end.to_string() }
}
