//! Opens a checkpoint, shows what its thoughts would say, and lets it answer:
//!
//!     cargo run --release --example thoughts -- runs/quickstart/checkpoints/latest "3+5*2-7+1"

use coconut::{
    checkpoint::Checkpoint,
    data::{Curriculum, Encoded, Example, SampleKey, encode::encode_text},
    device,
    eval::{GenerateOptions, Sampling, generate},
    latent::{
        self, ReadSet,
        batch::{Batch, Row},
    },
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, question] = arguments.as_slice() else { return Err("CHECKPOINT QUESTION".into()) };
    let Checkpoint { model, tokenizer, latent, .. } =
        Checkpoint::load(folder.as_ref(), &device::cpu())?;

    // The question as at the checkpoint's stage, with as many latents as at most in training.
    let curriculum = Curriculum { pad_latent_to_max: true, ..latent.curriculum() };
    let text = encode_text(&Example::new(question, [""; 0], ""), &tokenizer)?;
    let key = SampleKey { seed: 0, epoch: 0, index: 0 };
    let markers = tokenizer.special_tokens();
    let prompt = curriculum.prompt(&Encoded::Text(text), latent.stage, markers, key);

    // One forward pass: every position computed once, thoughts fed back.
    let plan = model.config.plan(markers.latent, curriculum.n_replaced(latent.stage));
    let batch = Batch::new(&[Row::unlabelled(&prompt.ids)], &plan)?;
    let trace = latent::forward(&model, &batch, ReadSet::ALL);
    for (number, thought) in trace.thoughts_in_order(&batch).into_iter().enumerate() {
        let thought = thought.reshape([1, model.transformer.config.d_model]); // from [1, 1, d_model]
        let likeliest = model.transformer.logits(thought).argmax(1).into_scalar::<i32>() as u32;
        println!("thought {number}: {:?}", tokenizer.token_strings(&[likeliest]).concat());
    }

    let options = GenerateOptions {
        plan,
        stops: tokenizer.stops(),
        max_new_tokens: 32,
        sampling: Sampling::Greedy,
    };
    for answer in generate(&model, &[&prompt.ids], &options)? {
        println!("{}", tokenizer.decode(&answer.ids)?);
    }
    Ok(())
}
