// The pages. Each asks the admin API for what it shows and gives an element.

import { chat, get, post, remove } from "./api";
import { badge, bar, columns, h, table, type Child } from "./dom";

export interface Page {
  name: string;
  /** Whether it is asked for again every few seconds. */
  live: boolean;
  show: (again: () => void) => Promise<HTMLElement>;
}

const number = (value: unknown): string => (typeof value === "number" ? value.toLocaleString("en") : "–");
const milliseconds = (value: unknown): string => (typeof value === "number" ? `${Math.round(value)}\u00a0ms` : "–");
const time = (value: unknown): string => (typeof value === "string" ? new Date(value).toLocaleString() : "–");
const list = (values: unknown): string => (Array.isArray(values) && values.length ? values.join(", ") : "–");

function figure(label: string, value: Child): HTMLElement {
  return h("div", { class: "figure" }, h("strong", {}, value), h("span", {}, label));
}

/** A button that does something, to what `target` names for those who do not see its row, and then shows the page again. */
function action(label: string, target: string, run: () => Promise<unknown>, again: () => void, question?: string): HTMLElement {
  const button = h("button", { type: "button", "aria-label": target ? `${label} ${target}` : undefined }, label) as HTMLButtonElement;
  button.addEventListener("click", async () => {
    if (question && !window.confirm(question)) {
      return;
    }
    button.disabled = true;
    try {
      await run();
      again();
    } catch (error) {
      window.alert(error instanceof Error ? error.message : String(error));
      button.disabled = false;
    }
  });
  return button;
}

async function overview(): Promise<HTMLElement> {
  const [health, stats] = await Promise.all([get("/health"), get("/admin/system-stats")]);
  const summary = health.summary;
  const status = health.status as string;
  const providers = Object.entries<Record<string, any>>(health.providers).map(([id, provider]) => [
    h("span", { title: provider.name }, id),
    badge(provider.enabled ? (provider.healthy ? "healthy" : "unhealthy") : "off", provider.enabled ? provider.healthy : null),
    number(provider.total_requests),
    number(provider.failed_requests),
    milliseconds(provider.average_latency_ms),
    `${provider.healthy_models} of ${provider.total_models}`,
    time(provider.last_check),
  ]);
  const strategies = Object.entries<number>(health.load_balancer.strategy_distribution);
  return h(
    "section",
    {},
    h(
      "div",
      { class: "figures" },
      figure("status", badge(status, status === "healthy" ? true : status === "degraded" ? null : false)),
      figure("up for", duration(stats.system.uptime_seconds)),
      figure("requests in flight", number(Math.max(0, stats.system.http_requests_in_flight - 1))),
      figure("providers healthy", `${summary.provider_health.healthy} / ${summary.provider_health.total}`),
      figure("models healthy", `${summary.model_health.healthy} / ${summary.model_health.total}`),
      figure("selections", number(health.load_balancer.total_selections)),
    ),
    ...unpriced(stats.system.unpriced_backends),
    ...["ledger", "cluster"].filter((part) => health[part]?.reason).map((part) => notice(`${part}: ${health[part].reason}`)),
    h("h2", {}, "Providers"),
    table("Providers", ["provider", "health", "requests", "failed", "average latency", "models", "last checked"], providers),
    h("h2", {}, "Selections by strategy"),
    table("Selections by strategy", ["strategy", "selections"], strategies.map(([name, count]) => [name, number(count)])),
  );
}

/** What to say of backends of which nobody states a price. */
function unpriced(backends: string[]): HTMLElement[] {
  const named = backends.slice(0, 5).join(", ") + (backends.length > 5 ? ` and ${backends.length - 5} more` : "");
  return backends.length ? [notice(`No price is known for ${named}: requests there count as free, in costs and in budgets.`)] : [];
}

function notice(text: string): HTMLElement {
  return h("div", { class: "notice" }, text);
}

function duration(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
  ];
  const words = parts.filter(([count]) => count > 0).map(([count, unit]) => `${count} ${unit}`);
  return words.join(" ") || `${Math.floor(seconds)} s`;
}

