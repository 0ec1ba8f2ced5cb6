//! Reports of verifications as they may come out: a good artifact, a damaged one, one that no real runtime was there for, and one with everything
//! that is hard to print.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mquant_export::verify::report::{
    ArtifactAbout, Attribution, Cause, Check, ComponentGap, DataAbout, Interval, LayerGap, LinearGap,
    Measured, ReferenceAbout, RuntimeAbout, ScalePair, Similarity, Thumbnail, VERIFY_VERSION, VerifyReport,
    WorstSample,
};
use mquant_export::verify::runner::RunnerKind;

use super::fixture;

/// All of them, with the names of their files.
pub fn reports() -> Vec<(&'static str, VerifyReport)> {
    vec![("passing", passing()), ("failing", failing()), ("embedded", embedded()), ("extreme", extreme())]
}

fn interval(value: f64, low: f64, high: f64) -> Interval {
    Interval { value, low, high }
}

fn check(name: &str, passed: bool, numbers: Option<(f64, f64)>, text: &str) -> Check {
    let (measured, limit) = (numbers.map(|n| n.0), numbers.map(|n| n.1));
    Check { name: name.into(), passed, measured, limit, text: text.into() }
}

/// A number between 0 and 1 that is the same on every run: the fractional part of multiples of the golden ratio.
fn scattered(i: usize) -> f64 {
    (i as f64 * 0.618_033_988_749_895).fract()
}

fn image(fixture_name: &str, name: &str) -> Thumbnail {
    let file = fixture(fixture_name).join("images").join(name);
    let bytes = std::fs::read(file).unwrap();
    let size = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    Thumbnail { width: size(16), height: size(20), png: BASE64_STANDARD.encode(&bytes) }
}

fn worst(
    id: &str,
    question: &str,
    expected: &str,
    answers: (&str, &str),
    kld: f64,
    images: Vec<Thumbnail>,
) -> WorstSample {
    WorstSample {
        id: id.into(),
        question: question.into(),
        expected: Some(expected.into()),
        float_answer: answers.0.into(),
        answer: answers.1.into(),
        kld,
        flipped: answers.0 != answers.1,
        images,
    }
}

/// Halves of the layers of a model: `depth` of the vision tower, the projector, `decoder` of the decoder, with `error(component, i)`.
fn layers(vision: usize, decoder: usize, error: impl Fn(&str, usize) -> (f64, f64)) -> Vec<LayerGap> {
    let mut gaps = vec![];
    for (component, depth) in [("vision", vision), ("decoder", decoder)] {
        for i in 0..2 * depth {
            let half = if i % 2 == 0 { "attn" } else { "mlp" };
            let (visual, text) = error(component, i);
            gaps.push(LayerGap {
                name: format!("{component}.layers.{}.{half}.sum", i / 2),
                visual: Some(visual),
                text: (component == "decoder").then_some(text),
                hidden: Some(Similarity { cosine: 1.0 - visual * visual / 2.0, relative_error: visual }),
            });
        }
        if component == "vision" {
            gaps.push(LayerGap {
                name: "projector.output".into(),
                visual: Some(0.0051),
                text: None,
                hidden: None,
            });
        }
    }
    gaps
}

fn scales(layers: usize) -> Vec<ScalePair> {
    let linears = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down"];
    let mut pairs = vec![];
    for i in 0..layers {
        for (k, linear) in linears.iter().enumerate() {
            let n = i * linears.len() + k;
            let text = 0.004 * (1.0 + 4.0 * scattered(n)) * if *linear == "mlp.down" { 3.0 } else { 1.0 };
            let ratio = if k == 3 || k == 6 { 0.8 + scattered(n + 7) } else { 2.0 + 12.0 * scattered(n + 3) };
            pairs.push(ScalePair {
                role: format!("decoder.layers.{i}.{linear}"),
                visual: (text * ratio) as f32,
                text: text as f32,
            });
        }
        for linear in ["attn.qkv", "attn.o", "mlp.up", "mlp.down"] {
            let scale = (0.01 * (1.0 + 5.0 * scattered(i * 4 + linear.len()))) as f32;
            pairs.push(ScalePair { role: format!("vision.layers.{i}.{linear}"), visual: scale, text: scale });
        }
    }
    pairs.sort_by_key(|p| !p.role.starts_with("vision"));
    pairs
}

fn cause(name: &str, kld: Option<f64>, text: &str) -> Cause {
    Cause { name: name.into(), kld, text: text.into() }
}

fn linear(role: &str, error: f64, expected: Option<f64>, advice: &str) -> LinearGap {
    LinearGap { role: role.into(), error, expected, odd_channel: None, advice: advice.into() }
}

