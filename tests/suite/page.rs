//! The page of a report in headless Chromium.

use std::path::PathBuf;
use std::fs;

use mquant_export::verify::page::html;
use serde_json::Value;

use crate::common::judge::{judge, text};
use crate::common::report;

/// Names under which distributions install Chromium or Chrome.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The browser: `MQUANT_CHROMIUM`, or the first of [`NAMES`] on the path.
fn chromium() -> String {
    if let Ok(program) = std::env::var("MQUANT_CHROMIUM") {
        return program;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = NAMES.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|p| p.is_file());
    found.map(|p| text(&p)).unwrap_or_else(|| {
        panic!("no browser: install Chromium (Debian: apt-get install chromium) or set MQUANT_CHROMIUM to one; looked for {NAMES:?}")
    })
}

#[test]
fn look() {
    let dir = tempfile::tempdir().unwrap();
    let shots = std::env::var_os("MQUANT_SHOTS").map_or_else(|| dir.path().to_path_buf(), PathBuf::from);
    fs::create_dir_all(&shots).unwrap();
    let mut args = vec![chromium(), text(&shots)];
    for (name, report) in report::reports() {
        let file = dir.path().join(format!("{name}.html"));
        let page = html(&report).unwrap();
        fs::write(&file, &page).unwrap();
        fs::write(shots.join(format!("{name}.html")), &page).unwrap();
        args.push(text(&file));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let found: Value = serde_json::from_str(&judge("page_check.py", &args)).unwrap();
    println!("{found:#}");
}
