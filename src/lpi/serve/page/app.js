// The page: wires the fields to searches, and shows what comes back.

import * as api from "./api.js";
import { changes, columns } from "./compare.js";
import * as detail from "./detail.js";
import { byId, copy, day, el, fileName, plural, routes } from "./dom.js";
import { grid, skeleton, walk } from "./grid.js";
import * as messages from "./messages.js";
import * as offered from "./offered.js";
import * as selection from "./selection.js";
import * as address from "./state.js";
import * as teach from "./teach.js";

const COUNT = 48; // pictures that are asked for at once
const MOST = 500; // that the server gives in all
const FEW = 8; // that are shown where nothing fits well
const PAUSE = 250; // milliseconds without a key before a search begins

const [form, words, said, results, slider, both] = ["search", "words", "said", "results", "stage", "compare"].map(byId);
const fields = Object.fromEntries(address.FILTERS.map((key) => [key, byId(key)]));
let state = address.read();
let about = null; // what there is to search in
let picture = null; // a picture to search with: {file} or {hit}
let shown = []; // the hits on the page
let total = 0; // how many there are to scroll to
let loading = false; // more of them
let settled = true; // the next words that are typed are another query, and so a step to go back from
let later;

// ---- the fields ------------------------------------------------------------------------------------------------------

const label = (stage) => `${stage.number} · ${stage.label}`;
const labelOf = (number) => label(about?.stages.find((stage) => stage.number === number) ?? { number, label: "stage" });

function fromFields() {
  const q = words.value.trim();
  state = { ...state, q, all: q === state.q ? state.all : "" };
  for (const [key, field] of Object.entries(fields)) state[key] = field.value;
  if (about && about.stages.length > 1) {
    const stage = about.stages[slider.value];
    state.stage = stage.number === about.current ? "" : String(stage.number);
    state.compare = both.checked && state.stage ? "1" : "";
  }
}

function toFields() {
  if (words.value.trim() !== state.q) words.value = state.q; // a space at its end may be followed by another word
  if (about) document.title = [state.q, about.name, "lpi search"].filter(Boolean).join(" · ");
  toFilters();
}

function toFilters() {
  for (const [key, field] of Object.entries(fields)) field.value = state[key];
  const active = address.FILTERS.filter((key) => state[key]).length + (state.stage ? 1 : 0);
  byId("clear").hidden = !active;
  byId("more").textContent = active ? `Filters · ${active}` : "Filters";
  if (!about || about.stages.length < 2) return;
  const place = about.stages.findIndex((stage) => String(stage.number) === (state.stage || String(about.current)));
  if (place >= 0) slider.value = place; // an address may name a stage that is gone: the server says so
  both.checked = Boolean(state.compare);
  sayStage(about.stages[place]);
}

function sayStage(stage) {
  const now = stage?.number === about.current;
  const text = stage ? label(stage) : state.stage;
  byId("stage-label").textContent = now ? "now" : text;
  slider.setAttribute("aria-valuetext", now ? `now, ${text}` : text);
  slider.title = stage ? `${text}, ${day(stage.when)}, ${plural(stage.pictures, "picture")}` : "";
}

function fillIn(found) {
  about = found;
  fields.folder.replaceChildren(option("", "all"), ...about.folders.filter((f) => f !== ".").map((f) => option(f, f)));
  fields.task.replaceChildren(option("", "all"), ...about.tasks.map((t) => option(t.name, `${t.name} (${t.pictures})`)));
  fields.task.parentElement.hidden = !about.tasks.length;
  fields.folder.parentElement.hidden = about.folders.length < 2;
  byId("teach").hidden = !about.teaching;
  if (about.teaching) selection.offer((hits) => teach.open(lesson, { hits }));
  byId("time").hidden = byId("then-now").hidden = about.stages.length < 2;
  slider.max = about.stages.length - 1;
  byId("stages").replaceChildren(...about.stages.map((stage, place) => option(String(place), label(stage))));
}

const option = (value, text) => el("option", { value }, text);

