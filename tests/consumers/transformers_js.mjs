// transformers.js on the folder of each task (`pemlc export --also task-folders`).
//
//     python3 tests/consumers/reference_tokens.py ARTIFACT > expected.json
//     node tests/consumers/transformers_js.mjs ARTIFACT expected.json
//
// Needs @huggingface/transformers where node finds it; seen with 4.3.1 and node 20.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const { AutoModelForCausalLM, Tensor, env } = await import("@huggingface/transformers");

const [artifact, expectedFile] = process.argv.slice(2);
const { tokens, rows } = JSON.parse(readFileSync(expectedFile, "utf8"));
env.allowRemoteModels = false;
env.localModelPath = resolve(artifact, "tasks") + "/";

const models = {};
let failed = 0;
for (const { task, prompt, answer } of rows) {
  models[task] ??= await AutoModelForCausalLM.from_pretrained(task, { device: "cpu" });
  const shape = [1, prompt.length];
  const input_ids = new Tensor("int64", BigInt64Array.from(prompt.map(BigInt)), shape);
  const attention_mask = new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), shape);
  const out = await models[task].generate({
    input_ids,
    attention_mask,
    do_sample: false,
    min_new_tokens: tokens,
    max_new_tokens: tokens,
    eos_token_id: -1,
  });
  const found = Array.from(out.data, Number).slice(prompt.length);
  const same = JSON.stringify(found) === JSON.stringify(answer);
  failed += same ? 0 : 1;
  console.log(`transformers.js ${task}: ${same ? "the same tokens" : `${found} where ${answer} was expected`}`);
}
console.log(`transformers.js: ${rows.length - failed} of ${rows.length} agree with ONNX Runtime`);
process.exit(failed || rows.length === 0 ? 1 : 0);
