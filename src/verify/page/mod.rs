//! A report as one HTML file for people: no script, style, font or image comes from elsewhere, and it can be read without JavaScript.
//!
//! Everything in a report but numbers is text from outside (questions, answers, names), so the template escapes it, and a content security policy
//! allows the one style sheet and the one script of the page by their hashes, images as data, and nothing else.

mod axis;
mod charts;
mod difference;
mod svg;
mod view;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::{Environment, Value, context};
use sha2::{Digest, Sha256};

use super::report::VerifyReport;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page could not be made of its template: a fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("the page of the report could not be made")]
pub struct PageError {
    #[from]
    source: minijinja::Error,
}

/// The page of a report. The same report gives the same bytes.
///
/// # Errors
/// [`PageError`] when the template does not fit the report.
pub fn html(report: &VerifyReport) -> Result<String, PageError> {
    let mut environment = Environment::new();
    environment.add_filter("tight", |text: String| text.replace(" %", "\u{a0}%"));
    // Templates of this name escape what they print.
    environment.add_template("page.html", TEMPLATE)?;
    let inputs = context! {
        page => view::Page::of(report),
        style => Value::from_safe_string(STYLE.to_string()),
        script => Value::from_safe_string(SCRIPT.to_string()),
        policy => policy(),
    };
    Ok(environment.get_template("page.html")?.render(inputs)?)
}

/// The content security policy: <https://www.w3.org/TR/CSP3/>, with hashes as in its section 2.3.1.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; img-src data:; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}
