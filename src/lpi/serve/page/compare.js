// The same query at two stages, side by side: what moved up or down, what is new, what left the page.

import { el } from "./dom.js";
import { grid } from "./grid.js";

/**
 * What happened to the hits between two stages.
 * @returns `then` and `now`: marks by id, and `summary` in words
 */
export function changes(then, now) {
  const places = (hits) => new Map(hits.map((hit, place) => [hit.id, place]));
  const [before, after] = [places(then), places(now)];
  const marks = { then: new Map(), now: new Map() };
  const count = { new: 0, up: 0, down: 0, left: 0 };
  const mark = (side, id, kind, sign, said) => {
    marks[side].set(id, { kind, sign, said });
    count[kind] += 1;
  };
  for (const [id, place] of after) {
    const rise = before.has(id) ? before.get(id) - place : null;
    if (rise === null) mark("now", id, "new", "new", `new among the first ${now.length}`);
    else if (rise > 0) mark("now", id, "up", `↑ ${rise}`, `up by ${rise}`);
    else if (rise < 0) mark("now", id, "down", `↓ ${-rise}`, `down by ${-rise}`);
  }
  for (const id of before.keys()) if (!after.has(id)) mark("then", id, "left", "left", "no longer on the page");
  const parts = Object.entries(count).filter(([, many]) => many);
  const summary = parts.length ? parts.map(([kind, many]) => `${many} ${kind === "left" ? "left the page" : kind}`).join(", ") : "nothing moved";
  return { ...marks, summary };
}

/** Two columns of hits. `titles` are those of the stages, `moved` is from `changes`. */
export function columns([then, now], titles, moved, open) {
  const column = (title, hits, marks) =>
    el("section", {}, el("h2", {}, title), hits.length ? grid(hits, open, { marks }) : el("p", { className: "quiet" }, "Nothing."));
  return el(
    "div",
    { className: "columns" },
    column(`Then: ${titles[0]}`, then, moved.then),
    column(`Now: ${titles[1]}`, now, moved.now),
  );
}
