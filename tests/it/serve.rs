//! `coconut serve` as its clients meet it: over HTTP, with a tiny trained checkpoint.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use assert_cmd::assert::OutputAssertExt;
use serde_json::{Value, json};

use crate::{
    program::{Place, coconut, refused, train},
    server::{COMPLETIONS, QUESTIONS, Server, agent, generate, place},
};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn answers_are_those_of_generate() {
    let server = Server::start(&[]);
    let alone: Vec<Value> = QUESTIONS.iter().map(|q| generate(q, &["--thoughts=3"])).collect();
    for (question, expected) in QUESTIONS.iter().zip(&alone) {
        let answer = server.ask(COMPLETIONS, &json!({"prompt": question, "thoughts": 3}));
        let choice = &answer["choices"][0];
        assert_eq!(choice["text"], expected["generation"]);
        assert_eq!(choice["thoughts"], expected["thoughts"]);
        let reason = if expected["finished"] == true { "stop" } else { "length" };
        assert_eq!(choice["finish_reason"], reason);
        let count = |of: &Value| of.as_array().unwrap().len();
        assert_eq!(answer["usage"]["prompt_tokens"], count(&expected["prompt_ids"]));
        assert_eq!(answer["usage"]["completion_tokens"], count(&expected["ids"]));
        let messages = json!([{"role": "user", "content": question}]);
        let chat = server.ask(CHAT, &json!({"messages": messages}));
        assert_eq!(chat["choices"][0]["message"]["content"], expected["generation"]);
    }
    let together = server.ask(COMPLETIONS, &json!({"prompt": QUESTIONS}));
    for (index, expected) in alone.iter().enumerate() {
        let choice = &together["choices"][index];
        assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &expected["generation"]));
    }
    for (body, options) in [
        (json!({"latents": 1}), &["--latents=1"][..]),
        (json!({"max_tokens": 2}), &["--max-new-tokens=2"]),
        (json!({"temperature": 2.0, "seed": 7}), &["--temperature=2", "--seed=7"]),
        (
            json!({"temperature": 2.0, "seed": 7, "top_k": 2}),
            &["--temperature=2", "--seed=7", "--top-k=2"],
        ),
        (json!({"edit": "zero@all"}), &["--edit=zero@all"]),
        (json!({"edit": "noise[1.0]@2", "thoughts": 2}), &["--edit=noise[1.0]@2", "--thoughts=2"]),
    ] {
        let mut body = body;
        body["prompt"] = json!(QUESTIONS[0]);
        let (expected, answer) = (generate(QUESTIONS[0], options), server.ask(COMPLETIONS, &body));
        assert_eq!(answer["choices"][0]["text"], expected["generation"], "{body}");
        assert_eq!(answer["choices"][0]["thoughts"], expected["thoughts"], "{body}");
    }
}

/// The text of all parts together, and the last reason to end.
fn joined(events: &[Value], chat: bool) -> (String, Value) {
    let text = |event: &Value| {
        let choice = &event["choices"][0];
        let text = if chat { &choice["delta"]["content"] } else { &choice["text"] };
        text.as_str().unwrap_or_default().to_owned()
    };
    let last = &events.last().unwrap()["choices"][0]["finish_reason"];
    (events.iter().map(text).collect(), last.clone())
}

