//! GGUF files in an unmodified llama.cpp: what it says to prompts, made comparable with what the executor says (`tests/judges/llama_cpp.py`).

use std::path::{Path, PathBuf};

use mquant_export::calibrate::{ImageSource, Preparer, Sample};
use mquant_export::numeric::Tensor;
use serde_json::{Value as Json, json};

use super::Goldens;
use super::agreement::Said;
use super::judge::{Bundle, judge, text};

/// A model's files.
#[derive(Clone, Debug)]
pub struct Files {
    pub text: PathBuf,
    /// Vision tower and projector, where llama.cpp has a graph for them.
    pub mmproj: Option<PathBuf>,
}

impl Files {
    /// The files of a folder; of a split file, the first part.
    pub fn of(folder: &Path) -> Self {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
            .collect();
        paths.sort();
        let is_mmproj = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("mmproj-");
        let (mmproj, texts): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_mmproj);
        let text =
            texts.into_iter().next().unwrap_or_else(|| panic!("{} has no text file", folder.display()));
        Self { text, mmproj: mmproj.into_iter().next() }
    }

    /// Bytes of the files; of a split file, of its first part.
    pub fn bytes(&self) -> u64 {
        let size = |path: &PathBuf| path.metadata().unwrap().len();
        size(&self.text) + self.mmproj.as_ref().map_or(0, size)
    }
}

/// How llama.cpp computes attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// As its programs do by default: keys and values cached in f16, flash attention.
    Default,
    /// Cache in f32 and no flash attention: what is left are its operators' own differences.
    F32,
}

/// A prompt.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// To be tokenized by llama.cpp, with `<__media__>` for each image; it puts its own tokens around images.
    Text(String),
    /// Our ids, one image token per row of an image.
    Ids { ids: Vec<i64>, image_token: i64 },
}

/// What is fed behind a prompt.
#[derive(Clone, Debug)]
pub enum Continuation {
    /// These tokens, whatever the model says.
    Forced(Vec<i64>),
    /// The best token, until there are `max_new` or one is in `stop`.
    Greedy { max_new: usize, stop: Vec<i64> },
}

/// A question to llama.cpp.
#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: Prompt,
    /// Files that Pillow reads.
    pub images: Vec<PathBuf>,
    /// Rows `[rows, width]` in place of what the mmproj file computes.
    pub features: Option<Tensor<f32>>,
    pub then: Continuation,
}

/// What llama.cpp says to a question.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The best token of each row.
    pub tokens: Vec<i64>,
    /// `[rows, vocab]`: the row behind the prompt and one behind each token fed after it.
    pub logits: Tensor<f32>,
    /// Ids as they were fed, -1 at image rows.
    pub prompt_ids: Vec<i64>,
    /// Rows of each piece (tile, slice) of an image.
    pub image_rows: Vec<i64>,
    /// Image rows `[rows, width]`.
    pub features: Option<Tensor<f32>>,
}

/// Everything one model was asked.
#[derive(Debug)]
pub struct Run {
    pub replies: Vec<Reply>,
    /// Ids of the texts that were to be tokenized.
    pub tokenized: Vec<Vec<i64>>,
    /// Level and text of each line that was logged.
    pub log: Vec<(String, String)>,
}

impl Run {
    /// What llama.cpp warned of or called an error.
    pub fn warnings(&self) -> Vec<&str> {
        let told = |(level, _): &&(String, String)| level == "warn" || level == "error";
        self.log.iter().filter(told).map(|(_, text)| text.as_str()).collect()
    }
}

