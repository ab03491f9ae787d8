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

function frame(content: HTMLElement): void {
  const page = current();
  const links = PAGES.map(({ name }) =>
    h("a", { href: `#${encodeURIComponent(name)}`, "aria-current": name === page.name ? "page" : undefined }, name),
  );
  const leave = h("button", { type: "button", onclick: () => (setToken(""), show()) }, "Sign out");
  app.replaceChildren(h("header", {}, h("h1", {}, "Berry API"), h("nav", {}, ...links), token() && leave), h("main", {}, content));
}

function signIn(why: string): HTMLElement {
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
    h("p", {}, why),
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
      frame(signIn(error.message));
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
