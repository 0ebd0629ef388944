//! Examples in the forms in which well-known sets are published, told by the names of their fields.

use serde_json::value::RawValue;

use super::{
    Example,
    example::{FieldProblem, Fields},
};

/// The mark before the answer of a GSM8K solution.
const GSM8K_MARK: &str = "####";

/// A published form: the fields that tell it, and how an example is made of them.
struct Form {
    fields: &'static [&'static str],
    example: fn(&Fields<'_>) -> Result<Example, FieldProblem>,
}

const FORMS: [Form; 9] = [
    // GSM-Hard (reasoning-machines/gsm-hard)
    Form { fields: &["input", "target"], example: |f| plain(f, "input", "target") },
    // MultiArith (Roy and Roth 2015), and as ChilleD/MultiArith has it
    Form { fields: &["sQuestion", "lSolutions"], example: multi_arith },
    Form { fields: &["question", "final_ans"], example: |f| plain(f, "question", "final_ans") },
    // SVAMP (arkilpatel/SVAMP, ChilleD/SVAMP)
    Form {
        fields: &["Body", "Question", "Answer"],
        example: |f| two_parts(f, ["Body", "Question"], "Answer"),
    },
    // ASDiv (EleutherAI/asdiv)
    Form {
        fields: &["body", "question", "answer"],
        example: |f| two_parts(f, ["body", "question"], "answer"),
    },
    // MATH (hendrycks/competition_math, HuggingFaceH4/MATH-500)
    Form { fields: &["problem", "solution"], example: math },
    // CommonsenseQA (tau/commonsense_qa) and ARC; the original files have the choices in the question
    Form { fields: &["question", "answerKey"], example: choices },
    // GSM8k-Aug and others of zen-E
    Form { fields: &["question", "cot", "answer"], example: chain },
    // GSM8K (openai/grade-school-math)
    Form { fields: &["question", "answer"], example: gsm8k },
];

/// Reads one object, with `question`, `steps` and `answer` or in a published form.
///
/// # Errors
/// As [`Example::from_json`], of the form whose fields are there.
pub(super) fn from_json(value: &RawValue) -> Result<Example, FieldProblem> {
    let fields = Fields::of(value)?.filter(|fields| fields.get("steps").is_none());
    match fields.as_ref().and_then(example) {
        Some(published) => published,
        None => Example::from_json(value),
    }
}

/// An example of a published form; `None` if the fields are of no known one.
fn example(fields: &Fields<'_>) -> Option<Result<Example, FieldProblem>> {
    let form =
        FORMS.iter().find(|form| form.fields.iter().all(|name| fields.get(name).is_some()))?;
    match (form.example)(fields) {
        // Any object may have a question and an answer: what it lacks then is steps.
        Err(fault) if fault.field == "steps" => None,
        found => Some(found),
    }
}

fn plain(fields: &Fields<'_>, question: &str, answer: &str) -> Result<Example, FieldProblem> {
    Ok(Example::new(text(fields, question)?.trim(), [""; 0], fields.text_or_number(answer)?))
}

/// A text that must be there.
fn text(fields: &Fields<'_>, name: &str) -> Result<String, FieldProblem> {
    fields.text(name)?.ok_or_else(|| fields.wrong_type(name, "a string"))
}

/// What is told and what is asked, as two sentences; the answer without its unit, `9` of `9 (apples)`.
fn two_parts(
    fields: &Fields<'_>,
    [told, asked]: [&str; 2],
    answer: &str,
) -> Result<Example, FieldProblem> {
    let told = text(fields, told)?;
    let told = told.trim();
    let end = if told.is_empty() || told.ends_with(['.', '?', '!']) { "" } else { "." };
    let question = format!("{told}{end} {}", text(fields, asked)?.trim());
    let answer = fields.text_or_number(answer)?;
    let answer = answer.split(" (").next().unwrap_or(&answer);
    Ok(Example::new(question.trim(), [""; 0], answer.trim()))
}

fn multi_arith(fields: &Fields<'_>) -> Result<Example, FieldProblem> {
    let wrong = || fields.wrong_type("lSolutions", "a list of one number");
    let solutions = fields.list("lSolutions").ok_or_else(wrong)?;
    let [answer] = solutions[..] else { return Err(wrong()) };
    Ok(Example::new(text(fields, "sQuestion")?.trim(), [""; 0], answer.get()))
}

/// The answer is the one that is given beside the solution, or what its last `\boxed` holds.
fn math(fields: &Fields<'_>) -> Result<Example, FieldProblem> {
    let solution = text(fields, "solution")?;
    let given = match fields.get("answer") {
        Some(_) => Some(fields.text_or_number("answer")?),
        None => boxed(&solution).map(str::to_owned),
    };
    let answer = given.ok_or_else(|| FieldProblem {
        field: "solution".into(),
        problem: "has no \\boxed answer, and there is no field `answer`".into(),
    })?;
    Ok(Example::new(text(fields, "problem")?.trim(), lines(&solution), answer))
}

