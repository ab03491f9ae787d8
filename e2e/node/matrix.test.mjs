// Node clients through the gateway at BERRY_URL to upstreams of each dialect: every test is one client, one upstream, one
// feature. Started by test_matrix_node.py, which also starts the gateway and what is behind it.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { require } from "./packages.mjs";

const { default: OpenAI, BadRequestError } = require("openai");
const { default: Anthropic, BadRequestError: AnthropicBadRequest } = require("@anthropic-ai/sdk");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");
const { APICallError, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } = require("ai");

const { BERRY_URL, BERRY_TOKEN, BERRY_MATRIX } = process.env;
const { TEXT, PARALLEL, PNG, PDF, WEATHER, TIME, CITY } = JSON.parse(BERRY_MATRIX);
const UPSTREAMS = ["openai", "anthropic", "gemini"];
const BOTH = "What is the weather and the time in Paris, both?";
const ONE = "What is the weather in Paris?";
const FACTS = "Give me the facts about Paris.";
const THINK = "think: two and two?";
const REFUSED = "Please be refused.";
const THOUGHT = "Two and two make four.";
const TOOLS = { get_weather: WEATHER, get_time: TIME };
const RESULT = "18 degrees";

async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

class OpenAiChat {
  client = new OpenAI({ baseURL: `${BERRY_URL}/v1`, apiKey: BERRY_TOKEN, maxRetries: 0, timeout: 30_000 });
  tools = Object.entries(TOOLS).map(([name, parameters]) => ({ type: "function", function: { name, description: name, parameters } }));

  async ask(model, content, options = {}) {
    const messages = content[0]?.role ? content : [{ role: "user", content }];
    return this.client.chat.completions.create({ model, messages, ...options });
  }
  async chat(model) {
    const { choices, usage } = await this.ask(model, "hello");
    return [choices[0].message.content, usage.prompt_tokens, usage.completion_tokens];
  }
  async stream(model) {
    const chunks = await collect(await this.ask(model, "hello", { stream: true, stream_options: { include_usage: true } }));
    const { usage } = chunks.at(-1);
    const pieces = chunks.map((chunk) => chunk.choices[0]?.delta.content).filter(Boolean);
    return [pieces, usage.prompt_tokens, usage.completion_tokens];
  }
  async call(model) {
    const chunks = await collect(await this.ask(model, ONE, { tools: this.tools, stream: true }));
    const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta.tool_calls ?? []).map((call) => call.function);
    return [calls.map((call) => call.name ?? "").join(""), JSON.parse(calls.map((call) => call.arguments ?? "").join(""))];
  }
  async parallel(model) {
    const { message } = (await this.ask(model, BOTH, { tools: this.tools })).choices[0];
    const results = message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: RESULT }));
    assert.equal(results.length, 2);
    const history = [{ role: "user", content: BOTH }, message, ...results];
    return (await this.ask(model, history, { tools: this.tools })).choices[0].message.content;
  }
  async part(model, part) {
    return (await this.ask(model, [{ type: "text", text: "hello" }, part])).choices[0].message.content;
  }
  image(model) {
    return this.part(model, { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } });
  }
  pdf(model) {
    return this.part(model, { type: "file", file: { filename: "paper.pdf", file_data: `data:application/pdf;base64,${PDF}` } });
  }
  async structured(model) {
    const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema: CITY } };
    return JSON.parse((await this.ask(model, FACTS, { response_format })).choices[0].message.content);
  }
  async thinking(model) {
    const { message } = (await this.ask(model, THINK, { reasoning_effort: "low" })).choices[0];
    return [message.reasoning_content, message.content];
  }
  async refused(model) {
    const error = await this.ask(model, REFUSED).then(assert.fail, (error) => error);
    assert.ok(error instanceof BadRequestError, error);
    return error;
  }
}

