import "./style.css";

import { ApiError, setToken, token } from "./api";
import { h } from "./dom";
import { PAGES, type Page } from "./pages";

/** Between two looks at a page that changes by itself. */
const REFRESH_MS = 5_000;

const app = document.getElementById("app") as HTMLElement;
let timer: number | undefined;
/** Which showing is the current one; an answer that comes later is for nobody. */
let turn = 0;

function current(): Page {
  const name = decodeURIComponent(location.hash.slice(1));
  return PAGES.find((page) => page.name === name) ?? (PAGES[0] as Page);
}

/** Everything in it that the keyboard reaches. */
function reached(part: HTMLElement): HTMLElement[] {
  return [...part.querySelectorAll<HTMLElement>("a, button, input, select, textarea, summary, [tabindex]")];
}

/** Shows a page anew without taking away what its reader has: the keyboard's place, what is unfolded, how far tables are moved. */
function renew(main: HTMLElement, content: HTMLElement): void {
  const place = reached(main).indexOf(document.activeElement as HTMLElement);
  const unfolded = [...main.querySelectorAll("details")].map((part) => part.open);
  const moved = [...main.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
  main.replaceChildren(content);
  main.querySelectorAll("details").forEach((part, index) => (part.open = unfolded[index] ?? false));
  main.querySelectorAll(".scroll").forEach((part, index) => (part.scrollLeft = moved[index] ?? 0));
  reached(main)[place]?.focus({ preventScroll: true });
}

function frame(content: HTMLElement): void {
  const page = current();
  document.title = `${page.name} · Berry API`;
  const key = `${page.name} ${token() ? "shown" : "closed"}`;
  const before = app.querySelector("main");
  if (before?.dataset.key === key) {
    const selection = document.getSelection();
    const reading = selection && !selection.isCollapsed && before.contains(selection.anchorNode);
    // What says the same is not said again, and nobody loses what is being copied.
    if (!reading && !before.firstElementChild?.isEqualNode(content)) {
      renew(before, content);
    }
    return;
  }
  const links = PAGES.map(({ name }) =>
    h("a", { href: `#${encodeURIComponent(name)}`, "aria-current": name === page.name ? "page" : undefined }, name),
  );
  const leave = h("button", { type: "button", onclick: () => (setToken(""), show()) }, "Sign out");
  const main = h("main", { tabindex: -1, "aria-label": page.name, "data-key": key }, content);
  app.replaceChildren(h("header", {}, h("h1", {}, "Berry API"), h("nav", { "aria-label": "Pages" }, ...links), token() && leave), main);
  // Whoever came by a link goes on where the page begins; who must sign in, in the field for it.
  (main.querySelector<HTMLElement>("#token") ?? (before && main))?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function signIn(why: string, refused = false): HTMLElement {
  const field = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true }) as HTMLInputElement;
  return h(
    "form",
    {
      class: "sign-in",
      onsubmit: (event: Event) => {
        event.preventDefault();
        setToken(field.value.trim());
        show();
      },
    },
    h("h2", {}, "Administrators only"),
    h("p", { role: refused ? "alert" : undefined }, why),
    h("label", { for: "token" }, "Token of a user with the tag ", h("code", {}, "admin")),
    field,
    h("button", { type: "submit" }, "Sign in"),
    h("p", { class: "quiet" }, "The token stays in this tab and is sent to this gateway only."),
  );
}

async function show(): Promise<void> {
  window.clearTimeout(timer);
  const mine = ++turn;
  const page = current();
  if (!token()) {
    frame(signIn("What is shown here needs the token of an administrator."));
    return;
  }
  try {
    const content = await page.show(show);
    if (mine !== turn) {
      return;
    }
    frame(content);
  } catch (error) {
    if (mine !== turn) {
      return;
    }
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
      setToken("");
      frame(signIn(error.message, true));
      return;
    }
    frame(h("p", { class: "notice", role: "alert" }, error instanceof Error ? error.message : String(error)));
  }
  if (page.live && !document.hidden) {
    timer = window.setTimeout(show, REFRESH_MS);
  }
}

window.addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => document.hidden || !current().live || show());
show();
