//! Tests of the three formats, of the hash and of every refusal, with files built in temporary folders.

use base64::Engine;
use proptest::prelude::*;

use super::*;

/// Loads `name` holding `text`, beside two (fake) image files `a.png`, `sub/b.png` and, outside, `../out.png`.
fn load_text(name: &str, text: &str, options: &LoadOptions) -> Result<Dataset, DatasetError> {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::write(folder.join("a.png"), b"image a").unwrap();
    std::fs::write(folder.join("sub/b.png"), b"image b").unwrap();
    std::fs::write(root.path().join("out.png"), b"image a").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../out.png", folder.join("link.png")).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    read(&folder.join(name), options)
}

fn samples(name: &str, text: &str) -> Vec<Sample> {
    load_text(name, text, &LoadOptions::default()).unwrap().samples
}

fn fails(name: &str, text: &str) -> DatasetError {
    load_text(name, text, &LoadOptions::default()).unwrap_err()
}

/// Turns in short: `user: text [file] text`.
fn show(sample: &Sample) -> Vec<String> {
    let piece = |content: &Content| match content {
        Content::Text(text) => text.clone(),
        Content::Image(ImageSource::File(path)) => {
            format!("[{}]", path.file_name().unwrap().to_string_lossy())
        }
        Content::Image(ImageSource::Bytes { bytes, .. }) => format!("[{} bytes]", bytes.len()),
    };
    let turn = |m: &Message| {
        format!("{}: {}", m.role.name(), m.content.iter().map(piece).collect::<Vec<_>>().join("|"))
    };
    sample.messages.iter().map(turn).collect()
}

