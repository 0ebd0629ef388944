//! The explorer: its page, and what it asks of the server beyond OpenAI's forms.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use assert_cmd::assert::OutputAssertExt;
use coconut::{checkpoint::Checkpoint, eval};
use serde_json::{Value, json};

use crate::{
    program::{Place, coconut, refused, train},
    server::{COMPLETIONS, QUESTIONS, Server, agent, generate, place},
};

/// The headers and the text of the page.
fn page(server: &Server) -> (ureq::http::HeaderMap, String) {
    let mut response = agent().get(server.url("/")).call().unwrap();
    assert_eq!(response.status(), 200);
    (response.headers().clone(), response.body_mut().read_to_string().unwrap())
}

#[test]
fn the_page_is_one_file_and_a_browser_lets_it_reach_nothing_else() {
    let server = Server::start(&[]);
    let (headers, text) = page(&server);
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    let policy = headers["content-security-policy"].to_str().unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(nonce.len(), 32);
    let expected = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(policy, expected);
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
    // What runs is inside, and has the nonce; nothing is fetched, and nothing would be refused by the policy.
    assert_eq!(text.matches(&format!("<script nonce=\"{nonce}\">\n\"use strict\"")).count(), 1);
    assert_eq!(text.matches(&format!("<style nonce=\"{nonce}\">\n:root")).count(), 1);
    assert_eq!((text.matches("<script").count(), text.matches("<style").count()), (1, 1));
    for outside in ["http://", "https://", " src=", "@import", "url(", " style=\"", " onclick=\""] {
        assert!(!text.contains(outside), "{outside}");
    }
    assert_ne!(page(&server).1, text, "the nonce is another one each time");
}