async function models(again: () => void): Promise<HTMLElement> {
  const [weights, health] = await Promise.all([get("/smart-ai/weights"), get("/admin/backend-health")]);
  const cards = Object.entries<Record<string, any>>(weights.models).map(([id, model]) => {
    const states: Record<string, any>[] = health.backend_health[id]?.backends ?? [];
    const total = model.backends.reduce((sum: number, backend: any) => sum + backend.effective_weight, 0);
    const rows = model.backends.map((backend: Record<string, any>, index: number) => {
      const state = states[index] ?? {};
      const details = backend.health_details ?? {};
      const name = `${backend.provider}: ${backend.model}`;
      const target = { provider: backend.provider, model: id, upstream: backend.model };
      const change = (what: string) => () => post("/admin/changes", { action: what, ...target, reason: "dashboard" });
      return [
        h("span", { title: list(backend.tags) }, name),
        bar(total > 0 ? backend.effective_weight / total : 0),
        badge(backend.enabled ? (state.is_healthy ? "healthy" : (state.reason ?? "unhealthy")) : "off", backend.enabled ? state.is_healthy : null),
        state.circuit ?? "–",
        backend.confidence?.toFixed(2) ?? "–",
        milliseconds(details.latency_ms),
        number(state.in_flight),
        h(
          "span",
          { class: "actions" },
          backend.enabled
            ? action("drain", name, change("drain"), again, `Send nothing new to ${backend.provider}?`)
            : action("enable", name, change("enable"), again),
          action("reset", name, change("reset"), again),
        ),
      ];
    });
    const headings = ["backend", "share now", "health", "circuit", "confidence", "TTFT", "in flight", "actions"];
    return h("article", {}, h("h2", {}, model.name, " ", h("small", {}, model.strategy)), table(model.name, headings, rows));
  });
  return h("section", {}, ...cards);
}

async function requests(): Promise<HTMLElement> {
  const usage = await get("/admin/usage?limit=100");
  const rows = usage.rows.map((row: Record<string, any>) => [
    time(row.time),
    h("code", {}, row.request_id),
    row.user ?? "–",
    row.model ?? "–",
    row.provider ?? "–",
    badge(String(row.status), row.status < 400),
    number(row.attempts?.length),
    milliseconds(row.ttft_ms),
    milliseconds(row.duration_ms),
    number((row.usage?.input_tokens ?? 0) + (row.usage?.output_tokens ?? 0)),
    row.cost_usd ? `$${row.cost_usd}` : "–",
  ]);
  const headings = ["time", "request", "user", "model", "provider", "status", "attempts", "TTFT", "took", "tokens", "cost"];
  return h("section", {}, table("The last requests", headings, rows));
}

/** An amount of dollars as the server writes it, in billionths: sums of them are exact. */
function nanos(usd: string): bigint {
  const [whole = "0", fraction = ""] = usd.split(".");
  return BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, "0"));
}

function dollars(amount: bigint): string {
  const fraction = (amount % 1_000_000_000n).toString().padStart(9, "0").replace(/0{1,7}$/, "");
  return `$${(amount / 1_000_000_000n).toLocaleString("en")}.${fraction}`;
}

/** Periods that can be chosen, each with the step of its chart. */
const PERIODS: [label: string, from: string, step: string][] = [
  ["last 24 hours", "24h", "hour"],
  ["last 7 days", "7d", "day"],
  ["last 31 days", "31d", "day"],
  ["last 365 days", "365d", "day"],
];
const OWN = "from … to …";
const GROUPS = ["user", "model", "provider", "upstream_model", "day", "status", "error_class", "user,model", "user,day", "model,day"];

/** What is asked for; kept while the tab shows other pages. */
const asked = { period: PERIODS[1]![0], from: "", to: "", group: "user", user: "", model: "" };

interface Sum {
  group: Record<string, string | null>;
  requests: number;
  errors: number;
  input_tokens: number;
  output_tokens: number;
  cost_usd: string;
}

async function usage(): Promise<HTMLElement> {
  const shown = h("div", {});
  const fill = async (): Promise<void> => {
    try {
      shown.replaceChildren(...(await spending()));
    } catch (error) {
      shown.replaceChildren(h("p", { class: "notice", role: "alert" }, error instanceof Error ? error.message : String(error)));
    }
  };
  await fill();
  return h("section", {}, usageForm(() => void fill()), shown);
}