/** Somebody taught the index something meanwhile: fields and slider follow. */
async function follow(stage) {
  if (!about || state.stage || stage === about.current) return;
  fillIn(await api.info());
  toFilters(); // not the words: somebody may be typing
}

function setPicture(chosen) {
  picture = chosen;
  const preview = byId("query-picture");
  preview.hidden = !chosen;
  const image = preview.querySelector("img");
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  if (chosen) image.src = chosen.file ? URL.createObjectURL(chosen.file) : api.thumbnail(chosen.hit, 96);
  state.like = chosen?.hit?.id ?? "";
  if (chosen) state.q = words.value = "";
}

// ---- searching -------------------------------------------------------------------------------------------------------

function find(stage, kind, skip = 0) {
  const options = { ...address.options(state, stage), k: COUNT, skip: skip || "" };
  if (picture?.file) return api.searchPicture(picture.file, options, kind);
  if (picture?.hit) return api.similar(picture.hit.id, options, kind);
  return api.searchWords(state.q, options, kind);
}

async function search({ fresh = true } = {}) {
  giveUp();
  address.write(state, fresh);
  toFields();
  if (!state.q && !picture) return welcome();
  busy(true);
  try {
    if (state.compare) {
      const [then, now] = await Promise.all([find(state.stage, "then"), find("", "now")]);
      compare(then, now);
    } else {
      const found = await find(state.stage, "search");
      one(found);
      await follow(found.stage);
    }
  } catch (error) {
    if (error.name === "AbortError") return; // a newer search runs
    failed(error);
  }
  busy(false);
}

/** Nothing that was asked for before may still come and take the place of what is shown next. */
function giveUp() {
  clearTimeout(later);
  api.stop("search", "similar", "newest", "then", "now", "picture");
}

function busy(yes) {
  document.body.classList.toggle("busy", yes);
  results.setAttribute("aria-busy", String(yes));
  if (yes && !results.querySelector(".found")) results.replaceChildren(skeleton());
}

function one(found) {
  const poor = found.fits_well === false && !state.all;
  shown = poor ? found.hits.slice(0, FEW) : found.hits;
  total = poor ? shown.length : Math.min(found.total - (picture?.hit ? 1 : 0), MOST);
  say(found);
  if (!shown.length) return nothing();
  const asked = picture ? "this picture" : `“${state.q}”`;
  const note = found.fits_well === false ? [messages.poor(asked, poor ? showAll : null)] : [];
  results.replaceChildren(...note, grid(shown, open));
  arrived();
}

function showAll() {
  state.all = "1";
  search();
}

// ---- more by scrolling -----------------------------------------------------------------------------------------------

const end = el("p", { className: "quiet", id: "end" });
const watching = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && more(), { rootMargin: "600px" });

/** Pictures came: selected ones are marked, and the end of the page asks for more. */
function arrived() {
  selection.show();
  end.textContent = shown.length < total ? "…" : "";
  results.append(end);
  watching.unobserve(end); // watched anew, it tells again: it may be in sight still
  watching.observe(end);
}

async function more() {
  if (loading || shown.length >= total || !shown.length || results.querySelector(".columns")) return;
  loading = true;
  const before = shown;
  const opening = !state.q && !picture;
  try {
    const found = await (opening ? newest(before.length) : find(state.stage, picture?.hit ? "similar" : "search", before.length));
    if (shown !== before) return; // another search came meanwhile
    if (!found.hits.length) total = before.length;
    const list = results.querySelector(".grid");
    const items = grid(found.hits, open, { kind: opening ? "opening" : "found", from: before.length }).children;
    shown = [...before, ...found.hits];
    list.append(...items);
    if (!opening) count();
    arrived();
  } catch (error) {
    if (error.name !== "AbortError") end.textContent = error.message;
    total = shown.length;
  } finally {
    loading = false;
  }
}

const newest = (skip) => api.newest({ ...address.options(state), k: COUNT, skip: skip || "" });

