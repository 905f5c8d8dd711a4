// The page: wires the fields to searches, and shows what comes back.

import * as api from "./api.js";
import * as detail from "./detail.js";
import { byId, el, plural, routes } from "./dom.js";
import { grid, walk } from "./grid.js";
import * as address from "./state.js";

const COUNT = 48; // pictures that are asked for
const PAUSE = 250; // milliseconds without a key before a search begins

const [form, words, file, said, results] = ["search", "words", "file", "said", "results"].map(byId);
const fields = Object.fromEntries(address.FILTERS.map((key) => [key, byId(key)]));
let state = address.read();
let about = null; // what there is to search in
let picture = null; // a picture to search with: {file} or {hit}
let shown = []; // the hits on the page
let later;

// ---- the fields ------------------------------------------------------------------------------------------------------

function fromFields() {
  state = { ...state, q: words.value.trim() };
  for (const [key, field] of Object.entries(fields)) state[key] = field.value;
  if (about && about.stages.length > 1) {
    const stage = about.stages[byId("stage").value];
    state.stage = stage.number === about.current ? "" : String(stage.number);
    state.compare = byId("compare").checked && state.stage ? "1" : "";
  }
}

function toFields() {
  words.value = state.q;
  for (const [key, field] of Object.entries(fields)) field.value = state[key];
  byId("clear").hidden = ![...address.FILTERS, "stage"].some((key) => state[key]);
  if (!about || about.stages.length < 2) return;
  const place = about.stages.findIndex((stage) => String(stage.number) === (state.stage || String(about.current)));
  if (place >= 0) byId("stage").value = place; // an address may name a stage that is gone: the server says so
  byId("stage-label").textContent = state.stage ? (about.stages[place]?.label ?? state.stage) : "now";
  byId("compare").checked = Boolean(state.compare);
  byId("compare").disabled = !state.stage;
}

function fillIn(found) {
  about = found;
  document.title = `${about.name} · lpi search`;
  words.placeholder = `Describe a picture among ${about.pictures.toLocaleString()}`;
  fields.folder.replaceChildren(option("", "all"), ...about.folders.filter((f) => f !== ".").map((f) => option(f, f)));
  fields.task.replaceChildren(option("", "all"), ...about.tasks.map((t) => option(t.name, `${t.name} (${t.pictures})`)));
  fields.task.parentElement.hidden = !about.tasks.length;
  fields.folder.parentElement.hidden = about.folders.length < 2;
  byId("time").hidden = about.stages.length < 2;
  byId("stage").max = about.stages.length - 1;
}

const option = (value, label) => el("option", { value }, label);

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

function find(stage, kind) {
  const options = { ...address.options(state, stage), k: COUNT };
  if (picture?.file) return api.searchPicture(picture.file, options, kind);
  if (picture?.hit) return api.similar(picture.hit.id, options, kind);
  return api.searchWords(state.q, options, kind);
}

async function search({ fresh = true } = {}) {
  clearTimeout(later);
  address.write(state, fresh);
  toFields();
  if (!state.q && !picture) return welcome();
  document.body.classList.add("busy");
  try {
    if (state.compare) compare(await Promise.all([find(state.stage, "then"), find("", "now")]));
    else one(await find(state.stage, "search"));
  } catch (error) {
    if (error.name === "AbortError") return; // a newer search runs
    failed(error);
  }
  document.body.classList.remove("busy");
}

function one(found) {
  shown = found.hits;
  if (!shown.length) return nothing();
  say(found);
  results.replaceChildren(grid(shown, open));
}

function compare([then, now]) {
  shown = now.hits;
  const rank = (found) => new Map(found.hits.map((hit, place) => [hit.id, place]));
  const before = rank(then);
  const marks = new Map();
  for (const [place, hit] of now.hits.entries()) {
    const was = before.get(hit.id);
    if (was === undefined) marks.set(hit.id, "new");
    else if (was !== place) marks.set(hit.id, was > place ? `↑ ${was - place}` : `↓ ${place - was}`);
  }
  say(now);
  const label = (found) => about.stages.find((stage) => stage.number === found.stage)?.label ?? found.stage;
  const column = (title, found, own) =>
    el("section", {}, el("h2", {}, title), found.hits.length ? grid(found.hits, open, own) : el("p", { className: "quiet" }, "Nothing."));
  results.replaceChildren(
    el("div", { className: "columns" }, column(`Then: ${label(then)}`, then), column(`Now: ${label(now)}`, now, marks)),
  );
}

function say(found) {
  const time = found.milliseconds === undefined ? "" : ` in ${Math.max(1, Math.round(found.milliseconds))} ms`;
  said.replaceChildren(`${plural(found.hits.length, "picture")}${time}`);
  const answered = routes(found.routes ?? []);
  if (answered) said.append(" · answered by ", answered);
}