function usageForm(again: () => void): HTMLElement {
  const choice = (label: string, key: "period" | "group", options: string[]): HTMLElement => {
    const select = h("select", {}, ...options.map((option) => h("option", { selected: option === asked[key] }, option))) as HTMLSelectElement;
    select.addEventListener("change", () => ((asked[key] = select.value), again()));
    return h("label", {}, label, select);
  };
  const field = (label: string, key: "from" | "to" | "user" | "model", type: string): HTMLElement => {
    const input = h("input", { type, value: asked[key] }) as HTMLInputElement;
    input.addEventListener("change", () => {
      asked[key] = input.value.trim();
      if (type === "date") {
        asked.period = OWN;
        period.querySelector("select")!.value = OWN;
      }
      again();
    });
    return h("label", {}, label, input);
  };
  const period = choice("Period", "period", [...PERIODS.map(([label]) => label), OWN]);
  return h(
    "form",
    { class: "filters", onsubmit: (event: Event) => event.preventDefault() },
    period,
    field("From", "from", "date"),
    field("To", "to", "date"),
    choice("Sums by", "group", GROUPS),
    field("User", "user", "text"),
    field("Model", "model", "text"),
  );
}

/** Figures, a chart over time and a table of what was asked for. */
async function spending(): Promise<HTMLElement[]> {
  const [, from, step] = PERIODS.find(([label]) => label === asked.period) ?? ["", asked.from || "31d", "day"];
  const query = new URLSearchParams({ from });
  const until = asked.period === OWN && asked.to ? { to: asked.to } : {};
  for (const [name, value] of Object.entries({ ...until, user: asked.user, model: asked.model })) {
    if (value) {
      query.set(name, value);
    }
  }
  const sums = async (by: string): Promise<{ groups: Sum[]; complete: boolean }> => get(`/admin/usage?${query}&group_by=${by}`);
  const [over, parts] = await Promise.all([sums(step), sums(asked.group)]);
  const total = (of: (sum: Sum) => number): string => number(over.groups.reduce((all, sum) => all + of(sum), 0));
  const cost = (groups: Sum[]): bigint => groups.reduce((all, sum) => all + nanos(sum.cost_usd), 0n);
  const slots = over.groups.map((sum): [string, number, string] => {
    const at = sum.group.time ?? "";
    const label = step === "hour" ? at.slice(11, 16) : at.slice(0, 10);
    return [label, Number(sum.cost_usd), `${label}: ${dollars(nanos(sum.cost_usd))}, ${number(sum.requests)} requests`];
  });
  // The table's order is that of money; days come as they are.
  const names = [...new Set(parts.groups.flatMap((sum) => Object.keys(sum.group)))];
  const rows = names.includes("time") ? parts.groups : [...parts.groups].sort((one, other) => (nanos(other.cost_usd) > nanos(one.cost_usd) ? 1 : -1));
  const all = cost(parts.groups);
  const cells = rows.map((sum) => [
    ...names.map((name) => (name === "time" ? (sum.group.time ?? "–").slice(0, 10) : (sum.group[name] ?? "–"))),
    number(sum.requests),
    number(sum.errors),
    number(sum.input_tokens),
    number(sum.output_tokens),
    dollars(nanos(sum.cost_usd)),
    bar(all > 0n ? Number((nanos(sum.cost_usd) * 10_000n) / all) / 10_000 : 0),
  ]);
  const headings = [...names.map((name) => (name === "time" ? "day" : name)), "requests", "errors", "input tokens", "output tokens", "cost", "share"];
  return [
    h(
      "div",
      { class: "figures" },
      figure("spent", dollars(cost(over.groups))),
      figure("requests", total((sum) => sum.requests)),
      figure("errors", total((sum) => sum.errors)),
      figure("input tokens", total((sum) => sum.input_tokens)),
      figure("output tokens", total((sum) => sum.output_tokens)),
    ),
    h("h2", {}, `Spent by ${step}`, " ", h("small", {}, "UTC")),
    columns(`Spent by ${step}`, slots),
    h("h2", {}, `By ${asked.group.replace(",", " and ")}`),
    ...(parts.complete ? [] : [notice("There are more groups than are shown: choose a shorter period.")]),
    table("Usage", headings, cells),
  ];
}