class AnthropicMessages {
  client = new Anthropic({ baseURL: BERRY_URL, apiKey: BERRY_TOKEN, maxRetries: 0, timeout: 30_000 });
  tools = Object.entries(TOOLS).map(([name, input_schema]) => ({ name, description: name, input_schema }));

  body(model, content, options = {}) {
    return { model, max_tokens: 4096, messages: content[0]?.role ? content : [{ role: "user", content }], ...options };
  }
  ask(...parameters) {
    return this.client.messages.create(this.body(...parameters));
  }
  text({ content }) {
    return content.filter(({ type }) => type === "text").map(({ text }) => text).join("");
  }
  async chat(model) {
    const answer = await this.ask(model, "hello");
    return [this.text(answer), answer.usage.input_tokens, answer.usage.output_tokens];
  }
  async stream(model) {
    const pieces = [];
    const stream = this.client.messages.stream(this.body(model, "hello")).on("text", (text) => pieces.push(text));
    const { usage } = await stream.finalMessage();
    return [pieces, usage.input_tokens, usage.output_tokens];
  }
  async call(model) {
    const pieces = [];
    const stream = this.client.messages.stream(this.body(model, ONE, { tools: this.tools }));
    const message = await stream.on("inputJson", (piece) => pieces.push(piece)).finalMessage();
    const call = message.content.find(({ type }) => type === "tool_use");
    assert.deepEqual(JSON.parse(pieces.join("")), call.input);
    return [call.name, call.input];
  }
  async parallel(model) {
    const { content } = await this.ask(model, BOTH, { tools: this.tools });
    const calls = content.filter(({ type }) => type === "tool_use");
    const results = calls.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: RESULT }));
    assert.equal(results.length, 2);
    const history = [{ role: "user", content: BOTH }, { role: "assistant", content }, { role: "user", content: results }];
    return this.text(await this.ask(model, history, { tools: this.tools }));
  }
  async part(model, type, media_type, data) {
    const part = { type, source: { type: "base64", media_type, data } };
    return this.text(await this.ask(model, [{ type: "text", text: "hello" }, part]));
  }
  image(model) {
    return this.part(model, "image", "image/png", PNG);
  }
  pdf(model) {
    return this.part(model, "document", "application/pdf", PDF);
  }
  async structured(model) {
    const output_config = { format: { type: "json_schema", schema: CITY } };
    return JSON.parse(this.text(await this.ask(model, FACTS, { output_config })));
  }
  async thinking(model) {
    const answer = await this.ask(model, THINK, { thinking: { type: "enabled", budget_tokens: 1024 } });
    return [answer.content[0].thinking, this.text(answer)];
  }
  async refused(model) {
    const error = await this.ask(model, REFUSED).then(assert.fail, (error) => error);
    assert.ok(error instanceof AnthropicBadRequest, error);
    return error;
  }
}

// The Vercel AI SDK over one of its vendor packages.
class Vercel {
  tools = Object.fromEntries(
    Object.entries(TOOLS).map(([name, schema]) => [
      name,
      tool({ description: name, inputSchema: jsonSchema(schema), execute: async () => RESULT }),
    ]),
  );

