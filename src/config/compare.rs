//! What two configurations have in common.

use std::path::{Component, Path};

use serde_json::Value;

use super::{RunConfig, ScheduleKind};
use crate::{
    data::{Method, RowKind},
    latent::Thinking,
};

impl RunConfig {
    /// The keys in which two configurations differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        // `./data.json` is `data.json`.
        let same = |ours: &Value, theirs: &Value| match (ours.as_str(), theirs.as_str()) {
            (Some(ours), Some(theirs)) => parts(Path::new(ours)).eq(parts(Path::new(theirs))),
            _ => ours == theirs,
        };
        let (ours, theirs) = (self.to_keys(), other.to_keys());
        ours.into_iter()
            .filter(|(key, value)| !theirs.get(key).is_some_and(|other| same(value, other)))
            .map(|(key, _)| key)
            .collect()
    }

    /// Keys that were given and change nothing, each with the reason.
    pub fn unused(&self) -> Vec<String> {
        let usual = Self::default();
        let of_model =
            self.model_key().into_iter().flat_map(|model| self.beside_model(&usual, model));
        let idle = self.idle(&usual).into_iter().filter(|(_, given, _)| *given);
        let idle = idle.map(|(key, _, needs)| format!("`{key}` changes nothing without {needs}"));
        of_model.chain(idle).collect()
    }

    /// Keys of the grid, whether each is given beside a choice that it says nothing to, and the choice that it needs.
    fn idle(&self, usual: &Self) -> [(&'static str, bool, &'static str); 15] {
        let parallel = self.thinking == Thinking::Parallel;
        let tokenwise = self.schedule == ScheduleKind::Tokenwise;
        let taught = self.teaches();
        let follows = self.loss_kv > 0.0;
        let words = matches!(self.method, Method::Cot | Method::NoCot);
        let staged = matches!(self.row, RowKind::Stages | RowKind::Blocks);
        let (in_parallel, by_tokens) = ("`thinking: parallel`", "`schedule: tokenwise`");
        [
            ("iterations", !parallel && self.iterations != usual.iterations, in_parallel),
            ("latent_shift", !parallel && self.latent_shift != usual.latent_shift, in_parallel),
            ("latent_residual", !parallel && self.latent_residual, in_parallel),
            (
                "gate_accuracy",
                self.schedule != ScheduleKind::Gated && self.gate_accuracy != usual.gate_accuracy,
                "`schedule: gated`",
            ),
            ("removal_smoothing", !tokenwise && self.removal_smoothing > 0.0, by_tokens),
            (
                "removed_per_epoch",
                !tokenwise && self.removed_per_epoch != usual.removed_per_epoch,
                by_tokens,
            ),
            (
                "remove_all_from",
                !tokenwise && self.remove_all_from != usual.remove_all_from,
                by_tokens,
            ),
            (
                "distil_layers",
                self.loss_distil == 0.0 && self.distil_layers != usual.distil_layers,
                "`loss_distil`",
            ),
            (
                "teacher_last_step",
                !taught && self.teacher_last_step,
                "`loss_teacher`, `loss_distil` or `loss_kv`",
            ),
            ("kv_importance", !follows && self.kv_importance != usual.kv_importance, "`loss_kv`"),
            ("kv_distance", !follows && self.kv_distance != usual.kv_distance, "`loss_kv`"),
            ("kv_by_std", !follows && self.kv_by_std != usual.kv_by_std, "`loss_kv`"),
            ("steps_cut", self.loss_steps == 0.0 && !self.steps_cut, "`loss_steps`"),
            ("row", words && self.row != usual.row, "a method whose rows have latents"),
            ("uniform_prob", !staged && self.uniform_prob > 0.0, "`row: stages` or `blocks`"),
        ]
    }

    fn beside_model(&self, usual: &Self, model: &str) -> Vec<String> {
        let given = [
            ("n_layer", self.n_layer != usual.n_layer),
            ("n_embd", self.n_embd != usual.n_embd),
            ("n_head", self.n_head != usual.n_head),
            ("n_positions", self.n_positions.is_some()),
            ("dropout", self.dropout != usual.dropout),
            ("initializer_range", self.initializer_range != usual.initializer_range),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        given
            .map(|(key, _)| format!("`{key}` is ignored: the model's own comes with `{model}`"))
            .collect()
    }

    /// Whether two runs answer the same test questions, so that their answers can be compared one by one.
    /// Generated test questions do not depend on a run's seed.
    pub fn same_questions(&self, other: &Self) -> bool {
        self.questions() == other.questions()
    }

    /// The keys that decide which test questions there are.
    fn questions(&self) -> impl PartialEq {
        let path = self.val_path.as_deref().map(|path| parts(path).collect::<Vec<_>>());
        (self.task().ok(), path, self.val_examples, self.debug)
    }
}

/// A path's parts, without the dots that mean the folder itself.
fn parts(path: &Path) -> impl Iterator<Item = Component<'_>> {
    path.components().filter(|part| *part != Component::CurDir)
}