fn checks() -> Vec<Check> {
    let names = ["max_kld", "min_top1", "max_flips", "max_accuracy_drop"];
    let numbers = [(0.0123, 0.05), (0.987, 0.97), (0.0156, 0.05), (0.003, 0.01)];
    let texts = [
        "The mean divergence is within its limit.",
        "The next token is the float model's often enough.",
        "Few enough greedy answers changed.",
        "Accuracy is within its limit.",
    ];
    let mut checks: Vec<Check> = names
        .iter()
        .zip(numbers)
        .zip(texts)
        .map(|((name, numbers), text)| check(name, true, Some(numbers), text))
        .collect();
    checks.push(check(
        "image_swap",
        true,
        Some((2.41, 0.01)),
        "Answers depend on the image: swapping it moves the distribution by 2.41 nats.",
    ));
    checks.push(check("degenerate", true, None, "No answer repeats one token."));
    checks.push(check(
        "text_only",
        true,
        None,
        "Prompts without images are answered the same with and without the vision files.",
    ));
    checks.push(check(
        "configuration",
        true,
        None,
        "Token ids and sizes in the artifact's configuration are the checkpoint's.",
    ));
    checks.push(check(
        "preprocessing",
        true,
        None,
        "Pixels of the runtime's processor are ours within one step of 255.",
    ));
    checks
}

fn artifact() -> ArtifactAbout {
    ArtifactAbout {
            name: "vision-chat-2b-w4a8-onnx".into(),
            format: "onnx".into(),
            family: "vision_chat".into(),
            recipe: "w4a8".into(),
            recipe_description: "rotated; int4 weights by GPTQ in the decoder, int8 elsewhere; static int8 activations, one scale per modality in the decoder".into(),
            bytes: 2_312_456_789,
            manifest_sha256: "6f1ed002ab5595859014ebf0951522d9a3c1f0b6c1f4e8d7b2a90817263544fa".into(),
        }
}

fn attribution() -> Attribution {
    Attribution {
        samples: 16,
        embeddings: Some(Similarity { cosine: 0.99998, relative_error: 0.0063 }),
        causes: vec![
            cause("preprocessing", Some(0.0002), "Our pixels against the runtime's own image processor."),
            cause(
                "float_conversion",
                Some(0.000_200_4),
                "The artifact's structure with float weights and activations.",
            ),
            cause("weights", Some(0.0081), "Weights as the files hold them."),
            cause("activations", Some(0.0126), "Activations rounded to 8 bits as the files say."),
            cause("runtime", Some(0.0123), "Arithmetic of the runtime against the reference executor."),
        ],
        components: vec![
            ComponentGap { component: "vision".into(), kld: 0.0018 },
            ComponentGap { component: "decoder".into(), kld: 0.0109 },
        ],
        layers: layers(24, 28, |component, i| match component {
            "vision" => (0.004 + 0.006 * scattered(i), 0.0),
            _ => (0.011 + 0.02 * scattered(i), 0.008 + 0.012 * scattered(i + 5)),
        }),
        linears: vec![
            linear(
                "decoder.layers.27.mlp.down",
                0.0892,
                Some(0.0841),
                "int8 weights (expected error 0.9 %), or hadamard 64 (4.1 %)",
            ),
            linear("decoder.layers.1.mlp.down", 0.0713, Some(0.0702), "int4/32 (expected error 5.2 %)"),
            linear("decoder.layers.14.attn.o", 0.0587, Some(0.0589), "int8 weights (expected error 0.6 %)"),
            linear("decoder.layers.0.attn.v", 0.0544, Some(0.0531), "int4/32 (expected error 4.0 %)"),
            linear(
                "decoder.head",
                0.0502,
                None,
                "none was weighed: export with a budget to see alternatives",
            ),
        ],
    }
}

fn worst_samples() -> Vec<WorstSample> {
    vec![
        worst(
            "chart-041",
            "Which bar is the highest in the second group?",
            "Red",
            ("Red", "Orange"),
            0.482,
            vec![image("internvl2", "ab.png")],
        ),
        worst(
            "street-017",
            "Describe what the person on the left is holding, and say what is written on it.",
            "A blue umbrella with the word OPEN",
            (
                "The person on the left is holding a blue umbrella. The word OPEN is written on it.",
                "The person on the left is holding a dark umbrella. The word OPEN is written on its side.",
            ),
            0.217,
            vec![image("internvl2", "cd.png")],
        ),
        worst(
            "pair-003",
            "What differs between the two pictures?",
            "The colour of the door",
            ("The colour of the door", "The colour of the door"),
            0.142,
            vec![image("internvl2", "ef.png"), image("qwen2_vl", "ab.png")],
        ),
    ]
}

