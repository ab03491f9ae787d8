// The current openai-node through the gateway at BERRY_URL, to the demo upstream and to the independent emulator. Started
// by test_sdk_node.py, which also starts the two.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { require } from "./packages.mjs";

const { default: OpenAI, toFile } = require("openai");
const { zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const { BERRY_URL, BERRY_TOKEN, BERRY_NARROW_TOKEN, BERRY_DISABLED_TOKEN, BERRY_MODELS } = process.env;

const clientFor = (apiKey) => new OpenAI({ baseURL: `${BERRY_URL}/v1`, apiKey, maxRetries: 0, timeout: 30_000 });
const client = clientFor(BERRY_TOKEN);
const user = (content) => [{ role: "user", content }];

async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

function tool(name, properties) {
  const parameters = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  return { type: "function", function: { name, description: name.replaceAll("_", " "), strict: true, parameters } };
}

const weather = tool("get_weather", { city: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } });
const time = tool("get_time", { zone: { type: "string" } });
const City = z.object({ city: z.string(), population: z.number().int() });

for (const target of ["demo", "emulator"]) {
  const model = `${target}-model`;

  describe(target, { concurrency: true }, () => {
    test("chat answers with text, usage and the gateway's headers", async () => {
      const { data, response } = await client.chat.completions.create({ model, messages: user("hello") }).withResponse();
      assert.ok(data.choices[0].message.content);
      assert.equal(data.choices[0].finish_reason, "stop");
      assert.ok(data.usage.prompt_tokens > 0 && data.usage.completion_tokens > 0);
      assert.equal(response.headers.get("x-berry-provider"), target);
      assert.equal(response.headers.get("x-request-id"), data._request_id);
    });

    test("a stream says what the plain answer says, and no usage unasked", async () => {
      const plain = await client.chat.completions.create({ model, messages: user("hello") });
      const chunks = await collect(await client.chat.completions.create({ model, messages: user("hello"), stream: true }));
      const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
      assert.equal(text, plain.choices[0].message.content);
      assert.ok(chunks.length > 3);
      assert.ok(chunks.every((chunk) => chunk.choices.length === 1 && !chunk.usage));
    });

    test("a stream ends with usage when asked", async () => {
      const options = { model, messages: user("hello"), stream: true, stream_options: { include_usage: true } };
      const last = (await collect(await client.chat.completions.create(options))).at(-1);
      assert.deepEqual(last.choices, []);
      assert.ok(last.usage.prompt_tokens > 0 && last.usage.completion_tokens > 0);
    });

    test("a tool call has the declared arguments", async () => {
      const options = { model, messages: user("What is the weather in Paris?"), tools: [weather], tool_choice: "required" };
      const { finish_reason, message } = (await client.chat.completions.create(options)).choices[0];
      assert.equal(finish_reason, "tool_calls");
      assert.equal(message.tool_calls.length, 1);
      assert.equal(message.tool_calls[0].function.name, "get_weather");
      assert.deepEqual(Object.keys(JSON.parse(message.tool_calls[0].function.arguments)).sort(), ["city", "unit"]);
    });

    test("streamed tool arguments come in pieces that add up", async () => {
      const options = { model, messages: user("What is the weather in Paris?"), tools: [weather], tool_choice: "required" };
      const chunks = await collect(await client.chat.completions.create({ ...options, stream: true }));
      const calls = chunks.flatMap((chunk) => chunk.choices.flatMap((choice) => choice.delta.tool_calls ?? []));
      const pieces = calls.map((call) => call.function?.arguments ?? "").filter(Boolean);
      assert.ok(pieces.length > 1);
      assert.deepEqual(Object.keys(JSON.parse(pieces.join(""))).sort(), ["city", "unit"]);
    });

    for (const streamed of [false, true]) {
      test(`parallel tool calls are run and the conversation goes on, ${streamed ? "streamed" : "plain"}`, async () => {
        const ran = [];
        const run = (name) => (args) => {
          ran.push([name, args]);
          return "18 degrees, noon";
        };
        const runner = client.chat.completions.runTools({
          model,
          stream: streamed,
          messages: user("Tell me both the weather and the time in Paris."),
          parallel_tool_calls: true,
          tools: [weather, time].map((declared) => ({
            type: "function",
            function: { ...declared.function, parse: JSON.parse, function: run(declared.function.name) },
          })),
        });
        assert.ok(await runner.finalContent());
        assert.deepEqual(ran.map(([name]) => name).sort(), ["get_time", "get_weather"]);
      });

      test(`a JSON schema is parsed into the declared type, ${streamed ? "streamed" : "plain"}`, async () => {
        const options = { model, messages: user("Describe Paris"), response_format: zodResponseFormat(City, "city") };
        const completion = streamed
          ? await client.chat.completions.stream(options).finalChatCompletion()
          : await client.chat.completions.parse(options);
        assert.ok(City.parse(completion.choices[0].message.parsed).city);
      });
    }

    test("embeddings as floats", async () => {
      const answer = await client.embeddings.create({ model, input: ["one", "two"], encoding_format: "float" });
      assert.deepEqual(answer.data.map((item) => item.index), [0, 1]);
      assert.ok(answer.data.every((item) => typeof item.embedding[0] === "number"));
    });

    test("responses, plain and streamed", async () => {
      const text = (await client.responses.create({ model, input: "hello" })).output_text;
      assert.ok(text);
      const events = await collect(await client.responses.create({ model, input: "hello", stream: true }));
      assert.equal(events.at(-1).type, "response.completed");
      const deltas = events.filter((event) => event.type === "response.output_text.delta");
      assert.equal(deltas.map((event) => event.delta).join(""), text);
    });

    test("moderations", async () => {
      assert.ok((await client.moderations.create({ model, input: "to be flagged" })).results[0].flagged);
    });

    test("images", async () => {
      const answer = await client.images.generate({ model, prompt: "a berry", response_format: "b64_json" });
      assert.ok(Buffer.from(answer.data[0].b64_json, "base64").length > 0);
    });

    test("speech arrives whole", async () => {
      const answer = await client.audio.speech.create({ model, voice: "alloy", input: "say this" });
      const sound = Buffer.from(await answer.arrayBuffer());
      assert.ok(target === "emulator" ? sound.equals(Buffer.from("not really sound")) : sound.length > 0);
    });

    test("transcription of an uploaded file", async () => {
      const file = await toFile(Buffer.alloc(300_000), "speech.wav");
      assert.ok((await client.audio.transcriptions.create({ model, file })).text);
    });

    test("a stream that the client aborts ends for the client", async () => {
      const stream = await client.chat.completions.create({ model, messages: user("hello"), stream: true });
      let seen = 0;
      for await (const _ of stream) {
        seen += 1;
        stream.controller.abort();
      }
      assert.ok(seen >= 1);
    });
  });
}

