//! What goes to which stream in which mode.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

struct Broken(ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(mode: Mode, work: impl FnOnce(&mut Printer)) -> (String, String) {
    let (out, err) = (Sink::default(), Sink::default());
    work(&mut Printer::to(mode, Box::new(out.clone()), Box::new(err.clone())));
    (out.text(), err.text())
}

fn one_stage(p: &mut Printer) {
    p.begin(Stage::Emit, 3);
    p.at(1, "vision.blocks.0.attn.qkv");
    p.warn(&Warning::NoGenai { family: "x".into(), reason: "y".into() });
    p.end();
}

#[test]
fn progress_and_warnings_are_on_stderr() {
    let (out, err) = run(Mode::default(), one_stage);
    assert_eq!(out, "");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines[0], "[7/8] emit: 3 steps");
    // Less than a second has passed: no line on the way.
    assert!(lines[1].contains("warning") && lines[1].contains("genai_config.json"), "{err}");
    assert!(lines[2].starts_with("[7/8] emit: done in 0."), "{err}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn quiet_leaves_errors_only() {
    let mode = Mode { quiet: true, ..Mode::default() };
    let failure = Failure::of(&CliError::Stdout(io::Error::other("full")));
    let (out, err) = run(mode, |p| {
        one_stage(p);
        assert_eq!(p.failure(&failure), ExitStatus::UserError);
    });
    assert_eq!(out, "");
    assert!(err.contains("error") && err.lines().count() == 2, "{err}");
}

#[test]
fn json_errors_are_one_object_on_stdout_and_lines_on_stderr() {
    let mode = Mode { json: true, ..Mode::default() };
    let failure = Failure::of(&CliError::Stdout(io::Error::other("full")));
    let (out, err) = run(mode, |p| {
        p.failure(&failure);
    });
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["schema_version"], 1);
    assert_eq!(object["error"]["kind"], "user");
    assert_eq!(object["error"]["causes"][0], "full");
    assert!(err.contains("could not be written"), "{err}");
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
    let print = |kind| {
        let mut p = Printer::to(Mode::default(), Box::new(Broken(kind)), Box::new(Sink::default()));
        p.text("x")
    };
    assert!(print(ErrorKind::BrokenPipe).is_ok());
    assert!(matches!(print(ErrorKind::StorageFull), Err(CliError::Stdout(_))));
}

#[test]
fn the_mode_is_read_off_wrong_arguments_too() {
    let of = |line: &str| Mode::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
    assert!(of("x --jsn --json").json && !of("x -- --json").json && !of("--json model").json);
    assert!(of("x m -q").quiet && of("x m --quiet").quiet && !of("x m").quiet);
}
