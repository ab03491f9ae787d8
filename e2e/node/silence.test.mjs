// Node clients whose streams are silent for 40 s: through the gateway at BERRY_URL to upstreams of each dialect, all at once.
// Started by test_matrix_node.py, which says in BERRY_MATRIX what asks for silence and what comes after it.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { require } from "./packages.mjs";

const { BERRY_URL, BERRY_TOKEN, BERRY_MATRIX } = process.env;
const { TEXT, SILENCE } = JSON.parse(BERRY_MATRIX);
const UPSTREAMS = ["openai", "anthropic", "gemini"];
// Shorter than the silence: without keep-alives a client gives up.
const PATIENCE_MS = 25_000;

// Node's own `fetch` waits for minutes; this one gives up when no byte has come for a while. Every package below uses it.
const patient = globalThis.fetch;
globalThis.fetch = async (input, init = {}) => {
  const gone = new AbortController();
  let timer;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => gone.abort(new Error(`no byte for ${PATIENCE_MS} ms`)), PATIENCE_MS).unref();
  };
  wait();
  const signal = init.signal ? AbortSignal.any([init.signal, gone.signal]) : gone.signal;
  const answer = await patient(input, { ...init, signal });
  const seen = new TransformStream({
    transform(chunk, controller) {
      wait();
      controller.enqueue(chunk);
    },
    flush: () => clearTimeout(timer),
  });
  return new Response(answer.body.pipeThrough(seen), answer);
};

const { default: OpenAI } = require("openai");
const { default: Anthropic } = require("@anthropic-ai/sdk");
const { GoogleGenAI } = require("@google/genai");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");
const { createGoogleGenerativeAI } = require("@ai-sdk/google");
const { streamText } = require("ai");

async function joined(stream, text) {
  let whole = "";
  for await (const item of stream) whole += text(item) ?? "";
  return whole;
}

const options = { apiKey: BERRY_TOKEN, maxRetries: 0, timeout: PATIENCE_MS };
const openai = new OpenAI({ baseURL: `${BERRY_URL}/v1`, ...options });
const anthropic = new Anthropic({ baseURL: BERRY_URL, ...options });
const google = new GoogleGenAI({ apiKey: BERRY_TOKEN, httpOptions: { baseUrl: BERRY_URL } });
const vercel = {
  openai: createOpenAI({ baseURL: `${BERRY_URL}/v1`, apiKey: BERRY_TOKEN }),
  anthropic: createAnthropic({ baseURL: `${BERRY_URL}/v1`, apiKey: BERRY_TOKEN }),
  google: createGoogleGenerativeAI({ baseURL: `${BERRY_URL}/v1beta`, apiKey: BERRY_TOKEN }),
};
const messages = [{ role: "user", content: SILENCE }];
const throughVercel = (model) => joined(streamText({ model, prompt: SILENCE, maxRetries: 0 }).textStream, (text) => text);

const CLIENTS = {
  "openai-node": async (model) =>
    joined(await openai.chat.completions.create({ model, messages, stream: true }), (chunk) => chunk.choices[0]?.delta.content),
  "openai-node-responses": async (model) =>
    joined(await openai.responses.create({ model, input: SILENCE, store: false, stream: true }), (event) =>
      event.type === "response.output_text.delta" ? event.delta : "",
    ),
  "anthropic-node": async (model) =>
    joined(anthropic.messages.stream({ model, max_tokens: 100, messages }), (event) => event.delta?.text),
  "google-genai-node": async (model) =>
    joined(await google.models.generateContentStream({ model, contents: SILENCE }), (chunk) => chunk.text),
  "ai-sdk-openai": (model) => throughVercel(vercel.openai.chat(model)),
  "ai-sdk-responses": (model) => throughVercel(vercel.openai.responses(model)),
  "ai-sdk-anthropic": (model) => throughVercel(vercel.anthropic(model)),
  "ai-sdk-google": (model) => throughVercel(vercel.google(model)),
};

describe("silence", { concurrency: true }, () => {
  for (const [name, stream] of Object.entries(CLIENTS)) {
    for (const upstream of UPSTREAMS) {
      test(`${name} ${upstream}`, async () => {
        const begun = performance.now();
        assert.equal(await stream(upstream), TEXT);
        assert.ok(performance.now() - begun > PATIENCE_MS, "it was silent for long enough");
      });
    }
  }
});
