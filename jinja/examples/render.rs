//! Renders templates from JSON lines, one `{"template": …, "variables": {…}, "date": "2024-07-26"}` a line, to
//! lines of `{"text": …}` or `{"error": …}`: what `python/compare/check_templates.py` compares with transformers.

use std::io::{BufRead, Write};

use coconut_jinja::{Date, Template, Value};
use serde_json::{Value as Json, json};

fn render(case: &Json) -> Result<String, Box<dyn std::error::Error>> {
    let field = |name: &str| case[name].as_str().ok_or(format!("`{name}` is missing"));
    let template = Template::parse(field("template")?)?;
    let date: Date = field("date")?.parse()?;
    let variables = case["variables"].as_object().ok_or("`variables` is missing")?;
    let variables: Vec<(&str, Value)> = variables
        .iter()
        .map(|(name, value)| Ok((name.as_str(), Value::from_json(value)?)))
        .collect::<coconut_jinja::Result<_>>()?;
    Ok(template.render(&variables, date)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = match render(&serde_json::from_str(&line?)?) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
