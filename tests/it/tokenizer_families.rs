//! Tokenizers of each family against transformers: `python/fixtures/make_tokenizers.py` wrote the cases.

use std::path::PathBuf;

use coconut::data::{Example, Tokenizer, encode::encode_text, tokenizer::chat::PromptStyle};
use serde_json::Value;

const FAMILIES: [&str; 4] = ["gpt2", "qwen", "llama3", "smollm2"];

fn folder() -> PathBuf {
    crate::fixture("tokenizers")
}

fn cases(family: &str) -> Value {
    let text = std::fs::read_to_string(folder().join("cases.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[family].clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_and_markers_have_the_same_ids() {
    for family in FAMILIES {
        let (tokenizer, cases) = (Tokenizer::load(&folder().join(family)).unwrap(), cases(family));
        let markers = tokenizer.special_tokens();
        assert_eq!(
            vec![markers.start_latent, markers.end_latent, markers.latent],
            ids(&cases["markers"]),
            "{family}"
        );
        assert_eq!(Some(u64::from(markers.eos)), cases["eos"].as_u64(), "{family}");
        assert_eq!(tokenizer.loaded_size() as u64, cases["vocab"].as_u64().unwrap(), "{family}");
        for case in cases["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoded = |special| tokenizer.encode(text, special).unwrap().ids;
            assert_eq!(encoded(true), ids(&case["special"]), "{family}: {text:?}");
            assert_eq!(encoded(false), ids(&case["plain"]), "{family}: {text:?}");
        }
    }
}

#[test]
fn chats_are_rendered_and_encoded_alike() {
    for family in ["qwen", "llama3", "smollm2"] {
        for case in cases(family)["chats"].as_array().unwrap() {
            let style = PromptStyle {
                system_prompt: case["system"].as_str().map(str::to_owned),
                chat_template: true,
                ..PromptStyle::default()
            };
            let tokenizer = Tokenizer::load(&folder().join(family)).unwrap();
            let tokenizer = tokenizer.with_prompt(&style).unwrap();
            let question = case["question"].as_str().unwrap();
            assert_eq!(
                tokenizer.render_prompt(question).unwrap().0,
                case["text"].as_str().unwrap(),
                "{family}"
            );
            let text = encode_text(&Example::new(question, ["s"], "1"), &tokenizer).unwrap();
            assert_eq!(text.question, ids(&case["ids"]), "{family}");
        }
    }
}

#[test]
fn generation_ends_at_each_familys_tokens() {
    for (family, stops, turn) in [
        ("gpt2", &["<|endoftext|>"][..], None),
        ("qwen", &["<|im_end|>", "<|endoftext|>"], Some("<|im_end|>")),
        ("llama3", &["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"], Some("<|eot_id|>")),
        ("smollm2", &["<|im_end|>"], Some("<|im_end|>")),
    ] {
        let tokenizer = Tokenizer::load(&folder().join(family)).unwrap();
        assert_eq!(tokenizer.token_strings(tokenizer.stops()), stops, "{family}");
        let style = PromptStyle { chat_template: true, ..PromptStyle::default() };
        match (tokenizer.with_prompt(&style), turn) {
            (Ok(tokenizer), Some(turn)) => {
                assert_eq!(Some(tokenizer.special_tokens().eos), tokenizer.id_of(turn), "{family}");
            }
            (Err(error), None) => assert!(error.to_string().contains("without a chat template")),
            (result, _) => panic!("{family}: {result:?}"),
        }
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_again() {
    for family in FAMILIES {
        let tokenizer = Tokenizer::load(&folder().join(family)).unwrap();
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let again = Tokenizer::load(saved.path()).unwrap();
        assert_eq!(again.special_tokens(), tokenizer.special_tokens(), "{family}");
        assert_eq!(again.vocab_size(), tokenizer.vocab_size(), "{family}");
        assert_eq!(
            again.loaded_size(),
            tokenizer.vocab_size(),
            "{family}: its markers are its own"
        );
        let style = PromptStyle { chat_template: true, ..PromptStyle::default() };
        if family != "gpt2" {
            let prompt = |tokenizer: Tokenizer| {
                tokenizer.with_prompt(&style).unwrap().render_prompt("a question").unwrap()
            };
            assert_eq!(prompt(again), prompt(tokenizer), "{family}");
        }
    }
}

#[test]
fn a_cut_file_is_one_clear_error() {
    for family in FAMILIES {
        let bytes = std::fs::read(folder().join(family).join("tokenizer.json")).unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tokenizer.json");
        for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = Tokenizer::load(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("is not a tokenizer"), "{error}");
        }
    }
}

/// Files on which `tokenizers` itself panics: a merge whose second part is shorter than the prefix that
/// continued words have, and JSON that is damaged inside a decoder. Found by `fuzz/`.
#[test]
fn files_that_the_library_panics_on_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("tokenizer.json");
    let short_merge = r###"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE",
        "continuing_subword_prefix": "##", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"###;
    let decoder = r#"{"version": "1.0", "added_tokens": [], "decoder": {"type": "ByteLevel", "#;
    for text in [short_merge, decoder] {
        std::fs::write(&path, text).unwrap();
        let error = Tokenizer::load(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains("is not a tokenizer"), "{error}");
    }
}

/// The value with what a change sets within its objects, and without what the change has as null.
fn lay_over(value: &mut Value, change: &Value) {
    let Some(changes) = change.as_object() else {
        *value = change.clone();
        return;
    };
    if !value.is_object() {
        *value = serde_json::json!({});
    }
    for (key, new) in changes {
        if new.is_null() {
            value.as_object_mut().unwrap().remove(key);
        } else {
            lay_over(&mut value[key], new);
        }
    }
}

/// A family's folder with changes laid over its files.
fn changed(family: &str, files: &Value) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder().join(family)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    for (file, change) in files.as_object().unwrap() {
        let path = place.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
        let mut value = serde_json::from_str(&text).unwrap();
        lay_over(&mut value, change);
        std::fs::write(&path, value.to_string()).unwrap();
    }
    place
}

#[test]
fn tokens_beside_the_tokenizer_have_the_same_ids() {
    let text = std::fs::read_to_string(folder().join("beside.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let place = changed(case["family"].as_str().unwrap(), &case["files"]);
        let loaded = Tokenizer::load(place.path()).unwrap();
        assert_eq!(loaded.loaded_size() as u64, case["vocab"].as_u64().unwrap(), "{name}");
        assert_eq!(Some(u64::from(loaded.special_tokens().eos)), case["eos"].as_u64(), "{name}");
        let pad = case["pad"].as_u64().or(case["eos"].as_u64());
        assert_eq!(Some(u64::from(loaded.special_tokens().pad)), pad, "{name}");
        let saved = tempfile::tempdir().unwrap();
        loaded.save(saved.path()).unwrap();
        for tokenizer in [&loaded, &Tokenizer::load(saved.path()).unwrap()] {
            for case in case["texts"].as_array().unwrap() {
                let text = case[0].as_str().unwrap();
                let encoded = tokenizer.encode(text, false).unwrap().ids;
                assert_eq!(encoded, ids(&case[1]), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn a_token_that_would_get_another_id_is_refused_by_name() {
    let listed = serde_json::json!({"content": "<foo>", "special": true});
    for files in [
        serde_json::json!({"tokenizer_config.json": {"added_tokens_decoder": null}, "added_tokens.json": {"<foo>": 400}}),
        serde_json::json!({"tokenizer_config.json": {"added_tokens_decoder": {"400": listed}}}),
    ] {
        let error = Tokenizer::load(changed("gpt2", &files).path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("the token `<foo>` the id 400"), "{error}");
    }
    for files in [
        serde_json::json!({"tokenizer_config.json": {"added_tokens_decoder": {"x": listed}}}),
        serde_json::json!({"tokenizer_config.json": {"added_tokens_decoder": {"317": 5}}}),
        serde_json::json!({"tokenizer_config.json": {"added_tokens_decoder": 5}}),
    ] {
        let error = Tokenizer::load(changed("gpt2", &files).path()).unwrap_err();
        assert!(error.to_string().contains("`added_tokens_decoder`"), "{error}");
    }
}

/// SmolLM2 names a token as unknown that texts may hold; its bytes cover every text.
#[test]
fn the_unknown_token_s_own_name_is_known() {
    let tokenizer = Tokenizer::load(&folder().join("smollm2")).unwrap();
    let tokens = tokenizer.encode("a <|endoftext|> b", false).unwrap();
    assert!(tokens.ids.contains(&tokenizer.id_of("<|endoftext|>").unwrap()));
    assert!(tokens.unknown.is_empty());
}

fn with_template(template: &str, style: &PromptStyle) -> Result<Tokenizer, coconut::Error> {
    let place = changed("smollm2", &serde_json::json!({}));
    std::fs::write(place.path().join("chat_template.jinja"), template).unwrap();
    Tokenizer::load(place.path()).unwrap().with_prompt(style)
}

#[test]
fn a_template_s_date_is_the_prompt_s() {
    let template = "{{ strftime_now('%d %B %Y') }}: {{ messages[0].content }}";
    let mut style = PromptStyle { chat_template: true, ..PromptStyle::default() };
    let prompt = |style: &PromptStyle| {
        with_template(template, style).unwrap().render_prompt("a question").unwrap().0
    };
    assert_eq!(prompt(&style), "26 July 2024: a question");
    style.template_date = "2025-02-28".parse().unwrap();
    assert_eq!(prompt(&style), "28 February 2025: a question");
    let kept = serde_json::to_string(&style).unwrap();
    assert_eq!(serde_json::from_str::<PromptStyle>(&kept).unwrap(), style);
    // As checkpoints of earlier versions have it.
    let earlier = r#"{"system_prompt": null, "chat_template": true}"#;
    let earlier: PromptStyle = serde_json::from_str(earlier).unwrap();
    assert_eq!(prompt(&earlier), "26 July 2024: a question");
    for date in ["2024-7-26", "2023-02-29", "2024-13-01", "26 July 2024", ""] {
        assert!(date.parse::<coconut::data::tokenizer::chat::Date>().is_err(), "{date}");
    }
}

#[test]
fn a_template_that_fails_says_what_to_do() {
    let mut style = PromptStyle { chat_template: true, ..PromptStyle::default() };
    for (template, reason) in [
        ("{% if %}", "line 1: found `%}` where an expression is expected"),
        ("{% include 'x' %}", "asks for another template"),
        ("a\n{{ messages[7].content.x }}", "line 2: a value of type list has no `7`"),
        ("{{ messages[0].content | wordwrap }}", "the filter `wordwrap` is not supported"),
        ("{{ raise_exception('only tools here') }}", "refuses the prompt: line 1: only tools here"),
    ] {
        let error = with_template(template, &style).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains(reason) && error.contains("`chat_template: False`"), "{error}");
        assert!(error.contains("chat_template.jinja"), "{error}");
    }
    style.system_prompt = Some("Be brief.".to_owned());
    let template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
    let error = with_template(template, &style).unwrap().render_prompt("a question").unwrap_err();
    assert!(error.to_string().contains("Remove `system_prompt`"), "{error}");
}