/// What the last `\boxed` of a text holds; `None` without one that is closed.
pub fn boxed(text: &str) -> Option<&str> {
    if let Some((_, last)) = text.rsplit_once("\\boxed ") {
        return last.split('$').next();
    }
    let (_, last) = text.rsplit_once("\\boxed")?;
    let (_, inside) = last.split_once('{')?;
    let mut open = 1;
    for (index, character) in inside.char_indices() {
        match character {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(&inside[..index]);
        }
    }
    None
}

/// A question with its choices, one a line behind its letter; the answer is a letter.
fn choices(fields: &Fields<'_>) -> Result<Example, FieldProblem> {
    let asked = fields.get("question").map(Fields::of).transpose()?.flatten();
    let (question, choices) = match &asked {
        Some(inner) => (text(inner, "stem")?, inner.get("choices")),
        None => (text(fields, "question")?, fields.get("choices")),
    };
    let wrong = || fields.wrong_type("choices", "a list of labels and texts");
    let choices = labelled(choices.ok_or_else(wrong)?)?.ok_or_else(wrong)?;
    let lines = choices.iter().map(|(label, text)| format!("\n{label}. {text}"));
    let question = format!("{}{}", question.trim(), lines.collect::<String>());
    Ok(Example::new(question, [""; 0], fields.text_or_number("answerKey")?))
}

/// Labels and texts of `[{"label": …, "text": …}, …]` or `{"label": […], "text": […]}`.
fn labelled(choices: &RawValue) -> Result<Option<Vec<(String, String)>>, FieldProblem> {
    if let Some(columns) = Fields::of(choices)? {
        let column = |name: &str| -> Option<Vec<String>> {
            serde_json::from_str(columns.get(name)?.get()).ok()
        };
        let both = column("label").zip(column("text"));
        return Ok(both
            .filter(|(labels, texts)| labels.len() == texts.len())
            .map(|(labels, texts)| labels.into_iter().zip(texts).collect()));
    }
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(choices.get()) else { return Ok(None) };
    let item = |item: &RawValue| -> Result<Option<(String, String)>, FieldProblem> {
        let Some(fields) = Fields::of(item)? else { return Ok(None) };
        Ok(fields.text("label")?.zip(fields.text("text")?))
    };
    items.into_iter().map(item).collect()
}

/// A chain of thought in one text: equations `<<…>>` separated by blanks, or a step a line.
fn chain(fields: &Fields<'_>) -> Result<Example, FieldProblem> {
    let chain = text(fields, "cot")?;
    let steps = match chain.trim_start().starts_with("<<") {
        true => icot_steps(&chain),
        false => lines(&chain),
    };
    Ok(Example::new(
        text(fields, "question")?.trim(),
        steps,
        fields.text_or_number("answer")?.trim(),
    ))
}

/// A solution a line a step, and its answer behind `####`.
fn gsm8k(fields: &Fields<'_>) -> Result<Example, FieldProblem> {
    let solution = fields.text("answer")?;
    let parts = solution.as_deref().and_then(|text| text.rsplit_once(GSM8K_MARK));
    let (steps, answer) = parts.ok_or_else(|| fields.wrong_type("steps", "a list of strings"))?;
    let answer = answer.trim().replace(',', "");
    Ok(Example::new(text(fields, "question")?.trim(), lines(steps), answer))
}

fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// What of a worked solution is kept as steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// The annotations `<<3*4=12>>` alone, each a step; as in GSM8k-Aug.
    Equations,
    /// The lines without those annotations.
    Words,
}

impl Steps {
    /// The example with these steps alone.
    pub fn of(self, example: Example) -> Example {
        let steps = match self {
            Self::Equations => example.steps.iter().flat_map(|step| annotations(step).1).collect(),
            Self::Words => example.steps.iter().map(|step| annotations(step).0).collect(),
        };
        Example { steps, ..example }
    }
}

/// A line without its `<<…>>`, and those.
fn annotations(line: &str) -> (String, Vec<String>) {
    let (mut words, mut found) = (String::new(), Vec::new());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("<<")
        && let Some((inside, after)) = after.split_once(">>")
    {
        words += before;
        found.push(format!("<<{inside}>>"));
        rest = after;
    }
    (words + rest, found)
}

/// Steps are separated by blanks, except in multiplication, where every digit is a word of its own and
/// the partial products are separated by ` + `.
pub(super) fn icot_steps(steps: &str) -> Vec<String> {
    let mut symbols = steps.split_whitespace().peekable();
    let is_symbol = |word: &str| matches!(word.as_bytes(), [b'0'..=b'9' | b'+' | b'(' | b')']);
    if symbols.peek().is_some() && symbols.clone().all(is_symbol) {
        steps.split(" + ").map(|step| step.trim().to_owned()).collect()
    } else {
        symbols.map(str::to_owned).collect()
    }
}
