// Starts the independent emulator of the OpenAI API (@copilotkit/aimock) with the answers that the tests expect, on a free
// port, and says where on one line of standard output. It ends when its standard input does, so that it cannot outlive
// the test run that started it.
import { require } from "./packages.mjs";

const { LLMock } = require("@copilotkit/aimock");

// Berry must replace the client's token by this key: the emulator refuses every other one with 401.
const mock = new LLMock({ port: 0, host: "127.0.0.1", chunkSize: 8, auth: { apiKeys: ["emulator-key"] } });

const weather = { id: "call_weather", name: "get_weather", arguments: { city: "Paris", unit: "celsius" } };
const time = { id: "call_time", name: "get_time", arguments: { zone: "Europe/Paris" } };

// Errors first: each has its own upstream model, so that a later rule never shadows it.
for (const [status, type, code] of [
  [400, "invalid_request_error", "context_length_exceeded"],
  [409, "invalid_request_error", "conflict"],
  [413, "invalid_request_error", "request_too_large"],
  [422, "invalid_request_error", "unprocessable"],
  [429, "requests", "rate_limit_exceeded"],
  [500, "server_error", "server_error"],
  [503, "server_error", "overloaded"],
]) {
  mock.on(
    { model: `upstream-error-${status}` },
    { error: { message: `emulated error ${status}`, type, code }, status, ...(status === 429 && { retryAfter: 7 }) },
  );
}

mock.on({ userMessage: "both", hasToolResult: false }, { toolCalls: [weather, time] });
mock.on({ userMessage: "both", hasToolResult: true }, { content: "It is 18 degrees and noon in Paris." });
mock.on({ userMessage: "weather", hasToolResult: false }, { toolCalls: [weather] });
mock.on({ userMessage: "weather", hasToolResult: true }, { content: "It is 18 degrees in Paris." });
// For the matrix of clients and upstream dialects; not every dialect's form of a schema is seen by the emulator.
mock.on(
  { userMessage: "be refused" },
  { error: { message: "emulated refusal", type: "invalid_request_error", code: "invalid_value" }, status: 400 },
);
mock.on({ userMessage: "facts" }, { content: '{"city":"Paris","population":2102650}' });
mock.on({ userMessage: "think" }, { content: "Four.", reasoning: "Two and two make four.", usage: { prompt_tokens: 11, completion_tokens: 7 } });
mock.on({ responseFormat: "json_schema" }, { content: { city: "Paris", population: 2102650 } });
mock.on({ endpoint: "chat" }, { content: "Hello from the emulator, word by word.", usage: { prompt_tokens: 11, completion_tokens: 7 } });
mock.onEmbedding(/./, { embedding: [0.25, -0.5, 0.75] });
mock.onImage(/./, { image: { b64Json: "aW1hZ2U=" } });
mock.onSpeech(/./, { audio: Buffer.from("not really sound").toString("base64"), format: "mp3" });
mock.onTranscription({ transcription: { text: "what was said" } });
mock.onModerate(/flagged/, { flagged: true, categories: { violence: true }, category_scores: { violence: 0.9 } });

await mock.start();
console.log(mock.url);
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
