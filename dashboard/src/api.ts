// The admin API, with the token that the operator typed. It is kept for the life of the tab only.

const KEY = "berry-token";

export function token(): string {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setToken(value: string): void {
  if (value) {
    sessionStorage.setItem(KEY, value);
  } else {
    sessionStorage.removeItem(KEY);
  }
}

/** An answer that is not the wished one, with what the server said of it. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** A request, with plain words for a gateway that cannot be reached. */
async function ask(path: string, wish: RequestInit): Promise<Response> {
  try {
    return await fetch(path, wish);
  } catch (error) {
    if (error instanceof TypeError) {
      throw new Error(`The gateway does not answer: ${error.message}. Is it running, and is the token typed as it was given?`);
    }
    throw error;
  }
}

async function call(method: string, path: string, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (token()) {
    headers["authorization"] = `Bearer ${token()}`;
  }
  if (body !== undefined) {
    headers["content-type"] = "application/json";
  }
  const answer = await ask(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!answer.ok) {
    throw new ApiError(answer.status, await reason(answer));
  }
  return answer;
}

async function reason(answer: Response): Promise<string> {
  const text = await answer.text();
  try {
    const json = JSON.parse(text);
    const problems = json.problems?.map((problem: { message: string }) => problem.message).join("\n");
    return json.error?.message ?? json.error ?? problems ?? text;
  } catch {
    return text || `status ${answer.status}`;
  }
}

// The shapes are the server's; docs/api.md has them.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export async function get(path: string): Promise<any> {
  return (await call("GET", path)).json();
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any
export async function post(path: string, body: unknown): Promise<any> {
  return (await call("POST", path, body)).json();
}

export async function remove(path: string): Promise<void> {
  await call("DELETE", path);
}

/** Asks a model and gives its answer piece by piece. */
export async function* chat(model: string, prompt: string, signal: AbortSignal): AsyncGenerator<string> {
  const answer = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { authorization: `Bearer ${token()}`, "content-type": "application/json" },
    body: JSON.stringify({ model, stream: true, messages: [{ role: "user", content: prompt }] }),
    signal,
  });
  if (!answer.ok || !answer.body) {
    throw new ApiError(answer.status, await reason(answer));
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const data = line.startsWith("data: ") ? line.slice(6).trim() : "";
      if (!data || data === "[DONE]") {
        continue;
      }
      const event = JSON.parse(data);
      if (event.error) {
        throw new ApiError(200, event.error.message);
      }
      yield event.choices?.[0]?.delta?.content ?? "";
    }
  }
}