/// A 4-bit export of a model of two billion parameters that keeps what its recipe promises.
pub fn passing() -> VerifyReport {
    VerifyReport {
        schema_version: VERIFY_VERSION,
        passed: true,
        tool: "mquant-export 0.1.0".into(),
        artifact: artifact(),
        reference: ReferenceAbout { name: "vision-chat-2b".into(), bytes: 4_418_050_848, is_source: true },
        data: DataAbout {
            name: "evaluation.tsv".into(),
            sha256: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae".into(),
            samples: 128,
            with_images: 112,
            metric: "exact".into(),
        },
        runtime: RuntimeAbout {
            runner: RunnerKind::OnnxRuntime,
            version: "1.32.0".into(),
            detail: "CPUExecutionProvider, default optimisation level".into(),
            runtime_checked: true,
            not_checked: vec![],
            top_tokens: None,
        },
        checks: checks(),
        measured: Measured {
            rows: 1386,
            kld_mean: interval(0.0123, 0.0104, 0.0147),
            kld_median: interval(0.0041, 0.0036, 0.0049),
            kld_p99: interval(0.142, 0.098, 0.211),
            top1: interval(0.987, 0.979, 0.993),
            flips: interval(0.0156, 0.0, 0.039),
            accuracy_float: Some(interval(0.914, 0.859, 0.961)),
            accuracy: Some(interval(0.911, 0.852, 0.957)),
            features: Some(Similarity { cosine: 0.999_871, relative_error: 0.0161 }),
        },
        attribution: Some(attribution()),
        scales: scales(28),
        worst: worst_samples(),
    }
}

/// One layer stands out, and with it one linear.
fn damage(a: &mut Attribution) {
    a.causes = vec![
        cause("preprocessing", None, "The runtime has no image processor of its own: it takes our pixels."),
        cause(
            "float_conversion",
            Some(3.1e-7),
            "The artifact's structure with float weights and activations.",
        ),
        cause("weights", Some(0.0081), "Weights as the files hold them."),
        cause("activations", Some(1.91), "Activations rounded to 8 bits as the files say."),
        cause("runtime", Some(1.87), "Arithmetic of the runtime against the reference executor."),
    ];
    a.components[1].kld = 1.79;
    let at = a.layers.iter().position(|l| l.name == "decoder.layers.6.attn.sum").unwrap();
    (a.layers[at].visual, a.layers[at].text) = (Some(1.31), Some(0.874));
    a.layers[3].visual = Some(0.0007);
    a.linears.insert(
        0,
        linear(
            "decoder.layers.6.attn.q",
            0.998,
            Some(0.0312),
            "its error is 32 times what the export measured: export the artifact anew",
        ),
    );
    a.linears.truncate(5);
}

/// One scale of the decoder is twice what it should be.
pub fn failing() -> VerifyReport {
    let mut r = passing();
    r.passed = false;
    r.artifact.name = "vision-chat-2b-w4a8-onnx-damaged".into();
    let failed = [
        (
            "max_kld",
            Some((1.87, 0.05)),
            "The decoder is at fault: with it alone in the float model the divergence is 1.79.",
        ),
        ("min_top1", Some((0.642, 0.97)), "The error begins at decoder.layers.6.attn.sum."),
        ("max_flips", Some((0.516, 0.05)), "66 of 128 greedy answers are others."),
        ("max_accuracy_drop", Some((0.438, 0.01)), "Accuracy fell from 91.4 % to 47.7 %."),
        ("degenerate", None, "4 answers repeat one token; the first is sample street-017."),
    ];
    let names = failed.map(|f| f.0);
    r.checks.retain(|c| !names.contains(&c.name.as_str()));
    let failed = failed.into_iter().map(|(name, numbers, text)| check(name, false, numbers, text));
    r.checks = failed.chain(std::mem::take(&mut r.checks)).collect();
    r.measured = Measured {
        kld_mean: interval(1.87, 1.62, 2.15),
        kld_median: interval(0.94, 0.71, 1.2),
        kld_p99: interval(9.8, 8.4, 11.9),
        top1: interval(0.642, 0.601, 0.683),
        flips: interval(0.516, 0.43, 0.602),
        accuracy: Some(interval(0.477, 0.391, 0.563)),
        features: Some(Similarity { cosine: 0.999_871, relative_error: 0.0161 }),
        ..r.measured
    };
    damage(r.attribution.as_mut().unwrap());
    for (sample, answer) in
        r.worst.iter_mut().zip(["red red red red red red red red", "umbrella umbrella umbrella umbrella", ""])
    {
        (sample.answer, sample.flipped, sample.kld) = (answer.into(), true, sample.kld * 20.0);
    }
    r
}