describe("endpoints", { concurrency: true }, () => {
  // The client asks for base64 and decodes it blindly; the emulator does not know that encoding, the demo upstream does.
  test("embeddings with the client's default encoding", async () => {
    const coded = await client.embeddings.create({ model: "demo-model", input: "one" });
    const floats = await client.embeddings.create({ model: "demo-model", input: "one", encoding_format: "float" });
    assert.ok(coded.data[0].embedding.length > 0);
    assert.equal(coded.data[0].embedding.length, floats.data[0].embedding.length);
    coded.data[0].embedding.forEach((value, index) => {
      assert.ok(Math.abs(value - floats.data[0].embedding[index]) < 1e-6, `component ${index}`);
    });
  });

  test("models are listed sorted and retrieved by name", async () => {
    const listed = await collect(client.models.list());
    assert.deepEqual(listed.map((model) => model.id), JSON.parse(BERRY_MODELS));
    assert.equal((await client.models.retrieve("demo-model")).owned_by, "berry-api");
  });

  test("legacy completions, plain and streamed", async () => {
    const options = { model: "demo-model", prompt: "Once upon a time" };
    assert.ok((await client.completions.create(options)).choices[0].text);
    const chunks = await collect(await client.completions.create({ ...options, stream: true }));
    assert.ok(chunks.map((chunk) => chunk.choices[0].text).join(""));
  });
});

describe("each exception type", { concurrency: true }, () => {
  const own = [
    ["AuthenticationError", 401, "invalid_token", "wrong", { model: "demo-model" }],
    ["AuthenticationError", 401, "disabled_user", BERRY_DISABLED_TOKEN, { model: "demo-model" }],
    ["PermissionDeniedError", 403, "model_access_denied", BERRY_NARROW_TOKEN, { model: "demo-model" }],
    ["NotFoundError", 404, "model_not_found", BERRY_TOKEN, { model: "no-such-model" }],
    ["BadRequestError", 400, "unknown_backend", BERRY_TOKEN, { model: "demo-model", backend: "no-such-provider" }],
    ["APIError", 413, "payload_too_large", BERRY_TOKEN, { model: "demo-model", messages: user("x".repeat(1_100_000)) }],
    ["InternalServerError", 502, "upstream_auth_error", BERRY_TOKEN, { model: "wrong-key" }],
    ["InternalServerError", 503, "no_backend_available", BERRY_TOKEN, { model: "nobody-there" }],
  ];
  // One provider each, so that no case meets another's cool-down; the streamed form is covered by the Python suite.
  const upstream = [
    ["BadRequestError", 400, "context_length_exceeded"],
    ["ConflictError", 409, "conflict"],
    ["APIError", 413, "request_too_large"],
    ["UnprocessableEntityError", 422, "unprocessable"],
    ["RateLimitError", 429, "rate_limit_exceeded"],
    ["InternalServerError", 500, "server_error"],
    ["InternalServerError", 503, "overloaded"],
  ].map(([kind, status, code]) => [kind, status, code, BERRY_TOKEN, { model: `emulator-error-${status}` }]);

  for (const [kind, status, code, token, body] of [...own, ...upstream]) {
    test(`${status} ${code} is ${kind}`, async () => {
      const call = clientFor(token).chat.completions.create({ messages: user("hello"), ...body });
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof OpenAI[kind], `${error.constructor.name}: ${error.message}`);
        assert.equal(error.status, status);
        assert.equal(error.code, code);
        assert.ok(error.requestID);
        return true;
      });
    });
  }
});
