// Pictures that were found, as rows of thumbnails that one can walk through with the arrow keys.

import { thumbnail } from "./api.js";
import { el, fileName, percent } from "./dom.js";

const SIDE = 384; // of the thumbnails that are asked for

/**
 * The hits as a list.
 * @param hits best first
 * @param open called with a hit when it is chosen
 * @param marks by id: what happened to the hit, {kind, sign, said}; see compare.js
 * @param kind "found" has a bar for how well each fits, "opening" has none
 */
export function grid(hits, open, { marks = new Map(), kind = "found", from = 0 } = {}) {
  const best = Math.max(...hits.map((hit) => hit.score));
  const worst = Math.min(...hits.map((hit) => hit.score), best - 1e-6);
  const share = (hit) => hit.fit ?? (hit.score - worst) / (best - worst); // where it isn't known: among these
  const items = hits.map((hit, place) =>
    item(hit, from + place, kind === "found" ? share(hit) : null, open, marks.get(hit.id)),
  );
  return el("ul", { className: `grid ${kind}` }, ...items);
}

/** Grey tiles where pictures will be. */
export function skeleton(count = 18) {
  const ratios = [1.33, 1, 1.5, 0.75, 1.33, 1.33];
  const tiles = Array.from({ length: count }, (_, place) =>
    el("li", { style: { "--ratio": ratios[place % ratios.length] } }, el("span", { className: "tile" })),
  );
  return el("ul", { className: "grid skeleton", "aria-hidden": "true" }, ...tiles);
}

function item(hit, place, share, open, mark) {
  const ratio = Math.min(Math.max(hit.width / hit.height, 0.5), 2.4); // very flat and tall ones are cut
  const image = el("img", {
    src: thumbnail(hit, SIDE),
    alt: fileName(hit.path),
    loading: "lazy",
    decoding: "async",
    onerror: () => figure.classList.add("missing"),
  });
  const said = [hit.task && `domain ${hit.task}`, mark?.said].filter(Boolean).join(", ");
  const figure = el(
    "button",
    {
      type: "button",
      className: "hit",
      "aria-label": `${place + 1}: ${fileName(hit.path)}${said ? `, ${said}` : ""}`,
      title: `${hit.path}${share === null ? "" : `\nscore ${hit.score.toFixed(3)}`}${fitting(hit)}${hit.task ? `\n${hit.task}, sure to ${percent(hit.confidence ?? 0)}` : ""}`,
      data: { id: hit.id },
      onclick: () => open(hit),
    },
    image,
    share === null ? null : el("span", { className: "score", style: { "--share": 0.04 + 0.96 * share } }),
    hit.task ? el("span", { className: "chip" }, hit.task) : null,
    mark ? el("span", { className: `mark ${mark.kind}` }, mark.sign) : null,
  );
  return el("li", { style: { "--ratio": ratio } }, figure);
}

const fitting = (hit) => (hit.fit === null ? "" : `\nfits to ${percent(hit.fit)}`);

const all = () => [...document.querySelectorAll("main button.hit")];

/** Put the focus on a picture, where it is on the page. */
export function focusOn(id) {
  all().find((hit) => hit.dataset.id === id)?.focus();
}

/** Move the focus among the hits by an arrow key; says whether it did. */
export function walk(key) {
  const hits = all();
  const from = hits.indexOf(document.activeElement);
  if (!hits.length || (from < 0 && key !== "ArrowDown")) return false;
  const to = from < 0 ? 0 : next(hits, from, key);
  if (to === undefined) return false;
  hits[to].focus();
  hits[to].scrollIntoView({ block: "nearest" });
  return true;
}

function next(hits, from, key) {
  if (key === "ArrowRight") return Math.min(from + 1, hits.length - 1);
  if (key === "ArrowLeft") return Math.max(from - 1, 0);
  const here = hits[from].getBoundingClientRect();
  const middle = here.left + here.width / 2;
  const down = key === "ArrowDown";
  let found;
  let least = Infinity;
  for (const [place, other] of hits.entries()) {
    const box = other.getBoundingClientRect();
    const rows = down ? box.top - here.top : here.top - box.top;
    if (rows < 4) continue; // the same row, or the other way
    const far = 10 * rows + Math.abs(box.left + box.width / 2 - middle);
    if (far < least) [least, found] = [far, place];
  }
  return found ?? (down ? from : undefined);
}
