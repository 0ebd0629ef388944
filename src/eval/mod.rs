//! Evaluation: generate, read the answer, count, and look at the thoughts.
//!
//! | to change … | open … |
//! | --- | --- |
//! | how tokens are chosen, and when a row ends | [`generate`](mod@generate) |
//! | how a question is put | [`trained`] |
//! | how its answer is handed back | [`answer`](mod@answer) |
//! | what is seen of prompts before anything is said | [`prompted`] |
//! | how likely a given answer is | [`continuation`] |
//! | how an answer is read and judged | [`score`] |
//! | what is counted over a set of questions | [`evaluate`] |
//! | how a thought is read as tokens | [`lens`](mod@lens) |
//! | how thoughts are read as sentences | [`readout`](mod@readout) |
//! | how unlike thoughts are | [`diversity`] |

pub mod answer;
pub mod continuation;
pub mod diversity;
pub mod evaluate;
pub mod generate;
pub mod head;
pub mod lens;
pub mod prompted;
pub mod readout;
pub mod score;
pub mod trained;

pub use answer::{Answer, answer, answer_edited, thoughts_of};
pub use continuation::{Continuation, log_probs};
pub use diversity::ThoughtDiversity;
pub use evaluate::{Answers, Evaluation, Evaluator, Likelihoods, Sample};
pub use generate::{
    End, GenerateOptions, Generation, GenerationLoop, NewToken, Sampling, generate,
};
pub use lens::lens;
pub use prompted::{Looks, Prompted, Thought, TokenLogProb};
pub use readout::readout;
pub use trained::{AnswerOptions, Question, TrainedModel};
