// One picture, large: what is known of it, what is like it, and where in it an expression points.

import { ApiError, ground, similar, thumbnail } from "./api.js";
import { byId, day, el, fileName, percent } from "./dom.js";

const LIKE_IT = 12;
const dialog = byId("detail");

/**
 * Show a hit.
 * @param hit the picture
 * @param page `hits` to step through, `grounding`, `options` of a search, and `onlike(hit)`
 */
export function show(hit, page) {
  const frame = el(
    "div",
    { className: "frame" },
    el("img", { src: thumbnail(hit, 1280), alt: fileName(hit.path), width: hit.width, height: hit.height }),
  );
  const like = el("div", { className: "like" }, el("p", { className: "quiet" }, "Looking for pictures like it …"));
  dialog.replaceChildren(
    el("button", { type: "button", className: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×"),
    frame,
    el(
      "div",
      { className: "about" },
      el("h2", {}, fileName(hit.path)),
      facts(hit),
      page.grounding ? pointing(hit, frame) : null,
      el(
        "p",
        { className: "actions" },
        el("button", { type: "button", onclick: () => leave(() => page.onlike(hit)) }, "Search with this picture"),
        el("a", { className: "button", href: hit.file, target: "_blank", rel: "noopener" }, "Open the file"),
      ),
      el("h3", {}, "Similar pictures"),
      like,
    ),
  );
  dialog.dataset.id = hit.id;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  fill(like, hit, page);
}

/** The hit before or after the one that is shown. */
export function step(by, page) {
  const place = page.hits.findIndex((hit) => hit.id === dialog.dataset.id) + by;
  if (page.hits[place]) show(page.hits[place], page);
}

export const isOpen = () => dialog.open;

function leave(then) {
  dialog.close();
  then();
}

function facts(hit) {
  const known = [
    ["In", hit.path.includes("/") ? hit.path.slice(0, hit.path.lastIndexOf("/")) : "."],
    ["Date", day(hit.date)],
    ["Size", `${hit.width} × ${hit.height}`],
    ["Task", hit.task ? `${hit.task}${hit.confidence === null ? "" : `, sure to ${percent(hit.confidence)}`}` : "none"],
    ["Score", hit.score.toFixed(3)],
    ["Copies", hit.copies.join(", ")],
  ];
  return el("dl", {}, ...known.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

async function fill(place, hit, page) {
  try {
    const { hits } = await similar(hit.id, { ...page.options, k: LIKE_IT });
    if (!hits.length) place.replaceChildren(el("p", { className: "quiet" }, "There are none."));
    else
      place.replaceChildren(
        ...hits.map((other) =>
          el(
            "button",
            { type: "button", "aria-label": `Similar: ${fileName(other.path)}`, onclick: () => show(other, page) },
            el("img", { src: thumbnail(other, 256), alt: "", loading: "lazy" }),
          ),
        ),
      );
  } catch (error) {
    if (error instanceof ApiError) place.replaceChildren(el("p", { className: "problem" }, error.message));
  }
}

/** A field whose words are looked for inside the picture. */
function pointing(hit, frame) {
  const field = el("input", { type: "text", placeholder: "the bigger dog on the left", "aria-label": "Point at" });
  const said = el("p", { className: "quiet", role: "status" });
  const submit = async (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    said.textContent = "Looking …";
    try {
      const found = await ground(hit.id, field.value.trim());
      draw(frame, found);
      const knowledge = found.task ? `with what was learned for ${found.task}` : "with the frozen detector";
      said.textContent = found.boxes.length ? `Found ${knowledge}.` : "Nothing in the picture fits these words.";
    } catch (error) {
      if (error instanceof ApiError) said.textContent = error.message;
    }
  };
  return el("form", { className: "point", onsubmit: submit }, field, el("button", {}, "Point at it"), said);
}

function draw(frame, found) {
  frame.querySelectorAll(".box").forEach((box) => box.remove());
  const boxes = found.boxes.slice(0, 3).map(({ box: [left, top, right, bottom], score }, place) =>
    el(
      "span",
      {
        className: place ? "box other" : "box",
        style: {
          left: `${(100 * left) / found.width}%`,
          top: `${(100 * top) / found.height}%`,
          width: `${(100 * (right - left)) / found.width}%`,
          height: `${(100 * (bottom - top)) / found.height}%`,
        },
      },
      el("span", {}, score.toFixed(2)),
    ),
  );
  frame.append(...boxes);
}
