//! The model card `README.md` of an artifact.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::manifest::{GgufForm, Manifest, OnnxForm};
use crate::family::Resolved;

/// Text of the card: what the files are and how to run them.
pub(super) fn model_card(resolved: &Resolved, manifest: &Manifest) -> String {
    let mut card = String::new();
    let d = &resolved.model.spec.decoder;
    // Writing to a String cannot fail.
    let _ = write!(
        card,
        "# {title}, {recipe} {format}\n\n\
         Exported by {tool} {version} with the recipe `{recipe}`: {description}.\n\n\
         | | |\n|---|---|\n\
         | family | {family} |\n\
         | decoder | {layers} layers, width {width}, {heads} heads over {kv} key/value heads, {vocab} tokens |\n\
         | quantized linears | {quantized} |\n\
         {form}\
         | calibration samples | {samples} |\n\n",
        title = resolved.description.title,
        recipe = manifest.recipe.name,
        format = manifest.format.to_uppercase(),
        tool = manifest.tool.name,
        version = manifest.tool.version,
        description = manifest.recipe.description,
        family = manifest.family,
        layers = d.layers,
        width = d.width,
        heads = d.heads,
        kv = d.kv_heads,
        vocab = d.vocab,
        quantized = forms(manifest),
        form = manifest.onnx.as_ref().map_or(String::new(), operators),
        samples = manifest.calibration.as_ref().map_or(0, |c| c.samples.len()),
    );
    if let Some(onnx) = &manifest.onnx {
        card.push_str(&onnx_files(resolved, onnx));
    }
    if let Some(gguf) = &manifest.gguf {
        card.push_str(&gguf_files(gguf));
    }
    card
}

/// Rows about the operators of ONNX graphs.
fn operators(onnx: &OnnxForm) -> String {
    let ops = match onnx.ops.as_str() {
        "standard" => "ONNX opset 21 only",
        _ => "ONNX opset 21 and com.microsoft",
    };
    let scales = match onnx.msq_form.as_deref() {
        Some("split") => "| linears with two scales | two products over rows ordered by modality |\n",
        Some(_) => "| linears with two scales | one product, rows scaled by their modality |\n",
        None => "",
    };
    format!("| operators | {ops} |\n{scales}")
}

/// Quantized linears by form.
fn forms(manifest: &Manifest) -> String {
    let mut forms: BTreeMap<&str, usize> = BTreeMap::new();
    manifest.linears.iter().for_each(|l| *forms.entry(l.form.as_str()).or_default() += 1);
    let form = |(form, n): (&str, usize)| match form {
        "int8-gemm" => format!("{n} as integer products"),
        "float-gemm" => format!("{n} as products of floats"),
        "matmulnbits" => format!("{n} by MatMulNBits"),
        "portable" => format!("{n} by DequantizeLinear"),
        other => format!("{n} {other}"),
    };
    let forms: Vec<String> = forms.into_iter().map(form).collect();
    if forms.is_empty() { "none".into() } else { forms.join(", ") }
}

fn onnx_files(resolved: &Resolved, onnx: &OnnxForm) -> String {
    let width = resolved.model.spec.decoder.width + usize::from(onnx.modality_channel);
    let channel = if onnx.modality_channel {
        "The last channel of `image_features` and `inputs_embeds` is the row's modality (1 image, 0 text); the graphs \
         fill and read it, nothing needs to be done from outside.\n"
    } else {
        ""
    };
    let run = if resolved.description.genai.is_ok() { RUN_GENAI } else { RUN_GENERATE };
    format!(
        "## Files\n\n\
         - `vision.onnx`: `pixel_values`, `image_grid_thw` to `image_features` [rows, {width}]\n\
         - `embedding.onnx`: `input_ids`, `image_features` to `inputs_embeds` [batch, sequence, {width}]\n\
         - `model.onnx`: `inputs_embeds`, `attention_mask`, `position_ids`, `past_key_values.*` to `logits`, `present.*`\n\
         - `*.onnx.data`: weights of the graph of that name\n\
         - `mquant.json`: recipe, scales, inputs and outputs, hashes of every source and artifact file\n\n\
         {channel}{run}"
    )
}

/// The files of a GGUF artifact and how to try them.
fn gguf_files(gguf: &GgufForm) -> String {
    let list = |files: &[String]| files.iter().map(|f| format!("`{f}`")).collect::<Vec<_>>().join(", ");
    let first = |files: &[String]| files.first().cloned().unwrap_or_default();
    let text = first(&gguf.text);
    let (projector, run) = match &gguf.projector {
        Some(projector) => {
            let mmproj = first(&gguf.mmproj);
            let files = list(&gguf.mmproj);
            (
                format!("- {files}: vision tower and projector (`{projector}`)\n"),
                format!(
                    "llama-mtmd-cli -m {text} --mmproj {mmproj} --image image.png -p \"Describe the image.\""
                ),
            )
        }
        None => (
            "- llama.cpp has no graph for the vision side of this model; its ONNX export has\n".to_string(),
            format!("llama-cli -m {text} -p \"What is a cat?\""),
        ),
    };
    format!(
        "## Files\n\n\
         - {text_files}: text model (`{architecture}`)\n\
         {projector}\
         - `mquant.json`: recipe, scales, hashes of every source and artifact file\n\n\
         ## Run\n\nWith llama.cpp, in this folder:\n\n```sh\n{run}\n```\n",
        text_files = list(&gguf.text),
        architecture = gguf.architecture,
    )
}

/// How to try the artifact where GenAI cannot run it.
const RUN_GENERATE: &str = r#"
## Run

onnxruntime-genai has no type for this model. With `pip install numpy onnxruntime tokenizers`, in this folder:

```sh
mquant-export preprocess . --image image.png --prompt "Describe the image." -o prompt.safetensors
python generate.py prompt.safetensors --max-new-tokens 64
```

`mquant.json` describes every input and output of the graphs under `graphs`, for programs of your own.
"#;

/// How to try the artifact in a stock runtime.
const RUN_GENAI: &str = r#"
## Run

With `pip install onnxruntime-genai`, in this folder:

```python
import json
import onnxruntime_genai as og

model = og.Model(".")
processor = model.create_multimodal_processor()
tokenizer = og.Tokenizer(model)
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}]}]
prompt = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
inputs = processor(prompt, images=og.Images.open("image.png"))
params = og.GeneratorParams(model)
params.set_search_options(max_length=1024)
generator = og.Generator(model, params)
generator.set_inputs(inputs)
stream = processor.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
```
"#;
