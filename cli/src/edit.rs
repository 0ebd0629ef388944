//! `--edit`: one question's thoughts changed by hand, in the words of the audit.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use coconut::{
    Error, Result,
    audit::{Intervention, With, permuted, place_name},
    eval::{Question, TrainedModel, thoughts_of},
    latent::{Edit, Places, Replacement},
};

/// What is done to the thoughts of one question.
#[derive(Clone, Debug)]
pub enum ByHand {
    /// What the audit does.
    Edit(With, Places),
    /// The thoughts of the question in a file's first line are fed.
    Donor(PathBuf, Places),
}

impl FromStr for ByHand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(donor) = text.strip_prefix("donor:") {
            let (file, places) = donor.rsplit_once('@').unwrap_or((donor, "all"));
            return match format!("transplant@{places}").parse()? {
                Intervention::Edit { places, .. } => Ok(Self::Donor(file.into(), places)),
                _ => Err(format!("`{text}` does not say where")),
            };
        }
        match text.parse()? {
            Intervention::Edit { places: Places::Question, .. } => Err(
                "thoughts are edited here, and not the question; write another question instead"
                    .into(),
            ),
            Intervention::Edit { with, .. } if with == With::Mean || with.has_donor() => {
                Err(format!(
                    "`{with}` takes other questions' thoughts, and there is one question; name a file with another one: donor:FILE"
                ))
            }
            Intervention::Edit { with, places } => Ok(Self::Edit(with, places)),
            Intervention::Latents(n) | Intervention::Early(n) => {
                Err(format!("the number of latents is set by --latents {n}"))
            }
        }
    }
}

impl ByHand {
    /// The edit for a question; refused if it would touch none of its thoughts.
    pub fn of(&self, trained: &TrainedModel<'_>, question: &Question) -> Result<Edit> {
        self.of_prompt(trained, &prompt(trained, question)?, question.latents)
    }

    /// The edit for a prompt; a donor's question is given `latents`.
    pub fn of_prompt(
        &self,
        trained: &TrainedModel<'_>,
        ids: &[u32],
        latents: Option<usize>,
    ) -> Result<Edit> {
        const SEED: u64 = 0;
        let own = thoughts_of(trained, ids)?;
        let (Self::Edit(_, places) | Self::Donor(_, places)) = *self;
        let given = |thoughts: Vec<Vec<f32>>| {
            let model = trained.model;
            Replacement::given(&[thoughts], model.transformer.config.d_model, &model.device())
        };
        let replacement = match self {
            Self::Edit(With::Noise(scale), _) => {
                Replacement::Noise { scale: *scale, seeds: vec![SEED] }
            }
            Self::Edit(With::Dropout(rate), _) => {
                Replacement::Dropout { rate: *rate, seeds: vec![SEED] }
            }
            Self::Edit(With::Random, _) => Replacement::Random { seeds: vec![SEED] },
            Self::Edit(With::Permute, _) => given(permuted(&own, places, SEED)),
            Self::Edit(..) => Replacement::Zero,
            Self::Donor(file, _) => {
                let donor = thoughts_of(trained, &prompt(trained, &donor(file, latents)?)?)?;
                if donor.len() != own.len() {
                    return Err(Error::Usage(format!(
                        "--edit donor:{}: its question has {} thoughts and this one has {}; set --latents for both.",
                        file.display(),
                        donor.len(),
                        own.len()
                    )));
                }
                given(donor)
            }
        };
        let touched = |index: usize| places.contain(index, own.len());
        let enough = if matches!(self, Self::Edit(With::Permute, _)) { 2 } else { 1 };
        if (0..own.len()).filter(|&index| touched(index)).count() < enough {
            return Err(Error::Usage(format!(
                "--edit: at `{}` there is nothing to change: the question has {} thoughts that are fed.",
                place_name(places),
                own.len()
            )));
        }
        Ok(Edit { places, replacement })
    }
}

/// The question in a file's first line.
fn donor(file: &Path, latents: Option<usize>) -> Result<Question> {
    let text = fs::read_to_string(file).map_err(Error::io("read", file))?;
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(Question { text: line.to_owned(), latents }),
        None => Err(Error::input(
            file,
            "line 1",
            "is empty; write the question whose thoughts are to be fed",
        )),
    }
}

/// Token ids that the model is given for a question.
fn prompt(trained: &TrainedModel<'_>, question: &Question) -> Result<Vec<u32>> {
    let prompts = trained.prompts(std::slice::from_ref(question))?;
    prompts.into_iter().next().ok_or_else(|| Error::Internal("a question without a prompt".into()))
}
