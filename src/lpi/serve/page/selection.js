// Several pictures at once: chosen on the page, then downloaded, or their paths copied.

import { address } from "./api.js";
import { byId, copying, el, fileName, plural } from "./dom.js";

const PAUSE = 300; // milliseconds between two downloads, or browsers drop some
const chosen = new Map(); // hits by id
let selecting = false;
let teach = null; // called with the hits that are to be taught; null where that can't be

export const isSelecting = () => selecting;

/** Offer to teach what is chosen. */
export function offer(call) {
  teach = call;
}

/** Begin or end choosing. */
export function toggle() {
  selecting = !selecting;
  byId("select").setAttribute("aria-pressed", String(selecting));
  document.body.classList.toggle("selecting", selecting);
  if (!selecting) chosen.clear();
  show();
}

/** Choose a hit, or no longer. */
export function choose(hit) {
  if (!chosen.delete(hit.id)) chosen.set(hit.id, hit);
  show();
}

/** Mark what is chosen on the page, also after other pictures came. */
export function show() {
  for (const hit of document.querySelectorAll("main button.hit"))
    if (selecting) hit.setAttribute("aria-pressed", String(chosen.has(hit.dataset.id)));
    else hit.removeAttribute("aria-pressed");
  const bar = byId("chosen");
  bar.hidden = !selecting;
  if (!selecting) return;
  const hits = [...chosen.values()];
  const parts = [
    el("span", { role: "status" }, `${plural(hits.length, "picture")} selected`),
    el("button", { type: "button", disabled: !hits.length, onclick: () => download(hits) }, "Download"),
    copying("Copy paths", () => hits.map((hit) => hit.path).join("\n")),
    teach && el("button", { type: "button", disabled: hits.length < 3, title: "Three or more can be taught", onclick: () => teach(hits) }, "Teach these"),
    el("button", { type: "button", onclick: toggle }, "Done"),
  ];
  bar.replaceChildren(...parts.filter(Boolean));
}

async function download(hits) {
  for (const hit of hits) {
    el("a", { href: address(hit.file), download: fileName(hit.path) }).click();
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}