function compare(then, now) {
  shown = [...now.hits, ...then.hits.filter((hit) => !now.hits.some((other) => other.id === hit.id))];
  say(now);
  if (!shown.length) return nothing();
  const moved = changes(then.hits, now.hits);
  said.append(` · since then: ${moved.summary}`);
  const poor = now.fits_well === false ? [messages.poor(`“${state.q}”`)] : [];
  const both = columns([then.hits, now.hits], [labelOf(then.stage), labelOf(now.stage)], moved, open);
  results.replaceChildren(...poor, both);
  selection.show();
}

function say(found) {
  const time = found.milliseconds === undefined ? "" : ` in ${Math.max(1, Math.round(found.milliseconds))} ms`;
  const alike = picture?.hit ? ` like ${fileName(picture.hit.path)}` : "";
  const all = found.total > shown.length ? ` of ${found.total.toLocaleString()}` : "";
  said.replaceChildren(el("span", { id: "count" }, `${shown.length}${all} picture${shown.length === 1 && !all ? "" : "s"}`), `${alike}${time}`);
  if (about?.tasks.length && found.routes?.length) said.append(" · answered by ", routes(found.routes));
  if (shown.some((hit) => hit.fit !== null)) said.append(" · ", legend());
}

function count() {
  const place = byId("count");
  if (place) place.textContent = place.textContent.replace(/^\d+/, shown.length);
}

const legend = () =>
  el(
    "span",
    { className: "legend", title: "How well a picture fits what was asked. Below one half, words without any meaning do as well." },
    el("i", { style: { "--share": 0.7 } }),
    " how well it fits",
  );

function open(hit) {
  if (selection.isSelecting()) return selection.choose(hit);
  settled = true;
  const options = address.options(state);
  const scored = Boolean(state.q || picture);
  detail.open(hit, { hits: shown, words: state.q, scored, grounding: about?.grounding, drawnOnly: about?.grounding_drawn_only, options, onlike: searchLike });
}

function searchLike(hit) {
  setPicture({ hit });
  search();
}

// ---- states without pictures -----------------------------------------------------------------------------------------

function instead(message) {
  busy(false);
  shown = [];
  results.replaceChildren(message);
}

async function welcome() {
  said.textContent = "";
  if (!about) return;
  instead(messages.welcome(about, ask));
  try {
    const found = await newest(0);
    if (state.q || picture || results.querySelector(".grid")) return; // somebody was faster
    [shown, total] = [found.hits, found.total];
    if (shown.length) results.append(grid(shown, open, { kind: "opening" }));
    arrived();
  } catch (error) {
    if (error.name !== "AbortError") end.textContent = error.message;
  }
}

function ask(text) {
  setPicture(null);
  state.q = text;
  state.all = "";
  settled = true;
  search();
  words.focus();
}

function nothing() {
  instead(messages.nothing(address.FILTERS.some((key) => state[key]) ? clearFilters : null));
}

function failed(error) {
  said.textContent = "";
  if (!(error instanceof api.ApiError)) console.error(error);
  const text = error instanceof api.ApiError ? error.message : "Something went wrong on this page.";
  instead(messages.trouble("That didn't work", text, () => (about ? search({ fresh: false }) : start())));
}

function clearFilters() {
  for (const key of [...address.FILTERS, "stage", "compare"]) state[key] = "";
  search();
}

// ---- what a person does ----------------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  fromFields();
  search({ fresh: settled });
  settled = true;
  if (matchMedia("(pointer: coarse)").matches) words.blur(); // make room: the keyboard covers half a phone
});

words.addEventListener("input", () => {
  if (words.value && picture) setPicture(null);
  clearTimeout(later);
  later = setTimeout(() => {
    fromFields();
    search({ fresh: settled });
    settled = false;
  }, PAUSE);
});
words.addEventListener("blur", () => {
  settled = true;
});

