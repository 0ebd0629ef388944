//! Templates against transformers: `python/fixtures/make_templates.py` wrote the cases.

use coconut_jinja::{Date, Template, Value};
use serde_json::Value as Json;

#[test]
fn texts_are_those_of_transformers() {
    let file =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates.json"));
    let fixture: Json = serde_json::from_str(&file.unwrap()).unwrap();
    let date: Date = fixture["date"].as_str().unwrap().parse().unwrap();
    let variables: Vec<(&str, Value)> = fixture["variables"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), Value::from_json(value).unwrap()))
        .collect();
    for (construction, cases) in fixture["cases"].as_object().unwrap() {
        for case in cases.as_array().unwrap() {
            let (template, text) = (case[0].as_str().unwrap(), case[1].as_str());
            let ours = Template::parse(template).and_then(|parsed| parsed.render(&variables, date));
            match (&ours, text) {
                (Ok(ours), Some(text)) => assert_eq!(ours, text, "{construction}: {template}"),
                (Err(_), None) => {}
                _ => panic!("{construction}: {template}: {ours:?} against {text:?}"),
            }
        }
    }
}

fn refusal(template: &str) -> String {
    let date = Date::default();
    Template::parse(template).and_then(|parsed| parsed.render(&[], date)).unwrap_err().to_string()
}

/// What the language has and this crate has not; transformers would print something.
#[test]
fn what_is_not_supported_is_named() {
    for (template, named) in [
        ("{{ 'a'.encode() }}", "`encode`"),
        ("{{ 'a'.translate({}) }}", "`translate`"),
        ("{{ [1] | random }}", "`random`"),
        ("{{ 'a' | wordwrap }}", "`wordwrap`"),
        ("{{ self }}", "`self`"),
        ("{% autoescape true %}a{% endautoescape %}", "`autoescape`"),
        ("{{ range(5) }}", "range cannot be printed"),
        ("{{ ['a'] | map('upper') }}", "generator cannot be printed"),
        ("{{ 2 ** 200 }}", "too large"),
        ("{{ strftime_now('%Q') }}", "`%Q`"),
        ("{{ '\\N{BULLET}' }}", "`\\N{…}`"),
        ("{{ ('<' | safe) | upper }}", "`upper` does not take a value of type Markup"),
        ("{{ '٣'.isdigit() }}", "is a digit is not known"),
    ] {
        let error = refusal(template);
        assert!(error.contains(named), "{template}: {error}");
    }
}

#[test]
fn errors_say_the_line_and_what_a_template_raises() {
    assert_eq!(refusal("a\nb\n{{ c.d }}"), "line 3: `c` is undefined");
    assert_eq!(refusal("a\n{% if %}"), "line 2: found `%}` where an expression is expected");
    let raised = Template::parse("{{ raise_exception('no ' ~ 5) }}").unwrap();
    let error = raised.render(&[], Date::default()).unwrap_err();
    assert!(error.is_raised());
    assert_eq!(error.to_string(), "line 1: no 5");
}

/// Templates come from elsewhere: none may run for ever, fill the memory or end the program.
#[test]
fn templates_cannot_run_away() {
    let nested = |open: &str, close: &str| {
        format!("{{{{ {}1{} }}}}", open.repeat(100_000), close.repeat(100_000))
    };
    let doubling = "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(64) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}";
    let listing = doubling.replace("'aaaaaaaa'", "[1]").replace("ns.t ~ ns.t", "ns.t + ns.t");
    let growing = "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}";
    let chained = "{% set r = namespace() %}{% for i in range(99999) %}{% set n = namespace() %}{% set n.x = r.x %}{% set r.x = n %}{% endfor %}";
    for template in [
        nested("(", ")"),
        nested("[", "]"),
        nested("-", ""),
        nested("not ", ""),
        nested("1 + ", ""),
        nested("{'a': ", "}"),
        format!("{{{{ 1{} }}}}", " if 1 else 2".repeat(100_000)),
        format!("{{{{ a{} }}}}", ".a".repeat(100_000)),
        format!("{{{{ a{} }}}}", "|e".repeat(100_000)),
        "{% if 1 %}".repeat(100_000) + &"{% endif %}".repeat(100_000),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}".to_owned(),
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        doubling.to_owned(),
        listing,
        growing.to_owned(),
        chained.to_owned(),
        "{{ 'a' * 999999999999 }}".to_owned(),
        "{{ [0] * 999999999 }}".to_owned(),
        "{{ '%999999999999d' % 1 }}{{ '%999999999d' % 1 }}".to_owned(),
        "{{ '{:999999999}'.format(1) }}".to_owned(),
        "{{ 'a'.ljust(999999999) }}".to_owned(),
        "{{ ('a' * 9999).replace('a', 'b' * 9999) }}".to_owned(),
        "{{ ('a' * 9999).join((['b'] * 9999)) }}".to_owned(),
        "{{ ('\\n' * 9999) | indent('b' * 9999) }}".to_owned(),
    ] {
        let outcome =
            Template::parse(&template).and_then(|parsed| parsed.render(&[], Date::default()));
        let shown: String = template.chars().take(60).collect();
        assert!(outcome.is_err(), "{shown}");
    }
}

/// A template that is cut anywhere is read or refused, and nothing else.
#[test]
fn cut_templates_are_errors_or_texts() {
    let file =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates.json"));
    let fixture: Json = serde_json::from_str(&file.unwrap()).unwrap();
    for case in fixture["cases"].as_object().unwrap().values().flat_map(|c| c.as_array().unwrap()) {
        let template = case[0].as_str().unwrap();
        for (end, _) in template.char_indices() {
            for part in [&template[..end], &template[end..]] {
                let _ =
                    Template::parse(part).and_then(|parsed| parsed.render(&[], Date::default()));
            }
        }
    }
}