/// The status and the code of an answer to a request with these headers.
fn asked_with(server: &Server, headers: &[(&str, &str)], path: &str) -> (u16, Value) {
    let mut request = agent().post(server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send(json!({"prompt": QUESTIONS[0]}).to_string()).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    (response.status().as_u16(), answer["error"]["code"].clone())
}

#[test]
fn pages_of_other_sites_get_nothing() {
    let server = Server::start(&[]);
    let own = server.url("");
    assert_eq!(asked_with(&server, &[("Origin", &own)], COMPLETIONS).0, 200);
    let other = [("Origin", "https://evil.example"), ("Origin", "null")];
    for origin in other {
        assert_eq!(asked_with(&server, &[origin], COMPLETIONS), (403, json!("cross_origin")));
    }
    // A name that was made to lead to this machine.
    for path in [COMPLETIONS, "/", "/v1/models", "/health"] {
        let found = asked_with(&server, &[("Host", "evil.example:8000")], path);
        assert_eq!(found, (403, json!("host_not_allowed")), "{path}");
    }
    assert_eq!(asked_with(&server, &[("Host", "localhost:1")], COMPLETIONS).0, 200);

    // Whoever knows the token may ask under any name; the page, which asks for it, is open.
    let mut command = coconut(["serve", "--port=0"]);
    command.arg(place().checkpoint()).env("COCONUT_TOKEN", "secret").stderr(Stdio::piped());
    let server = Server::wait_for(command);
    page(&server);
    let host = ("Host", "model.example");
    assert_eq!(asked_with(&server, &[host], COMPLETIONS), (401, json!("invalid_api_key")));
    let token = ("Authorization", "Bearer secret");
    assert_eq!(asked_with(&server, &[host, token], COMPLETIONS).0, 200);
}

fn opened(folder: &Path) -> Checkpoint {
    Checkpoint::load(folder, &coconut::device::cpu()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// The row, lengths and cosines by hand from the vectors that the library's forward pass feeds.
#[test]
fn the_row_and_its_thoughts_are_those_of_the_forward_pass() {
    let server = Server::start(&[]);
    let checkpoint = opened(&place().checkpoint());
    let trained = checkpoint.trained();
    for question in QUESTIONS {
        let answer = server.ask(COMPLETIONS, &json!({"prompt": question, "thoughts": 4}));
        let choice = &answer["choices"][0];
        let ids = trained.prompts(&[question.into()]).unwrap().remove(0);
        assert_eq!(choice["prompt"]["ids"], json!(ids));
        let markers = checkpoint.tokenizer.special_tokens();
        let is_latent = |&at: &usize| ids[at] == markers.latent;
        let latents: Vec<usize> = (0..ids.len()).filter(is_latent).collect();
        assert_eq!(choice["prompt"]["latents"], json!(latents));
        let tokens: Vec<String> =
            serde_json::from_value(choice["prompt"]["tokens"].clone()).unwrap();
        let text: String = tokens[..question.len()].concat();
        assert_eq!((text.as_str(), tokens.len()), (question, ids.len()));
        assert!(latents.iter().all(|&at| tokens[at] == "<|latent|>"), "{tokens:?}");

        let vectors = eval::thoughts_of(&trained, &ids).unwrap();
        assert_eq!(choice["thoughts"].as_array().unwrap().len(), vectors.len());
        assert!(vectors.len() > 2);
        for (number, vector) in vectors.iter().enumerate() {
            let thought = &choice["thoughts"][number];
            let length = dot(vector, vector).sqrt();
            assert!((thought["length"].as_f64().unwrap() - length).abs() < 1e-9);
            let cosines = floats(&thought["cosines"]);
            assert_eq!(cosines.len(), number);
            for (found, before) in cosines.iter().zip(&vectors) {
                let expected = dot(vector, before) / length / dot(before, before).sqrt();
                assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
        }
        assert_eq!(choice["thoughts"], generate(question, &["--thoughts=4"])["thoughts"]);
    }
    // What is zero has no direction.
    let zeroed = json!({"prompt": QUESTIONS[0], "thoughts": 1, "edit": "zero@2"});
    let zeroed = server.ask(COMPLETIONS, &zeroed)["choices"][0]["thoughts"].clone();
    assert_eq!((&zeroed[1]["length"], &zeroed[1]["cosines"]), (&json!(0.0), &json!([null])));
    assert!(zeroed[2]["cosines"][0].is_f64() && zeroed[2]["cosines"][1].is_null());
}

#[test]
fn thoughts_are_swapped_and_moved_as_generate_does_it() {
    let server = Server::start(&[]);
    let donor = place().file("donor.txt", &format!("{}\n", QUESTIONS[2]));
    let donor = donor.display();
    for (body, option) in [
        (json!({"edit": "transplant@2", "donor": QUESTIONS[2]}), format!("donor:{donor}@2")),
        (json!({"edit": "transplant@all", "donor": QUESTIONS[2]}), format!("donor:{donor}")),
        (json!({"edit": "move[3]@1"}), "move[3]@1".to_owned()),
        (json!({"edit": "move[1]@last[2]"}), "move[1]@last[2]".to_owned()),
        (json!({"edit": "permute@all"}), "permute@all".to_owned()),
    ] {
        let mut body = body;
        body["prompt"] = json!(QUESTIONS[0]);
        body["thoughts"] = json!(3);
        let choice = server.ask(COMPLETIONS, &body)["choices"][0].clone();
        let expected = generate(QUESTIONS[0], &["--thoughts=3", &format!("--edit={option}")]);
        assert_eq!(choice["text"], expected["generation"], "{body}");
        assert_eq!(choice["thoughts"], expected["thoughts"], "{body}");
    }

    // What is fed is what the other forward pass fed.
    let checkpoint = opened(&place().checkpoint());
    let trained = checkpoint.trained();
    let fed = |question: &str| {
        let ids = trained.prompts(&[question.into()]).unwrap().remove(0);
        eval::thoughts_of(&trained, &ids).unwrap()
    };
    let length = |vector: &[f32]| dot(vector, vector).sqrt();
    let (own, other) = (fed(QUESTIONS[0]), fed(QUESTIONS[2]));
    let lengths = |edit: Value| -> Vec<f64> {
        let mut body = edit;
        body["prompt"] = json!(QUESTIONS[0]);
        body["thoughts"] = json!(1);
        let thoughts = server.ask(COMPLETIONS, &body)["choices"][0]["thoughts"].clone();
        let of = |thought: &Value| thought["length"].as_f64().unwrap();
        thoughts.as_array().unwrap().iter().map(of).collect()
    };
    let found = lengths(json!({"edit": "move[3]@1"}));
    assert!((found[0] - length(&own[2])).abs() < 1e-6 && found[0] != length(&own[0]));
    let found = lengths(json!({"edit": "transplant@2", "donor": QUESTIONS[2]}));
    assert!((found[0] - length(&own[0])).abs() < 1e-6);
    assert!((found[1] - length(&other[1])).abs() < 1e-6);
    assert!((found[1] - length(&own[1])).abs() > 1e-6);

    for (body, param, word) in [
        (json!({"edit": "transplant@2"}), "donor", "needs the question"),
        (json!({"edit": "zero@2", "donor": "1+1"}), "donor", "transplant@2"),
        (json!({"donor": "1+1"}), "donor", "transplant@2"),
        (json!({"edit": "transplant@2", "donor": 3}), "donor", "a text"),
        (json!({"edit": "transplant@2", "donor": "1+".repeat(400)}), "donor", "context"),
        (json!({"edit": "transplant@9", "donor": "1+1"}), "edit", "nothing to change"),
        (json!({"edit": "move[9]@1"}), "edit", "there is no thought 9"),
        (json!({"edit": "move[2]@2"}), "edit", "nothing to change"),
        (json!({"edit": "move[0]@2"}), "edit", "move[3]@2"),
        (json!({"edit": "move[2]"}), "edit", "move[3]@2"),
        (json!({"edit": "mean@2"}), "edit", "`transplant` with its `donor`"),
        (json!({"edit": "nonsense@2"}), "edit", "move[k]@place"),
    ] {
        let mut body = body;
        body["prompt"] = json!(QUESTIONS[0]);
        let error = server.refuses(COMPLETIONS, &body, 400);
        assert_eq!(error["param"], param, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(word), "{body}: {error}");
    }
    // Tokens with fewer latents than the donor gets.
    let ids: Vec<u32> =
        serde_json::from_value(generate(QUESTIONS[0], &["--latents=1"])["prompt_ids"].clone())
            .unwrap();
    let body = json!({"prompt": ids, "edit": "transplant@1", "donor": QUESTIONS[2]});
    let error = server.refuses(COMPLETIONS, &body, 400);
    assert!(error["message"].as_str().unwrap().contains("the question has 1"), "{error}");
}

/// A tiny run of a method, with more keys.
fn run_of(method: &str, name: &str) -> Place {
    let place = Place::new();
    let keys = [("method", method), ("name", name), ("train_examples", "40")];
    train(&place.recipe(&keys), &[]).assert().success();
    place
}

fn asked(folder: &Path, question: &str, more: &[&str]) -> Value {
    let mut command = coconut(["generate", "--json", "--prompt", question]);
    let assert = command.arg(folder).args(more).assert().success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

#[test]
fn iterations_are_a_dial_of_each_request() {
    let place = run_of("lotus", "r");
    let folder = place.run().join("checkpoints/latest");
    let server = Server::of(&folder, &[]);
    let models: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    let about = &models["data"][0];
    assert_eq!((&about["thinking"], &about["latents"]), (&json!("parallel"), &json!(true)));
    let usual = about["iterations"].as_u64().unwrap();
    let mut seen = Vec::new();
    for times in [0, 1, 2, 7] {
        let body = json!({"prompt": QUESTIONS[0], "iterations": times, "thoughts": 2});
        let choice = server.ask(COMPLETIONS, &body)["choices"][0].clone();
        let expected =
            asked(&folder, QUESTIONS[0], &["--thoughts=2", &format!("--iterations={times}")]);
        assert_eq!(choice["text"], expected["generation"]);
        assert_eq!(choice["thoughts"], expected["thoughts"], "{times}");
        seen.push(choice["thoughts"].clone());
        // What others get does not change by it.
        let plain = json!({"prompt": QUESTIONS[0], "thoughts": 2});
        let plain = server.ask(COMPLETIONS, &plain)["choices"][0]["thoughts"].clone();
        assert_eq!(plain == choice["thoughts"], times == usual, "{times}, as trained {usual}");
    }
    seen.dedup();
    assert_eq!(seen.len(), 4);
    let edited = json!({"prompt": QUESTIONS[0], "iterations": 3, "edit": "zero@1", "thoughts": 1});
    let edited = server.ask(COMPLETIONS, &edited)["choices"][0].clone();
    let expected =
        asked(&folder, QUESTIONS[0], &["--iterations=3", "--edit=zero@1", "--thoughts=1"]);
    assert_eq!(edited["thoughts"], expected["thoughts"]);
    let error =
        server.refuses(COMPLETIONS, &json!({"prompt": QUESTIONS[0], "iterations": 101}), 400);
    assert_eq!(error["param"], "iterations");
    let error = Server::start(&[]).refuses(
        COMPLETIONS,
        &json!({"prompt": QUESTIONS[0], "iterations": 1}),
        400,
    );
    assert_eq!(error["param"], "iterations");
}

#[test]
fn two_checkpoints_answer_side_by_side() {
    let pause = run_of("pause", "pause");
    let beside = pause.path("runs/pause/checkpoints/latest");
    let server = Server::start(&["--beside", beside.to_str().unwrap()]);
    let models: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    let of = |key: &str| [&models["data"][0][key], &models["data"][1][key]];
    assert_eq!(of("id"), [&json!("tiny"), &json!("pause")]);
    assert_eq!(of("method"), [&json!("coconut"), &json!("pause")]);
    assert_eq!(of("thinking"), [&json!("sequential"), &json!("none")]);
    assert_eq!(server.get("/v1/models/pause").0, 200);
    for question in QUESTIONS {
        let ask = |model: &str| {
            let body = json!({"prompt": question, "thoughts": 3, "model": model});
            let answer = server.ask(COMPLETIONS, &body);
            assert_eq!(answer["model"], model);
            (answer["choices"][0]["text"].clone(), answer["choices"][0]["thoughts"].clone())
        };
        let told = |answer: Value| (answer["generation"].clone(), answer["thoughts"].clone());
        assert_eq!(ask("tiny"), told(generate(question, &["--thoughts=3"])));
        let (text, thoughts) = ask("pause");
        assert_eq!((text, thoughts.clone()), told(asked(&beside, question, &["--thoughts=3"])));
        assert_eq!(thoughts[1]["length"], Value::Null, "nothing is fed");
        assert_eq!(thoughts[1]["cosines"], json!([]));
        // Where no model is named, it is the first.
        assert_eq!(json!(server.text(&json!({"prompt": question}))), ask("tiny").0);
    }
    let error = server.refuses(
        COMPLETIONS,
        &json!({"prompt": "1+1", "model": "pause", "edit": "zero@1"}),
        400,
    );
    assert!(error["message"].as_str().unwrap().contains("has 0 thoughts"), "{error}");
    let error = server.refuses(COMPLETIONS, &json!({"prompt": "1+1", "model": "other"}), 404);
    assert!(error["message"].as_str().unwrap().contains("`tiny` and `pause`"), "{error}");

    // Two checkpoints of a run have names of their own.
    let folder = place().run().join("checkpoints");
    let mut command = coconut(["serve", "--port=0"]);
    command.arg(folder.join("latest")).arg("--beside").arg(place().checkpoint());
    let server = Server::wait_for({
        command.stderr(Stdio::piped());
        command
    });
    let models: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][1]["id"]),
        (&json!("r"), &json!("r/3-4"))
    );
    assert_eq!(server.get("/v1/models/r/3-4").0, 200);
    let mut command = coconut(["serve", "--port=0", "--beside", "nowhere"]);
    command.arg(place().checkpoint());
    refused(command, &["--beside", "nowhere"]);
}

/// A folder as another program writes it: no word of latents in it.
#[test]
fn a_plain_model_is_given_the_latents_that_the_server_was_told() {
    let trained = run_of("cot", "r");
    let folder = trained.path("plain");
    fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(trained.run().join("checkpoints/latest").join(file), folder.join(file)).unwrap();
    }
    let server = Server::of(&folder, &["--latents=2"]);
    for (more, latents) in [(json!({}), "2"), (json!({"latents": 3}), "3")] {
        let mut body = more;
        body["prompt"] = json!(QUESTIONS[0]);
        body["thoughts"] = json!(2);
        let choice = server.ask(COMPLETIONS, &body)["choices"][0].clone();
        let expected = asked(&folder, QUESTIONS[0], &["--thoughts=2", "--latents", latents]);
        assert_eq!(choice["prompt"]["ids"], expected["prompt_ids"], "{latents}");
        assert_eq!(choice["text"], expected["generation"]);
        assert_eq!(choice["thoughts"], expected["thoughts"]);
    }
    // Without, it goes on with texts, and a request for latents is refused.
    let server = Server::of(&folder, &[]);
    let choice = server.ask(COMPLETIONS, &json!({"prompt": QUESTIONS[0], "thoughts": 2}));
    let choice = &choice["choices"][0];
    assert_eq!((&choice["thoughts"], &choice["prompt"]["latents"]), (&json!([]), &json!([])));
    let error = server.refuses(COMPLETIONS, &json!({"prompt": "1+1", "latents": 2}), 400);
    assert_eq!(error["param"], "latents");
    // So it is of a checkpoint whose rows have none.
    let server = Server::of(&trained.run().join("checkpoints/latest"), &[]);
    let error = server.refuses(COMPLETIONS, &json!({"prompt": "1+1", "latents": 2}), 400);
    assert_eq!(error["param"], "latents");
}

/// The system's opener is the first one on the path.
#[cfg(target_os = "linux")]
#[test]
fn open_opens_the_page_or_says_where_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let place_of_opener = Place::new();
    let told = place_of_opener.path("told");
    let script = format!("#!/bin/sh\necho \"$@\" > {}\n", told.display());
    let opener = place_of_opener.file("xdg-open", &script);
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).unwrap();
    let start = |path: String| {
        let mut command = coconut(["serve", "--open", "--port=0"]);
        command.arg(place().checkpoint()).env("PATH", path).stderr(Stdio::piped());
        command
    };
    let path = std::env::var("PATH").unwrap();
    let server = Server::wait_for(start(format!("{}:{path}", place_of_opener.folder().display())));
    crate::program::wait_until("opened page", || told.exists());
    crate::program::wait_until("whole address", || {
        fs::read_to_string(&told).unwrap() == format!("{}/\n", server.url(""))
    });

    let mut process = start("/nowhere".into()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let note = lines.find(|line| line.as_ref().unwrap().starts_with("note: no browser"));
    let note = note.unwrap().unwrap();
    assert!(note.contains("xdg-open") && note.contains("the explorer is at http://127.0.0.1:"));
    process.kill().unwrap();
    process.wait().unwrap();
}