#[test]
fn streams_join_to_the_same_text() {
    let server = Server::start(&[]);
    for question in QUESTIONS {
        let whole = server.ask(COMPLETIONS, &json!({"prompt": question, "logprobs": 2}));
        let whole = &whole["choices"][0];
        let events =
            server.events(COMPLETIONS, &json!({"prompt": question, "stream": true, "logprobs": 2}));
        let (text, reason) = joined(&events, false);
        assert_eq!((json!(text), reason), (whole["text"].clone(), whole["finish_reason"].clone()));
        let found = events.iter().flat_map(|event| {
            event["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone()
        });
        let expected = whole["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!(&found.collect::<Vec<_>>(), expected);

        let body = json!({
            "messages": [{"role": "user", "content": question}],
            "stream": true,
            "stream_options": {"include_usage": true},
            "thoughts": 1,
        });
        let mut events = server.events(CHAT, &body);
        let usage = events.pop().unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        assert!(!events[0]["choices"][0]["thoughts"].as_array().unwrap().is_empty());
        assert_eq!(json!(joined(&events, true).0), whole["text"]);
    }
    // Of several rows, parts come in any order, each with its row's number.
    let events = server.events(COMPLETIONS, &json!({"prompt": QUESTIONS, "stream": true}));
    for (index, question) in QUESTIONS.iter().enumerate() {
        let own = |event: &&Value| event["choices"][0]["index"] == index;
        let own: Vec<Value> = events.iter().filter(own).cloned().collect();
        assert_eq!(joined(&own, false).0, server.text(&json!({"prompt": question})));
    }
}

#[test]
fn answers_end_before_a_stop_text() {
    let server = Server::start(&[]);
    let whole = server.text(&json!({"prompt": QUESTIONS[0], "max_tokens": 20}));
    let (at, _) = whole.char_indices().nth(2).expect("some text");
    let stop = &whole[at..at + 1];
    let before = &whole[..whole.find(stop).unwrap()];
    let body = json!({"prompt": QUESTIONS[0], "max_tokens": 20, "stop": [stop, "never said"]});
    let answer = server.ask(COMPLETIONS, &body);
    assert_eq!(answer["choices"][0]["text"], before);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let mut body = body;
    body["stream"] = json!(true);
    assert_eq!(joined(&server.events(COMPLETIONS, &body), false), (before.into(), json!("stop")));
}

/// A token's log probability by hand from the logits that `coconut logits` prints.
fn log_prob(logits: &Value, id: usize) -> f64 {
    let logits: Vec<f64> = logits.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let most = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - most).exp()).sum();
    logits[id] - most - sum.ln()
}

