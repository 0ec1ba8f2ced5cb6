//! Broken inputs, full disks and wrong files given to the real program: each must be refused with exit code 2, a message that names what
//! is wrong, and nothing left behind. Arguments as such are tested in `cli`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::bad::{Case, Stage, build_case};
use crate::common::fixture;

/// How one run ended.
#[derive(Debug)]
pub(super) struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    pub(super) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).env("NO_COLOR", "1").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What a refusal must be and this run is not.
    pub(super) fn faults(&self, expect: &[String]) -> Vec<String> {
        let mut faults = Vec::new();
        if self.code != Some(2) {
            faults.push(format!("exit code {:?}, not 2", self.code));
        }
        faults
            .extend(expect.iter().filter(|e| !self.err.contains(*e)).map(|e| format!("does not say {e:?}")));
        // A panic says so even when it is caught; `internal` is how the program calls its own faults.
        let never = ["panicked", "RUST_BACKTRACE", "internal"];
        faults.extend(never.iter().filter(|n| self.err.contains(*n)).map(|n| format!("says {n:?}")));
        if !self.err.contains("error: ") {
            faults.push("has no line that begins with error:".into());
        }
        if !self.out.is_empty() {
            faults.push(format!("wrote to stdout: {}", self.out));
        }
        if !faults.is_empty() {
            faults.push(format!("stderr was:\n{}", self.err));
        }
        faults
    }

    /// Whether the run ended well and said this.
    pub(super) fn shows(&self, part: &str) -> bool {
        self.code == Some(0) && self.out.contains(part)
    }

    fn refused(&self, expect: &[&str]) {
        let expect: Vec<String> = expect.iter().map(|e| e.to_string()).collect();
        let faults = self.faults(&expect);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

/// A temporary folder with a folder `made` in which artifacts are to be made.
pub(super) struct Place {
    dir: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("made")).unwrap();
        Self { dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn out(&self) -> PathBuf {
        self.path("made/out")
    }

    /// A file with this text.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Names in `made`, hidden ones too: what a run left.
    pub(super) fn left(&self) -> Vec<String> {
        names(&self.path("made"))
    }

    /// A broken copy of `qwen2_vl`, edited as `edits` says in the format of `fixtures/bad/README.md`, with these files added.
    fn case(&self, edits: &Value, files: &[(&str, &str)]) -> Case {
        let dir = self.path("case");
        fs::create_dir(&dir).unwrap();
        let mut spec = json!({"what": "made here", "base": "qwen2_vl", "stage": "data", "expect": ["-"]});
        spec.as_object_mut().unwrap().extend(edits.as_object().unwrap().clone());
        fs::write(dir.join("case.json"), spec.to_string()).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        let case = build_case(&dir, &fixture(""), &self.path("model")).unwrap();
        fs::remove_dir_all(dir).unwrap();
        case
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An export of `model` into `out`.
pub(super) fn export(model: &Path, recipe: &str, data: Option<&Path>, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mquant-export"));
    command.arg(model).args(["--format", "onnx", "--recipe", recipe, "-o"]).arg(out);
    if let Some(data) = data {
        command.arg("--calibration").arg(data);
    }
    command
}

/// A float export of the good fixture.
fn good_export(out: &Path) -> Command {
    export(&fixture("qwen2_vl"), "float", None, out)
}

fn case_dirs() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture("bad")).unwrap().map(|e| e.unwrap().path());
    let mut dirs: Vec<PathBuf> = entries.filter(|p| p.is_dir() && !p.ends_with("gguf")).collect();
    dirs.sort();
    dirs
}

/// The recipes a case is tried with, and the calibration data that goes with them.
fn attempts(case: &Case) -> Vec<(&'static str, Option<PathBuf>)> {
    match case.stage {
        Stage::Open | Stage::Family => vec![("float", None)],
        // Weights are read by calibration as well as by the writer.
        Stage::Weights => vec![("float", None), ("w8a8", Some(case.dir.join("samples.jsonl")))],
        Stage::Data => vec![("w8a8", case.data.clone())],
    }
}

/// What is wrong with how the program refuses one case.
fn faults_of_case(dir: &Path) -> Vec<String> {
    let place = Place::new();
    let case = build_case(dir, &fixture(""), &place.path("model")).unwrap();
    let mut faults = Vec::new();
    for (recipe, data) in attempts(&case) {
        let mut found =
            Ran::of(&mut export(&case.dir, recipe, data.as_deref(), &place.out())).faults(&case.expect);
        if !place.left().is_empty() {
            found.push(format!("leaves {:?}", place.left()));
        }
        faults.extend(found.iter().map(|fault| format!("{} ({}), {recipe}: {fault}", case.name, case.what)));
    }
    faults
}

#[test]
fn every_broken_input_is_refused_by_name_and_leaves_nothing() {
    let dirs = case_dirs();
    assert!(dirs.len() >= 34, "cases were lost: {} are left", dirs.len());
    let faults: Vec<String> = dirs.iter().flat_map(|dir| faults_of_case(dir)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A data set of one question with its answer, which may be about an image.
fn question(image: Option<&str>, answer: &str) -> String {
    let text = |text: &str| json!({"type": "text", "text": text});
    let mut content: Vec<Value> = image.map(|i| json!({"type": "image", "image": i})).into_iter().collect();
    content.push(text("What is this?"));
    let user = json!({"role": "user", "content": content});
    json!({"messages": [user, {"role": "assistant", "content": [text(answer)]}]}).to_string() + "\n"
}

/// Runs a w8a8 export with a context of `limit` tokens on the data `data`, which is the file `long.jsonl`.
fn with_context(limit: usize, data: &str) -> (Ran, Place) {
    let place = Place::new();
    let edits = json!({
        "data": "long.jsonl",
        "patch": [{
            "op": "replace_text",
            "file": "config.json",
            "find": "\"max_position_embeddings\": 32768",
            "with": format!("\"max_position_embeddings\": {limit}"),
        }],
    });
    let case = place.case(&edits, &[("long.jsonl", data)]);
    let ran = Ran::of(&mut export(&case.dir, "w8a8", case.data.as_deref(), &place.out()));
    (ran, place)
}

/// The number after `before` in a message.
fn number_after(text: &str, before: &str) -> usize {
    let at = text.find(before).unwrap_or_else(|| panic!("no {before:?} in {text}")) + before.len();
    text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn prompts_longer_than_the_context_are_refused_to_the_token() {
    let samples = fs::read_to_string(fixture("qwen2_vl").join("samples.jsonl")).unwrap();
    let (ran, place) = with_context(20, &samples);
    ran.refused(&["sample '", "the prompt has", "the model takes 20"]);
    assert!(place.left().is_empty(), "{:?}", place.left());

    // Prompt and answer count together: one token less than both is too few, as many are enough.
    let data = question(Some("images/ab.png"), "It is a long story, told in the evening.");
    let (ran, _) = with_context(20, &data);
    ran.refused(&["the prompt has", "and the answer"]);
    let (prompt, answer) =
        (number_after(&ran.err, "the prompt has "), number_after(&ran.err, "and the answer "));
    assert!(prompt > 0 && answer > 5, "{}", ran.err);
    let (ran, place) = with_context(prompt + answer - 1, &data);
    ran.refused(&[&format!("the model takes {}", prompt + answer - 1)]);
    assert!(place.left().is_empty(), "{:?}", place.left());
    let (ran, place) = with_context(prompt + answer, &data);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(place.left(), ["out"]);
}

#[test]
fn calibration_without_images_cannot_quantize_the_vision_tower() {
    let place = Place::new();
    let case = place.case(&json!({"data": "text.jsonl"}), &[("text.jsonl", &question(None, "A question."))]);
    let ran = Ran::of(&mut export(&case.dir, "w8a8", case.data.as_deref(), &place.out()));
    ran.refused(&["vision", "image", "hint: "]);
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn an_output_folder_that_cannot_be_made_is_refused() {
    let place = Place::new();
    let file = place.file("file", "kept");
    for out in [file.join("out"), file.join("deeper/out")] {
        Ran::of(&mut good_export(&out)).refused(&[&out.display().to_string(), "cannot be made"]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(names(&place.path("")), ["file", "made"]);
    // Not even root writes here.
    #[cfg(target_os = "linux")]
    Ran::of(&mut good_export(Path::new("/proc/mquant-out")))
        .refused(&["/proc/mquant-out", "nothing can be written"]);
}

#[test]
fn a_file_in_the_place_of_the_output_is_kept() {
    let place = Place::new();
    let file = place.file("made/out", "kept");
    Ran::of(&mut good_export(&file)).refused(&["made/out", "already exists", "--force"]);
    Ran::of(good_export(&file).arg("--force")).refused(&["made/out", "mquant.json"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(place.left(), ["out"]);
}

#[test]
fn folders_made_for_an_artifact_that_fails_are_removed() {
    let place = Place::new();
    let edits = json!({"data": "empty.jsonl"});
    let case = place.case(&edits, &[("empty.jsonl", "")]);
    let out = place.path("made/new/deeper/out");
    Ran::of(&mut export(&case.dir, "w8a8", case.data.as_deref(), &out)).refused(&["empty.jsonl"]);
    assert!(place.left().is_empty(), "{:?}", place.left());
}

/// Faults of a run that had no room: it must name the file of the artifact that it could not write.
fn no_room_faults(ran: &Ran, cause: &str) -> Vec<String> {
    let mut faults = ran.faults(&[cause.to_string(), "made/.out.partial-".to_string()]);
    let known = ["onnx", ".json", ".md", ".txt", ".jinja"];
    let names_file = ran.err.lines().any(|line| {
        let name = line.split("made/.out.partial-").nth(1).and_then(|rest| rest.split_once('/'));
        name.is_some_and(|(_, name)| known.iter().any(|k| name.contains(k)))
    });
    if !names_file {
        faults.push(format!("names no file of the artifact:\n{}", ran.err));
    }
    faults
}

/// Bytes of the largest file in a folder, and of all of them in whole pages.
fn sizes(dir: &Path) -> (u64, u64) {
    let sizes: Vec<u64> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    (sizes.iter().copied().max().unwrap(), sizes.iter().map(|n| n.next_multiple_of(4096)).sum())
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_is_named_and_nothing_is_left() {
    let place = Place::new();
    assert_eq!(Ran::of(&mut good_export(&place.path("whole"))).code, Some(0));
    let largest = sizes(&place.path("whole")).0 / 1024;
    let mut faults = Vec::new();
    // In KiB: from no byte at all to all but a part of the largest file.
    for limit in [0, 1, 3, 30, 200, largest - 1] {
        let export = good_export(&place.out());
        let mut limited = Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {limit} || exit 99; exec \"$0\" \"$@\"");
        limited.args(["-c", &script]).arg(export.get_program()).args(export.get_args());
        let mut found = no_room_faults(&Ran::of(&mut limited), "File too large");
        found.extend((!place.left().is_empty()).then(|| format!("leaves {:?}", place.left())));
        faults.extend(found.iter().map(|fault| format!("{limit} KiB: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs a float export into a new file system of `pages` pages of 4 KiB, mounted over `made`. Stdout is what is left in it. None where
/// this user may not mount.
#[cfg(target_os = "linux")]
fn on_small_disk(place: &Place, pages: u64) -> Option<Ran> {
    const SCRIPT: &str = r#"mount -t tmpfs -o "size=$1" none "$2" || exit 99
        made=$2; shift 2; "$@"; code=$?; ls -A "$made"; exit $code"#;
    let export = good_export(&place.out());
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", &(pages * 4096).to_string()]);
    command.arg(place.path("made")).arg(export.get_program()).args(export.get_args());
    // Before the script runs, unshare itself fails with 1.
    Some(Ran::of(&mut command)).filter(|ran| ran.code != Some(99) && !ran.err.starts_with("unshare: "))
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_names_the_file_and_nothing_is_left() {
    let place = Place::new();
    assert_eq!(Ran::of(&mut good_export(&place.path("whole"))).code, Some(0));
    let pages = sizes(&place.path("whole")).1 / 4096;
    let Some(enough) = on_small_disk(&place, pages + 8) else {
        eprintln!("skipped: mounting a small file system is not permitted here");
        return;
    };
    assert_eq!(
        (enough.code, enough.out.ends_with("\nout\n")),
        (Some(0), true),
        "{}{}",
        enough.out,
        enough.err
    );
    let mut faults = Vec::new();
    // Room for less and less: the last files (manifest, card), the copied files, the graphs, the first weights.
    for room in [pages - 1, pages - 3, pages - 6, pages - 9, pages - 12, pages / 2, 8, 1] {
        let ran = on_small_disk(&place, room).unwrap();
        let found = no_room_faults(&ran, "No space left on device");
        faults.extend(found.iter().map(|fault| format!("{room} of {pages} pages: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(place.left().is_empty(), "the file system was mounted for all");
}

#[test]
fn a_family_file_with_an_unknown_key_is_refused() {
    let place = Place::new();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("converters/qwen2_vl.yaml");
    let text = fs::read_to_string(built_in).unwrap();
    let good = place.file("good.yaml", &text);
    let run = |file: &Path| Ran::of(good_export(&place.out()).arg("--family-file").arg(file));
    run(&place.file("typo.yaml", &format!("{text}\ncolour: blue\n"))).refused(&["typo.yaml", "colour"]);
    run(&place.file("cut.yaml", &text[..text.len() / 2])).refused(&["cut.yaml"]);
    run(&place.path("absent.yaml")).refused(&["absent.yaml"]);
    assert!(place.left().is_empty(), "{:?}", place.left());
    let ran = run(&good);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn a_recipe_that_does_not_fit_is_refused() {
    let place = Place::new();
    let recipe = |name: &str, rest: &str| {
        let float = "{weights: float, activations: float}";
        let components = format!("components: {{vision: {float}, projector: {float}, decoder: {float}}}");
        place
            .file(name, &format!("schema_version: 1\nname: mine\n{components}\n{rest}\n"))
            .display()
            .to_string()
    };
    let over =
        |pattern: &str| format!("overrides: [{{match: \"{pattern}\", weights: float, activations: float}}]");
    let run = |recipe: &str| Ran::of(&mut export(&fixture("qwen2_vl"), recipe, None, &place.out()));
    let nothing = recipe("nothing.yaml", &over("decoder.layers.99.*"));
    run(&nothing).refused(&["recipe mine", "decoder.layers.99.*", "matches no linear", "decoder."]);
    run(&recipe("typo.yaml", "colour: blue")).refused(&["typo.yaml", "colour"]);
    run(&place.path("absent.yaml").display().to_string()).refused(&["absent.yaml", "w8a8"]);
    assert!(place.left().is_empty(), "{:?}", place.left());
    let ran = run(&recipe("good.yaml", &over("decoder.layers.1.*")));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}
