// Teaching a domain from captioned pictures, or from hits that somebody describes; and forgetting one. What is learned
// is on trial until it is adopted. The job is the server's: closing the dialog, or the page, leaves it going.

import * as api from "./api.js";
import { byId, el, fileName, plural } from "./dom.js";

const PIECE = 8 * 2 ** 20; // bytes that are sent at once
const POLL = 400; // milliseconds between two looks at how far it is
const OTHER_KINDS = /^(video|audio|font|application\/pdf)/; // that needn't be sent to be refused
const FORMAT = `{"image": "001.jpg", "captions": ["a heron on one leg"]}`;
const dialog = byId("teaching");
let page; // `about`, and what is to be done once the index changed
let given = { files: [], hits: [] }; // to be taught; and `domain` and `captions` by id, once they were typed
let refused = ""; // why the files that were given aren't taken
let sending = null; // how far it is: {sent, size}
let told = { state: "none" }; // by the server
let shown = ""; // which view
let later;

export const isOpen = () => dialog.open;

/** Open the dialog. `files` are {name, file}, `hits` are pictures of the index; `from` has `about`, `changed(stage)` and `compare(stage, words)`. */
export async function open(from, { files = [], hits = [] } = {}) {
  page = from;
  if (files.length || hits.length) given = { files: distinct(files), hits };
  shown = "";
  if (!dialog.open) dialog.showModal();
  await attempt(api.teaching.state);
}

/** The files, if no two have the same name: of two folders, one's captions would take the place of the other's. */
function distinct(files) {
  const names = new Set();
  const twice = files.find(({ name }) => names.size === names.add(name).size)?.name;
  refused = twice === undefined ? "" : `Two files are called ${twice}. Give one folder at a time: a domain is one folder.`;
  return refused ? [] : files;
}

async function attempt(call) {
  clearTimeout(later);
  let well = true;
  try {
    told = await call();
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (!(error instanceof api.ApiError)) console.error(error);
    told = { ...told, problem: error instanceof api.ApiError ? error.message : "Something went wrong on this page." };
    well = false;
  }
  show();
  if (well && ["working", "stopping"].includes(told.state)) later = setTimeout(() => attempt(api.teaching.state), POLL);
  return well;
}

// ---- what is seen ----------------------------------------------------------------------------------------------------

const VIEWS = { none: begin, sending: progress, left: leftOver, working: progress, stopping: progress, ready, done, failed };

