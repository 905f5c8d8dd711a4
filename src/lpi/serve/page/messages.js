// What stands where pictures would be, when there are none: an invitation, an explanation, an error.

import { byId, el, plural } from "./dom.js";

const EXAMPLES = ["a cat on a farm", "a red car at night", "boats on the water"];
const KEYS = [["/", "search"], ["←↑↓→", "move"], ["Enter", "open"], ["s", "similar"], ["Esc", "close"]];

const message = (title, text, ...more) => el("div", { className: "message" }, el("h2", {}, title), el("p", {}, text), ...more);

/** What there is, and how to begin; `ask(words)` searches. */
export function welcome(about, ask) {
  if (!about.pictures)
    return message("No pictures yet", `The index of ${about.name} is empty. Put pictures into the folder, then: lpi index`);
  const tasks = about.tasks.map((task) => task.name);
  const knows = tasks.length ? ` It has learned ${tasks.length > 4 ? plural(tasks.length, "domain") : tasks.join(", ")}.` : "";
  const examples = EXAMPLES.map((words) => el("button", { type: "button", className: "example", onclick: () => ask(words) }, words));
  return message(
    `${plural(about.pictures, "picture")} in ${about.name}`,
    `Say what is in the picture, in your own words.${knows}`,
    el("p", { className: "examples" }, "Try ", ...examples),
    el("button", { type: "button", className: "here", onclick: () => byId("file").click() }, "Or ", el("span", {}, "drop, paste or "), "pick a picture"),
    el("p", { className: "keys" }, ...KEYS.map(([key, what]) => el("span", {}, el("kbd", {}, key), ` ${what}`))),
  );
}

/** No hits. `clear` is given where filters may be why. */
export function nothing(clear) {
  if (!clear) return message("Nothing found", "There were no pictures at this stage.");
  return message(
    "Nothing found",
    "No picture passes these filters.",
    el("button", { type: "button", onclick: clear }, "Clear filters"),
  );
}

/** What went wrong, said at once to those who listen; `again` tries anew. */
export function trouble(title, text, again) {
  const shown = message(title, text, again ? el("button", { type: "button", onclick: again }, "Try again") : null);
  shown.setAttribute("role", "alert");
  return shown;
}