#[test]
fn log_probabilities_are_those_of_logits() {
    let server = Server::start(&[]);
    let asked = generate(QUESTIONS[0], &[]);
    let ids = |key: &str| -> Vec<usize> { serde_json::from_value(asked[key].clone()).unwrap() };
    let prompt: Vec<usize> = [ids("prompt_ids"), ids("ids")].concat();
    let list: Vec<String> = prompt.iter().map(usize::to_string).collect();
    let mut command = coconut(["logits", "--json", "--ids", &list.join(",")]);
    let assert = command.arg(place().checkpoint()).assert().success();
    let logits: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let logits = logits["logits"].as_array().unwrap();

    let echo = json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 0});
    let scored = server.ask(COMPLETIONS, &echo)["choices"][0]["logprobs"].clone();
    let said = json!({"prompt": QUESTIONS[0], "logprobs": 2});
    let said = server.ask(COMPLETIONS, &said)["choices"][0]["logprobs"].clone();
    assert_eq!(scored["token_logprobs"][0], Value::Null);
    let n_asked = ids("prompt_ids").len();
    for (at, &id) in prompt.iter().enumerate().skip(1) {
        let expected = log_prob(&logits[at - 1], id);
        let found = scored["token_logprobs"][at].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5, "token {at}: {found}, {expected}");
        let best = scored["top_logprobs"][at].as_object().unwrap().values();
        let best = best.map(|x| x.as_f64().unwrap()).fold(f64::MIN, f64::max);
        let all =
            (0..logits[at - 1].as_array().unwrap().len()).map(|id| log_prob(&logits[at - 1], id));
        assert!((best - all.fold(f64::MIN, f64::max)).abs() < 1e-5);
        if at >= n_asked {
            let found = said["token_logprobs"][at - n_asked].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "said {at}: {found}, {expected}");
        }
    }
    // As lm_eval asks: several rows of token ids, and one token more.
    let rows =
        json!({"prompt": [prompt, prompt[..4]], "echo": true, "logprobs": 1, "max_tokens": 1});
    let rows = server.ask(COMPLETIONS, &rows);
    for (choice, n) in rows["choices"].as_array().unwrap().iter().zip([prompt.len(), 4]) {
        let found = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!(found.len(), n + 1);
        for (at, found) in found.iter().enumerate().take(n).skip(1) {
            let expected = scored["token_logprobs"][at].as_f64().unwrap();
            assert!((found.as_f64().unwrap() - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let server = Server::start(&["--max-tokens=50", "--max-body=4", "--queue=4"]);
    for (more, param) in [
        (json!({"n": 2}), "n"),
        (json!({"top_p": 0.5}), "top_p"),
        (json!({"presence_penalty": 1}), "presence_penalty"),
        (json!({"logit_bias": {"1": 2}}), "logit_bias"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"max_tokens": 51}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"stop": ["1", "2", "3", "4", "5"]}), "stop"),
        (json!({"stop": ""}), "stop"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"echo": true}), "echo"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": "", "raw": true}), "prompt"),
        (json!({"prompt": [1, "two"]}), "prompt"),
        (json!({"prompt": [1_000_000]}), "prompt"),
        (json!({"prompt": "1+".repeat(600)}), "prompt"),
        (json!({"prompt": ["1", "1", "1", "1", "1"]}), "prompt"),
        (json!({"latents": 5000}), "prompt"),
        (json!({"latents": 1, "raw": true}), "latents"),
        (json!({"edit": "zero@99"}), "edit"),
        (json!({"edit": "donor:/etc/passwd@1"}), "edit"),
        (json!({"edit": "nonsense"}), "edit"),
        (json!({"edit": 3}), "edit"),
        (json!({"unheard_of": 1}), "unheard_of"),
    ] {
        let mut body = json!({"prompt": QUESTIONS[0]});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let error = server.refuses(COMPLETIONS, &body, 400);
        assert_eq!(error["param"], param, "{body}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    for messages in [
        json!([]),
        json!("hello"),
        json!([{"role": "user"}]),
        json!([{"role": "tool", "content": ""}]),
    ] {
        let error = server.refuses(CHAT, &json!({"messages": messages}), 400);
        assert_eq!(error["param"], "messages");
    }
    let error = server.refuses(COMPLETIONS, &json!({"prompt": "1", "model": "other"}), 404);
    assert_eq!(error["code"], "model_not_found");
    server.refuses("/v1/embeddings", &json!({}), 404);
    server.refuses("/health", &json!({}), 405);
    let error = server.refuses(COMPLETIONS, &json!({"prompt": "1".repeat(5000)}), 413);
    assert_eq!(error["code"], "body_too_large");
    // What changes nothing is taken.
    let neutral = json!({"prompt": "1+1", "model": "tiny", "n": 1, "top_p": 1, "user": "u", "stop": null, "logit_bias": {}});
    server.ask(COMPLETIONS, &neutral);
    assert_eq!(server.get("/health").0, 200);
    let (_, models) = server.get("/v1/models");
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(server.get("/v1/models/tiny").0, 200);
    assert_eq!(server.get("/v1/models/other").0, 404);
}