function show() {
  const view = told.state === "sending" && !sending ? "left" : told.state;
  if (view !== shown) {
    const title = el("h2", { id: "teaching-name", tabIndex: -1 }, titles(view));
    const trouble = el("p", { className: "problem", role: "alert" });
    const close = el("button", { type: "button", className: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×");
    dialog.replaceChildren(el("div", { className: "about" }, title, trouble, ...VIEWS[view]()), close);
    title.focus({ preventScroll: true });
    if (view === "done" && shown) page.changed(told.stage);
    shown = view;
  }
  const trouble = dialog.querySelector("[role=alert]"); // what was typed stays
  const problem = told.problem || (told.state === "none" ? refused : "");
  trouble.hidden = !problem;
  trouble.textContent = problem ?? "";
  advance();
}

function titles(view) {
  const name = told.domain;
  const known = {
    none: "Teach a domain",
    left: `${name} was begun elsewhere`,
    sending: `Sending pictures of ${name}`,
    ready: `${name} on trial`,
    done: told.forgets ? `${name} is forgotten` : `${name} is known now`,
    failed: `${name} wasn't ${told.forgets ? "forgotten" : "learned"}`,
  };
  return known[view] ?? `${told.forgets ? "Forgetting" : "Learning"} ${name}`;
}

const button = (label, onclick, more = {}) => el("button", { type: "button", onclick, ...more }, label);
const actions = (...all) => el("p", { className: "actions" }, ...all);

function begin() {
  const name = el("input", { id: "domain", maxLength: 80, required: true, autocomplete: "off", placeholder: "birds", value: given.domain ?? "" });
  const hits = given.hits.length > 0;
  const form = el(
    "form",
    {
      onsubmit: (event) => {
        event.preventDefault();
        teach(name.value);
      },
    },
    el("label", { className: "field" }, "What to call it ", name),
    ...(hits ? described() : chosen()),
    actions(el("button", { disabled: !hits && !given.files.length }, "Learn it on trial")),
    el("p", { className: "quiet" }, "Nothing changes before you adopt it. Some of the pictures aren't learned from: they measure what is gained."),
  );
  return [form, ...knows()];
}

/** Fields for what the selected pictures are: one for all, and one each. */
function described() {
  const each = given.hits.map((hit) => el("input", { className: "caption", "aria-label": `What ${fileName(hit.path)} is`, maxLength: 1000, required: true, value: given.captions?.[hit.id] ?? "", data: { id: hit.id } }));
  const all = el("input", {
    maxLength: 1000,
    oninput: () => each.forEach((field) => field.dataset.own || (field.value = all.value)),
  });
  each.forEach((field) => field.addEventListener("input", () => (field.dataset.own = "1")));
  const rows = given.hits.map((hit, place) => el("li", {}, el("img", { src: api.thumbnail(hit, 96), alt: "" }), each[place]));
  return [el("label", { className: "field" }, "What they all are ", all), el("ul", { className: "captioned" }, ...rows)];
}

/** Where a folder or a zip is chosen or dropped. */
function chosen() {
  const take = (event) => {
    given.files = distinct([...event.target.files].map((file) => ({ name: within(file.webkitRelativePath) || file.name, file })));
    shown = "";
    show();
  };
  const pick = (label, options) => el("label", { className: "button" }, label, el("input", { type: "file", className: "hidden", onchange: take, ...options }));
  const size = given.files.reduce((sum, { file }) => sum + file.size, 0);
  return [
    el("p", { className: "dropping" }, "Drop a folder or a zip here, or ", pick("choose a folder", { webkitdirectory: true }), " ", pick("a zip or files", { multiple: true })),
    el("p", { role: "status" }, given.files.length ? `${plural(given.files.length, "file")}, ${mebibytes(size)}` : "Nothing chosen yet."),
    el("p", { className: "quiet" }, "Captions lie beside the pictures, a line each in captions.jsonl: ", el("code", {}, FORMAT)),
  ];
}

/** The domains that are known, each with a way to forget it. */
function knows() {
  const { tasks } = page.about();
  if (!tasks.length) return [];
  const row = ({ name }) => {
    const sure = button(`Forget ${name}`, () => {
      sure.replaceWith(button(`Yes, forget ${name}; all pictures stay`, () => attempt(() => api.teaching.forget(name)), { className: "sure" }));
      dialog.querySelector(".sure").focus();
    });
    return el("li", {}, el("span", {}, name), sure);
  };
  return [el("h3", {}, "It has learned"), el("ul", { className: "domains" }, ...tasks.map(row))];
}

function progress() {
  const stop = told.state === "sending" ? "Stop sending" : "Stop";
  return [
    el("p", { role: "status", className: "what" }),
    el("progress", { "aria-label": "How far it is" }),
    el("p", { className: "quiet left" }),
    actions(button(stop, letGo)),
    el("p", { className: "quiet" }, "It goes on when this is closed. Until it is adopted, searches are as they were."),
  ];
}

function leftOver() {
  return [el("p", {}, "Another page is sending pictures of it, or was closed while doing so."), actions(button("Discard it", letGo), button("Close", () => dialog.close()))];
}

/** Bring the bar of a view that has one up to date. */
function advance() {
  const bar = dialog.querySelector("progress");
  if (!bar) return;
  const [done, total] = told.state === "sending" ? [sending.sent, sending.size] : [told.done, told.total];
  const counted = told.state === "sending" || total > 1;
  if (counted) [bar.max, bar.value] = [Math.max(total, 1), done];
  else bar.removeAttribute("value");
  const what = told.state === "stopping" ? "stopping where it next counts" : told.state === "sending" ? `${mebibytes(done)} of ${mebibytes(total)}` : told.what;
  const said = dialog.querySelector(".what");
  if (said.textContent !== what) said.textContent = what;
  const left = told.seconds_left;
  dialog.querySelector(".left").textContent = left === null || left === undefined ? "" : `about ${duration(left)} left`;
}

function ready() {
  const cell = (share) => el("td", {}, share === null ? "–" : `${(100 * share).toFixed(1)} %`);
  const shares = (own) => [own.before, own.after, own.before_ten, own.after_ten].map(cell);
  const rows = told.gains.map((own) => el("tr", {}, el("th", { scope: "row" }, own.domain), el("td", {}, own.captions), ...shares(own)));
  const heads = ["Domain", "captions", "first: before", "after", "in ten: before", "after"].map((head) => el("th", { scope: "col" }, head));
  const embed = told.embed ? `To adopt it, ${plural(told.embed, "picture")} must be looked at again${told.embed_seconds ? `, about ${duration(told.embed_seconds)}` : ""}.` : "To adopt it, no picture must be looked at any more.";
  const worse = told.losses.map((loss) => el("li", { className: "problem" }, loss));
  return [
    el("p", {}, `How many captions of pictures that weren't learned from (${told.tests} of ${told.domain}) find their picture first, or among ten, of ${plural(told.among, "picture")}:`),
    el("table", { tabIndex: 0, "aria-label": "Gains and losses" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows)),
    worse.length ? el("ul", { className: "losses" }, ...worse) : el("p", {}, "Nothing gets worse."),
    told.found_less ? el("p", { className: "quiet" }, "What was learned deeper finds less: this is what was learned at first.") : "",
    el("p", { className: "quiet" }, embed),
    told.passed ? el("p", { className: "quiet" }, `Passed over: ${plural(told.passed, "file")}, neither pictures nor captions.`) : "",
    actions(
      button(worse.length ? "Adopt it all the same" : "Adopt it", () => attempt(api.teaching.adopt)),
      told.deeper ? button("Learn deeper (minutes)", () => attempt(() => api.teaching.learn(true))) : null,
      button("Discard it", letGo),
    ),
  ];
}

function done() {
  given = { files: [], hits: [] };
  const { forgets, domain, stage } = told;
  const compare = () => {
    dialog.close();
    page.compare(stage - 1, domain);
  };
  const says = forgets ? "Searches are as if it had never been taught." : "Searches use it from now on. It can be forgotten again at any time.";
  return [
    el("p", {}, says),
    actions(
      forgets ? null : button("Then and now", compare),
      button("Teach another", letGo),
      button("Close", () => dialog.close()),
    ),
  ];
}

function failed() {
  return [actions(button("Try again", letGo), button("Close", () => dialog.close()))];
}

// ---- what is done ----------------------------------------------------------------------------------------------------

async function teach(domain) {
  const fields = [...dialog.querySelectorAll(".caption")];
  const captions = fields.map((field) => ({ id: field.dataset.id, caption: field.value }));
  const files = captions.length ? [] : given.files;
  sending = captions.length ? null : { sent: 0, size: files.reduce((sum, { file }) => sum + file.size, 0) };
  given = { ...given, domain, captions: Object.fromEntries(captions.map(({ id, caption }) => [id, caption])) };
  if (!(await attempt(() => api.teaching.begin(domain, captions)))) {
    sending = null;
    return;
  }
  if (captions.length) return;
  try {
    for (const { name, file } of files) await send(name, file);
    sending = null;
    await attempt(() => api.teaching.learn(false));
  } catch (error) {
    if (!sending || error.name === "AbortError") return; // it was let go meanwhile
    sending = null;
    const problem = error.message;
    await attempt(api.teaching.drop);
    told = { ...told, problem };
    show();
  }
}

async function send(name, file) {
  if (OTHER_KINDS.test(file.type) || name.split("/").some((part) => part.startsWith("."))) return;
  for (let at = 0; at < file.size || at === 0; at += PIECE) {
    const piece = file.slice(at, at + PIECE);
    try {
      told = await api.teaching.send(name, at, piece);
    } catch (error) {
      if (error.status !== 415) throw error; // neither a picture nor captions: it is passed over, and counted there
      return;
    }
    if (!sending) throw new DOMException("let go", "AbortError");
    sending.sent += piece.size;
    show();
  }
}

async function letGo() {
  sending = null;
  await attempt(api.teaching.drop);
}

// ---- folders and files that are dropped ------------------------------------------------------------------------------

/** Whether what is dropped is to be taught rather than searched with: a folder, a zip, or a captions file. */
export const isLesson = (entries) =>
  entries.some((entry) => entry.isDirectory || /\.(zip|jsonl)$/i.test(entry.name));

/** All files of dropped entries, named from inside the folder that was dropped. */
export async function filesOf(entries) {
  const found = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ name: within(entry.fullPath.slice(1)) || file.name, file });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
      if (!some.length) return;
      for (const one of some) await walk(one);
    }
  };
  for (const entry of entries) await walk(entry);
  return found;
}

const within = (path) => path.split("/").slice(1).join("/");

const mebibytes = (size) => `${(size / 2 ** 20).toFixed(size < 10 * 2 ** 20 ? 1 : 0)} MiB`;

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
