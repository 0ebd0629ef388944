//! From a request to its answer: jobs are sent, and what comes back is put together, at once or as a stream.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{future::join_all, stream};
use serde_json::{Value, json};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, error::TrySendError},
    oneshot,
};

use super::{
    App,
    failure::{Failure, json_response},
    job::{Change, Job, News},
    model::Model,
    reply::{self, Head, Row},
    request::{self, Request},
};

/// A body of so many bytes is read before another request is listened to: that is less work than to hand it on.
const QUICKLY_READ: usize = 4096;

/// A request whose rows wait or run.
struct Sent {
    app: Arc<App>,
    request: Request,
    prompts: Prompts,
    head: Head,
}

/// Token ids that the model is given.
struct Prompts {
    rows: Vec<Vec<u32>>,
    /// Of the question whose thoughts are transplanted.
    donor: Option<Vec<u32>>,
}

/// Answers the body of a request to one of the two paths.
pub async fn answer(app: Arc<App>, body: Vec<u8>, chat: bool) -> Result<Response, Failure> {
    let deadline = Instant::now() + app.limits.time;
    let (request, prompts) = if body.len() <= QUICKLY_READ {
        read(&app, &body, chat)?
    } else {
        // A long text takes its time, in which others are to be heard.
        let reader = Arc::clone(&app);
        let read = tokio::task::spawn_blocking(move || read(&reader, &body, chat));
        let internal = |_| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let message = "The request could not be read; the server goes on.";
            Failure::new(status, "internal_error", message)
        };
        read.await.map_err(internal)??
    };
    let news = send(&app, &request, &prompts, deadline)?;
    let number = app.answers.fetch_add(1, Ordering::Relaxed);
    let now = super::since_1970().as_secs();
    let id = format!("{}-{now:x}-{number}", if chat { "chatcmpl" } else { "cmpl" });
    let sent = Sent { app, request, prompts, head: Head { id, created: now, chat } };
    if sent.request.stream { sent.stream(news).await } else { sent.whole(news).await }
}

/// A request and the tokens of its prompts.
fn read(app: &App, body: &[u8], chat: bool) -> Result<(Request, Prompts), Failure> {
    let request = request::read(body, chat, &app.models, app.limits.tokens)?;
    let model = &app.models[request.model].model;
    let param = if chat { "messages" } else { "prompt" };
    let prompt = |asked| model.prompt(asked, request.latents, param);
    let rows = request.prompts.iter().map(prompt).collect::<Result<_, _>>()?;
    let donor = |asked| model.prompt(asked, request.latents, "donor");
    let donor = request.donor.as_ref().map(donor).transpose()?;
    Ok((request, Prompts { rows, donor }))
}

/// Puts a row for each prompt into the queue: all of them or none.
fn send(
    app: &App,
    request: &Request,
    Prompts { rows, donor }: &Prompts,
    deadline: Instant,
) -> Result<Vec<UnboundedReceiver<News>>, Failure> {
    if app.stopping.load(Ordering::Relaxed) {
        return Err(Failure::stopping());
    }
    if rows.len() > app.limits.queue {
        let message = format!(
            "The request has {} prompts and the server's queue holds {}; send fewer at once.",
            rows.len(),
            app.limits.queue
        );
        return Err(Failure::bad("prompt", message));
    }
    let jobs = &app.models[request.model].jobs;
    let permits = jobs.try_reserve_many(rows.len()).map_err(|error| match error {
        TrySendError::Full(()) => Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "queue_full",
            "The server has as many requests waiting as it takes. Try again later.",
        ),
        TrySendError::Closed(()) => Failure::stopping(),
    })?;
    let send = |(permit, prompt): (mpsc::Permit<'_, Job>, &Vec<u32>)| {
        let (news, heard) = mpsc::unbounded_channel();
        permit.send(Job {
            prompt: prompt.clone(),
            chat: request.chat,
            endless: request.endless,
            max_new_tokens: request.max_tokens,
            sampling: request.sampling,
            thoughts: request.thoughts,
            change: request.edit.clone().map(|edit| Change { edit, donor: donor.clone() }),
            iterations: request.iterations,
            log_probs: request.log_probs,
            scored: request.echo && request.log_probs.is_some(),
            deadline,
            news,
        });
        heard
    };
    Ok(permits.zip(rows).map(send).collect())
}

impl Sent {
    fn model(&self) -> &Model {
        &self.app.models[self.request.model].model
    }

