//! What two configurations have in common.

use std::path::{Component, Path};

use serde_json::Value;

use super::RunConfig;

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

    /// Whether two runs answer the same test questions, so that their answers can be compared one by one.
    /// Generated test questions do not depend on a run's seed.
    pub fn same_questions(&self, other: &Self) -> bool {
        self.questions() == other.questions()
    }

    /// The keys that decide which test questions there are.
    fn questions(&self) -> impl PartialEq {
        let task = (&self.task, self.operands, &self.operators, self.operations, self.modulus);
        let more = (self.value_steps, self.digits, self.nodes, self.distance);
        let path = self.val_path.as_deref().map(|path| parts(path).collect::<Vec<_>>());
        (task, more, path, self.val_examples, self.debug)
    }
}

/// A path's parts, without the dots that mean the folder itself.
fn parts(path: &Path) -> impl Iterator<Item = Component<'_>> {
    path.components().filter(|part| *part != Component::CurDir)
}
