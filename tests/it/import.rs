//! Checkpoints of published programs: opened, they give the tokens that those programs gave; and files that are
//! refused. The checkpoints are from python/compare/import_published.py, the files from
//! python/fixtures/make_torch_files.py.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use coconut::{
    checkpoint::Checkpoint,
    data::Method,
    device,
    eval::{AnswerOptions, Question, answer},
    import::{Imported, Options, state_dict::StateDict},
    latent::Thinking,
    model::{parameters, weights},
    objective::DecoderStyle,
};
use serde::Deserialize;

use crate::fixture;

fn file(name: &str) -> PathBuf {
    fixture("import").join(name)
}

/// What a published program answered.
#[derive(Deserialize)]
struct Answered {
    file: String,
    base: String,
    options: Vec<String>,
    questions: Vec<String>,
    ids: Vec<Vec<u32>>,
}

impl Answered {
    fn of(name: &str) -> Self {
        let text = fs::read_to_string(file(&format!("{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The options of the command line that the script gave.
    fn options(&self) -> Options {
        let mut options = Options::default();
        for option in &self.options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "--method" => options.method = Some(serde_json::from_value(value.into()).unwrap()),
                "--c-thought" => options.c_thought = Some(value.parse().unwrap()),
                "--max-latent-stage" => options.max_latent_stage = Some(value.parse().unwrap()),
                "--pad-latent-to-max" => options.pad_latent_to_max = true,
                "--lora-alpha" => options.lora_alpha = Some(value.parse().unwrap()),
                other => panic!("{other}"),
            }
        }
        options
    }

    fn read(&self, options: &Options) -> coconut::Result<Imported> {
        Imported::read(&file(&self.file), &file(&self.base), options)
    }
}

/// The checkpoint that an import writes, opened.
fn opened(imported: &Imported) -> Checkpoint {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("checkpoint");
    imported.write(&folder).unwrap();
    let beside: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(beside.len(), 1, "nothing is left beside it");
    Checkpoint::load(&folder, &device::cpu()).unwrap()
}

/// Imports a fixture and holds its answers against theirs, whose loops drop the end of sequence or keep it.
fn answers_as_theirs(name: &str) -> Checkpoint {
    let theirs = Answered::of(name);
    let checkpoint = opened(&theirs.read(&theirs.options()).unwrap());
    let questions: Vec<Question> =
        theirs.questions.iter().map(|text| Question::from(text.as_str())).collect();
    let answers = answer(&checkpoint.trained(), &questions, &AnswerOptions::default()).unwrap();
    let eos = checkpoint.tokenizer.special_tokens().eos;
    let said = |ids: &[u32]| ids.iter().copied().take_while(|&id| id != eos).collect::<Vec<_>>();
    assert_eq!(theirs.questions.len(), theirs.ids.len());
    for (theirs, ours) in theirs.ids.iter().zip(&answers) {
        assert!(ours.finished && !said(theirs).is_empty());
        assert_eq!(said(&ours.ids), said(theirs), "{name}, `{}`", ours.question);
    }
    checkpoint
}

#[test]
fn coconut_answers_as_its_program() {
    let checkpoint = answers_as_theirs("coconut_llama");
    let latent = &checkpoint.latent;
    assert_eq!((latent.method, latent.stage.0, latent.c_thought), (Method::Coconut, 4, 2));
    assert!(latent.pad_latent_to_max && checkpoint.decoder().is_none());
}

#[test]
fn lotus_answers_as_its_program() {
    let latent = answers_as_theirs("lotus_gpt2").latent;
    assert_eq!((latent.method, latent.stage.0, latent.c_thought), (Method::Lotus, 3, 3));
    assert!(latent.thinking.thinking == Thinking::Parallel && latent.thinking.latent_residual);
}

#[test]
fn codi_answers_as_its_program() {
    for name in ["codi_gpt2_lora", "codi_llama_lora"] {
        let checkpoint = answers_as_theirs(name);
        let latent = &checkpoint.latent;
        assert_eq!((latent.method, latent.c_thought), (Method::Codi, 3));
        assert_eq!(latent.thinking.feedback.to_string(), "ln(mlp[1.5](hs[-1]))");
        assert_eq!(checkpoint.tokenizer.answer_mark(), "The answer is:");
        let asked = Question::from("Thea");
        let said = answer(&checkpoint.trained(), &[asked], &AnswerOptions::default()).unwrap();
        let text = &said[0].text;
        let after = text.rsplit_once("The answer is:").map(|(_, answer)| answer.trim().to_owned());
        assert_eq!(said[0].prediction, after, "{text}");
    }
}

#[test]
fn simcot_answers_as_its_program_and_keeps_its_decoder() {
    for (name, style) in [
        ("simcot_coconut_llama", DecoderStyle::Coconut),
        ("simcot_codi_gpt2_lora", DecoderStyle::Codi),
    ] {
        let checkpoint = answers_as_theirs(name);
        assert_eq!(checkpoint.decoder().unwrap().style, style);
        // Its tensors are the file's, the tables grown by rows for the markers.
        let theirs = Answered::of(name);
        let file = StateDict::open(&file(&theirs.file)).unwrap();
        let prefix = if style == DecoderStyle::Coconut { "expainable_llm" } else { "decoder" };
        for (name, flat) in parameters::named(&checkpoint.objective.decoder) {
            let values: Vec<f32> = device::to_host(flat.values).unwrap();
            let stored = file.read(&format!("{prefix}.{name}")).unwrap();
            assert_eq!(values[..stored.len()], stored, "{name}");
            let grown = values.len() - stored.len();
            assert!(
                grown == 0 || (grown == 3 * 8 && flat.shape[0] == 41),
                "{name} {:?}",
                flat.shape
            );
        }
    }
}

/// Without a wrapper it is a model that thinks in words, as Coconut's program saves at its first stage.
#[test]
fn a_plain_state_dict_is_a_model_without_latents() {
    let theirs = Answered::of("coconut_llama");
    let source = StateDict::open(&file(&theirs.file)).unwrap();
    let inner = |name: &str| name.strip_prefix("base_causallm.").map(str::to_owned);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("plain.safetensors");
    weights::write_tensors(&path, &named(&source, inner)).unwrap();
    let plain = Imported::read(&path, &file(&theirs.base), &Options::default()).unwrap();
    let plain = opened(&plain);
    assert_eq!(plain.latent.method, Method::Cot);
    assert!(!plain.latent.thinking.feeds_back());
    for (name, flat) in parameters::named(&plain.model) {
        let values: Vec<f32> = device::to_host(flat.values).unwrap();
        let stored = source.read(&format!("base_causallm.{name}")).unwrap();
        // The rows of the markers start anew, as in any model that has none.
        let own = if flat.shape == [41, 8] { 38 * 8 } else { stored.len() };
        assert_eq!(values[..own], stored[..own], "{name}");
    }
}

/// The tensors of a state dict, renamed.
fn named(source: &StateDict, rename: impl Fn(&str) -> Option<String>) -> parameters::NamedTensors {
    let tensor = |(name, shape): (&str, &[usize])| {
        let elements = shape.iter().product::<usize>();
        let data = burn::tensor::TensorData::new(source.read(name).unwrap(), [elements]);
        let values = burn::tensor::Tensor::from_data(data, &device::cpu());
        Some((rename(name)?, parameters::FlatTensor { shape: shape.to_vec(), values }))
    };
    source.shapes().into_iter().filter_map(tensor).collect()
}

/// The same tensors in a safetensors file, also under the name of a wrapper of several processes.
#[test]
fn a_safetensors_file_of_the_same_names_is_the_same_checkpoint() {
    let theirs = Answered::of("coconut_llama");
    let options = theirs.options();
    let original = opened(&theirs.read(&options).unwrap());
    let source = StateDict::open(&file(&theirs.file)).unwrap();
    for prefix in ["", "module."] {
        let named = named(&source, |name| Some(format!("{prefix}{name}")));
        let place = tempfile::tempdir().unwrap();
        weights::write_tensors(&place.path().join("model.safetensors"), &named).unwrap();
        let again = Imported::read(place.path(), &file(&theirs.base), &options).unwrap();
        let again = opened(&again);
        assert_eq!(again.latent, original.latent);
        let values = |checkpoint: &Checkpoint| {
            let named = parameters::named(&checkpoint.model);
            named
                .into_iter()
                .map(|(name, flat)| (name, flat.values.into_data()))
                .collect::<BTreeMap<_, _>>()
        };
        assert_eq!(values(&again), values(&original));
    }
}

#[test]
fn tensors_are_read_as_torch_has_them() {
    #[derive(Deserialize)]
    struct Tensor {
        shape: Vec<usize>,
        values: Vec<f64>,
    }
    let expected: BTreeMap<String, Tensor> =
        serde_json::from_str(&fs::read_to_string(file("files/views.json")).unwrap()).unwrap();
    let found = StateDict::open(&file("files/views.pt")).unwrap();
    let shapes: BTreeMap<&str, &[usize]> = found.shapes().into_iter().collect();
    assert_eq!(shapes.len(), expected.len());
    for (name, tensor) in &expected {
        assert_eq!(shapes[name.as_str()], tensor.shape, "{name}");
        let values: Vec<f32> = tensor.values.iter().map(|&x| x as f32).collect();
        assert_eq!(found.read(name).unwrap(), values, "{name}");
    }
}

fn refusal(path: &Path) -> String {
    StateDict::open(path).unwrap_err().to_string()
}

#[test]
fn what_is_no_state_dict_is_refused_by_name() {
    for (name, words) in [
        ("system_2", ["byte 13 of `plain/data.pkl`", "`posix.system`"]),
        ("system_4", ["of `plain/data.pkl`", "`posix.system`"]),
        ("eval_2", ["of `plain/data.pkl`", "`__builtin__.eval`"]),
        ("eval_4", ["of `plain/data.pkl`", "`builtins.eval`"]),
        (
            "module_2",
            ["`torch.nn.modules.linear.Identity`", "torch.save(model.state_dict(), FILE)"],
        ),
        ("module_4", ["`torch.nn.modules.linear.Identity`", "nothing of the file was read"]),
        ("nested", ["`model`", "is no tensor"]),
        ("list", ["no dict", "state_dict()"]),
        ("expanded", ["tensor `a`", "reaches beyond its storage"]),
        ("legacy", ["before its version 1.6", "torch.save"]),
        ("compressed", ["it is compressed", "torch.save"]),
        ("torchscript", ["TorchScript", "state_dict()"]),
        ("wrong_call", ["`_rebuild_tensor_v2`", "arguments that torch never gives"]),
        ("cut_pickle", ["of `plain/data.pkl`", "cut short"]),
    ] {
        let problem = refusal(&file(&format!("files/{name}.pt")));
        for word in words {
            assert!(problem.contains(word), "{name}: `{word}` is not in: {problem}");
        }
    }
    let place = tempfile::tempdir().unwrap();
    assert!(refusal(place.path()).contains("holds none of"));
    let path = place.path().join("text");
    fs::write(&path, "not a model").unwrap();
    assert!(refusal(&path).contains("neither an archive of `torch.save` nor a safetensors file"));
    fs::write(&path, b"\x80\x02}q\x00.").unwrap();
    assert!(refusal(&path).contains("a plain pickle is not read"));
    assert_eq!(StateDict::open(&place.path().join("absent")).unwrap_err().exit_code(), 2);

    let numbers = StateDict::open(&file("files/whole_numbers.pt")).unwrap();
    assert!(numbers.read("mask").unwrap_err().to_string().contains("its type is BOOL"));
    assert!(numbers.read("numbers").unwrap_err().to_string().contains("its type is I64"));
    let nan = StateDict::open(&file("files/nan.pt")).unwrap();
    assert!(nan.read("a").unwrap_err().to_string().contains("element 1 is NaN"));
}

/// Cut anywhere, an archive is refused; with any byte changed, it is refused or read, and nothing worse.
#[test]
fn damaged_archives_do_no_harm() {
    let whole = fs::read(file("files/views.pt")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    for end in (0..whole.len()).step_by(13) {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(StateDict::open(&path).is_err(), "cut to {end} bytes");
    }
    let cut = &whole[..whole.len() - 1];
    fs::write(&path, cut).unwrap();
    assert!(refusal(&path).contains("not a whole archive"), "{}", refusal(&path));
    for at in (0..whole.len()).step_by(3) {
        let mut changed = whole.clone();
        changed[at] ^= 0x5a;
        fs::write(&path, &changed).unwrap();
        let Ok(found) = StateDict::open(&path) else { continue };
        for (name, shape) in found.shapes() {
            if let Ok(values) = found.read(name) {
                assert_eq!(values.len(), shape.iter().product::<usize>());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let codi = Answered::of("codi_gpt2_lora");
    let coconut = Answered::of("coconut_llama");
    let refused = |theirs: &Answered, base: &str, options: &Options, words: &[&str]| {
        let error = Imported::read(&file(&theirs.file), &file(base), options).unwrap_err();
        let problem = error.to_string();
        assert_eq!(error.exit_code(), 2, "{problem}");
        for word in words {
            assert!(problem.contains(word), "`{word}` is not in: {problem}");
        }
    };
    let given = codi.options();
    let without = Options { lora_alpha: None, ..given.clone() };
    refused(&codi, "tiny-gpt2", &without, &["--lora-alpha is missing"]);
    let without = Options { c_thought: None, ..given.clone() };
    refused(&codi, "tiny-gpt2", &without, &["--c-thought is missing"]);
    let other = Options { method: Some(Method::Lotus), ..given.clone() };
    refused(&codi, "tiny-gpt2", &other, &["--method lotus", "those of CODI"]);
    refused(
        &codi,
        "tiny-llama",
        &given,
        &["do not fit `config.json`", "`model.embed_tokens.weight` is missing"],
    );

    let given = coconut.options();
    let without = Options { method: None, ..given.clone() };
    refused(&coconut, "tiny-llama", &without, &["--method is missing", "lotus"]);
    let without = Options { max_latent_stage: None, ..given.clone() };
    refused(&coconut, "tiny-llama", &without, &["--max-latent-stage is missing"]);
    let alpha = Options { lora_alpha: Some(8.0), ..given.clone() };
    refused(&coconut, "tiny-llama", &alpha, &["no adapters"]);
    let padded = Options { pad_latent_to_max: true, ..codi.options() };
    refused(&codi, "tiny-gpt2", &padded, &["--pad-latent-to-max", "says nothing of `codi`"]);
    let beyond = Options { stage: Some(5), ..given.clone() };
    refused(&coconut, "tiny-llama", &beyond, &["--stage 5", "0 to 4"]);
    // Another width.
    let place = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(file("tiny-llama").join(name), place.path().join(name)).unwrap();
    }
    let config = fs::read_to_string(file("tiny-llama/config.json")).unwrap();
    let wide = config.replace("\"hidden_size\": 8", "\"hidden_size\": 16");
    assert_ne!(wide, config);
    fs::write(place.path().join("config.json"), wide).unwrap();
    let base = place.path().display().to_string();
    refused(&coconut, &base, &given, &["`model.embed_tokens.weight`", "[41, 8]"]);
    // A state dict that is none of a model's.
    let views = Answered { file: "files/views.pt".into(), ..Answered::of("coconut_llama") };
    refused(&views, "tiny-llama", &Options::default(), &["no token embeddings"]);
}

/// The program, as its user runs it.
#[test]
fn the_verb_writes_a_checkpoint_that_other_verbs_take() {
    let theirs = Answered::of("lotus_gpt2");
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("imported");
    let import = |out: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coconut"));
        command.arg("import").arg(file(&theirs.file)).arg("--base").arg(file(&theirs.base));
        command.arg("-o").arg(out).args(&theirs.options);
        command.output().unwrap()
    };
    let done = import(&out);
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("lotus, stage 3"), "{said}");
    let again = import(&out);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));

    let mut generate = std::process::Command::new(env!("CARGO_BIN_EXE_coconut"));
    generate.arg("generate").arg(&out).args(["--json", "--prompt", &theirs.questions[0]]);
    let line: serde_json::Value =
        serde_json::from_slice(&generate.output().unwrap().stdout).unwrap();
    let ids: Vec<u32> = serde_json::from_value(line["ids"].clone()).unwrap();
    assert_eq!(ids[..theirs.ids[0].len()], theirs.ids[0]);
    assert_eq!(line["latents"], 9);
}
