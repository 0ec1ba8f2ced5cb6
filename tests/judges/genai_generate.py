"""Answers evaluation questions with an exported folder in unmodified onnxruntime-genai.

usage: genai_generate.py ARTIFACT QUESTIONS.tsv PROMPTS.safetensors OUT.json --samples N --max-new N

QUESTIONS is a VLMEvalKit table (index, image as base64 PNG, question, ...). Each of its first N rows is answered twice: from the PNG
and the text through GenAI's own tokenizer, chat template and image processor (`own`), and from our tensors in PROMPTS
(`s{i}.input_ids`, `s{i}.pixel_values`, `s{i}.image_grid_thw`) (`ours`). OUT lists both token sequences per row.
"""

import argparse
import base64
import csv
import json
import os
import sys
import tempfile

import numpy as np
import onnxruntime_genai as og
from safetensors.numpy import load_file


def run(model, inputs, length, max_new):
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=length + max_new, do_sample=False)
    generator = og.Generator(model, params)
    generator.set_inputs(inputs)
    tokens = []
    while not generator.is_done() and len(tokens) < max_new:
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens


def own_inputs(tokenizer, processor, row, folder):
    path = os.path.join(folder, "image.png")
    with open(path, "wb") as file:
        file.write(base64.b64decode(row["image"]))
    content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
    messages = json.dumps([{"role": "user", "content": content}])
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(prompt, images=og.Images.open(path))
    return inputs, np.array(inputs["input_ids"].as_numpy()).size


def our_inputs(tensors, i):
    ids, grid = tensors[f"s{i}.input_ids"], tensors[f"s{i}.image_grid_thw"]
    inputs = og.NamedTensors()
    inputs["input_ids"] = ids.astype(np.int32)[None]
    inputs["pixel_values"] = tensors[f"s{i}.pixel_values"]
    inputs["image_grid_thw"] = grid
    # Without the number of image tokens GenAI does not run the vision graph.
    inputs["num_image_tokens"] = np.array([int((grid.prod(1) // 4).sum())], np.int64)
    return inputs, ids.size


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("questions")
    parser.add_argument("prompts")
    parser.add_argument("out")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--max-new", type=int, required=True)
    args = parser.parse_args()
    csv.field_size_limit(sys.maxsize)
    with open(args.questions, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[: args.samples]
    tensors = load_file(args.prompts)
    model = og.Model(args.artifact)
    tokenizer, processor = og.Tokenizer(model), model.create_multimodal_processor()
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        for i, row in enumerate(rows):
            own = run(model, *own_inputs(tokenizer, processor, row, folder), args.max_new)
            ours = run(model, *our_inputs(tensors, i), args.max_new)
            answers.append({"own": own, "ours": ours})
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
