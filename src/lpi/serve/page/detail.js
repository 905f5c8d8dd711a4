// One picture, large: what is known of it, what is like it, and where in it an expression points.

import { ApiError, address, ground, picture, similar, stop, thumbnail } from "./api.js";
import { byId, copying, day, el, fileName, percent } from "./dom.js";
import { focusOn } from "./grid.js";

const LIKE_IT = 12;
const BOXES = 3; // that are drawn
const LEAST = 10; // per cent that they score
const dialog = byId("detail");
let trail = []; // the pictures from which one came here by way of similar ones
let page; // what it was opened from

/**
 * Show a hit.
 * @param hit the picture
 * @param from `hits` to step through, `words` of the query, whether they are `scored`, `grounding` and whether its detector knows `drawnOnly`, `options` of a search, and `onlike(hit)`
 */
export function open(hit, from) {
  [page, trail] = [from, []];
  show(hit);
}

export const isOpen = () => dialog.open;

export const close = () => dialog.close();

/** Search with the picture that is shown. */
export const like = () => dialog.querySelector(".actions button").click();

/** The hit before or after the one that is shown. */
export function step(by) {
  const here = page.hits.findIndex((hit) => hit.id === dialog.dataset.id);
  const other = here < 0 ? undefined : page.hits[here + by];
  if (!other) return;
  trail = [];
  show(other);
}

function show(hit) {
  stop("ground"); // of the picture before
  const frame = el(
    "div",
    { className: "frame", style: { "--width": `${hit.width}px`, "--ratio": hit.width / hit.height } },
    el("img", { src: thumbnail(hit, 1280), alt: fileName(hit.path), width: hit.width, height: hit.height }),
  );
  const alike = el("div", { className: "like" }, el("p", { className: "quiet" }, "Looking for pictures like it …"));
  const name = el("h2", { id: "detail-name", tabIndex: -1 }, fileName(hit.path));
  dialog.replaceChildren(
    frame,
    el(
      "div",
      { className: "about" },
      steps(hit),
      name,
      facts(hit),
      page.grounding ? pointing(hit, frame) : null,
      el(
        "p",
        { className: "actions" },
        el("button", { type: "button", onclick: () => leave(hit) }, "Search with this picture"),
        el("a", { className: "button", href: address(hit.file), target: "_blank", rel: "noopener" }, "Open the file"),
        el("a", { className: "button", href: address(hit.file), download: fileName(hit.path) }, "Download"),
        copying("Copy the path", () => hit.path),
      ),
      el("h3", {}, "Similar pictures"),
      alike,
    ),
    el("button", { type: "button", className: "close", "aria-label": "Close", onclick: close }, "×"),
  );
  dialog.dataset.id = hit.id;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  name.focus({ preventScroll: true }); // so that its name is read, and Tab goes on from here
  fill(alike, hit);
}

/** Buttons to the hits beside it, and back to where a similar picture was chosen. */
function steps(hit) {
  const place = page.hits.findIndex((one) => one.id === hit.id);
  const back = () => show(trail.pop());
  const button = (label, sign, by) =>
    el("button", { type: "button", "aria-label": label, disabled: !page.hits[place + by], onclick: () => step(by) }, sign);
  const beside = place < 0 ? [] : [button("Picture before", "‹", -1), `${place + 1} of ${page.hits.length}`, button("Next picture", "›", 1)];
  const from = trail.length ? el("button", { type: "button", className: "back", onclick: back }, "Back") : null;
  return el("div", { className: "steps" }, from, ...beside);
}

function leave(hit) {
  close();
  page.onlike(hit);
}

dialog.addEventListener("close", () => {
  stop("similar-small", "ground", "facts");
  focusOn(trail[0]?.id ?? dialog.dataset.id);
});
dialog.addEventListener("click", (event) => {
  const box = dialog.getBoundingClientRect();
  const inside = box.left <= event.clientX && event.clientX <= box.right && box.top <= event.clientY && event.clientY <= box.bottom;
  if (event.target === dialog && !inside) close(); // beside it, where the page shows through
});

