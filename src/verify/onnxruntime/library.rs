//! Where ONNX Runtime's shared library is on this machine, and how it is loaded.
//!
//! Looked for in the order in which a user would expect to have said it: the variable `ORT_DYLIB_PATH`, the active Python environment
//! (`VIRTUAL_ENV`, `CONDA_PREFIX`, the interpreters on `PATH`), folders of system libraries. Folders are looked at; an interpreter is asked for its
//! packages only when none of them has the library.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::verify::runner::{RunnerError, RunnerKind};

/// Variable that names the library.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";

const HINT: &str = "`pip install onnxruntime` in the active Python environment, or a release from \
    https://github.com/microsoft/onnxruntime/releases; then set ORT_DYLIB_PATH to its libonnxruntime.so \
    (.dylib on macOS, onnxruntime.dll on Windows) if it is not found by itself";

/// Folders of packages inside a Python environment; a last part with `*` stands for any folder that begins so.
const PACKAGES: [&[&str]; 6] = [
    &["lib", "python3*", "site-packages"],
    &["lib64", "python3*", "site-packages"],
    &["Lib", "site-packages"],
    &["lib", "python3*", "dist-packages"],
    &["lib", "python3", "dist-packages"],
    &["local", "lib", "python3*", "dist-packages"],
];

/// Folders of system libraries besides those that the loader's variables name.
const SYSTEM: [&str; 8] = [
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/homebrew/lib",
    "/opt/onnxruntime/lib",
];

/// Variables of the loader that name folders.
const LOADER: [&str; 3] = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH"];

/// The environment of a process: a variable by name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A library that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The file.
    pub path: PathBuf,
    /// What led to it, such as `VIRTUAL_ENV`.
    pub by: &'static str,
}

/// Finds the library; `env` tells variables.
///
/// # Errors
/// [`RunnerError::Unavailable`] with everywhere that was looked.
pub fn find(env: Environment<'_>) -> Result<Library, RunnerError> {
    let mut looked = Vec::new();
    if let Some(path) = set(env, VARIABLE) {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(Library { path, by: VARIABLE });
        }
        return Err(unavailable(format!("{VARIABLE} is {}, which is not a file", path.display())));
    }
    let python = in_python(env, &mut looked);
    if let Some(found) = python.or_else(|| in_system(env, &mut looked)) {
        return Ok(found);
    }
    if let Some(found) = asked(env, &mut looked) {
        return Ok(found);
    }
    Err(unavailable(format!("its shared library was not found in: {}", looked.join(", "))))
}

/// Loads the library into this process. Of several calls the first that succeeds decides; a process can have one ONNX Runtime only.
///
/// # Errors
/// [`RunnerError::Unavailable`] when the file is not ONNX Runtime, cannot be loaded or is too old.
pub fn load(library: &Library) -> Result<(), RunnerError> {
    // A relative name would be looked for beside this program first.
    let path = std::path::absolute(&library.path).unwrap_or_else(|_| library.path.clone());
    match ort::init_from(&path) {
        Ok(environment) => {
            environment.with_name(env!("CARGO_PKG_NAME")).with_telemetry(false).commit();
            Ok(())
        }
        Err(e) => Err(unavailable(format!("{} (by {}): {e}", library.path.display(), library.by))),
    }
}

/// Version of a library: from the name of the file behind links, from the version of its symbols (`VERS_1.32.0`), or from the Python package around it.
pub fn version(path: &Path) -> Option<String> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = path.file_name()?.to_string_lossy().into_owned();
    version_in(&name, "onnxruntime.so.").or_else(|| version_in(&name, "onnxruntime.")).or_else(|| {
        let package = path.parent()?.parent()?.join("__init__.py");
        let text = std::fs::read_to_string(package).ok();
        let declared = text.and_then(|t| version_in(&t, "__version__ = \""));
        declared.or_else(|| {
            let bytes = std::fs::read(&path).ok()?;
            let at = bytes.windows(SYMBOLS.len()).position(|w| w == SYMBOLS)?;
            let rest = bytes.get(at..(at + 32).min(bytes.len()))?;
            version_in(&String::from_utf8_lossy(rest), "VERS_")
        })
    })
}

/// What the versions of the library's symbols begin with.
const SYMBOLS: &[u8] = b"VERS_1.";

/// The dotted number behind `before`.
fn version_in(text: &str, before: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let number = number.trim_end_matches('.');
    number.contains('.').then(|| number.to_string())
}

fn unavailable(reason: String) -> RunnerError {
    RunnerError::Unavailable { kind: RunnerKind::OnnxRuntime, reason, hint: HINT.into() }
}

/// A variable that is not empty.
fn set(env: Environment<'_>, name: &str) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

/// The library of the active Python environment, by folders alone.
fn in_python(env: Environment<'_>, looked: &mut Vec<String>) -> Option<Library> {
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        match set(env, variable) {
            Some(prefix) => {
                let prefix = PathBuf::from(prefix);
                looked.push(format!("{variable} ({})", prefix.display()));
                if let Some(path) = in_prefix(&prefix) {
                    return Some(Library { path, by: variable });
                }
            }
            None => looked.push(format!("{variable} (not set)")),
        }
    }
    for interpreter in interpreters(env) {
        looked.push(format!("the packages of {}", interpreter.display()));
        // The path of an environment's interpreter leads to the environment, the file behind it to the installation.
        let places = [Some(interpreter.clone()), interpreter.canonicalize().ok()];
        let prefixes = places.iter().flatten().filter_map(|p| Some(p.parent()?.parent()?.to_path_buf()));
        if let Some(path) = prefixes.into_iter().find_map(|prefix| in_prefix(&prefix)) {
            return Some(Library { path, by: "the interpreter on PATH" });
        }
    }
    None
}