function open(hit) {
  const options = address.options(state);
  detail.show(hit, { hits: shown, grounding: about?.grounding, options, onlike: searchLike });
}

function searchLike(hit) {
  setPicture({ hit });
  search();
}

// ---- states without pictures -----------------------------------------------------------------------------------------

function message(title, text, ...more) {
  shown = [];
  said.textContent = "";
  results.replaceChildren(el("div", { className: "message" }, el("h2", {}, title), el("p", {}, text), ...more));
}

function welcome() {
  if (!about) return;
  document.body.classList.remove("busy");
  if (!about.pictures) {
    message("No pictures yet", `The index of ${about.name} is empty. Put pictures into the folder, then: lpi index`);
    return;
  }
  const tasks = about.tasks.map((task) => task.name);
  const knows = tasks.length ? ` It has learned ${tasks.length > 4 ? plural(tasks.length, "domain") : tasks.join(", ")}.` : "";
  message(
    `${plural(about.pictures, "picture")} in ${about.name}`,
    `Say what is in the picture, in your own words, or drop a picture anywhere here.${knows}`,
    el(
      "p",
      { className: "keys" },
      ...[["/", "search"], ["←↑↓→", "move"], ["Enter", "open"], ["s", "similar"], ["Esc", "close"]].flatMap(([key, what]) => [
        el("kbd", {}, key),
        ` ${what}  `,
      ]),
    ),
  );
  said.textContent = "";
}

function nothing() {
  const filtered = address.FILTERS.some((key) => state[key]);
  message(
    "Nothing found",
    filtered ? "No picture passes these filters." : "There is no picture to compare with.",
    filtered ? el("button", { type: "button", onclick: clearFilters }, "Clear filters") : null,
  );
}

function failed(error) {
  const text = error instanceof api.ApiError ? error.message : "Something went wrong on this page.";
  message("That didn't work", text, el("button", { type: "button", onclick: again }, "Try again"));
  results.firstElementChild.setAttribute("role", "alert");
}

async function again() {
  if (!about) await start();
  else search({ fresh: false });
}

function clearFilters() {
  for (const key of [...address.FILTERS, "stage", "compare"]) state[key] = "";
  search();
}

// ---- what a person does ----------------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  fromFields();
  search();
  if (matchMedia("(pointer: coarse)").matches) words.blur(); // make room: the keyboard covers half a phone
});

words.addEventListener("input", () => {
  if (words.value && picture) setPicture(null);
  clearTimeout(later);
  later = setTimeout(() => {
    fromFields();
    search({ fresh: false });
  }, PAUSE);
});

byId("filters").addEventListener("change", () => {
  fromFields();
  search();
});
byId("stage").addEventListener("input", () => {
  const stage = about.stages[byId("stage").value];
  byId("stage-label").textContent = stage.number === about.current ? "now" : stage.label;
});
byId("clear").addEventListener("click", clearFilters);
byId("drop-query").addEventListener("click", () => {
  setPicture(null);
  search();
  words.focus();
});
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  setPicture(null);
  state = { ...Object.fromEntries(Object.keys(state).map((key) => [key, ""])) };
  search();
  words.focus();
});

function take(chosen) {
  if (!chosen) return;
  if (!chosen.type.startsWith("image/")) return message("That is no picture", `${chosen.name} is not a picture. Drop another one.`);
  if (about && chosen.size > about.upload_bytes)
    return message("That picture is too large", `At most ${Math.round(about.upload_bytes / 2 ** 20)} MiB can be sent.`);
  setPicture({ file: chosen });
  search();
}

file.addEventListener("change", () => {
  take(file.files[0]);
  file.value = "";
});
addEventListener("paste", (event) => {
  const pasted = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (pasted) take(pasted);
});

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  byId("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").hidden = true;
});
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  byId("drop").hidden = true;
  take(event.dataTransfer.files[0]);
});

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (detail.isOpen()) {
    if (typing) return;
    if (event.key === "ArrowRight") detail.step(1, currentPage());
    else if (event.key === "ArrowLeft") detail.step(-1, currentPage());
    else if (event.key === "s") byId("detail").querySelector(".actions button").click();
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

const currentPage = () => ({ hits: shown, grounding: about?.grounding, options: address.options(state), onlike: searchLike });

addEventListener("popstate", () => restore());

async function restore() {
  state = address.read();
  setPictureQuietly(null);
  if (state.like) {
    try {
      setPictureQuietly({ hit: await api.picture(state.like) });
    } catch (error) {
      return failed(error);
    }
  }
  search({ fresh: false });
}

function setPictureQuietly(chosen) {
  const { like, q } = state;
  setPicture(chosen);
  Object.assign(state, { like, q: chosen ? "" : q });
}

async function start() {
  try {
    fillIn(await api.info());
  } catch (error) {
    return failed(error);
  }
  await restore();
}

start();