function facts(hit) {
  const known = [
    ["In", hit.path.includes("/") ? hit.path.slice(0, hit.path.lastIndexOf("/")) : "."],
    ["Size", `${hit.width} × ${hit.height}`],
    ["Domain", hit.task && `${hit.task}${hit.confidence === null ? "" : `, sure to ${percent(hit.confidence)}`}`],
    ["Fits", hit.fit === null ? "" : percent(hit.fit)],
    ["Score", page.scored ? hit.score.toFixed(3) : ""],
    ["Copies", hit.copies.join(", ")],
  ];
  const list = el("dl", {}, ...known.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  date(list, hit);
  return list;
}

/** When it was taken, by its camera's own note; else the date of its file, and called so. */
async function date(list, hit) {
  const { taken } = await picture(hit.id, "facts").catch(() => ({ taken: "" }));
  list.append(el("dt", {}, taken ? "Taken" : "File from"), el("dd", {}, day(taken || hit.date)));
}

async function fill(place, hit) {
  const choose = (other) => {
    trail.push(hit);
    show(other);
  };
  try {
    const { hits } = await similar(hit.id, { ...page.options, k: LIKE_IT }, "similar-small");
    if (!hits.length) place.replaceChildren(el("p", { className: "quiet" }, "There are none."));
    else
      place.replaceChildren(
        ...hits.map((other) =>
          el(
            "button",
            { type: "button", "aria-label": `Similar: ${fileName(other.path)}`, onclick: () => choose(other) },
            el("img", { src: thumbnail(other, 256), alt: "", loading: "lazy" }),
          ),
        ),
      );
  } catch (error) {
    if (error instanceof ApiError) place.replaceChildren(el("p", { className: "problem", role: "alert" }, error.message));
  }
}

/** A field whose words are looked for inside the picture; what was searched for stands in it already. */
function pointing(hit, frame) {
  const field = el("input", { type: "text", placeholder: "the bigger dog on the left", "aria-label": "Point at", value: page.words });
  const said = el("p", { className: "quiet", role: "status" });
  const submit = async (event) => {
    event.preventDefault();
    if (field.value.trim()) look(Number(least.value) / 100);
  };
  const look = async (enough) => {
    said.textContent = "Looking …";
    try {
      const found = await ground(hit.id, field.value.trim(), enough);
      draw(frame, found);
      const knowledge = found.task ? `with what was learned for ${found.task}` : "with the frozen detector";
      const nothing = `Nothing found: the best place scores ${Math.floor(100 * found.best)} %, and ${percent(enough)} is asked for.`;
      said.textContent = found.boxes.length ? `Found ${knowledge}.` : nothing;
    } catch (error) {
      if (!(error instanceof ApiError)) return; // another expression, or another picture
      draw(frame, { boxes: [] });
      said.textContent = error.message;
    }
  };
  const least = el("input", { type: "number", min: 0, max: 100, step: 1, value: LEAST, "aria-label": "Least score, per cent" });
  const asked = el("label", { className: "quiet" }, "that scores at least ", least, " %");
  const warning = "This detector knows drawn scenes only: what it finds on photographs means little.";
  const drawn = page.drawnOnly ? el("p", { className: "problem" }, warning) : null;
  return el("form", { className: "point", onsubmit: submit }, field, el("button", {}, "Point at it"), asked, drawn, said);
}

function draw(frame, found) {
  frame.querySelectorAll(".box").forEach((box) => box.remove());
  const boxes = found.boxes.slice(0, BOXES).map(({ box: [left, top, right, bottom], score }, place) =>
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
  setApart(boxes.map((box) => box.firstChild));
}

/** Put each label at a corner of its box where no label before it stands: inside, else above or below, else further down. */
function setApart(labels) {
  const places = ["inside", "outside"].flatMap((where) => ["top left", "top right", "bottom left", "bottom right"].map((corner) => `${where} ${corner}`));
  const meet = (one, other) => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
  const taken = [];
  for (const label of labels) {
    let lower = 0;
    const collides = (place) => {
      label.className = place;
      label.style.translate = `0 ${lower}px`;
      return taken.some((other) => meet(label.getBoundingClientRect(), other));
    };
    while (places.every(collides)) lower += label.offsetHeight;
    taken.push(label.getBoundingClientRect());
  }
}
