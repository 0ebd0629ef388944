//! What probes are given: features, labels, folds.

use crate::{Error, Result, rng};
use faer::Mat;
use rand::seq::SliceRandom;

/// One vector a question, `[n, d]`.
#[derive(Clone, Debug)]
pub struct Features(pub(super) Mat<f64>);

impl Features {
    /// Of rows of width `d`, one after the other.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are none, they are not of one width, or a number is not finite.
    pub fn new(rows: &[f32], d: usize) -> Result<Self> {
        if d == 0 || rows.is_empty() || !rows.len().is_multiple_of(d) {
            return Err(Error::Usage(format!(
                "A probe takes one vector a question: {} numbers are no rows of {d}.",
                rows.len()
            )));
        }
        if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
            return Err(Error::Usage(format!(
                "The vector of question {} is not finite ({} at dimension {}): no probe can be fitted. The model \
                 that computed it has diverged; take an earlier checkpoint.",
                at / d + 1,
                rows[at],
                at % d + 1
            )));
        }
        Ok(Self(Mat::from_fn(rows.len() / d, d, |row, column| f64::from(rows[row * d + column]))))
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.0.nrows()
    }

    /// Whether there are no questions; there always are.
    pub fn is_empty(&self) -> bool {
        self.0.nrows() == 0
    }
}

/// One class a question, numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    pub(super) of: Vec<usize>,
    pub(super) n_classes: usize,
}

impl Labels {
    /// The classes of values, numbered in the values' order.
    ///
    /// # Errors
    /// [`Error::Usage`] if all values are one: there is nothing to tell apart.
    pub fn new<T: Ord>(values: &[T]) -> Result<Self> {
        let mut classes: Vec<&T> = values.iter().collect();
        classes.sort();
        classes.dedup();
        if classes.len() < 2 {
            return Err(Error::Usage(format!(
                "A probe tells values apart, and here {} questions have {} value{}.",
                values.len(),
                classes.len(),
                if classes.len() == 1 { "" } else { "s" }
            )));
        }
        let class = |value| classes.binary_search(&value).unwrap_or_default();
        Ok(Self { of: values.iter().map(class).collect(), n_classes: classes.len() })
    }

    /// Each question's class.
    pub fn classes(&self) -> &[usize] {
        &self.of
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// The same labels, question i with that of question `order[i]`.
    pub(super) fn permuted(&self, order: &[usize]) -> Self {
        Self { of: order.iter().map(|&from| self.of[from]).collect(), n_classes: self.n_classes }
    }
}

/// A partition of questions: each is held out once, with its fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folds {
    of: Vec<usize>,
    count: usize,
}

impl Folds {
    /// Folds in which each class has its share, to one question; so are the folds' sizes. The same seed gives the
    /// same folds.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than two folds or more folds than questions.
    pub fn stratified(labels: &Labels, count: usize, seed: u64) -> Result<Self> {
        let mut by_class = vec![Vec::new(); labels.n_classes];
        labels.of.iter().enumerate().for_each(|(question, &class)| by_class[class].push(question));
        Self::dealt(by_class, count, seed)
    }

    /// Folds whatever the labels, for several targets that share them, and for numbers.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than two folds or more folds than questions.
    pub fn shuffled(n: usize, count: usize, seed: u64) -> Result<Self> {
        Self::dealt(vec![(0..n).collect()], count, seed)
    }

    /// Question i in fold `of[i]`.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than two folds, or one without questions.
    pub fn given(of: Vec<usize>) -> Result<Self> {
        let count = of.iter().max().map_or(0, |last| last + 1);
        let empty = count > of.len() || (0..count).any(|fold| !of.contains(&fold));
        if count < 2 || empty {
            return Err(Error::Usage(format!(
                "Cross-validation needs two folds or more, numbered from 0, each with questions; {} questions were \
                 dealt into {count}.",
                of.len()
            )));
        }
        Ok(Self { of, count })
    }

    /// Each group is shuffled and dealt out where the one before it ended.
    fn dealt(groups: Vec<Vec<usize>>, count: usize, seed: u64) -> Result<Self> {
        let n: usize = groups.iter().map(Vec::len).sum();
        if count < 2 || count > n {
            return Err(Error::Usage(format!(
                "{n} questions cannot be dealt into {count} folds: take 2 folds or more, and at least as many \
                 questions."
            )));
        }
        let mut draws = rng::stream(seed, &[rng::STATISTICS, FOLDS]);
        let mut of = vec![0; n];
        let mut next = (0..count).cycle();
        for mut group in groups {
            group.shuffle(&mut draws);
            group.into_iter().zip(&mut next).for_each(|(question, fold)| of[question] = fold);
        }
        Ok(Self { of, count })
    }

    /// Each question's fold.
    pub fn of(&self) -> &[usize] {
        &self.of
    }

    /// The questions of each fold.
    pub fn questions(&self) -> Vec<Vec<usize>> {
        let mut found = vec![Vec::new(); self.count];
        self.of.iter().enumerate().for_each(|(question, &fold)| found[fold].push(question));
        found
    }

    /// Orders for [`CrossValidation::permutation_test`](super::CrossValidation::permutation_test): questions of one
    /// fold change labels among themselves. If labels and vectors have nothing to do with one another, each of these
    /// is as likely as what was found, whatever rule made the folds; an order across folds is not where folds were
    /// stratified by the labels, as it unbalances them.
    pub fn permutations(&self, count: usize, seed: u64) -> Vec<Vec<usize>> {
        let folds = self.questions();
        let order = |number: usize| {
            let mut draws = rng::stream(seed, &[rng::STATISTICS, PERMUTATIONS, number as u64]);
            let mut order = vec![0; self.of.len()];
            for questions in &folds {
                let mut shuffled = questions.clone();
                shuffled.shuffle(&mut draws);
                questions.iter().zip(shuffled).for_each(|(&to, from)| order[to] = from);
            }
            order
        };
        (0..count).map(order).collect()
    }
}

/// Purposes within [`rng::STATISTICS`].
const FOLDS: u64 = 1;
const PERMUTATIONS: u64 = 2;