/// Interpreters in the folders of `PATH`, in order, each name once.
fn interpreters(env: Environment<'_>) -> Vec<PathBuf> {
    let path = set(env, "PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let first = |name: &str| folders.iter().map(|f| f.join(name)).find(|p| p.is_file());
    ["python3", "python", "python.exe"].into_iter().filter_map(first).collect()
}

/// The library among the packages of an environment.
fn in_prefix(prefix: &Path) -> Option<PathBuf> {
    let packages = PACKAGES.iter().flat_map(|parts| matching(prefix, parts));
    packages.into_iter().find_map(|folder| in_packages(&folder))
}

/// The library of the package `onnxruntime`.
fn in_packages(folder: &Path) -> Option<PathBuf> {
    in_folder(&folder.join("onnxruntime").join("capi"))
}

/// Folders below `base` whose names fit the parts.
fn matching(base: &Path, parts: &[&str]) -> Vec<PathBuf> {
    let Some((part, rest)) = parts.split_first() else { return vec![base.to_path_buf()] };
    let Some(start) = part.strip_suffix('*') else { return matching(&base.join(part), rest) };
    let mut found: Vec<PathBuf> = entries(base)
        .into_iter()
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start)))
        .collect();
    // The newest interpreter first, where an environment has several.
    found.sort();
    found.reverse();
    found.iter().flat_map(|folder| matching(folder, rest)).collect()
}

/// The library in a folder; of several the one whose name sorts last, which is the one with a version.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let named = name.starts_with("libonnxruntime.so")
            || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
            || name.eq_ignore_ascii_case("onnxruntime.dll");
        named && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries(folder).into_iter().filter(is_library).collect();
    found.sort();
    found.pop()
}

/// What is in a folder; nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

/// The library among those of the system.
fn in_system(env: Environment<'_>, looked: &mut Vec<String>) -> Option<Library> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for variable in LOADER {
        // Libraries lie on PATH on Windows only.
        if variable != "PATH" || cfg!(windows) {
            folders.extend(std::env::split_paths(&set(env, variable).unwrap_or_default()));
        }
    }
    folders.extend(SYSTEM.iter().map(PathBuf::from));
    looked.push("the folders of system libraries".into());
    let path = folders.iter().filter(|f| !f.as_os_str().is_empty()).find_map(|f| in_folder(f))?;
    Some(Library { path, by: "the system" })
}

/// The library where the first interpreter that answers says its packages are: for launchers, whose own folder says nothing.
fn asked(env: Environment<'_>, looked: &mut Vec<String>) -> Option<Library> {
    let ask =
        "import site, sysconfig; print(sysconfig.get_path('platlib')); print(site.getusersitepackages())";
    for interpreter in interpreters(env) {
        // Isolated: neither the current folder nor variables add code.
        let mut command = Command::new(&interpreter);
        command.args(["-I", "-c", ask]).stdin(Stdio::null()).stderr(Stdio::null());
        let Ok(out) = command.output() else { continue };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        for folder in text.lines().filter(|l| !l.is_empty()) {
            looked.push(folder.to_string());
            if let Some(path) = in_packages(Path::new(folder)) {
                return Some(Library { path, by: "the interpreter on PATH" });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    fn found(variables: &[(&str, &Path)]) -> Result<Library, RunnerError> {
        let env = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_os_str().to_os_string())
        };
        find(&env)
    }

    #[test]
    fn what_the_user_named_comes_before_the_environment_and_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (named, venv) = (dir.path().join("x/libonnxruntime.so"), dir.path().join("venv"));
        let packaged = venv.join("lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0");
        touch(&named);
        touch(&packaged);
        let both = found(&[(VARIABLE, &named), ("VIRTUAL_ENV", &venv)]).unwrap();
        assert_eq!(both, Library { path: named, by: VARIABLE });
        let one = found(&[("VIRTUAL_ENV", &venv)]).unwrap();
        assert_eq!(one, Library { path: packaged, by: "VIRTUAL_ENV" });
        let gone = dir.path().join("gone.so");
        let e = found(&[(VARIABLE, &gone), ("VIRTUAL_ENV", &venv)]).unwrap_err().to_string();
        assert!(e.contains("gone.so, which is not a file"), "{e}");
    }

    #[test]
    fn interpreters_lead_to_their_packages() {
        let dir = tempfile::tempdir().unwrap();
        touch(&dir.path().join("bin/python3"));
        let capi = dir.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        for name in ["libonnxruntime_providers_shared.so", "libonnxruntime.so.1.20.1"] {
            touch(&capi.join(name));
        }
        let library = found(&[("PATH", &dir.path().join("bin"))]).unwrap();
        assert_eq!(library.path, capi.join("libonnxruntime.so.1.20.1"));
        assert_eq!(version(&library.path).as_deref(), Some("1.20.1"));
    }

    #[test]
    fn versions_stand_in_names_packages_and_symbols() {
        let dir = tempfile::tempdir().unwrap();
        let mac = dir.path().join("libonnxruntime.1.22.0.dylib");
        touch(&mac);
        assert_eq!(version(&mac).as_deref(), Some("1.22.0"));
        let plain = dir.path().join("libonnxruntime.so");
        std::fs::write(&plain, b"\x00OrtGetApiBase\x00VERS_1.21.3\x00").unwrap();
        assert_eq!(version(&plain).as_deref(), Some("1.21.3"));
        let windows = dir.path().join("onnxruntime/capi/onnxruntime.dll");
        touch(&windows);
        assert_eq!(version(&windows), None);
        std::fs::write(dir.path().join("onnxruntime/__init__.py"), "__version__ = \"1.23.0\"\n").unwrap();
        assert_eq!(version(&windows).as_deref(), Some("1.23.0"));
    }
}