for (const part of ["filters", "then-now"]) byId(part).addEventListener("change", (event) => {
  const current = about?.stages.findIndex((stage) => stage.number === about.current);
  // now beside now says nothing: begin with the stage before
  if (event.target === both && both.checked && Number(slider.value) === current) slider.value = Math.max(current - 1, 0);
  fromFields();
  search();
});
slider.addEventListener("input", () => sayStage(about.stages[slider.value]));
byId("clear").addEventListener("click", clearFilters);
byId("select").addEventListener("click", selection.toggle);
byId("share").addEventListener("click", async (event) => {
  await copy(location.href);
  const button = event.target;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy link"), 1500);
});
byId("more").addEventListener("click", () => {
  const opened = byId("filters").classList.toggle("opened");
  byId("more").setAttribute("aria-expanded", String(opened));
});
byId("drop-query").addEventListener("click", () => {
  setPicture(null);
  search();
  words.focus();
});
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  setPicture(null);
  for (const key of Object.keys(state)) state[key] = "";
  search();
  words.focus();
});

let following = null; // what was done here, until the server has taken it over

/** The index changed by what was done here: the fields follow as soon as the server has taken it over. */
function changed(stage) {
  following = takenOver(stage);
}

async function takenOver(stage) {
  for (let left = 100; left; left -= 1) {
    const found = await api.info().catch(() => null);
    if (found && found.current >= stage) {
      fillIn(found);
      search({ fresh: false });
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

async function compareWith(stage, q) {
  if (selection.isSelecting()) selection.toggle();
  busy(true);
  await following; // or now would still be then
  state = { ...state, q: state.q || q, stage: String(stage), compare: "1" };
  search();
}

const lesson = { about: () => about, changed, compare: compareWith };
byId("teach").addEventListener("click", () => teach.open(lesson));

/** Take what is dropped as something to learn; says whether it is. */
function dropped(entries) {
  if (!about?.teaching || !(teach.isOpen() || teach.isLesson(entries))) return false;
  if (detail.isOpen()) detail.close();
  teach.filesOf(entries).then((files) => teach.open(lesson, { files }));
  return true;
}

offered.listen(async (file) => {
  if (teach.isOpen()) return;
  await ready; // or what the address asks for would take the picture's place
  if (detail.isOpen()) detail.close();
  const refused = offered.refusal(file, about?.upload_bytes ?? Infinity);
  if (refused) {
    giveUp();
    said.textContent = "";
    return instead(messages.trouble(...refused));
  }
  setPicture({ file });
  search();
}, dropped);

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || teach.isOpen()) return;
  if (detail.isOpen()) {
    if (typing) return;
    if (event.key === "ArrowRight") detail.step(1);
    else if (event.key === "ArrowLeft") detail.step(-1);
    else if (event.key === "s") detail.like();
    return;
  }
  if (event.key === "/" && !typing) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if (event.key === "Escape" && event.target !== words) {
    words.focus();
  } else if (event.key.startsWith("Arrow") && (!typing || (event.target === words && event.key === "ArrowDown"))) {
    if (event.target.type === "range") return;
    if (walk(event.key)) event.preventDefault();
  } else if (event.key === "s" && !typing) {
    const hit = shown.find((one) => one.id === document.activeElement?.dataset.id);
    if (hit) searchLike(hit);
  }
});

addEventListener("popstate", () => {
  if (detail.isOpen()) detail.close();
  restore();
});

// ---- from the address ------------------------------------------------------------------------------------------------

async function restore() {
  giveUp();
  state = address.read();
  settled = true;
  let liked = null;
  if (state.like) {
    try {
      liked = { hit: await api.picture(state.like) };
    } catch (error) {
      if (error.name !== "AbortError") failed(error);
      return;
    }
  }
  const { q } = state;
  setPicture(liked);
  state.q = liked ? "" : q;
  search({ fresh: false });
}

async function start() {
  busy(Boolean(state.q || state.like));
  try {
    fillIn(await api.info());
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
    return;
  }
  if (words.value.trim() === address.read().q || !words.value) return restore();
  fromFields(); // somebody typed already
  search();
}

const ready = start();
