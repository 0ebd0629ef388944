//! One question's thoughts changed by hand, in the words of the audit.

use std::{
    fmt, fs,
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
#[derive(Clone, Debug, PartialEq)]
pub enum ByHand {
    /// What the audit does; a transplant takes the thoughts of a donor that is named beside it.
    Edit(With, Places),
    /// One of the question's own thoughts, counted from 0, is fed elsewhere.
    Move(usize, Places),
}

impl FromStr for ByHand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("move[") {
            let (number, place) = number.split_once("]@").unwrap_or((number, ""));
            let number = number.trim().parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            let number = number.ok_or_else(|| {
                format!("`{text}` does not say which thought goes where, as move[3]@2 does")
            })?;
            return Ok(Self::Move(number, places(place)?));
        }
        let read: Result<Intervention, String> = text.parse();
        match read.map_err(|problem| format!("{problem}; or move[k]@place"))? {
            Intervention::Edit { places: Places::Question, .. } => Err(
                "thoughts are edited here, and not the question; write another question instead"
                    .into(),
            ),
            Intervention::Edit { with, .. }
                if matches!(with, With::Mean | With::PatchSame | With::PatchOther) =>
            {
                Err(format!(
                    "`{with}` takes thoughts of a set of questions, and there is one question; take those of another one: donor:FILE, or in a request `transplant` with its `donor`"
                ))
            }
            Intervention::Edit { with, places } => Ok(Self::Edit(with, places)),
            Intervention::Latents(n) | Intervention::Early(n) => Err(format!(
                "the number of latents is set by --latents {n}, in a request by `latents`"
            )),
        }
    }
}

/// A place as edits write it.
fn places(text: &str) -> Result<Places, String> {
    match format!("zero@{text}").parse()? {
        Intervention::Edit { places, .. } => Ok(places),
        _ => Err(format!("`{text}` does not say where")),
    }
}

impl fmt::Display for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edit(with, places) => write!(f, "{with}@{}", place_name(*places)),
            Self::Move(number, places) => {
                write!(f, "move[{}]@{}", number + 1, place_name(*places))
            }
        }
    }
}

impl ByHand {
    /// Whether thoughts of another question are fed.
    pub fn has_donor(&self) -> bool {
        matches!(self, Self::Edit(With::Transplant, _))
    }

    fn places(&self) -> Places {
        let (Self::Edit(_, places) | Self::Move(_, places)) = *self;
        places
    }

    /// The edit for a prompt, given the prompt whose thoughts are transplanted; refused if it would change none of the
    /// thoughts.
    pub fn of_prompt(
        &self,
        trained: &TrainedModel<'_>,
        ids: &[u32],
        donor: Option<&[u32]>,
    ) -> Result<Edit> {
        const SEED: u64 = 0;
        let own = thoughts_of(trained, ids)?;
        self.check(own.len())?;
        let given = |thoughts: Vec<Vec<f32>>| {
            let model = trained.model;
            Replacement::given(&[thoughts], model.transformer.config.d_model, &model.device())
        };
        let replacement = match *self {
            Self::Edit(With::Noise(scale), _) => Replacement::Noise { scale, seeds: vec![SEED] },
            Self::Edit(With::Dropout(rate), _) => Replacement::Dropout { rate, seeds: vec![SEED] },
            Self::Edit(With::Random, _) => Replacement::Random { seeds: vec![SEED] },
            Self::Edit(With::Permute, places) => given(permuted(&own, places, SEED)),
            Self::Edit(With::Transplant, _) => {
                let donor = donor.map_or(Ok(Vec::new()), |ids| thoughts_of(trained, ids))?;
                if donor.len() != own.len() {
                    return Err(Error::Usage(format!(
                        "{self}: the donor has {} thoughts and the question has {}; give both as many latents.",
                        donor.len(),
                        own.len()
                    )));
                }
                given(donor)
            }
            Self::Edit(..) => Replacement::Zero,
            Self::Move(number, _) => given(vec![own[number].clone(); own.len()]),
        };
        Ok(Edit { places: self.places(), replacement })
    }

    /// Refuses an edit that changes none of so many thoughts.
    fn check(&self, thoughts: usize) -> Result<()> {
        let has = format!("the question has {thoughts} thoughts that are fed");
        if let Self::Move(number, _) = *self
            && number >= thoughts
        {
            return Err(Error::Usage(format!(
                "{self}: there is no thought {}: {has}.",
                number + 1
            )));
        }
        let changes = |index: usize| {
            self.places().contain(index, thoughts)
                && !matches!(self, Self::Move(number, _) if *number == index)
        };
        let enough = if matches!(self, Self::Edit(With::Permute, _)) { 2 } else { 1 };
        match (0..thoughts).filter(|&index| changes(index)).count() < enough {
            true => Err(Error::Usage(format!("{self}: there is nothing to change: {has}."))),
            false => Ok(()),
        }
    }
}

/// `--edit`: what is done, and the file of a donor.
#[derive(Clone, Debug)]
pub struct EditOption {
    by_hand: ByHand,
    donor: Option<PathBuf>,
}

impl FromStr for EditOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(donor) = text.strip_prefix("donor:") {
            let (file, place) = donor.rsplit_once('@').unwrap_or((donor, "all"));
            let by_hand = ByHand::Edit(With::Transplant, places(place)?);
            return Ok(Self { by_hand, donor: Some(file.into()) });
        }
        let by_hand: ByHand = text.parse()?;
        match by_hand.has_donor() {
            true => Err("name the question whose thoughts are transplanted: donor:FILE".into()),
            false => Ok(Self { by_hand, donor: None }),
        }
    }
}

impl EditOption {
    /// The edit for a question; a donor's question is given as many latents.
    ///
    /// # Errors
    /// As [`ByHand::of_prompt`], and if the donor's file cannot be read.
    pub fn of(&self, trained: &TrainedModel<'_>, question: &Question) -> Result<Edit> {
        let ids = prompt(trained, question)?;
        let donor = self.donor.as_deref().map(|file| donor(file, question.latents)).transpose()?;
        let donor = donor.map(|donor| prompt(trained, &donor)).transpose()?;
        self.by_hand.of_prompt(trained, &ids, donor.as_deref()).map_err(|error| match error {
            Error::Usage(problem) => Error::Usage(format!("--edit {problem}")),
            other => other,
        })
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
