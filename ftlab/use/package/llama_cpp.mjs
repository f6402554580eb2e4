// Asks a file of GGUF in llama.cpp, by the build that npm's node-llama-cpp brings. Reads a request of JSON on its
// standard input, and writes what was answered to the file that the request names.

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const request = JSON.parse(readFileSync(0, "utf-8"));
const { getLlama } = await import(pathToFileURL(request.library).href);
const quiet = { progressLogs: false, logLevel: "error" };
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, ...quiet });
const model = await llama.loadModel({ modelPath: request.file });
const { context: contextSize, threads } = request;
const context = await model.createContext({ contextSize, threads, sequences: 1 });
const sequence = context.getSequence();
const prompts = [];

for (const prompt of request.prompts) {
    const ids = model.tokenize(prompt.text, true);

    // The logits beside each token of the answer that is wanted.
    await sequence.clearHistory();
    const given = [...prompt.ids, ...prompt.answer_ids].slice(0, -1);
    const first = prompt.ids.length - 1;
    const found = await sequence.controlledEvaluate(given.map((token, place) => {
        if (place < first)
            return token;
        const filter = { tokens: prompt.likely[place - first], includeMax: true };
        return [token, { generateNext: { logits: { filter } } }];
    }));
    const logits = prompt.likely.map((tokens, place) => {
        const next = found[first + place].next.logits;
        return tokens.map((token) => next.get(token));
    });

    // Its own answer, the likeliest token each time.
    await sequence.clearHistory();
    const options = { generateNext: { token: true, options: { temperature: 0 } } };
    const answer = [];
    let input = [...ids.slice(0, -1), [ids.at(-1), options]];
    while (answer.length < request.max_new_tokens) {
        const token = (await sequence.controlledEvaluate(input)).at(-1).next.token;
        answer.push(token);
        if (model.isEogToken(token))
            break;
        input = [[token, options]];
    }
    const shown = answer.filter((token) => !model.isSpecialToken(token));
    prompts.push({ ids, logits, answer_ids: answer, answer: model.detokenize(shown), last: ids.slice(-1) });
}

writeFileSync(request.out, JSON.stringify({ prompts }));
process.exit(0);