#[test]
fn malformed_requests_by_the_hundred_do_no_harm() {
    let mut server = Server::start(&[]);
    let whole = json!({"prompt": QUESTIONS[0], "stop": ["#"], "edit": "transplant@1", "donor": QUESTIONS[1], "logprobs": 2, "stream": true}).to_string();
    let agent = agent();
    let url = server.url(COMPLETIONS);
    let mut refusals = 0;
    for at in 0..whole.len() {
        let cut = &whole.as_bytes()[..at];
        let mut broken = whole.clone().into_bytes();
        broken[at] = broken[at].wrapping_mul(31).wrapping_add(at as u8);
        for body in [cut, broken.as_slice()] {
            let mut response = agent.post(&url).send(body).unwrap();
            let text = response.body_mut().read_to_string().unwrap();
            match response.status().as_u16() {
                400 => {
                    let answer: Value = serde_json::from_str(&text).unwrap();
                    assert!(answer["error"]["message"].is_string());
                    refusals += 1;
                }
                200 => assert!(text.ends_with("data: [DONE]\n\n"), "{text}"),
                status => panic!("{status}: {text}"),
            }
        }
    }
    assert!(refusals > whole.len(), "{refusals}");
    // No HTTP at all, and requests that break off.
    for garbage in
        ["\0\0\0", "GET\r\n\r\n", "POST /v1/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"]
    {
        for _ in 0..30 {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(garbage.as_bytes()).unwrap();
        }
    }
    assert_eq!(server.process.try_wait().unwrap(), None);
    assert_eq!(
        server.text(&json!({"prompt": QUESTIONS[0]})),
        generate(QUESTIONS[0], &[])["generation"]
    );
}

#[test]
fn another_address_needs_a_token() {
    let checkpoint = place().checkpoint();
    let mut open = coconut(["serve", "--host=0.0.0.0", "--port=0"]);
    open.arg(&checkpoint).env_remove("COCONUT_TOKEN");
    refused(open, &["--host 0.0.0.0", "--token", "COCONUT_TOKEN"]);

    let mut command = coconut(["serve", "--host=0.0.0.0", "--port=0"]);
    command.arg(&checkpoint).env("COCONUT_TOKEN", "secret").stderr(Stdio::piped());
    let mut server = Server::wait_for(command);
    server.address = server.address.replace("0.0.0.0", "127.0.0.1");
    let body = json!({"prompt": "1+1"}).to_string();
    for wrong in ["", "secre", "secret2", "SECRET"] {
        let (status, text) = server.send(COMPLETIONS, body.as_bytes(), wrong);
        assert_eq!(status, 401, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["error"]["code"], "invalid_api_key");
    }
    assert_eq!(server.send(COMPLETIONS, body.as_bytes(), "secret").0, 200);
    assert_eq!((server.get("/metrics").0, server.get("/health").0), (401, 200));
}

#[test]
fn a_port_in_use_is_one_clear_error() {
    let server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap();
    let mut second = coconut(["serve", "--port", port]);
    second.arg(place().checkpoint());
    refused(second, &["cannot listen on", port, "choose another --port"]);
}

#[test]
fn a_checkpoint_that_goes_away_is_served_to_the_end() {
    let copy = Place::new();
    let folder = copy.path("checkpoint");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(place().checkpoint().canonicalize().unwrap()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let server = Server::of(&folder, &[]);
    for file in std::fs::read_dir(&folder).unwrap() {
        std::fs::write(file.unwrap().path(), "").unwrap();
    }
    std::fs::remove_dir_all(&folder).unwrap();
    for question in QUESTIONS {
        let expected = generate(question, &[]);
        assert_eq!(server.text(&json!({"prompt": question})), expected["generation"]);
    }
    let mut gone = coconut(["serve", "--port=0"]);
    gone.arg(&folder);
    refused(gone, &["checkpoint"]);
}

/// A request that is sent and not waited for.
fn begin(server: &Server, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// A row that talks to the end of the context.
fn endless(tokens: usize) -> Value {
    json!({"prompt": QUESTIONS[1], "max_tokens": tokens, "ignore_eos": true})
}

/// A checkpoint with room for long answers, trained once.
fn roomy() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::new();
        let keys = [("n_positions", "20000"), ("train_examples", "40")];
        train(&place.recipe(&keys), &[]).assert().success();
        place
    })
}