async function configuration(again: () => void): Promise<HTMLElement> {
  const [shown, history, changes] = await Promise.all([get("/admin/config"), get("/admin/config/history"), get("/admin/changes")]);
  const generations = history.generations.map((past: Record<string, any>) => [
    number(past.generation),
    time(past.loaded_at),
    past.cause,
    h("code", {}, past.hash),
    h("pre", {}, past.changes.map(words).join("\n") + (past.left_out ? `\nand ${past.left_out} more` : "") || "–"),
    past.can_roll_back && past.generation !== shown.generation
      ? action("roll back", `to ${past.generation}`, () => post("/admin/config/rollback", { generation: past.generation }), again, `Go back to generation ${past.generation}?`)
      : null,
  ]);
  const whole = (change: Record<string, any>): string => [change.provider, change.model, change.upstream].filter(Boolean).join(" / ");
  const overrides = changes.changes.map((change: Record<string, any>) => [
    whole(change),
    change.weight === undefined ? (change.enabled ? "enabled" : "off") : `weight ${change.weight}`,
    change.by,
    time(change.at),
    change.until ? time(change.until) : "until it is taken back",
    change.reason ?? "–",
    action("take back", whole(change), () => remove(`/admin/changes/${change.id}`), again),
  ]);
  return h(
    "section",
    {},
    h(
      "div",
      { class: "figures" },
      figure("generation", number(shown.generation)),
      figure("hash", h("code", {}, shown.hash)),
      figure("file", shown.file ?? "–"),
      action("reload now", "", () => post("/admin/reload-config", {}), again),
    ),
    ...(shown.last_failure ? failedReload(shown.last_failure) : []),
    h("h2", {}, "Changes at run time"),
    table("Changes at run time", ["what", "is", "by", "since", "until", "reason", "actions"], overrides),
    h("h2", {}, "Generations"),
    table("Generations", ["number", "since", "brought by", "hash", "what changed", "actions"], generations),
    h("details", {}, h("summary", {}, "The configuration as it is written, secrets hidden"), h("pre", {}, JSON.stringify(shown.config, null, 2))),
  );
}

/** Errors point at their place with carets, so their letters must be equally wide. */
function failedReload(failure: Record<string, any>): HTMLElement[] {
  const told = notice(`The last reload failed at ${time(failure.at)}; the configuration before it stays in force.`);
  told.append(h("pre", {}, failure.error));
  return [told];
}

function words(change: Record<string, any>): string {
  const values = change.kind === "changed" ? `: ${JSON.stringify(change.from)} → ${JSON.stringify(change.to)}` : "";
  return `${change.kind} ${change.path}${values}`;
}

async function tryIt(): Promise<HTMLElement> {
  const available = await get("/v1/models");
  const model = h("select", { id: "model" }, ...available.data.map((item: { id: string }) => h("option", {}, item.id))) as HTMLSelectElement;
  const prompt = h("textarea", { id: "prompt", rows: 3 }, "Hello! What are you?") as HTMLTextAreaElement;
  const answer = h("pre", { class: "answer", "aria-live": "polite" });
  const explained = h("pre", {});
  let running: AbortController | null = null;
  const send = h("button", { type: "submit" }, "Send");
  const form = h(
    "form",
    {
      onsubmit: async (event: Event) => {
        event.preventDefault();
        running?.abort();
        running = new AbortController();
        answer.textContent = "";
        try {
          for await (const piece of chat(model.value, prompt.value, running.signal)) {
            answer.append(piece);
          }
        } catch (error) {
          if (!(error instanceof DOMException && error.name === "AbortError")) {
            answer.append(h("span", { class: "badge bad" }, error instanceof Error ? error.message : String(error)));
          }
        }
      },
    },
    h("label", { for: "model" }, "Model"),
    model,
    h("label", { for: "prompt" }, "Message"),
    prompt,
    h(
      "div",
      { class: "actions" },
      send,
      h("button", { type: "button", onclick: () => running?.abort() }, "Stop"),
      h(
        "button",
        {
          type: "button",
          onclick: async () => {
            const result = await post("/admin/explain", { model: model.value }).catch((error: Error) => ({ error: error.message }));
            explained.textContent = JSON.stringify(result, null, 2);
          },
        },
        "Who would answer?",
      ),
    ),
  );
  return h("section", {}, form, answer, explained);
}

export const PAGES: Page[] = [
  { name: "Overview", live: true, show: overview },
  { name: "Models", live: true, show: models },
  { name: "Requests", live: true, show: requests },
  { name: "Usage", live: false, show: usage },
  { name: "Configuration", live: true, show: configuration },
  { name: "Try it", live: false, show: tryIt },
];
