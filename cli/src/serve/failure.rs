//! What a client is told when something cannot be done, in OpenAI's form.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use coconut::Error;
use serde_json::{Value, json};

/// A request that got no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    /// A word for programs, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<String>,
    pub message: String,
}

impl Failure {
    /// A request that cannot be carried out as it is.
    pub fn bad(param: &str, message: impl Into<String>) -> Self {
        let param = Some(param.to_owned()).filter(|param| !param.is_empty());
        Self { status: StatusCode::BAD_REQUEST, code: None, param, message: message.into() }
    }

    /// Any other kind.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code: Some(code), param: None, message: message.into() }
    }

    /// A model that is none of those served.
    pub fn no_model<'a>(name: &str, served: impl Iterator<Item = &'a str>) -> Self {
        let served: Vec<String> = served.map(|name| format!("`{name}`")).collect();
        let message = format!("There is no model `{name}` here, only {}.", served.join(" and "));
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    /// What the library says of a request: the client's mistake, or a failure.
    pub fn from_error(param: &str, error: Error) -> Self {
        match error {
            Error::Prompt { problem, .. } => {
                Self::bad(param, format!("The prompt cannot be answered: {problem}."))
            }
            error if error.exit_code() == 2 => Self::bad(param, error.to_string()),
            error => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", error.to_string())
            }
        }
    }

    /// The server is about to end.
    pub fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "The server is stopping and takes no more requests.",
        )
    }

    /// The request took longer than requests may.
    pub fn too_slow() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "The request took longer than the server's --timeout allows.",
        )
    }

    pub fn to_json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, json_response(&self.to_json())).into_response()
    }
}

/// A response that is JSON.
pub fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
