//! A `llama-server` that this program starts for one artifact, and ends in every case.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::{Client, HttpError};
use super::{GgufFiles, ServerOptions};
use crate::verify::runner::{RunnerError, RunnerKind};

/// Variable that names the program.
pub const VARIABLE: &str = "LLAMA_SERVER";
/// Its name on `PATH`.
const PROGRAM: &str = "llama-server";
/// Time for a model to load.
const LOAD: Duration = Duration::from_secs(600);
/// Time between two looks at a server that loads.
const LOOK: Duration = Duration::from_millis(30);
/// Tokens of prompt and answer together, where the caller does not say. The cache of a 7B model takes about half a gigabyte for them.
const CONTEXT: usize = 8192;
/// Last bytes of the log that are searched for what went wrong.
const LOG_TAIL: u64 = 16 << 10;

const HINT: &str = "get llama.cpp (https://github.com/ggml-org/llama.cpp/releases, or a package of your system) and put llama-server \
    on PATH or its path into LLAMA_SERVER; or start a server with the artifact's files and give its address with --server";

/// The program: `LLAMA_SERVER`, then `llama-server` on `PATH`.
///
/// # Errors
/// [`RunnerError::Unavailable`].
pub fn find(env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, RunnerError> {
    if let Some(named) = env(VARIABLE).filter(|v| !v.is_empty()) {
        return self::named(Path::new(&named), VARIABLE);
    }
    let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let folders = env("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(&name)).find(|p| p.is_file());
    found.ok_or_else(|| unavailable(format!("{VARIABLE} is not set and there is no {name} on PATH")))
}

/// A program that was named by `by`.
///
/// # Errors
/// [`RunnerError::Unavailable`] when it is not there.
pub fn named(path: &Path, by: &str) -> Result<PathBuf, RunnerError> {
    let there = path.is_file().then(|| path.to_path_buf());
    there.ok_or_else(|| unavailable(format!("{by} is {}, which is not a file", path.display())))
}

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: File,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing more to do about either failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts `program` with the files and waits until it answers.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] when the program cannot be started, [`RunnerError::Refused`] when it does not load the files.
    pub fn start(
        program: &Path,
        files: &GgufFiles,
        options: &ServerOptions,
    ) -> Result<(Self, Client), RunnerError> {
        let cannot = |e: std::io::Error| unavailable(format!("{} cannot be started: {e}", program.display()));
        let port = free_port().map_err(cannot)?;
        let log = tempfile::tempfile().map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(arguments(files, options, port, &help(program)?));
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(cannot)?).stderr(log.try_clone().map_err(cannot)?);
        let mut process = Self { child: command.spawn().map_err(cannot)?, log };
        let client = Client::new(&format!("http://127.0.0.1:{port}")).map_err(unavailable)?;
        process.wait(&client, files)?;
        Ok((process, client))
    }

    fn wait(&mut self, client: &Client, files: &GgufFiles) -> Result<(), RunnerError> {
        let file = files.text.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let refused =
            |reason: String| RunnerError::Refused { kind: RunnerKind::LlamaCpp, file: file.clone(), reason };
        let began = Instant::now();
        while began.elapsed() < LOAD {
            match client.get("/health") {
                Ok(_) => return Ok(()),
                // Loading, or not listening yet.
                Err(HttpError::Status { status: 503, .. } | HttpError::Connection { .. }) => {}
                Err(e) => return Err(refused(e.to_string())),
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(refused(format!("llama-server ended ({status}){}", self.last_words())));
            }
            std::thread::sleep(LOOK);
        }
        Err(refused(format!("llama-server was not ready after {} s{}", LOAD.as_secs(), self.last_words())))
    }

    /// Lines at the end of the log that speak of errors, or the last lines.
    fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        let end = self.log.seek(SeekFrom::End(0)).unwrap_or(0);
        let _ = self.log.seek(SeekFrom::Start(end.saturating_sub(LOG_TAIL)));
        let _ = self.log.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let speaks = |l: &&&str| ["error", "fail", "invalid"].iter().any(|w| l.to_lowercase().contains(w));
        let mut told: Vec<&str> = lines.iter().filter(speaks).copied().collect();
        if told.is_empty() {
            told = lines;
        }
        let last = told[told.len().saturating_sub(4)..].iter();
        last.map(|line| format!("\n  {line}")).collect()
    }
}

/// What the program says of its options.
fn help(program: &Path) -> Result<String, RunnerError> {
    let out = Command::new(program).arg("--help").stdin(Stdio::null()).output();
    let out = out.map_err(|e| unavailable(format!("{} cannot be started: {e}", program.display())))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// Options of the server. Those that came later than others are given where the program knows them.
fn arguments(files: &GgufFiles, options: &ServerOptions, port: u16, help: &str) -> Vec<std::ffi::OsString> {
    let mut found: Vec<std::ffi::OsString> = vec!["-m".into(), files.text.clone().into()];
    if let Some(mmproj) = &files.mmproj {
        found.extend(["--mmproj".into(), mmproj.clone().into()]);
    }
    let mut add = |name: &str, value: String| found.extend([name.into(), value.into()]);
    add("--host", "127.0.0.1".into());
    add("--port", port.to_string());
    add("--ctx-size", options.context.unwrap_or(CONTEXT).to_string());
    add("--parallel", "1".into());
    if let Some(threads) = options.threads {
        add("--threads", threads.to_string());
    }
    let knows = |option: &str| help.split([' ', ',', '\n']).any(|word| word == option);
    // Without it, small images are enlarged, and the model is shown others than the reference.
    if files.mmproj.is_some() && knows("--image-min-tokens") {
        add("--image-min-tokens", "1".into());
    }
    // States of earlier prompts would fill gigabytes, and no prompt comes twice.
    if knows("--cache-ram") {
        add("--cache-ram", "0".into());
    }
    if knows("--jinja") {
        found.push("--jinja".into());
    }
    found
}

/// A port that is free now. Another program may take it before the server does; what answers then is not the artifact's model, which is checked.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn unavailable(reason: String) -> RunnerError {
    RunnerError::Unavailable { kind: RunnerKind::LlamaCpp, reason, hint: HINT.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_given_where_the_program_knows_them() {
        let files = GgufFiles { text: "m.gguf".into(), mmproj: Some("p.gguf".into()) };
        let line = |help: &str| {
            let options = ServerOptions { threads: Some(3), ..ServerOptions::default() };
            let words = arguments(&files, &options, 8081, help);
            words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        let common =
            "-m m.gguf --mmproj p.gguf --host 127.0.0.1 --port 8081 --ctx-size 8192 --parallel 1 --threads 3";
        assert_eq!(line("--jinjas"), common);
        let known = line("-x, --image-min-tokens N\n  --jinja\n-cram, --cache-ram N");
        assert_eq!(known, format!("{common} --image-min-tokens 1 --cache-ram 0 --jinja"));
    }

    #[test]
    fn the_program_is_the_one_named_or_the_one_on_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX));
        let path = dir.path().as_os_str().to_os_string();
        let on_path = |name: &str| (name == "PATH").then(|| path.clone());
        let e = find(&on_path).unwrap_err().to_string();
        assert!(e.contains("LLAMA_SERVER is not set") && e.contains("hint: get llama.cpp"), "{e}");
        std::fs::write(&program, "").unwrap();
        assert_eq!(find(&on_path).unwrap(), program);
        let e = find(&|name| (name == VARIABLE).then(|| "/nowhere/x".into())).unwrap_err().to_string();
        assert!(e.contains("LLAMA_SERVER is /nowhere/x, which is not a file"), "{e}");
    }
}
