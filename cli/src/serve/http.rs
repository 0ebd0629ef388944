//! Paths, limits and who may ask; connections, and how they end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::{
    App,
    answer::answer,
    failure::{Failure, json_response},
};

/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 1024;
/// How long a client may take to send a request's head, and its body.
const TIME_TO_SEND: Duration = Duration::from_secs(30);
/// How often it is looked whether to stop.
const TICK: Duration = Duration::from_millis(50);
/// How long answers that are complete may take to be fetched while the server stops.
const TIME_TO_LEAVE: Duration = Duration::from_secs(5);

/// Paths that are counted by name.
const PATHS: [&str; 5] =
    ["/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"];

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), watched))
        .with_state(app)
}

/// Counts a request, and lets only those pass who know the token.
async fn watched(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = PATHS.into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
    let response = match path == "/health" || app.knows(request.headers()) {
        true => next.run(request).await,
        false => Failure::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "This server needs its token, as `Authorization: Bearer TOKEN`.",
        )
        .into_response(),
    };
    app.metrics.add_request(path, response.status().as_u16(), started.elapsed());
    response
}

impl App {
    /// Whether a request carries the token, if there is one; how long it takes does not tell how much of it is right.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
        given.is_some_and(|given| bool::from(given.ct_eq(token.as_bytes())))
    }
}

async fn completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, Failure> {
    let body = bytes(&app, body).await?;
    answer(app, body, false).await
}

async fn chat_completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, Failure> {
    let body = bytes(&app, body).await?;
    answer(app, body, true).await
}

/// A request's body, which may be neither too long nor too slow.
async fn bytes(app: &App, body: Body) -> Result<Vec<u8>, Failure> {
    let read = axum::body::to_bytes(body, app.limits.body);
    match timeout(TIME_TO_SEND, read).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(error)) if is_too_long(&error) => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The body is longer than the {} bytes that the server takes.", app.limits.body),
        )),
        Ok(Err(error)) => Err(Failure::bad("", format!("The body could not be read: {error}."))),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            format!("The body did not come within {} seconds.", TIME_TO_SEND.as_secs()),
        )),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"object": "list", "data": [about(&app)]}))
}

async fn model(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Failure> {
    match uri.path().strip_prefix("/v1/models/") {
        Some(name) if name == app.model.name => Ok(json_response(&about(&app))),
        _ => Err(Failure::new(
            StatusCode::NOT_FOUND,
            "model_not_found",
            format!("There is no such model here, only `{}`.", app.model.name),
        )),
    }
}

fn about(app: &App) -> Value {
    let model = &app.model;
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "coconut",
        "max_model_len": model.checkpoint.model.transformer.config.n_positions,
    })
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    match app.stopping.load(Ordering::Relaxed) {
        true => Err(Failure::stopping()),
        false => Ok(json_response(&json!({"status": "ok"}))),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.queued());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn unknown(method: Method, uri: Uri) -> Failure {
    let message = format!("There is nothing at {method} {}.", uri.path());
    Failure::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let message = format!("{} does not take {method}.", uri.path());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Answers connections until the server is to stop and its rows have ended.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let service = TowerToHyperService::new(router(Arc::clone(&app)));
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let open = GracefulShutdown::new();
    while !(app.stopping.load(Ordering::Relaxed) && app.is_idle()) {
        let Ok(Ok(permit)) = timeout(TICK, Arc::clone(&connections).acquire_owned()).await else {
            continue;
        };
        let stream = match timeout(TICK, listener.accept()).await {
            Ok(Ok((stream, _))) => stream,
            // Such as too many open files, which passes.
            Ok(Err(_)) => {
                tokio::time::sleep(TICK).await;
                continue;
            }
            Err(_) => continue,
        };
        let _ = stream.set_nodelay(true);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(TIME_TO_SEND);
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = open.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = timeout(TIME_TO_LEAVE, open.shutdown()).await;
}