/// No real runtime was there, and the data has no expected answers.
pub fn embedded() -> VerifyReport {
    let mut r = passing();
    r.artifact.name = "vision-chat-2b-q4_k_m-gguf".into();
    (r.artifact.format, r.artifact.recipe) = ("gguf".into(), "q4_k_m".into());
    r.artifact.recipe_description = "llama.cpp's mix Q4_K_M, rounded by GPTQ inside the blocks".into();
    r.runtime = RuntimeAbout {
        runner: RunnerKind::Embedded,
        version: "0.1.0".into(),
        detail: "blocks of the GGUF files, f32 arithmetic".into(),
        runtime_checked: false,
        not_checked: vec![
            "llama.cpp's arithmetic and its image processor: no llama-server was found. Install llama.cpp, or set LLAMA_SERVER to the program, and verify again."
                .into(),
        ],
        top_tokens: None,
    };
    r.checks.retain(|c| c.name != "max_accuracy_drop" && c.name != "preprocessing");
    (r.measured.accuracy, r.measured.accuracy_float) = (None, None);
    for sample in &mut r.worst {
        sample.expected = None;
    }
    r.attribution.as_mut().unwrap().causes[4] = cause("runtime", None, "No real runtime was there.");
    r.scales.clear();
    r
}

/// One row without any difference.
fn no_difference() -> Measured {
    let zero = interval(0.0, 0.0, 0.0);
    let one = interval(1.0, 1.0, 1.0);
    Measured {
        rows: 1,
        kld_mean: zero,
        kld_median: zero,
        kld_p99: zero,
        top1: one,
        flips: zero,
        accuracy_float: Some(one),
        accuracy: Some(one),
        features: None,
    }
}

/// Long texts, markup, no answer, control characters, text from right to left.
fn hard_samples(nasty: &str) -> Vec<WorstSample> {
    let arabic = "\u{645}\u{627} \u{647}\u{648} \u{644}\u{648}\u{646} \u{627}\u{644}\u{633}\u{64a}\u{627}\u{631}\u{629} \u{641}\u{64a} \u{627}\u{644}\u{635}\u{648}\u{631}\u{629}\u{61f}";
    let mut hard = worst(
        nasty,
        &format!("{} {}", nasty, "why ".repeat(2000)),
        nasty,
        ("", "\u{202e}\u{1b}[31mred\0"),
        0.0,
        vec![],
    );
    hard.flipped = true;
    vec![
        hard,
        worst(
            "rtl",
            arabic,
            "\u{623}\u{62d}\u{645}\u{631}",
            (
                "\u{623}\u{62d}\u{645}\u{631} \u{62f}\u{627}\u{643}\u{646}",
                "\u{623}\u{632}\u{631}\u{642} \u{62f}\u{627}\u{643}\u{646}",
            ),
            1e-9,
            vec![],
        ),
        worst(
            &"i".repeat(300),
            &"w".repeat(5000),
            "",
            (&"same ".repeat(3000), &"other ".repeat(3000)),
            3.0,
            vec![],
        ),
    ]
}

/// A decoder of hundreds of layers, one sample, no difference at all, and texts that are hard to print.
pub fn extreme() -> VerifyReport {
    let mut r = passing();
    let nasty = "<script>document.title='owned'</script><img src=x onerror=\"console.error('owned')\">\"'&amp;{{ 7*7 }}";
    r.artifact.name = format!("{nasty} a-name-that-never-ends-{}", "x".repeat(180));
    r.artifact.recipe = nasty.into();
    r.artifact.recipe_description = nasty.into();
    r.reference = ReferenceAbout { name: nasty.into(), bytes: 0, is_source: false };
    r.data = DataAbout {
        name: nasty.into(),
        samples: 1,
        with_images: 0,
        metric: "relaxed_number".into(),
        ..r.data
    };
    r.runtime.runner = RunnerKind::LlamaCpp;
    r.runtime.detail = nasty.into();
    r.runtime.not_checked = vec![nasty.into()];
    r.runtime.top_tokens = Some(40);
    r.measured = no_difference();
    r.checks = vec![
        check("max_kld", true, Some((0.0, 0.0)), nasty),
        check(
            nasty,
            true,
            Some((1e-300, 1e300)),
            &"A very long sentence about a check that goes on. ".repeat(20),
        ),
    ];
    let a = r.attribution.as_mut().unwrap();
    for c in &mut a.causes {
        (c.kld, c.text) = (None, nasty.into());
    }
    a.components = vec![ComponentGap { component: nasty.into(), kld: 0.0 }];
    a.layers = layers(120, 400, |_, i| (1e-7 * 40f64.powf(4.0 * scattered(i)), 0.0));
    a.layers[7].visual = None;
    a.linears = vec![linear(&format!("decoder.{}", "sub.".repeat(60)), 0.0, None, nasty)];
    r.scales = vec![
        ScalePair { role: nasty.into(), visual: f32::MIN_POSITIVE, text: f32::MAX },
        ScalePair { role: "decoder.zero".into(), visual: 0.0, text: 1.0 },
    ];
    r.worst = hard_samples(nasty);
    r
}
