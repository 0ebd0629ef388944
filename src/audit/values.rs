//! The values that a question's steps work out, and at which thoughts they would be expected.

use crate::{
    data::{Curriculum, Example, RowKind, Stage},
    eval::Evaluator,
};

/// For each question, what its steps work out, and the step that each of its thoughts stands for.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// By question and step.
    pub of_steps: Vec<Vec<String>>,
    /// By question and place: the step's number.
    steps: Vec<Vec<Option<usize>>>,
}

impl Values {
    /// Of an evaluator's questions, which have `places` thoughts each.
    pub fn new(evaluator: &Evaluator<'_>, stage: Stage, places: &[usize]) -> Self {
        let examples = &evaluator.data.examples;
        let of = |(example, &places): (&Example, &usize)| {
            let replaced = evaluator.curriculum.n_replaced(stage).min(example.steps.len());
            let replaced = match evaluator.curriculum.row {
                RowKind::Fixed => example.steps.len(),
                _ => replaced,
            };
            (0..places)
                .map(|place| step_of(&evaluator.curriculum, replaced, places, place))
                .collect()
        };
        Self {
            of_steps: examples
                .iter()
                .map(|e| e.steps.iter().map(|step| value(step)).collect())
                .collect(),
            steps: examples.iter().zip(places).map(of).collect(),
        }
    }

    /// Of some questions those that have a step: where they stand among them, and which they are.
    pub fn having(&self, questions: &[usize], step: usize) -> Vec<(usize, usize)> {
        let numbered = questions.iter().copied().enumerate();
        numbered.filter(|(_, question)| self.of_steps[*question].len() > step).collect()
    }

    /// What the step that a thought stands for works out.
    pub fn at(&self, question: usize, place: usize) -> Option<&str> {
        let step = (*self.steps[question].get(place)?)?;
        self.of_steps[question].get(step).map(String::as_str)
    }

    /// The step that a thought stands for.
    pub fn step(&self, question: usize, place: usize) -> Option<usize> {
        *self.steps[question].get(place)?
    }
}

/// The step that a thought stands for, of those that gave way to thoughts: in blocks of `c_thought` where rows have
/// them, else spread evenly.
fn step_of(curriculum: &Curriculum, replaced: usize, places: usize, place: usize) -> Option<usize> {
    let step = match curriculum.row {
        RowKind::Fixed => place * replaced / places.max(1),
        _ => place / curriculum.c_thought.max(1),
    };
    (step < replaced).then_some(step)
}

/// What a step works out: what stands after its last `=`, or else its last word, without marks around it.
pub fn value(step: &str) -> String {
    let end = step
        .rsplit_once('=')
        .map_or_else(|| step.split_whitespace().next_back().unwrap_or(""), |(_, value)| value);
    end.trim_matches(|c: char| c.is_whitespace() || "<>.,;:!?\"'()".contains(c)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_steps_by_hand() {
        let expected = [
            ("<<5*3=15>>", "15"),
            ("8", "8"),
            ("Every wumpus is a lorpus.", "lorpus"),
            ("a = b = 3.5", "3.5"),
            ("n4 n9", "n9"),
            ("", ""),
            ("=", ""),
            ("-12", "-12"),
        ];
        for (step, right) in expected {
            assert_eq!(value(step), right, "{step}");
        }
    }
}
