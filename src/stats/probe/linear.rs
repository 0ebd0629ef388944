//! A fitted probe.

use super::{Features, Labels, Probe, design::Design, head::Head, logistic, ridge::Ridge};
use crate::{Error, Result};
use faer::Mat;

impl Probe {
    /// Fitted to classes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a weight that is not above 0, and if nothing can be fitted.
    pub(super) fn fit(self, design: &Design, labels: &Labels) -> Result<Head> {
        match self.checked()? {
            Self::Ridge { alpha } => Ok(Ridge::new(design, alpha).fit_classes(labels)),
            Self::Logistic { c } => logistic::fit(design, labels, c),
        }
    }

    /// # Errors
    /// [`Error::Usage`] for a weight that is not above 0.
    pub(super) fn checked(self) -> Result<Self> {
        let (name, weight) = match self {
            Self::Ridge { alpha } => ("alpha", alpha),
            Self::Logistic { c } => ("c", c),
        };
        if weight > 0.0 && weight.is_finite() {
            return Ok(self);
        }
        Err(Error::Usage(format!("A probe's {name} is a number above 0, not {weight}.")))
    }
}

/// A probe fitted on all questions, for its directions and for questions of another kind. Its score on what it was
/// fitted on says nothing: that is what [`CrossValidation`](super::CrossValidation) is for.
pub struct LinearProbe {
    design: Design,
    head: Head,
}

impl LinearProbe {
    /// Of classes.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are not as many labels as questions, or nothing can be fitted.
    pub fn classes(x: &Features, labels: &Labels, probe: Probe) -> Result<Self> {
        same_questions(x.len(), labels.of.len())?;
        let design = Design::new(x.0.as_ref())?;
        let head = probe.fit(&design, labels)?;
        Ok(Self { design, head })
    }

    /// Ridge regression of numbers, several targets at once, each with a value a question.
    ///
    /// # Errors
    /// [`Error::Usage`] if a target has not as many values as there are questions, or nothing can be fitted.
    pub fn numbers(x: &Features, targets: &[Vec<f64>], alpha: f64) -> Result<Self> {
        targets.iter().try_for_each(|target| same_questions(x.len(), target.len()))?;
        Probe::Ridge { alpha }.checked()?;
        let design = Design::new(x.0.as_ref())?;
        let columns = Mat::from_fn(x.len(), targets.len(), |i, t| targets[t][i]);
        let head = Ridge::new(&design, alpha).fit(&columns);
        Ok(Self { design, head })
    }

    /// Weights of the standardised features: a vector a class or target.
    pub fn weights(&self) -> Vec<Vec<f64>> {
        let weights = self.design.weights(&self.head.weights);
        (0..weights.ncols()).map(|t| weights.col(t).iter().copied().collect()).collect()
    }

    /// What is added, a number a class or target.
    pub fn intercepts(&self) -> &[f64] {
        &self.head.intercepts
    }

    /// Outputs for questions, a vector a class or target: numbers, or logits.
    ///
    /// # Errors
    /// [`Error::Usage`] for vectors of another width.
    pub fn outputs(&self, x: &Features) -> Result<Vec<Vec<f64>>> {
        let outputs = self.head.outputs(&self.coordinates(x)?);
        Ok((0..outputs.ncols()).map(|t| outputs.col(t).iter().copied().collect()).collect())
    }

    /// The most likely class of each question.
    ///
    /// # Errors
    /// [`Error::Usage`] for vectors of another width.
    pub fn predictions(&self, x: &Features) -> Result<Vec<usize>> {
        Ok(self.head.classes(&self.coordinates(x)?))
    }

    fn coordinates(&self, x: &Features) -> Result<Mat<f64>> {
        let (fitted, given) = (self.design.n_features(), x.0.ncols());
        if fitted != given {
            let problem =
                format!("A probe of vectors of {fitted} numbers cannot read one of {given}.");
            return Err(Error::Usage(problem));
        }
        Ok(self.design.coordinates_of(x.0.as_ref()))
    }
}

/// # Errors
/// [`Error::Usage`] if the numbers differ.
pub(super) fn same_questions(features: usize, values: usize) -> Result<()> {
    if features == values {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "A probe needs one value a question: there are vectors of {features} questions and values of {values}."
    )))
}