  constructor(model, thinking) {
    this.model = model;
    this.providerOptions = thinking;
  }
  ask(model, content, options = {}) {
    return generateText({ model: this.model(model), messages: [{ role: "user", content }], maxRetries: 0, ...options });
  }
  async chat(model) {
    const { text, usage } = await this.ask(model, "hello");
    return [text, usage.inputTokens, usage.outputTokens];
  }
  async stream(model) {
    const answer = streamText({ model: this.model(model), prompt: "hello", maxRetries: 0 });
    const pieces = await collect(answer.textStream);
    const { inputTokens, outputTokens } = await answer.usage;
    return [pieces, inputTokens, outputTokens];
  }
  async call(model) {
    const answer = streamText({ model: this.model(model), prompt: ONE, tools: this.tools, maxRetries: 0 });
    const [call] = (await collect(answer.fullStream)).filter(({ type }) => type === "tool-call");
    return [call.toolName, call.input];
  }
  async parallel(model) {
    const { text } = await this.ask(model, BOTH, { tools: this.tools, stopWhen: stepCountIs(2) });
    return text;
  }
  async part(model, mediaType, data) {
    return (await this.ask(model, [{ type: "text", text: "hello" }, { type: "file", mediaType, data, filename: "paper" }])).text;
  }
  image(model) {
    return this.part(model, "image/png", PNG);
  }
  pdf(model) {
    return this.part(model, "application/pdf", PDF);
  }
  async structured(model) {
    const { object } = await generateObject({ model: this.model(model), schema: jsonSchema(CITY), prompt: FACTS, maxRetries: 0 });
    return object;
  }
  async thinking(model) {
    const { reasoningText, text } = await this.ask(model, THINK, { providerOptions: this.providerOptions });
    return [reasoningText, text];
  }
  async refused(model) {
    const error = await this.ask(model, REFUSED).then(assert.fail, (error) => error);
    assert.ok(APICallError.isInstance(error), error);
    return { status: error.statusCode, message: error.message };
  }
}

const openai = createOpenAI({ baseURL: `${BERRY_URL}/v1`, apiKey: BERRY_TOKEN });
const anthropic = createAnthropic({ baseURL: `${BERRY_URL}/v1`, apiKey: BERRY_TOKEN });

const CLIENTS = {
  "openai-node": new OpenAiChat(),
  "anthropic-node": new AnthropicMessages(),
  "ai-sdk-openai": new Vercel((model) => openai.chat(model), { openai: { reasoningEffort: "low", forceReasoning: true } }),
  "ai-sdk-responses": new Vercel((model) => openai.responses(model), {
    openai: { reasoningEffort: "low", reasoningSummary: "auto", forceReasoning: true, store: false },
  }),
  "ai-sdk-anthropic": new Vercel((model) => anthropic(model), { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } }),
};

for (const [name, client] of Object.entries(CLIENTS)) {
  for (const upstream of UPSTREAMS) {
    describe(`${name} ${upstream}`, () => {
      test("chat", async () => assert.deepEqual(await client.chat(upstream), [TEXT, 11, 7]));
      test("stream", async () => {
        const [pieces, ...usage] = await client.stream(upstream);
        assert.ok(pieces.length > 1);
        assert.equal(pieces.join(""), TEXT);
        assert.deepEqual(usage, [11, 7]);
      });
      test("tools", async () => {
        assert.deepEqual(await client.call(upstream), ["get_weather", { city: "Paris", unit: "celsius" }]);
      });
      test("parallel", async () => assert.equal(await client.parallel(upstream), PARALLEL));
      test("image", async () => assert.equal(await client.image(upstream), TEXT));
      test("pdf", async () => assert.equal(await client.pdf(upstream), TEXT));
      test("structured", async () => assert.deepEqual(await client.structured(upstream), { city: "Paris", population: 2102650 }));
      test("thinking", async () => {
        const [thought, text] = await client.thinking(upstream);
        assert.equal(text, "Four.");
        // The AI SDK's chat form has no place for thoughts.
        if (name !== "ai-sdk-openai") assert.equal(thought, THOUGHT);
      });
      test("error", async () => {
        const { status, message } = await client.refused(upstream);
        assert.equal(status, 400);
        assert.match(message, /emulated refusal/);
      });
    });
  }
}

test("the client with default settings gets vectors of gemini", async () => {
  const client = new OpenAI({ baseURL: `${BERRY_URL}/v1`, apiKey: BERRY_TOKEN });
  const { data } = await client.embeddings.create({ model: "vectors", input: ["one", "two"] });
  assert.deepEqual(data.map(({ embedding }) => embedding), [[0.25, -0.5, 0.75], [0.25, -0.5, 0.75]]);
});