/// Asks one model; panics with llama.cpp's log where it refuses a file or a prompt.
pub fn ask(files: &Files, arithmetic: Arithmetic, texts: &[&str], questions: &[Question]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    let samples: Vec<Json> =
        questions.iter().enumerate().map(|(i, q)| question_json(dir.path(), i, q)).collect();
    let (cache, flash) = match arithmetic {
        Arithmetic::Default => ("f16", true),
        Arithmetic::F32 => ("f32", false),
    };
    let mmproj = files.mmproj.as_deref().map(text);
    let run = json!({
        "model": text(&files.text), "mmproj": mmproj, "out": text(&out), "texts": texts, "samples": samples,
    });
    // Without the last, an image of fewer than 8 rows is enlarged (Qwen2-VL), and no image could be shown at its own size.
    let request =
        json!({ "threads": 2, "cache": cache, "flash": flash, "image_min_tokens": 1, "runs": [run] });
    let path = dir.path().join("request.json");
    std::fs::write(&path, request.to_string()).unwrap();
    let told: Json = serde_json::from_str(&judge("llama_cpp.py", &[&text(&path)])).unwrap();
    let line = |l: &Json| (l[0].as_str().unwrap().to_string(), l[1].as_str().unwrap().to_string());
    let found = Goldens::read(&out);
    Run {
        replies: (0..questions.len()).map(|i| reply(&found, i)).collect(),
        tokenized: (0..texts.len()).map(|i| found.ints(&format!("t{i}.ids")).into_data()).collect(),
        log: told["logs"][0].as_array().unwrap().iter().map(line).collect(),
    }
}

fn question_json(dir: &Path, i: usize, q: &Question) -> Json {
    let mut found = json!({ "images": q.images.iter().map(|p| text(p)).collect::<Vec<_>>() });
    match &q.prompt {
        Prompt::Text(text) => found["text"] = json!(text),
        Prompt::Ids { ids, image_token } => {
            found["ids"] = json!(ids);
            found["image_token"] = json!(image_token);
        }
    }
    match &q.then {
        Continuation::Forced(ids) => found["forced"] = json!(ids),
        Continuation::Greedy { max_new, stop } => {
            found["max_new"] = json!(max_new);
            found["stop"] = json!(stop);
        }
    }
    if let Some(features) = &q.features {
        let path = dir.join(format!("features{i}.safetensors"));
        let mut bundle = Bundle::default();
        bundle.floats("features".into(), features);
        bundle.write(&path);
        found["features"] = json!(text(&path));
    }
    found
}

fn reply(found: &Goldens, i: usize) -> Reply {
    let key = |name: &str| format!("s{i}.{name}");
    Reply {
        tokens: found.ints(&key("tokens")).into_data(),
        logits: found.floats(&key("logits")),
        prompt_ids: found.ints(&key("prompt_ids")).into_data(),
        image_rows: found.ints(&key("image_rows")).into_data(),
        features: found.has(&key("features")).then(|| found.floats(&key("features"))),
    }
}

/// Questions of samples, prompts as our own preparation makes them, images written into `dir` where they are held in memory.
pub fn questions(
    dir: &Path,
    preparer: &Preparer,
    image_token: i64,
    samples: &[Sample],
    then: impl Fn(&Sample) -> Continuation,
) -> Vec<Question> {
    let one = |(i, sample): (usize, &Sample)| {
        let path = |(j, source): (usize, &ImageSource)| match source {
            ImageSource::File(path) => path.clone(),
            ImageSource::Bytes { bytes, .. } => {
                let path = dir.join(format!("image-{i}-{j}"));
                std::fs::write(&path, bytes).unwrap();
                path
            }
        };
        Question {
            prompt: Prompt::Ids { ids: preparer.prepare_sample(sample).unwrap().input_ids, image_token },
            images: sample.images().enumerate().map(path).collect(),
            features: None,
            then: then(sample),
        }
    };
    samples.iter().enumerate().map(one).collect()
}

/// What a model says on the answers of samples, in llama.cpp: the counterpart of `agreement::said`. `stop` are the tokens that may end one.
pub fn said(
    files: &Files,
    arithmetic: Arithmetic,
    (preparer, image_token): (&Preparer, i64),
    stop: &[i64],
    samples: &[Sample],
) -> Said {
    let dir = tempfile::tempdir().unwrap();
    let answer = |sample: &Sample| preparer.prepare_sample(sample).unwrap().answer_ids.unwrap();
    let forced = |sample: &Sample| Continuation::Forced(answer(sample));
    let questions = questions(dir.path(), preparer, image_token, samples, forced);
    let run = ask(files, arithmetic, &[], &questions);
    let rows = run.replies.into_iter().zip(samples).map(|(reply, sample)| {
        let answer = answer(sample);
        assert_eq!(reply.tokens.len(), answer.len() + 1);
        let exact = reply.tokens[..answer.len()] == answer && stop.contains(&reply.tokens[answer.len()]);
        (reply.logits, exact)
    });
    Said::new(rows.collect())
}