    fn rows(&self, news: Vec<UnboundedReceiver<News>>) -> Vec<Row<'_>> {
        let rows = self.prompts.rows.iter().zip(news);
        rows.map(|(prompt, news)| Row::new(self.model(), &self.request, prompt, news)).collect()
    }

    /// The answer once it is complete. If the client goes away, this is dropped, and with it the rows.
    async fn whole(&self, news: Vec<UnboundedReceiver<News>>) -> Result<Response, Failure> {
        let mut rows = self.rows(news);
        let mut choices = Vec::with_capacity(rows.len());
        let mut said = 0;
        for (index, row) in rows.iter_mut().enumerate() {
            row.begin(self.request.max_tokens).await?;
            while row.next().await?.is_some() {}
            choices.push(row.choice(index, &self.request)?);
            said += row.speech.ids.len();
        }
        let mut answer = self.head.with(self.model(), choices, false);
        answer["usage"] = reply::usage(&self.prompts.rows, said);
        Ok(json_response(&answer))
    }

    /// The answer as server-sent events. Whether there will be one is known before the first of them.
    async fn stream(self, news: Vec<UnboundedReceiver<News>>) -> Result<Response, Failure> {
        const EVENTS_AHEAD: usize = 64;
        let (events, heard) = mpsc::channel::<String>(EVENTS_AHEAD);
        let (begun, has_begun) = oneshot::channel();
        tokio::spawn(async move { self.events(news, begun, events).await });
        match has_begun.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Err(reply::broken()),
        }
        let events = stream::unfold(heard, |mut heard| async {
            heard.recv().await.map(|event| (Ok::<_, Infallible>(event), heard))
        });
        let head =
            [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        Ok((head, Body::from_stream(events)).into_response())
    }

    async fn events(
        &self,
        news: Vec<UnboundedReceiver<News>>,
        begun: oneshot::Sender<Result<(), Failure>>,
        events: mpsc::Sender<String>,
    ) {
        let mut rows = self.rows(news);
        for row in &mut rows {
            if let Err(failure) = row.begin(self.request.max_tokens).await {
                let _ = begun.send(Err(failure));
                return;
            }
        }
        if begun.send(Ok(())).is_err() {
            return;
        }
        let speak = rows.iter_mut().enumerate().map(|(index, row)| self.speak(index, row, &events));
        for spoken in join_all(speak).await {
            match spoken {
                Ok(()) => {}
                Err(Some(failure)) => {
                    let _ = events.send(event(&failure.to_json())).await;
                    return;
                }
                // Nobody listens any more.
                Err(None) => return,
            }
        }
        if self.request.usage {
            let said = rows.iter().map(|row| row.speech.ids.len()).sum();
            let mut last = self.head.with(self.model(), Vec::new(), true);
            last["usage"] = reply::usage(&self.prompts.rows, said);
            let _ = events.send(event(&last)).await;
        }
        let _ = events.send("data: [DONE]\n\n".to_owned()).await;
    }

    /// Sends one row's events; `None` as the failure if nobody listens.
    async fn speak(
        &self,
        index: usize,
        row: &mut Row<'_>,
        events: &mpsc::Sender<String>,
    ) -> Result<(), Option<Failure>> {
        let send = async |choice: Value| {
            let part = self.head.with(self.model(), vec![choice], true);
            events.send(event(&part)).await.map_err(|_| None)
        };
        let mut first = json!({"index": index, "logprobs": null, "finish_reason": null});
        row.add_thoughts(&mut first, &self.request);
        match self.request.chat {
            true => first["delta"] = json!({"role": "assistant", "content": ""}),
            false => first["text"] = json!(""),
        }
        if self.request.chat || self.request.thoughts.is_some() {
            send(first).await?;
        }
        let (mut unsent, mut offset) = (Vec::new(), 0);
        loop {
            match row.next().await.map_err(Some)? {
                Some(log_prob) => unsent.extend(log_prob),
                None => return Ok(()),
            }
            let ended = row.reason.is_some();
            let failed = |error| Some(Failure::from_error("", error));
            let piece = row.speech.piece(ended).map_err(failed)?;
            if piece.is_empty() && unsent.is_empty() && !ended {
                if events.is_closed() {
                    return Err(None);
                }
                continue;
            }
            let found = std::mem::take(&mut unsent);
            let tokenizer = self.model().tokenizer(self.request.chat);
            let mut choice = json!({"index": index, "finish_reason": row.reason});
            choice["logprobs"] = match (self.request.log_probs, self.request.chat) {
                (None, _) => Value::Null,
                (Some(_), true) => reply::chat_log_probs(tokenizer, &found),
                (Some(_), false) => {
                    reply::completion_log_probs(tokenizer, None, found.iter(), offset)
                }
            };
            offset += piece.chars().count();
            match self.request.chat {
                true => choice["delta"] = json!({"content": piece}),
                false => choice["text"] = json!(piece),
            }
            send(choice).await?;
        }
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}