/// Checks the place, key, expectation and finding of a field error.
fn assert_field(error: &DatasetError, place: Place, key: &str, expected: &str, found: &str) {
    let DatasetError::Field { place: p, key: k, expected: e, found: f, path } = error else {
        panic!("{error:?}");
    };
    assert_eq!((*p, k.as_str(), *e, f.as_str()), (place, key, expected, found));
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[test]
fn jsonl_chats_with_and_without_answer() {
    let text = concat!(
        r#"{"id": 7, "category": "ocr", "other": 1, "messages": [{"role": "system", "content": "Be brief."}, "#,
        r#"{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}, "#,
        r#"{"role": "assistant", "content": "A cat."}]}"#,
        "\n\n",
        r#"{"messages": [{"role": "user", "content": [{"type": "image", "image": "data:image/png;base64,AAEC"}]}]}"#,
        "\n",
    );
    let samples = samples("d.jsonl", text);
    assert_eq!(show(&samples[0]), ["system: Be brief.", "user: [a.png]|What?"]);
    assert_eq!(samples[0].answer.as_deref(), Some("A cat."));
    assert_eq!((samples[0].id.as_str(), samples[0].category.as_deref()), ("7", Some("ocr")));
    assert!(samples[0].messages[0].plain && !samples[0].messages[1].plain);
    assert_eq!(show(&samples[1]), ["user: [3 bytes]"]);
    assert_eq!((samples[1].id.as_str(), samples[1].answer.as_deref()), ("line 3", None));
    let one = LoadOptions { limit: Some(1), ..LoadOptions::default() };
    assert_eq!(load_text("d.jsonl", text, &one).unwrap().samples.len(), 1);
}

#[test]
fn jsonl_errors_name_line_key_expectation_and_finding() {
    let good = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    let second = |line: &str| fails("d.jsonl", &format!("{good}\n{line}\n"));
    assert!(matches!(second("{"), DatasetError::Json { place: Place::Line(2), .. }));
    let field = |line: &str, key, expected, found| {
        assert_field(&second(line), Place::Line(2), key, expected, found);
    };
    field("[1]", "the line", "an object", "a list of 1");
    field("{}", "messages", "a list", "nothing");
    field(r#"{"messages": [3]}"#, "messages[0]", "an object", "the number 3");
    field(
        r#"{"messages": []}"#,
        "the last turn (before the answer, if any)",
        "a turn of the user",
        "no turn",
    );
    let turn = |turn: &str| format!(r#"{{"messages": [{turn}]}}"#);
    let roles = "system, user or assistant";
    field(&turn(r#"{"role": "bot", "content": "x"}"#), "messages[0].role", roles, "'bot'");
    field(&turn(r#"{"role": "user"}"#), "messages[0].content", "a string or a list", "nothing");
    let item = |item: &str| turn(&format!(r#"{{"role": "user", "content": [{item}]}}"#));
    let key = "messages[0].content[0].type";
    field(&item(r#"{"type": "video", "video": "v.mp4"}"#), key, "text or image", "'video'");
    field(&item(r#"{"text": "x"}"#), key, "a string", "nothing");
    let key = "messages[0].content[0].text";
    field(&item(r#"{"type": "text", "text": null}"#), key, "a string", "null");
    let key = "messages[0].content[0].image";
    let url = r#"{"type": "image", "image": "https://x.org/a.png"}"#;
    field(&item(url), key, "a path (images are not downloaded)", "the URL 'https://x.org/a.png'");
    field(&item(r#"{"type": "image", "image": "data:x"}"#), key, "a data URI with ;base64,", "data:x");
    let bad = r#"{"type": "image", "image": "data:image/png;base64,?"}"#;
    field(&item(bad), key, "an image in base64", "'?'");
    let answer = r#"{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}"#;
    field(&turn(answer), "the answer (last turn)", "text only", "an image");
    let label = r#"{"id": 1.5, "messages": [{"role": "user", "content": "x"}]}"#;
    field(label, "id", "a string or a whole number", "the number 1.5");
    let missing = second(&item(r#"{"type": "image", "image": "none.png"}"#));
    assert!(
        matches!(&missing, DatasetError::ImageRead { place: Place::Line(2), image, .. } if image.ends_with("none.png")),
        "{missing:?}"
    );
}

#[test]
fn images_stay_inside_the_folder_unless_allowed() {
    let line = |image: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": [{{"type": "image", "image": "{image}"}}]}}]}}"#
        )
    };
    assert!(load_text("d.jsonl", &line("sub/../a.png"), &LoadOptions::default()).is_ok());
    let allowed = LoadOptions { allow_outside: true, ..LoadOptions::default() };
    for image in ["../out.png", "link.png", "/etc/hostname"] {
        if !cfg!(unix) && image != "../out.png" {
            continue;
        }
        let error = fails("d.jsonl", &line(image));
        assert!(
            matches!(error, DatasetError::ImageOutside { place: Place::Line(1), .. }),
            "{image}: {error:?}"
        );
        assert!(load_text("d.jsonl", &line(image), &allowed).is_ok(), "{image}");
    }
}

#[test]
fn llava_markers_place_the_images() {
    let text = r#"[
        {"id": "x", "image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."},
            {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]},
        {"image": ["a.png", "sub/b.png"], "model": "y", "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Is <image> like\n<image>\n?\n"}]},
        {"conversations": [{"from": "human", "value": "Hi"}]}
    ]"#;
    let dataset = load_text("d.json", text, &LoadOptions::default()).unwrap();
    assert_eq!(dataset.format, Format::Llava);
    let s = dataset.samples;
    assert_eq!(show(&s[0]), ["user: [a.png]|What is it?", "assistant: A cat.", "user: Sure?"]);
    assert_eq!((s[0].id.as_str(), s[0].answer.as_deref()), ("x", Some("Yes.")));
    assert_eq!(show(&s[1]), ["system: S", "user: Is |[a.png]| like|[b.png]|?\n"]);
    assert_eq!((s[1].id.as_str(), s[1].answer.as_deref()), ("record 1", None));
    assert_eq!(show(&s[2]), ["user: Hi"]);
    let line = r#"{"image": "a.png", "conversations": [{"from": "human", "value": "<image>"}]}"#;
    assert_eq!(show(&samples("d.jsonl", line)[0]), ["user: [a.png]"], "one record per line");
}

#[test]
fn llava_errors_name_the_record() {
    let error =
        fails("d.json", r#"[{"image": "a.png", "conversations": [{"from": "human", "value": "x"}]}]"#);
    assert!(
        matches!(error, DatasetError::Markers { place: Place::Record(0), markers: 0, images: 1, .. }),
        "{error:?}"
    );
    let field = |record: &str, key, expected, found| {
        assert_field(&fails("d.json", &format!("[{record}]")), Place::Record(0), key, expected, found);
    };
    field("{}", "conversations", "a list", "nothing");
    let bot = r#"{"conversations": [{"from": "bot", "value": "x"}]}"#;
    field(bot, "conversations[0].from", "human, gpt or system", "'bot'");
    field(r#"{"conversations": [{"from": "gpt"}]}"#, "conversations[0].value", "a string", "nothing");
    let image = r#"{"image": 3, "conversations": [{"from": "human", "value": "x"}]}"#;
    field(image, "image", "a string or a list of strings", "the number 3");
    let images = r#"{"image": [3], "conversations": [{"from": "human", "value": "x"}]}"#;
    field(images, "image[0]", "a string", "the number 3");
    assert!(matches!(fails("d.json", "[{]"), DatasetError::Json { place: Place::Line(1), .. }));
}

#[test]
fn tsv_rows_become_vlmevalkit_prompts() {
    let long = |byte: u8| base64::engine::general_purpose::STANDARD.encode([byte; 60]);
    let text = format!(
        "index\timage\tquestion\thint\tA\tB\tC\tanswer\tcategory\tsplit\n\
         1\t{a}\tWhich?\tLook.\tred\tblue\t\tB\tcolour\tdev\n\
         2\t1\t\"Two\n\"\"lines\"\"\"\t\t\t\t\t\t\tdev\n\
         3\t['{a}', '{b}']\tCompare\t\tNone\tyes\t\tB\t\tdev\n\
         4\t\tNo picture\t\t\t\t\tx\t\tdev\n",
        a = long(1),
        b = long(2)
    );
    let s = samples("d.tsv", &text);
    let mcq = "user: [60 bytes]|Hint: Look.\nQuestion: Which?\nOptions:\nA. red\nB. blue\n\
               Please select the correct answer from the options above. \n";
    assert_eq!(show(&s[0]), [mcq]);
    assert_eq!(
        (s[0].id.as_str(), s[0].answer.as_deref(), s[0].category.as_deref()),
        ("1", Some("B"), Some("colour"))
    );
    assert_eq!(show(&s[1]), ["user: [60 bytes]|Two\n\"lines\""]);
    assert_eq!((s[1].answer.as_deref(), s[1].category.as_deref()), (None, None));
    assert_eq!(
        s[0].images().collect::<Vec<_>>(),
        s[1].images().collect::<Vec<_>>(),
        "index 1 is referred to"
    );
    let none_is_missing = "user: [60 bytes]|[60 bytes]|Question: Compare\nOptions:\nB. yes\n\
                           Please select the correct answer from the options above. \n";
    assert_eq!(show(&s[2]), [none_is_missing]);
    assert_eq!(show(&s[3]), ["user: No picture"]);
    let paths = "index\timage_path\tquestion\n1\ta.png\tQ\n2\t['a.png', 'sub/b.png']\tQ\n";
    let s = load_text("d.txt", paths, &LoadOptions::default()).unwrap();
    assert_eq!(s.format, Format::Tsv, "told by its header");
    assert_eq!(show(&s.samples[0]), ["user: [a.png]|Q"]);
    assert_eq!(show(&s.samples[1]), ["user: [a.png]|[b.png]|Q"]);
}

#[test]
fn tsv_errors_name_line_and_column() {
    let error = fails("d.tsv", "index\tquery\n1\tx\n");
    assert!(
        matches!(&error, DatasetError::Column { column: "question", found, .. } if found.len() == 2),
        "{error:?}"
    );
    assert!(matches!(fails("d.tsv", "index\tquestion\n1\tx\ty\n"), DatasetError::Table { .. }));
    let line = Place::Line(2);
    assert_field(&fails("d.tsv", "index\tquestion\n1\t\n"), line, "question", "a value", "an empty cell");
    let reference = "an image in base64, or the index of a row that holds one";
    assert_field(&fails("d.tsv", "index\tquestion\timage\n1\tx\t9\n"), line, "image", reference, "'9'");
    let circle = "index\tquestion\timage\n1\tx\t2\n2\tx\t1\n";
    assert_field(&fails("d.tsv", circle), line, "image", reference, "'2'");
    let bad = format!("index\tquestion\timage\n1\tx\t{}\n", "?".repeat(65));
    let shown = format!("'{}...'", "?".repeat(40));
    assert_field(&fails("d.tsv", &bad), line, "image", "an image in base64", &shown);
}

#[test]
fn files_without_samples_or_format_are_refused() {
    for (name, text) in [("d.jsonl", "\n \n"), ("d.json", "[]"), ("d.tsv", "index\tquestion\n"), ("d", "")] {
        assert!(matches!(fails(name, text), DatasetError::Empty { .. }), "{name}");
    }
    let none = LoadOptions { limit: Some(0), ..LoadOptions::default() };
    let one = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    assert!(matches!(load_text("d.jsonl", one, &none), Err(DatasetError::Empty { .. })));
    let error = fails("d.csv", "index,question\n1,x\n");
    assert!(
        matches!(&error, DatasetError::UnknownFormat { start, .. } if start == "index,question"),
        "{error:?}"
    );
    for format in ["JSON lines", "LLaVA", "VLMEvalKit"] {
        assert!(error.to_string().contains(format), "{error}");
    }
    assert!(matches!(
        load(Path::new("/nonexistent/d.jsonl"), &LoadOptions::default()),
        Err(DataError::Dataset(DatasetError::Read { .. }))
    ));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.jsonl");
    std::fs::write(&path, b"ab\xff").unwrap();
    assert!(matches!(read(&path, &LoadOptions::default()), Err(DatasetError::Encoding { offset: 2, .. })));
}

#[test]
fn the_hash_covers_what_the_model_sees_and_nothing_else() {
    let hash = |name: &str, text: &str| {
        let all = LoadOptions { allow_outside: true, ..LoadOptions::default() };
        load_text(name, text, &all).unwrap().samples[0].sha256.clone()
    };
    let chat = |image: &str, text: &str| {
        let pieces =
            format!(r#"{{"type": "image", "image": "{image}"}}, {{"type": "text", "text": "{text}"}}"#);
        format!(r#"{{"messages": [{{"role": "user", "content": [{pieces}]}}]}}"#)
    };
    let base = hash("d.jsonl", &chat("a.png", "What?"));
    assert_eq!(base.len(), 64);
    assert_ne!(base, hash("d.jsonl", &chat("a.png", "Why?")));
    assert_ne!(base, hash("d.jsonl", &chat("sub/b.png", "What?")));
    // Same bytes elsewhere, another format, an answer, an id, a category: the same item.
    assert_eq!(base, hash("d.jsonl", &chat("../out.png", "What?")));
    let llava = r#"[{"id": "z", "category": "c", "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]}]"#;
    assert_eq!(base, hash("d.json", llava));
    assert_eq!(base, hash("d.tsv", "index\timage_path\tquestion\n1\ta.png\tWhat?\n"));
    // A string, a list and a list in two pieces are the same text; roles and order count.
    let turn = |role: &str, content: &str| {
        let line =
            format!(r#"{{"role": "{role}", "content": {content}}}, {{"role": "user", "content": "x"}}"#);
        hash("d.jsonl", &format!(r#"{{"messages": [{line}]}}"#))
    };
    let pieces = r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]"#;
    assert_eq!(turn("user", r#""ab""#), turn("user", pieces));
    assert_ne!(turn("user", r#""ab""#), turn("system", r#""ab""#));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_makes_a_reader_panic(text in "[\\[\\]{}\",:'a-c0-2\t\n<image>questiondx]{0,80}", kind in 0usize..4) {
        let name = ["d.jsonl", "d.json", "d.tsv", "d"][kind];
        let header = if kind == 2 { "index\tquestion\timage\timage_path\n" } else { "" };
        // Whether it is refused does not matter here.
        let _ = load_text(name, &format!("{header}{text}"), &LoadOptions::default());
    }
}
