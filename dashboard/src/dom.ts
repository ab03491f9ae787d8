// Elements from code. Text is always set as text, so nothing that a server or a user wrote can become markup.

export type Child = Node | string | number | null | undefined | false;

type Attributes = Record<string, string | number | boolean | EventListener | undefined>;

/** An element: `h("td", { class: "number" }, 42)`. Attributes that begin with `on` are listeners. */
export function h(name: string, attributes: Attributes = {}, ...children: Child[]): HTMLElement {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(key.replace(/^on/, ""), value);
    } else if (value === true) {
      element.setAttribute(key, "");
    } else if (value !== false && value !== undefined) {
      element.setAttribute(key, String(value));
    }
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(typeof child === "number" ? String(child) : child);
    }
  }
  return element;
}

/** A table with a caption for screen readers. */
export function table(caption: string, headings: string[], rows: Child[][]): HTMLElement {
  const head = h("tr", {}, ...headings.map((heading) => h("th", { scope: "col" }, heading)));
  const body = rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, cell))));
  const empty = h("tr", {}, h("td", { colspan: headings.length, class: "quiet" }, "nothing to show"));
  return h(
    "div",
    { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
    h("table", {}, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, ...(body.length ? body : [empty]))),
  );
}

/** A word in a colour that says how good it is. */
export function badge(word: string, good: boolean | null): HTMLElement {
  const kind = good === null ? "warn" : good ? "good" : "bad";
  return h("span", { class: `badge ${kind}` }, word);
}

/** A bar for a share from 0 to 1. */
export function bar(share: number): HTMLElement {
  const percent = Math.round(share * 100);
  const fill = h("i", {});
  fill.style.inlineSize = `${percent}%`;
  return h("span", { class: "bar", title: `${percent} %` }, fill, h("small", {}, `${percent} %`));
}

/** A chart of columns: for each its label, its value and what is told of it. */
export function columns(caption: string, slots: [label: string, value: number, told: string][]): HTMLElement {
  const highest = Math.max(...slots.map(([, value]) => value), 0);
  const drawn = slots.map(([label, value, told]) => {
    const fill = h("i", {});
    fill.style.blockSize = highest > 0 ? `${(value / highest) * 100}%` : "0";
    return h("li", { title: told, "aria-label": told }, fill, h("small", {}, label));
  });
  return h("ol", { class: "columns", "aria-label": caption }, ...drawn);
}