#[test]
fn rows_join_and_leave_a_running_batch() {
    let server = Server::of(&roomy().checkpoint(), &["--rows=3", "--max-tokens=19000"]);
    let ask = |question: &str| server.text(&json!({"prompt": question, "max_tokens": 30}));
    let alone: Vec<String> = QUESTIONS.iter().map(|question| ask(question)).collect();
    let long = begin(&server, &endless(19_000));
    until("the long row runs", || server.metric("rows_running") == 1.0);
    let second = begin(&server, &endless(19_000));
    until("both run", || server.metric("rows_running") == 2.0);
    for (question, alone) in QUESTIONS.iter().zip(&alone) {
        assert_eq!(&ask(question), alone, "beside longer rows");
    }
    let together = server.ask(COMPLETIONS, &json!({"prompt": QUESTIONS, "max_tokens": 30}));
    for (choice, alone) in together["choices"].as_array().unwrap().iter().zip(&alone) {
        assert_eq!(&choice["text"], alone);
    }
    assert_eq!(server.metric("rows_running"), 2.0, "the long rows still run");
    drop(long);
    until("a client that goes away frees its row", || server.metric("rows_running") == 1.0);
    drop(second);
    until("so does the other", || server.metric("rows_running") == 0.0);
    assert_eq!(ask(QUESTIONS[0]), alone[0]);

    // Of a stream, too.
    let mut body = endless(19_000);
    body["stream"] = json!(true);
    let mut stream = begin(&server, &body);
    stream.read_exact(&mut [0; 100]).unwrap();
    drop(stream);
    until("a stream that is cut frees its row", || server.metric("rows_running") == 0.0);
}

#[test]
fn more_than_fits_is_told_to_wait_and_what_takes_too_long_ends() {
    let more = ["--rows=1", "--queue=1", "--timeout=1", "--max-tokens=19000"];
    let server = Server::of(&roomy().checkpoint(), &more);
    let long = begin(&server, &endless(19_000));
    until("it runs", || server.metric("rows_running") == 1.0);
    let waiting = begin(&server, &endless(19_000));
    until("it waits", || server.metric("queue_length") == 1.0);
    let error = server.refuses(COMPLETIONS, &endless(1), 429);
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("rate_limit_error"), &json!("queue_full"))
    );
    for stream in [long, waiting] {
        let mut answer = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "HTTP/1.1 503 Service Unavailable");
    }
    until("nothing is left", || server.metric("rows_running") == 0.0);
    server.text(&endless(1));
}

#[test]
fn who_keeps_the_server_waiting_is_let_go() {
    let more = ["--patience=1", "--max-tokens=19000"];
    let server = Server::of(&roomy().checkpoint(), &more);
    // An answer that is not taken: more than what lies in the buffers between.
    let mut body = endless(19_000);
    body["stream"] = json!(true);
    body["logprobs"] = json!(10);
    let mut stream = begin(&server, &body);
    until("it runs", || server.metric("rows_running") == 1.0);
    until("it has ended", || server.metric("rows_running") == 0.0);
    sleep(Duration::from_secs(2));
    let mut taken = Vec::new();
    let ended = stream.read_to_end(&mut taken);
    let text = String::from_utf8_lossy(&taken);
    assert!(text.starts_with("HTTP/1.1 200"), "{ended:?}: {text}");
    assert!(!text.contains("[DONE]"), "{ended:?}: {} bytes came", taken.len());

    // A body that does not come, and a head.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .write_all(
            format!(
                "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{"
            )
            .as_bytes(),
        )
        .unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(answer.trim(), "HTTP/1.1 408 Request Timeout");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost:").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    server.text(&endless(1));
}

#[test]
fn ctrl_c_lets_running_rows_finish() {
    let mut server = Server::of(&roomy().checkpoint(), &["--max-tokens=3000"]);
    let running = begin(&server, &endless(3000));
    until("it runs", || server.metric("rows_running") == 1.0);
    server.interrupt();
    until("new ones are refused", || {
        let (status, _) = server.send(COMPLETIONS, endless(1).to_string().as_bytes(), "");
        assert!(status == 200 || status == 503, "{status}");
        status == 503
    });
    let mut answer = String::new();
    BufReader::new(running).read_to_string(&mut answer).unwrap();
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["usage"]["completion_tokens"], 3000);
    until("the server ends", || server.process.try_wait().unwrap().is_some());
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
}
