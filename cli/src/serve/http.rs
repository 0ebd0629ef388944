//! Paths, limits and who may ask; connections, and how they end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
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
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_io_timeout::TimeoutStream;

use super::{
    App,
    answer::answer,
    explorer,
    failure::{Failure, json_response},
    visitor,
};

/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 1024;
/// How often it is looked whether to stop.
const TICK: Duration = Duration::from_millis(50);
/// How long answers that are complete may take to be fetched while the server stops.
const TIME_TO_LEAVE: Duration = Duration::from_secs(5);

/// Paths that are counted by name.
const PATHS: [&str; 6] =
    ["/", "/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"];
/// Of these, the paths that tell nothing of the model, so that no token is needed.
const OPEN_PATHS: [&str; 2] = ["/", "/health"];

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(explorer::page))
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

/// Counts a request, and lets only those pass who may ask.
async fn watched(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = PATHS.into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
    let token = app.token.as_deref();
    let open = token.is_some() && OPEN_PATHS.contains(&path);
    let checked = if open { Ok(()) } else { visitor::check(token, request.headers()) };
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    app.metrics.add_request(path, response.status().as_u16(), started.elapsed());
    response
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
    match timeout(app.limits.patience, read).await {
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
            format!("The body did not come within {} seconds.", app.limits.patience.as_secs()),
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
    let models: Vec<Value> = app.models.iter().map(|served| served.model.about()).collect();
    json_response(&json!({"object": "list", "data": models}))
}

async fn model(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Failure> {
    let name = uri.path().trim_start_matches("/v1/models/");
    let models = app.models.iter().map(|served| &served.model);
    match models.clone().find(|model| model.name == name) {
        Some(model) => Ok(json_response(&model.about())),
        None => Err(Failure::no_model(name, models.map(|model| model.name.as_str()))),
    }
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    match app.stopping.load(Ordering::Relaxed) {
        true => Err(Failure::stopping()),
        false => Ok(json_response(&json!({"status": "ok"}))),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.running(), app.queued());
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
        http.timer(TokioTimer::new()).header_read_timeout(app.limits.patience);
        // A client that takes nothing of its answer would hold its connection for ever.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(app.limits.patience));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
        let connection = open.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = timeout(TIME_TO_LEAVE, open.shutdown()).await;
}
